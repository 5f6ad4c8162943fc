"""Training at the size of MIMIC-III: how long a recipe takes, and how good it becomes.

    python -m benchmarks.full_size                          every recipe at BART-base shape; wants a GPU
    python -m benchmarks.full_size --recipes small          a model that one CPU core trains in a quarter hour
    python -m benchmarks.full_size --recipes                only the cohort, on a machine that has polars
    python -m benchmarks.full_size --set train.epochs=3     a setting changed in every recipe

Prints a Markdown table. A recipe goes through the product's own stages, train and evaluate_likelihood,
and what they write is kept in a folder: a run that was stopped continues, a finished one is done again
only after a change to settings, cohort or the code of the two stages. `elapsed` is of the train stage,
with compilation, validation and publishing, all its starts together but those that were killed outright;
`useful tokens/s` is the median of the epochs, without validation. The cohort is made where there is none
yet; the rest needs neither polars nor snakemake, so it can be carried to a GPU.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from promptehr import artifacts, provenance, schemas, settings
from promptehr.errors import PromptEHRError
from promptehr.model import device
from promptehr.settings import Runtime
from promptehr.stages import evaluate_likelihood, train

PATIENTS = 46_520
# Of the stages' settings, over the defaults of config.yaml. Rates of larger batches grow with the
# root of their tokens from the reference's 16 patients, about 300 tokens.
RECIPES: Mapping[str, Sequence[str]] = {
    "reference": (),
    "4096_tokens": (
        "train.batch_patients=null",
        "train.batch_tokens=4096",
        "train.learning_rate=3.7e-4",
    ),
    "16384_tokens": (
        "train.batch_patients=null",
        "train.batch_tokens=16384",
        "train.learning_rate=7.4e-4",
        "train.warmup_steps=100",
    ),
    "small": (
        'train.shape={"width": 128, "encoder_layers": 1, "decoder_layers": 2, "heads": 4,'
        ' "feed_forward": 512, "positions": 288}',
        'train.conditions={"prompt": 0.7, "history": 0.15, "denoise": 0.15}',
        "train.batch_patients=64",
        "train.learning_rate=1.5e-3",
        "train.warmup_steps=100",
        "train.epochs=5",
        'train.precision="fp32"',
    ),
}
AT_FULL_SHAPE = [name for name in RECIPES if name != "small"]


@dataclass(frozen=True)
class Measured:
    """What came of one recipe.

    Attributes:
        device: That trained its last epoch.
        parameters: Of the model.
        epochs: Done, and the published one.
        elapsed_s: Of the train stage, all starts together.
        tokens_per_s: Scored labels per second, median of the epochs.
        useful_share: As in the history, of the last epoch.
        peak_gib: Memory of the GPU, or None.
        likelihood: What evaluate_likelihood found.
    """

    device: str
    parameters: int
    epochs: tuple[int, int]
    elapsed_s: float
    tokens_per_s: float
    useful_share: float
    peak_gib: float | None
    likelihood: Mapping[str, Any]


# --- measuring ---------------------------------------------------------------------------------


def prepare(folder: Path, patients: int, seed: int) -> None:
    """The cohort's files, if they are not there."""
    if (folder / "shards/ledger.json").exists():  # written last
        return
    from benchmarks.cohort import STAGES  # the only part that needs polars
    from benchmarks.data import stage

    given = (f"simulate.patients={patients}", f"simulate.seed={seed}", f"records.seed={seed}")
    for name in ("simulate", *STAGES):
        stage(name, folder, *(text for text in given if text.startswith(f"{name}.")))


def measure(folder: Path, cohort: Path, assignments: Sequence[str], runtime: Runtime) -> Measured:
    """Train and judge by one recipe, as far as that is not done."""
    shared = {
        "index": cohort / "shards/index.json",
        "shards_ledger": cohort / "shards/ledger.json",
        "vocabulary": cohort / "vocabulary/vocabulary.json",
        "vocabulary_ledger": cohort / "vocabulary/ledger.json",
    }
    made = train.Outputs(
        model=folder / "model", history=folder / "history.jsonl", summary=folder / "summary.json"
    )
    if not made.summary.exists():
        chosen = settings.from_assignments("train", assignments)
        with clocked(folder, device.decide(runtime)):
            train.run(train.Inputs(**shared), made, chosen, runtime)
    found = folder / "likelihood.json"
    if not found.exists():
        judged = evaluate_likelihood.Inputs(
            **shared,
            model=made.model,
            train_summary=made.summary,
            process=cohort / "source/process.json",
            test=cohort / "records/test.parquet",
            records_ledger=cohort / "records/ledger.json",
        )
        chosen = settings.from_assignments("evaluate_likelihood", ())
        evaluate_likelihood.run(judged, evaluate_likelihood.Outputs(likelihood=found), chosen, runtime)
    return read(folder)


