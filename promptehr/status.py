"""What every artifact is: fresh, stale, missing or resumable, and why.

Compares what each stage's seal records (key, inputs, files) with the present settings, code and
files, and starts nothing. An input counts as changed when it is newer than the seal and its
content differs, which is when Snakemake runs the stage again.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from promptehr import artifacts, lease, schemas, seals
from promptehr.errors import ArtifactError
from promptehr.seals import Job
from promptehr.settings import run_key_settings
from promptehr.source import find
from promptehr.stage_table import STAGES

State = Literal["fresh", "stale", "missing", "resumable"]

# Input's name to the stage and file that it is; the same name is the same file wherever it is read.
PRODUCED = {
    "patients": ("simulate", "PATIENTS.csv"),
    "admissions": ("simulate", "ADMISSIONS.csv"),
    "diagnoses": ("simulate", "DIAGNOSES_ICD.csv"),
    "process": ("simulate", "process.json"),
    "patients_table": ("ingest", "patients.parquet"),
    "admissions_table": ("ingest", "admissions.parquet"),
    "diagnoses_table": ("ingest", "diagnoses.parquet"),
    "train": ("records", "train.parquet"),
    "valid": ("records", "valid.parquet"),
    "test": ("records", "test.parquet"),
    "vocabulary": ("vocabulary", "vocabulary.json"),
    "index": ("shards", "index.json"),
    "model": ("train", "model"),
    "synthetic": ("generate", "synthetic.parquet"),
}
# What the report reads of a stage besides its seal.
REPORTED = {"vocabulary": "vocabulary.json", "train": "history.jsonl", "generate": "synthetic.parquet"}
# Files of a checkpoint that training may start from.
OF_BART = ("config.json", "model.safetensors")


@dataclass(frozen=True)
class Status:
    """One artifact's state, with the reason in words where it is not fresh."""

    job: Job
    state: State
    reason: str = ""


def statuses(jobs: Sequence[Job]) -> list[Status]:
    """The state of each job's artifact, in the order of the jobs."""
    own = {job: _own(job) for job in jobs}
    because = _runs(jobs, own)
    return [_told(job, own[job], because, own) for job in jobs]


def table(found: Sequence[Status]) -> str:
    """A line per artifact, and one that counts."""
    width = max(len(str(status.job.seal)) for status in found)
    lines = [f"{status.job.seal!s:<{width}}  {status.state:<9}  {status.reason}".rstrip() for status in found]
    states = Counter(status.state for status in found)
    counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return "\n".join([*lines, f"{len(found)} artifacts: {counted}"])


def put_in_order(copied: Sequence[Job]) -> None:
    """Make the times of copied artifacts rise along the pipeline, as far as their content says so.

    Snakemake judges files that it knows nothing of by their times alone, and a copy may have lost
    them. The files of an artifact whose inputs are what its seal records become no older than these.

    Args:
        copied: Jobs in pipeline order.
    """
    newest = 0
    for job in copied:
        with suppress(OSError):  # of somebody else, or made anew at this moment: Snakemake will say so
            newest = _put_in_order(job, newest)


def _put_in_order(job: Job, newest: int) -> int:
    """Raise the times of the artifact's files to `newest` and its inputs'; returns the newest of all."""
    recorded = seals.read(job.seal)
    if recorded is None or _gone(job):
        return newest
    present = [path for path in inputs(job, recorded["inputs"]).values() if path.exists()]
    # A file of parts is an input too, of the rule that puts them together.
    files = [job.seal, *(job.seal.parent / name for name in recorded["files"])]
    newest = max([newest, *map(_changed_at, [*present, *files])])
    # To Snakemake benchmarks are outputs as well.
    older = [file for file in (*files, *_benchmarks(job)) if file.exists() and _changed_at(file) < newest]
    if older and not any(_input_differences(job, recorded["inputs"], since=-1)):
        for file in older:
            os.utime(file, ns=(newest, newest))
    return newest


def _benchmarks(job: Job) -> list[Path]:
    """Its own, and its parts'."""
    folder = Path(job.settings.results_dir) / "benchmarks"
    experiment = f".{job.experiment}" if job.experiment else ""
    parts = [f"{stage.name}{experiment}.*.tsv" for stage in STAGES if stage.part_of == job.stage.name]
    names = [f"{job.stage.name}{experiment}.tsv", *parts]
    return [path for name in names for path in folder.glob(name)]


