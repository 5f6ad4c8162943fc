"""Which jobs the settings ask for, where each one's seal lies, and the key it would have now.

Turns settings into one Job per stage and experiment, and tells what differs between a seal and
the present key. The Snakefile imports this module: standard library and row 0 only.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from promptehr import provenance
from promptehr.settings import Settings, assignments, for_experiment
from promptehr.stage_table import STAGES, Stage

# Only an experiment with a model has these.
OF_MODELS = ("train", "evaluate_likelihood")
SEALS = {"simulate": "process.json", "train": "summary.json", "generate": "summary.json"}


@dataclass(frozen=True)
class Key:
    """What an artifact would be written from: a stage's settings and its code."""

    settings: tuple[str, ...]
    code: Mapping[str, str]

    def differs_from(self, recorded: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
        """Setting or module to its (recorded, present) value, `absent` where there is none; sorted."""
        before = dict(_split(recorded["settings"])) | dict(recorded["code"])
        now = dict(_split(self.settings)) | dict(self.code)
        return {
            name: (before.get(name, "absent"), now.get(name, "absent"))
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        }


@dataclass(frozen=True, eq=False)
class Job:
    """One stage of the cohort or of an experiment.

    Attributes:
        stage: Its row of the stage table.
        experiment: None where all experiments share the artifact.
        settings: The experiment's.
        seal: The sealing document.
    """

    stage: Stage
    experiment: str | None
    settings: Settings
    seal: Path

    @cached_property
    def key(self) -> Key:
        name = self.stage.name
        return Key(tuple(assignments(name, self.settings)), provenance.code(name))


def jobs(settings: Settings) -> list[Job]:
    """Every job behind the report, in pipeline order, and the report; not parts of a job."""
    return [
        Job(stage, name, for_experiment(settings, name) if name else settings, _seal(stage, name, settings))
        for stage in STAGES
        if not stage.part_of and (stage.name != "simulate" or settings.source.kind == "simulate")
        for name in _experiments(stage, settings)
    ]


def _experiments(stage: Stage, settings: Settings) -> list[str | None]:
    if stage.scope == "cohort":
        return [None]
    return [
        name
        for name in settings.experiments
        if stage.name not in OF_MODELS or for_experiment(settings, name).generate.method == "model"
    ]


def _seal(stage: Stage, experiment: str | None, settings: Settings) -> Path:
    results = Path(settings.results_dir)
    if stage.name.startswith("evaluate_"):
        return results / "evaluate" / str(experiment) / f"{stage.name.removeprefix('evaluate_')}.json"
    folder = results / stage.name / experiment if experiment else results / stage.name
    return folder / SEALS.get(stage.name, "report.json" if stage.name == "report" else "ledger.json")


def _split(settings: Sequence[str]) -> Iterator[tuple[str, str]]:
    for text in settings:
        name, _, value = text.partition("=")
        yield name, value


def read(seal: Path) -> dict[str, Any] | None:
    """What a seal records: `key`, `inputs`, `files`; None where no seal can be read."""
    try:
        content: dict[str, Any] = json.loads(seal.read_bytes())
        Key((), {}).differs_from(content["key"])
        return {name: content[name] for name in ("key", "inputs", "files")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def differences(job: Job, recorded: Mapping[str, Any]) -> list[str]:
    """What a recorded key differs in from a job's present one: settings with both values, modules."""
    modules = {**job.key.code, **recorded["code"]}
    return [
        f"{name} changed" if name in modules else f"{name}: {before} -> {now}"
        for name, (before, now) in job.key.differs_from(recorded).items()
    ]


def changes(present: Sequence[Job], is_known: Callable[[Path], bool]) -> dict[str, str]:
    """What differs from the key of each artifact that Snakemake knows, in words, by stage.

    Snakemake names a job's own reason only where nothing before it runs, and orders no values.

    Args:
        present: The jobs as they would run now.
        is_known: Whether Snakemake has recorded how a file was made.

    Returns:
        `stage` or `stage of experiment, experiment` to what differs.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for job in present:
        recorded = read(job.seal) if is_known(job.seal) else None
        differing = differences(job, recorded["key"]) if recorded else []
        if differing:
            found.setdefault((job.stage.name, "; ".join(differing)), []).append(job.experiment or "")
    return {
        f"{stage} of {', '.join(experiments)}" if any(experiments) else stage: differing
        for (stage, differing), experiments in found.items()
    }


def stale_copies(copied: Sequence[Job]) -> dict[Job, list[str]]:
    """Which artifacts that Snakemake knows nothing of another key wrote: job to what differs, sorted."""
    found = {}
    for job in copied:
        recorded = read(job.seal)
        differing = list(job.key.differs_from(recorded["key"])) if recorded else ["no key can be read"]
        if differing:
            found[job] = differing
    return found
