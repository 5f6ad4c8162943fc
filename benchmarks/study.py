"""The recipe with one setting changed per row, beside the recipe as it is.

    python -m benchmarks.study [--seeds 1 2 3] [--into docs/training.md]
    python -m benchmarks.study --source FOLDER [--seeds 1 2 3 4 5 6 7 8]     on the patients of a folder

Prints a Markdown table. A seed is a cohort, a split and a training of its own; cohorts and trainings
are smaller than the demo's and the test split larger, so that small differences show in little time.
Of a folder with MIMIC-III's tables a seed is a split and a training; the sizes are for the 100 patients
of the MIMIC-III demo. Nothing is tuned per row. Runs are kept in a folder and done again only after
a change to the code.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean

import torch

from benchmarks import arms, cohort, data
from benchmarks.arms import Arm, Run
from benchmarks.cohort import Judged, Splits
from benchmarks.comparison import PROMPT_ONLY, gpt2_with_ours

MARKS = ("<!-- study.py begins -->", "<!-- study.py ends -->")
MARKS_OF_SOURCE = ("<!-- study.py --source begins -->", "<!-- study.py --source ends -->")
DEFAULT = "default"
# Fewer patients are fewer steps: the demo's warm-up would be the whole of the training.
SMALL = {"warmup_steps": 20}
OF_SOURCE = {"epochs": 40, "batch_patients": 8, "learning_rate": 1.0e-3, "warmup_steps": 20}


def conditions(prompt: float, history: float, denoise: float) -> dict[str, dict[str, float]]:
    return {"conditions": {"prompt": prompt, "history": history, "denoise": denoise}}


ROWS: Mapping[str, Arm] = {
    DEFAULT: Arm("**the demo's recipe**"),
    "no_groups": Arm("no part of the embeddings shared by a group", {"group_embeddings": False}),
    "no_pointer": Arm("no pointer", {"pointer_width": 0}),
    "may_repeat": Arm("codes may come twice in a visit", build=arms.may_repeat),
    "one_softmax": Arm("`<v>`, `<\\v>` and END in one softmax with the codes", {"kinds": False}),
    "even_ends": Arm("ends of visits and records not counted", build=arms.even_ends),
    "no_offsets": Arm("no offsets counted by demographics", {"offsets": False}),
    "no_prompts": Arm("no prompts; offsets stay", {"prompt": {"length": 0}}),
    "prompts_4": Arm("4 prompts per feature", {"prompt": {"length": 4}}),
    "encoder_prompts": Arm(
        "prompts in front of the encoder only", build=partial(arms.prompts_on_one_side, "encoder")
    ),
    "decoder_prompts": Arm(
        "prompts in front of the decoder only", build=partial(arms.prompts_on_one_side, "decoder")
    ),
    "untied": Arm("codes are written by other vectors than they are read by", build=arms.untied),
    "light_structure": Arm(
        "structure tokens weigh 0.3 in the loss", around=partial(arms.structure_weighs, 0.3)
    ),
    "patients_alike": Arm("every patient weighs the same in the loss", around=arms.patients_weigh_alike),
    "prompt_only": Arm("condition prompt alone", conditions(1.0, 0.0, 0.0)),
    "thirds": Arm("conditions in equal thirds", conditions(1.0, 1.0, 1.0)),
    "flat_start": Arm("output offset 0, not the log-unigram", build=arms.flat_start),
    "averaged": Arm("moving average of the weights, 0.99", around=partial(arms.averaged, 0.99)),
    "dropout_2": Arm("dropout 0.2", {"dropout": 0.2}),
    "dropout_4": Arm("dropout 0.4", {"dropout": 0.4}),
    "smoothing": Arm("label smoothing 0.1", {"label_smoothing": 0.1}),
    "constant": Arm("constant rate after the warm-up", around=arms.constant_rate),
    "cosine": Arm("cosine instead of linear decay", around=arms.cosine_rate),
    "width_32": Arm("width 32", {"shape": {"width": 32, "feed_forward": 128}}),
    "width_128": Arm("width 128", {"shape": {"width": 128, "feed_forward": 512}}),
    "network": Arm("a GPT-2 for a network, all else ours", PROMPT_ONLY, build=gpt2_with_ours),
    "shuffled": Arm("codes of a visit in random order", order=arms.shuffled),
}

CAPTION = """\
`python -m benchmarks.study{chosen}`: {train:,} training, {valid} validation and {test:,} test
patients a seed, {epochs} epochs, 20 steps of warm-up; seeds {seeds}, each a cohort and a training of its own,
{patients} test patients in all. Smaller than the demo on purpose: read differences, not levels. The epoch is
chosen on the validation split, nothing else is tuned. NLL per code on test under the condition of generation;
*above the recipe* is paired by patient, 95 % bootstrap over the patients of all seeds, then seed by seed;
*every token* counts `<v>`, `<\\v>` and END as well. CPU s: of training, one run.{other_code}"""
CAPTION_OF_SOURCE = """\
`python -m benchmarks.study --source FOLDER{chosen}` on the MIMIC-III demo: {splits} random splits of its
100 patients, about 70 / 15 / 15, {patients} test patients in all, some of them in several splits; 40 epochs,
batch 8, rate 1.0e-3, else the demo's recipe. The demographic unigram has {demographic:.3f}. The epoch is
chosen on the validation split, nothing else is tuned. NLL per code on test under the condition of generation;
*above the recipe* is paired by patient, 95 % bootstrap over the test patients of all splits, then split by
split; *every token* counts `<v>`, `<\\v>` and END as well.{other_code}"""


@dataclass(frozen=True)
class Row:
    """A line of the table: a title, what came of it on test by codes and by every token, and its runs."""

    title: str
    judged: Judged
    every: Judged
    runs: Sequence[Run]


# --- measuring ---------------------------------------------------------------------------------


def measured(arm: Arm, cohorts: Mapping[int, Splits], options: argparse.Namespace) -> Row:
    """One row: every seed."""
    runs = []
    sizes = {"sizes": [options.train, options.valid, options.test]}
    key, changes = (
        ({"source": "real"}, OF_SOURCE) if options.source else (sizes, SMALL | {"epochs": options.epochs})
    )
    for seed, splits in cohorts.items():
        train = arms.demo(seed, changes, arm.changes)
        runs.append(arms.kept(options.work, {**key, "seed": seed}, arm, train, splits, options.any_code))
    scores, splits = [run.log_prob for run in runs], list(cohorts.values())
    return Row(arm.title, Judged.of(scores, splits), Judged.of(scores, splits, "every"), runs)


def cohorts_of(options: argparse.Namespace) -> dict[int, Splits]:
    if options.source:
        split = cohort.split_of(70, 15, 15)
        return {
            seed: cohort.real(options.work / f"real-{seed}", options.source, seed, split)
            for seed in options.seeds
        }
    sizes = (options.train, options.valid, options.test)
    folder = "-".join(map(str, sizes))
    return {
        seed: cohort.simulated(options.work / f"{folder}-{seed}", sum(sizes), seed, cohort.split_of(*sizes))
        for seed in options.seeds
    }


# --- Markdown ----------------------------------------------------------------------------------


def markdown(rows: Sequence[Row], cohorts: Sequence[Splits], options: argparse.Namespace) -> str:
    default = rows[0]
    counted = Judged.of([splits.demographic.log_prob for splits in cohorts], cohorts)
    caption = (CAPTION_OF_SOURCE if options.source else CAPTION).format(
        chosen="" if options.rows == list(ROWS) else f" --rows {' '.join(options.rows)}",
        train=options.train,
        valid=options.valid,
        test=options.test,
        epochs=options.epochs,
        seeds=", ".join(map(str, options.seeds)),
        splits=len(cohorts),
        patients=f"{len(default.judged.nats):,}",
        demographic=counted.nll,
        other_code=arms.of_other_code(run for row in rows for run in row.runs),
    )
    lines = [
        caption,
        "",
        "| what is changed | parameters | valid | test | gap closed | above the recipe | by seed"
        " | every token, above the recipe | CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
        *(line(row, default) for row in rows),
        "",
    ]
    return "\n".join(lines)


def line(row: Row, default: Row) -> str:
    valid, seconds = (mean(getattr(run, name) for run in row.runs) for name in ("valid_nll", "seconds"))
    gap = "" if math.isnan(row.judged.gap_closed) else f"{row.judged.gap_closed:.1%}"
    every = "" if row is default else cohort.difference(row.every, default.every)
    above = cohort.above(row.judged, default.judged)
    return (
        f"| {row.title} | {row.runs[0].parameters:,} | {valid:.3f} | {row.judged.nll:.3f}"
        f" | {gap} | {above} | {row.every.nll:.3f} {every} | {seconds:.0f} |"
    )


# --- command line ------------------------------------------------------------------------------


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Change one setting at a time; print a Markdown table.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument(
        "--source", type=Path, help="folder with MIMIC-III's tables, in place of simulated patients"
    )
    parser.add_argument("--train", type=int, default=1_000, help="training patients, about")
    parser.add_argument("--valid", type=int, default=250)
    parser.add_argument("--test", type=int, default=800)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("results/study"), help="where runs are kept")
    parser.add_argument("--any-code", action="store_true", help="take kept runs of other code as well")
    parser.add_argument("--into", type=Path, help="Markdown file whose marked part is replaced")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(given)
    torch.set_num_threads(options.threads)
    cohorts = cohorts_of(options)
    names = [DEFAULT, *(name for name in options.rows if name != DEFAULT)]
    rows = [measured(ROWS[name], cohorts, options) for name in names]
    text = markdown(rows, list(cohorts.values()), options)
    print(text)
    if options.into:
        data.put_into(options.into, text, *(MARKS_OF_SOURCE if options.source else MARKS))


if __name__ == "__main__":
    main()