# --- one artifact by itself --------------------------------------------------------------------


def _own(job: Job) -> Status:
    """The state without regard to what comes before it."""
    recorded = seals.read(job.seal)
    if recorded is None:
        is_there = job.seal.is_file()
        return Status(job, "stale" if is_there else "missing", "its seal cannot be read" if is_there else "")
    if gone := _gone(job):
        return Status(job, "missing", f"{gone[0].relative_to(job.seal.parent)} is gone")
    differing = [
        *seals.differences(job, recorded["key"]),
        *_input_differences(job, recorded["inputs"]),
    ]
    return Status(job, "stale" if differing else "fresh", "; ".join(differing))


def _gone(job: Job) -> list[Path]:
    """The files that the seal names and that are not there; the seal itself if it is not."""
    recorded = seals.read(job.seal)
    named = [job.seal] if recorded is None else [job.seal.parent / name for name in recorded["files"]]
    return [path for path in named if not path.is_file()]


def _input_differences(job: Job, recorded: Mapping[str, str], *, since: int | None = None) -> Iterator[str]:
    """Inputs that are newer than the seal, or than `since`, and not what the seal records."""
    present = inputs(job, recorded)
    known = {name for name in recorded if not _is_ledger(name)}
    yield from (f"{name} is read or not read any more" for name in sorted(present.keys() ^ known))
    sealed = job.seal.stat().st_mtime_ns if since is None else since
    for name in sorted(present.keys() & known):
        path = present[name]
        # Files from outside may be older than the seal and others all the same.
        is_newer = path.exists() and (job.stage.name == "ingest" or _changed_at(path) > sealed)
        if is_newer and artifacts.sha256(path) != recorded[name]:
            yield f"{path} changed"
        if name == "index" and path.exists():
            yield from (f"{shard} changed" for shard in _replaced_shards(path, since=sealed))
    if job.stage.name == "shards" and job.settings.shards.count > 1:  # inputs of the rule that lists them
        index = job.seal.parent / PRODUCED["index"][1]
        yield from (f"{shard} changed" for shard in _replaced_shards(index, since=sealed))


def _replaced_shards(index: Path, *, since: int) -> Iterator[Path]:
    """Shards that are newer and not what the index says: whoever reads the index reads them too."""
    try:
        content = artifacts.read_json(index, schemas.INDEX)
    except ArtifactError:
        return  # its own stage is stale then
    for shard in (shard for split in content["splits"].values() for shard in split):
        path = index.parent / shard["path"]
        is_newer = path.is_file() and path.stat().st_mtime_ns > since
        if is_newer and artifacts.sha256(path) != shard["sha256"]:
            yield path


def inputs(job: Job, recorded: Mapping[str, str]) -> dict[str, Path]:
    """Path of each input whose content decides, by the name under which a seal records it."""
    results, settings = Path(job.settings.results_dir), job.settings
    if job.stage.name == "report":
        # What it reads follows from the experiments, which are in its key.
        return {name: results / name for name in recorded}
    if job.stage.name == "ingest" and settings.source.kind != "simulate":
        return dict(find(Path(str(settings.source.path)), settings.source.kind))
    is_simulated, has_model = settings.source.kind == "simulate", settings.generate.method == "model"
    given = {"demographics": settings.generate.demographics, "histories": settings.generate.histories}
    there = {
        "init_from?": False,
        **dict.fromkeys(("process?", "test?"), is_simulated),
        "model?": has_model,
        **{f"{name}?": bool(path) for name, path in given.items()},
    }
    wanted = [name.rstrip("?") for name in job.stage.inputs if there.get(name, True)]
    # Parts are on the way from the inputs to the output and gone when it is there.
    names = [name for name in wanted if not _is_ledger(name) and not name.endswith("*")]
    found = {name: Path(given.get(name) or _produced(name, job)) for name in names}
    if job.stage.name == "train" and settings.train.init_from:
        found |= {f"init_from/{name}": Path(settings.train.init_from) / name for name in OF_BART}
    return found


def _produced(name: str, job: Job) -> Path:
    stage, file = PRODUCED[name]
    folder = Path(job.settings.results_dir) / stage
    return (folder / str(job.experiment) if stage in ("train", "generate") else folder) / file


