"""This model beside others, on the same cohorts, the same tokens and the same tuning budget.

    python -m benchmarks.comparison [--seeds 1 2 3] [--patients 5000] [--into docs/training.md]

Prints a Markdown table. A seed is a cohort, a split and a training of its own. Every model that
trains goes through the product's loop with the demo's settings and as many epochs, and is given its
learning rate and its dropout on the first seed's validation split, out of the same values. Runs are
kept in a folder and done again only after a change to the code. All numbers are of codes under the
condition of generation, on the test splits.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import nn

from benchmarks import arms, cohort, data, rivals
from benchmarks.arms import Arm, Run
from benchmarks.cohort import Judged, Splits
from promptehr import baselines
from promptehr.model import objective
from promptehr.model.batches import TokenStore
from promptehr.model.repeats import Repeats
from promptehr.settings import Train
from promptehr.tokens import Vocabulary

RATES, DROPOUTS, EPOCHS = (2.0e-3, 4.0e-3), (0.2, 0.3), 8
BEGIN, END = "<!-- comparison.py begins -->", "<!-- comparison.py ends -->"
PROMPT_ONLY = {"conditions": {"prompt": 1.0, "history": 0.0, "denoise": 0.0}}
# A network without our rules, offsets and groups.
RIVAL = {**PROMPT_ONLY, "pointer_width": 0}


def gpt2(
    store: TokenStore, train: Train, vocabulary: Vocabulary, *, repeats: Callable[[Train], Repeats]
) -> nn.Module:
    """GPT-2 of the number of layers that comes closest to our model's size."""
    build = partial(rivals.Gpt2, objective.log_unigram(store), train)
    wanted = rivals.parameters(arms.ours(store, train, vocabulary))
    return closest(wanted, lambda layers: build(repeats=repeats(train), layers=layers), range(1, 13))


def gpt2_with_ours(store: TokenStore, train: Train, vocabulary: Vocabulary) -> nn.Module:
    """The same with all that our model has beside its network: rules, kinds and counted offsets."""
    model = gpt2(store, train, vocabulary, repeats=rivals.pointing)
    whole = arms.ours(store, train, vocabulary)
    model.offsets, model.repeats.kinds = whole.offsets, whole.repeats.kinds
    return model


def lstm(store: TokenStore, train: Train, vocabulary: Vocabulary) -> nn.Module:
    """An LSTM of the number of units that comes closest to our model's size."""
    build = partial(rivals.Lstm, objective.log_unigram(store), train)
    sizes = range(8, 8 * train.shape.width, 8)
    wanted = rivals.parameters(arms.ours(store, train, vocabulary))
    return closest(wanted, lambda units: build(repeats=rivals.Unruled(), units=units), sizes)


def closest(wanted: int, build: Callable[[int], nn.Module], sizes: Sequence[int]) -> nn.Module:
    """The model whose number of parameters is nearest to the wanted one."""
    return build(min(sizes, key=lambda size: abs(rivals.parameters(build(size)) - wanted)))


OURS = "ours"
ARMS: Mapping[str, Arm] = {
    "lstm": Arm("LSTM", RIVAL, build=lstm, ruled=True),
    "gpt2": Arm(
        "GPT-2-style decoder",
        RIVAL,
        build=partial(gpt2, repeats=lambda _: rivals.Unruled()),
        ruled=True,
    ),
    "gpt2_with_ours": Arm(
        "GPT-2-style decoder with our rules, pointer and counted offsets", PROMPT_ONLY, build=gpt2_with_ours
    ),
    "copying": Arm(
        "this model's network, copying objective (input = labels)",
        {**RIVAL, "offsets": False, "group_embeddings": False},
        build=arms.unruled(arms.ours),
        around=arms.copying,
        ruled=True,
    ),
    "no_prompts": Arm("this model without demographics", {"prompt": {"length": 0}, "offsets": False}),
    OURS: Arm("**this model**"),
}


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        title: What.
        plain: As published; None where the rule is the model's own.
        ruled: With codes of the visit ruled out.
        chosen: Learning rate and dropout that the validation split chose; None where nothing trains.
        runs: Of the chosen ones, one per seed.
    """

    title: str
    plain: Judged | None
    ruled: Judged
    chosen: tuple[float, float] | None = None
    runs: Sequence[Run] = ()


# --- measuring ---------------------------------------------------------------------------------


def counted(cohorts: Sequence[Splits]) -> list[Row]:
    """The distributions that count, as published and with the rule."""
    rows = []
    for name in baselines.NAMES:
        fits = [baselines.fit(name, c.train, c.valid, c.vocabulary) for c in cohorts]
        pairs = list(zip(fits, cohorts, strict=True))
        plain = Judged.of([fit.log_probs(c.test) for fit, c in pairs], cohorts)
        ruled = Judged.of([cohort.without_repeats(fit, c.test) for fit, c in pairs], cohorts)
        rows.append(Row(name.replace("_", " "), plain, ruled))
    return rows


def trained(arm: Arm, cohorts: Mapping[int, Splits], options: argparse.Namespace) -> Row:
    """One arm: rate and dropout by the first seed's validation split, then every seed."""

    def at(tried: tuple[float, float], seed: int) -> Run:
        rate, dropout = tried
        tuned = {"learning_rate": rate, "dropout": dropout, "epochs": options.epochs}
        train = arms.demo(seed, arm.changes, tuned)
        key = {"patients": options.patients, "seed": seed}
        return arms.kept(options.work, key, arm, train, cohorts[seed], options.any_code)

    first = next(iter(cohorts))
    chosen = min(product(options.rates, options.dropouts), key=lambda tried: at(tried, first).valid_nll)
    runs = [at(chosen, seed) for seed in cohorts]
    own = Judged.of([run.log_prob for run in runs], list(cohorts.values()))
    if not arm.ruled:
        return Row(arm.title, None, own, chosen, runs)
    ruled = [run.ruled for run in runs if run.ruled is not None]
    return Row(arm.title, own, Judged.of(ruled, list(cohorts.values())), chosen, runs)