@contextmanager
def clocked(folder: Path, where: torch.device) -> Iterator[None]:
    """Add a line to `starts.jsonl`: seconds, and the memory of the GPU that trains."""
    folder.mkdir(parents=True, exist_ok=True)
    on_gpu, began = where.type == "cuda", time.monotonic()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(where)
    try:
        yield
    finally:
        peak = torch.cuda.max_memory_allocated(where) / 2**30 if on_gpu else None
        with (folder / "starts.jsonl").open("a") as file:
            file.write(json.dumps({"seconds": time.monotonic() - began, "peak_gib": peak}) + "\n")


def read(folder: Path) -> Measured:
    """What the folder of a finished recipe says."""
    starts, epochs = lines(folder / "starts.jsonl"), lines(folder / "checkpoints/timing.jsonl")
    summary = artifacts.read_json(folder / "summary.json", schemas.SUMMARY)
    peaks = [start["peak_gib"] for start in starts if start["peak_gib"] is not None]
    return Measured(
        device=epochs[-1]["device"],
        parameters=summary["parameters"],
        epochs=(summary["epochs"], summary["published"]["epoch"]),
        elapsed_s=sum(start["seconds"] for start in starts),
        tokens_per_s=median(epoch["tokens_per_s"] for epoch in epochs),
        useful_share=lines(folder / "history.jsonl")[-1]["useful_share"],
        peak_gib=max(peaks, default=None),
        likelihood=artifacts.read_json(folder / "likelihood.json", schemas.EVALUATION)["likelihood"],
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- Markdown ----------------------------------------------------------------------------------


HEAD = (
    "recipe",
    "device",
    "parameters",
    "epochs, published",
    "elapsed, s",
    "useful tokens/s",
    "useful share",
    "GPU memory, GiB",
    "code NLL on test, `prompt`",
    "gap closed",
    "by every token",
)


def row(name: str, one: Measured) -> tuple[str, ...]:
    nll = one.likelihood["conditions"]["prompt"]["codes"]["nll"]
    gaps = (one.likelihood[key]["prompt"] for key in ("gap_closed", "gap_closed_all"))
    memory = "" if one.peak_gib is None else f"{one.peak_gib:.1f}"
    return (
        name,
        one.device,
        f"{one.parameters / 1e6:.1f} M",
        "{}, {}".format(*one.epochs),
        f"{one.elapsed_s:,.0f}",
        f"{one.tokens_per_s:,.0f}",
        f"{one.useful_share:.1%}",
        memory,
        f"{nll:.3f}",
        *map(share, gaps),
    )


def share(gap: Mapping[str, Any]) -> str:
    """Value and 95 % interval, where there are enough patients to say."""
    if gap["value"] is None:
        return "unknown"
    low, high = gap["interval"]
    return f"{gap['value']:.1%} ({low:.1%} to {high:.1%})"


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


# --- command line ------------------------------------------------------------------------------


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipes", nargs="*", choices=tuple(RECIPES), default=AT_FULL_SHAPE)
    parser.add_argument("--set", nargs="+", default=[], metavar="train.key=value", help="in every recipe")
    parser.add_argument("--patients", type=int, default=PATIENTS)
    parser.add_argument("--seed", type=int, default=1, help="of the cohort and its split")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, help="of a CPU; all of them if left out")
    parser.add_argument("--work", type=Path, default=Path("results/full_size"), help="where runs are kept")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(given)
    cohort = options.work / f"cohort-{options.patients}-{options.seed}"
    try:
        runtime = settings.runtime_from(
            [f"device={options.device}", f"threads={json.dumps(options.threads)}"]
        )
        prepare(cohort, options.patients, options.seed)
        if options.recipes:
            print(line(HEAD), line(["---"] * len(HEAD)), sep="\n", flush=True)
        for name in options.recipes:
            assignments = (*RECIPES[name], *options.set)
            folder = options.work / f"{cohort.name}-{name}-{digest(assignments, cohort)}"
            one = measure(folder, cohort, assignments, runtime)
            print(line(row(" ".join([name, *options.set]), one)), flush=True)
    except PromptEHRError as error:  # a run that was asked to stop is one of them
        raise SystemExit(str(error)) from None


def digest(assignments: Sequence[str], cohort: Path) -> str:
    """Of what a recipe's numbers depend on: cohort, settings, code."""
    found: list[object] = [artifacts.sha256(cohort / "shards/index.json")]
    for stage, given in (("train", assignments), ("evaluate_likelihood", ())):
        found.append(settings.assignments(stage, settings.from_assignments(stage, given)))
        found.append(dict(provenance.code(stage)))
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:12]


if __name__ == "__main__":
    main()