def _is_ledger(name: str) -> bool:
    """Whether an input only proves that files belong together; its content decides nothing."""
    return name.endswith(("_ledger", "_summary"))


def _changed_at(path: Path) -> int:
    """The newest time of a file, or of a folder's files: 0 while Snakemake has only made the folder."""
    files = artifacts.files_of(path) if path.is_dir() else [path]
    return max((file.stat().st_mtime_ns for file in files), default=0)


# --- what follows ------------------------------------------------------------------------------


def _runs(jobs: Sequence[Job], own: Mapping[Job, Status]) -> dict[Job, Job | None]:
    """Job that would run to the one it follows, None where it has a reason of its own."""
    before = {job: _before(job, jobs) for job in jobs}
    runs: dict[Job, Job | None] = {job: None for job in jobs if own[job].state == "stale"}
    runs |= {job: None for job in jobs[-1:] if own[job].state == "missing"}
    size = -1
    while size != len(runs):
        size = len(runs)
        for job in jobs:
            if job in runs:
                missing = [b for b in before[job] if own[b].state == "missing" and b not in runs]
                runs |= {b: None for b in missing if _is_needed(b, job)}
            elif follows := [b for b in before[job] if b in runs]:
                runs[job] = None if own[job].state == "missing" else follows[0]
    return runs


def _before(job: Job, jobs: Sequence[Job]) -> list[Job]:
    """The jobs whose files this one reads."""
    if job.stage.name == "report":
        return [other for other in jobs if other is not job]
    files = {path.parts for path in inputs(job, {}).values()}
    return [
        o for o in jobs if any(parts[: len(o.seal.parent.parts)] == o.seal.parent.parts for parts in files)
    ]


def _is_needed(missing: Job, job: Job) -> bool:
    """Whether something that a job reads of a missing one is gone."""
    folder, stage = missing.seal.parent, missing.stage.name
    if job.stage.name == "report":
        read = [missing.seal, *([folder / REPORTED[stage]] if stage in REPORTED else [])]
    else:
        read = [path for path in inputs(job, {}).values() if folder in path.parents]
        # The seal of simulate is the process, which is an input like any other.
        read += [missing.seal] if stage != "simulate" else []
    gone = _gone(missing)
    return any(not path.exists() or path in gone or any(path in g.parents for g in gone) for path in read)


def _told(job: Job, own: Status, because: Mapping[Job, Job | None], all_own: Mapping[Job, Status]) -> Status:
    if job.stage.resumes and job in because and not any(o in because for o in _before(job, list(all_own))):
        return _of_run(job, own)
    followed = because.get(job)
    if followed is not None:
        name = " ".join(filter(None, [followed.stage.name, followed.experiment]))
        return Status(job, "stale", f"follows {name}")
    if own.state == "missing" and job not in because:
        return Status(
            job, "missing", f"{own.reason or 'nothing that runs needs it'}; made again when something does"
        )
    return own if own.reason or own.state == "fresh" else replace(own, reason="not made yet")


def _of_run(job: Job, own: Status) -> Status:
    """A training that nothing comes before: where it begins, and who does it already."""
    folder = job.seal.parent / "checkpoints"
    newest, holder = _checkpoint(job), lease.signed(folder)
    reasons = [own.reason or ("" if newest else "not made yet")]
    if newest:
        reasons.append(f"continues after {newest}")
    elif any(folder.glob("step-*")):
        reasons.append("the checkpoints are of another run key")
    if holder:
        reasons.append(f"{holder} trains here")
    return Status(job, "resumable" if newest else own.state, "; ".join(filter(None, reasons)))


def _checkpoint(job: Job) -> str | None:
    """The newest checkpoint of the run that would be trained now, also where another run moved it aside."""
    folder = job.seal.parent / "checkpoints"
    try:
        data = {name: artifacts.sha256(path) for name, path in inputs(job, {}).items()}
    except ArtifactError:
        return None
    key = {"settings": run_key_settings(job.settings), "data": data, "code": dict(job.key.code)}
    for owner in (folder / "key.json", *folder.glob("superseded-*/key.json")):
        steps = sorted(path.name for path in owner.parent.glob("step-*") if path.name[5:].isdigit())
        if steps and _holds(owner, key):
            return steps[-1]
    return None


def _holds(path: Path, content: Mapping[str, Any]) -> bool:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return bool(found == content)