# --- Markdown ----------------------------------------------------------------------------------


CAPTION = """\
{command}: {patients:,} patients a seed, seeds {seeds}, each a cohort and a training of its own. Every model
that trains goes through the same loop for {epochs} epochs; its learning rate is the best of {rates} and its
dropout of {dropouts} on the first seed's validation split, its epoch the best on each seed's.
{test:,} test patients in all. *As published* is
the plain softmax or count; *ruled* gives codes of the visit so far no probability, as generation does, and
is free for everybody. Gap: from the demographic unigram as published (0 %) to the exact optimum (100 %).
*Above this model*: nats per code, both ruled, paired by patient, 95 % bootstrap over the patients of all
seeds; then seed by seed. CPU s: of training, one run.{other_code}"""


def markdown(rows: Sequence[Row], optimum: Judged, options: argparse.Namespace) -> str:
    ours = next((row.ruled for row in rows if row.title == ARMS[OURS].title), None)
    chosen = "" if options.arms == list(ARMS) else f" --arms {' '.join(options.arms)}"
    caption = CAPTION.format(
        command=f"`python -m benchmarks.comparison{chosen}`",
        patients=options.patients,
        seeds=", ".join(map(str, options.seeds)),
        epochs=options.epochs,
        rates=", ".join(f"{rate:.0e}" for rate in options.rates),
        dropouts=", ".join(map(str, options.dropouts)),
        test=len(optimum.nats),
        other_code=arms.of_other_code(run for row in rows for run in row.runs),
    )
    lines = [
        caption,
        "",
        "| distribution | parameters | rate, dropout | NLL as published | gap | NLL ruled | gap"
        " | above this model | by seed | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(line(row, ours) for row in rows),
        f"| exact optimum | | | | | {optimum.nll:.3f} | 100 % | {cohort.above(optimum, ours)} | |",
        "",
    ]
    return "\n".join(lines)


def line(row: Row, ours: Judged | None) -> str:
    size = f"{row.runs[0].parameters:,}" if row.runs else ""
    rate = f"{row.chosen[0]:.0e}, {row.chosen[1]}" if row.chosen else ""
    seconds = f"{sum(run.seconds for run in row.runs) / len(row.runs):.0f}" if row.runs else ""
    return (
        f"| {row.title} | {size} | {rate} | {nll_and_gap(row.plain)} | {nll_and_gap(row.ruled)}"
        f" | {cohort.above(row.ruled, ours)} | {seconds} |"
    )


def nll_and_gap(judged: Judged | None) -> str:
    return " | " if judged is None else f"{judged.nll:.3f} | {judged.gap_closed:.1%}"


# --- command line ------------------------------------------------------------------------------


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare models of records; print a Markdown table.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--patients", type=int, default=5_000, help="of all three splits of a seed")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of every model that trains")
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES), help="learning rates tried")
    parser.add_argument("--dropouts", nargs="+", type=float, default=list(DROPOUTS), help="dropouts tried")
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("results/comparison"), help="where runs are kept")
    parser.add_argument("--any-code", action="store_true", help="take kept runs of other code as well")
    parser.add_argument("--into", type=Path, help="Markdown file whose marked part is replaced")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(given)
    torch.set_num_threads(options.threads)
    cohorts = {
        seed: cohort.simulated(options.work / f"cohort-{options.patients}-{seed}", options.patients, seed)
        for seed in options.seeds
    }
    splits = list(cohorts.values())
    rows = counted(splits)
    rows += [trained(ARMS[name], cohorts, options) for name in options.arms]
    optimum = Judged.of([one.optimum.log_prob for one in splits if one.optimum], splits)
    text = markdown(rows, optimum, options)
    print(text)
    if options.into:
        data.put_into(options.into, text, BEGIN, END)


if __name__ == "__main__":
    main()
