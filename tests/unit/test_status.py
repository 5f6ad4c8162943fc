"""States of artifacts and their reasons, on made-up artifacts under real seals."""

import hashlib
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from promptehr import artifacts, lease, schemas, seals, status
from promptehr.seals import Job, jobs, stale_copies
from promptehr.settings import Settings, parse, run_key_settings

FILES = {
    "simulate": ("PATIENTS.csv", "ADMISSIONS.csv", "DIAGNOSES_ICD.csv"),
    "ingest": ("patients.parquet", "admissions.parquet", "diagnoses.parquet", "rejects.parquet"),
    "records": ("train.parquet", "valid.parquet", "test.parquet"),
    "vocabulary": ("vocabulary.json",),
    "shards": ("index.json", "train/00000.parquet"),
    "train": ("model/config.json", "model/model.safetensors", "history.jsonl"),
    "generate": ("synthetic.parquet",),
    "report": ("report.html",),
}
TWO = {"experiments": {"base": {}, "unigram": {"generate": {"method": "unigram"}}}}


def made(folder: Path, **changes: Any) -> Settings:
    """Settings whose every artifact lies below the folder, fresh; each file tells its own name."""
    settings = parse({"results_dir": str(folder / "results"), **TWO, **changes})
    for clock, job in enumerate(jobs(settings)):
        write(job, clock)
    return settings


def write(job: Job, clock: int, **contents: str) -> None:
    """Make a job's files and its seal, all of one time."""
    files = [job.seal.parent / name for name in FILES.get(job.stage.name, ())]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(contents.get(file.name, file.name))
    names = {f"{other}/ledger.json" for other in ("ingest", "records")} if job.stage.name == "report" else ()
    read = status.inputs(job, dict.fromkeys(names, ""))
    sealed = {
        "key": {"settings": job.key.settings, "code": dict(job.key.code)},
        "inputs": {name: artifacts.sha256(path) for name, path in read.items()},
        "files": {str(file.relative_to(job.seal.parent)): artifacts.sha256(file) for file in files},
    }
    job.seal.parent.mkdir(parents=True, exist_ok=True)
    job.seal.write_text(json.dumps(sealed))
    for file in (*files, job.seal):
        os.utime(file, (1e9 + clock, 1e9 + clock))


def states(settings: Settings) -> dict[str, tuple[str, str]]:
    """Name of stage and experiment to state and reason, for what is not fresh."""
    return {
        " ".join(filter(None, [found.job.stage.name, found.job.experiment])): (found.state, found.reason)
        for found in status.statuses(jobs(settings))
        if found.state != "fresh"
    }


def job(settings: Settings, stage: str, experiment: str | None = None) -> Job:
    return next(j for j in jobs(settings) if (j.stage.name, j.experiment) == (stage, experiment))


def changed(settings: Settings, **sections: Mapping[str, Any]) -> Settings:
    return parse(settings.model_dump(by_alias=True, exclude_defaults=True) | sections)


def test_what_has_just_run_is_fresh(tmp_path: Path) -> None:
    assert states(made(tmp_path)) == {}


def test_where_nothing_ran_everything_is_missing(tmp_path: Path) -> None:
    settings = parse({"results_dir": str(tmp_path), **TWO})
    assert set(states(settings).values()) == {("missing", "not made yet")}
    assert len(states(settings)) == 16


def test_a_setting_is_named_with_both_values_and_what_follows_follows(tmp_path: Path) -> None:
    settings = changed(made(tmp_path), evaluate_privacy={"min_codes": 4})
    reason = "evaluate_privacy.min_codes: 5 -> 4"
    assert states(settings) == {
        "evaluate_privacy base": ("stale", reason),
        "evaluate_privacy unigram": ("stale", reason),
        "report": ("stale", "follows evaluate_privacy base"),
    }


def test_two_changed_values_are_two_reasons(tmp_path: Path) -> None:
    settings = changed(made(tmp_path), ingest={"max_rejected_share": 0.01, "max_zeroless_share": 0.05})
    assert states(settings)["ingest"] == (
        "stale",
        'ingest.max_rejected_share: "auto" -> 0.01; ingest.max_zeroless_share: 0.01 -> 0.05',
    )


def test_changed_code_is_named_by_its_module(tmp_path: Path) -> None:
    settings = made(tmp_path)
    seal = job(settings, "report").seal
    seal.write_text(seal.read_text().replace('"promptehr.stages.report": "', '"promptehr.stages.report": "0'))
    assert states(settings) == {"report": ("stale", "promptehr.stages.report changed")}


def test_runtime_reruns_nothing(tmp_path: Path) -> None:
    assert states(changed(made(tmp_path), runtime={"device": "cpu"})) == {}


def test_an_input_counts_when_it_is_newer_and_other(tmp_path: Path) -> None:
    settings = made(tmp_path)
    synthetic = tmp_path / "results" / "generate" / "base" / "synthetic.parquet"
    synthetic.touch()
    assert states(settings) == {}
    synthetic.write_text("other")
    assert states(settings) == {
        **{
            f"evaluate_{what} base": ("stale", f"{synthetic} changed")
            for what in ("fidelity", "utility", "privacy")
        },
        "report": ("stale", "follows evaluate_fidelity base"),
    }


def test_a_rerun_that_wrote_the_same_files_stops_there(tmp_path: Path) -> None:
    settings = made(tmp_path)
    seal = job(settings, "records").seal
    write(job(settings, "records"), 10_000)
    assert states(settings) == {}
    seal.write_text(seal.read_text() + "\n")
    assert states(settings) == {"report": ("stale", f"{seal} changed")}


def test_tables_of_another_folder_are_compared_by_content(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for folder in folders:
        folder.mkdir()
        for table in FILES["simulate"]:
            (folder / table).write_text(table)
    source = {"kind": "mimic3", "path": str(folders[0])}
    settings = made(tmp_path, source=source)
    assert states(changed(settings, source={**source, "path": str(folders[1])})) == {}
    (folders[2] / "ADMISSIONS.csv").write_text("other")
    found = states(changed(settings, source={**source, "path": str(folders[2])}))
    assert found["ingest"] == ("stale", f"{folders[2] / 'ADMISSIONS.csv'} changed")
    assert found["records"] == ("stale", "follows ingest")


def test_a_deleted_intermediate_is_missing_and_what_it_led_to_stays_fresh(tmp_path: Path) -> None:
    settings = made(tmp_path)
    (tmp_path / "results" / "records" / "train.parquet").unlink()
    reason = "train.parquet is gone; made again when something does"
    assert states(settings) == {"records": ("missing", reason)}
    needed = states(changed(settings, evaluate_utility={"tasks": 9}))
    assert needed["records"] == ("missing", "train.parquet is gone")
    assert needed["vocabulary"] == ("stale", "follows records")


@pytest.mark.parametrize(
    ("gone", "stage"),
    [
        ("train/base/model/model.safetensors", "train base"),
        ("simulate/PATIENTS.csv", "simulate"),
        ("ingest/patients.parquet", "ingest"),
        ("shards/train/00000.parquet", "shards"),
    ],
)
def test_a_report_needs_only_what_it_reads(tmp_path: Path, gone: str, stage: str) -> None:
    settings = made(tmp_path)
    (tmp_path / "results" / gone).unlink()
    name = gone.removeprefix(f"{stage.replace(' ', '/')}/")
    assert states(changed(settings, report={"title": "Other"})) == {
        stage: ("missing", f"{name} is gone; made again when something does"),
        "report": ("stale", 'report.title: "Synthetic patients" -> "Other"'),
    }


@pytest.mark.parametrize(
    "gone", ["train/base/history.jsonl", "train/base/summary.json", "simulate/process.json"]
)
def test_a_report_brings_back_what_it_reads(tmp_path: Path, gone: str) -> None:
    settings = changed(made(tmp_path), report={"title": "Other"})
    (tmp_path / "results" / gone).unlink()
    assert len(states(settings)) > 4


def test_a_replaced_shard_makes_its_readers_stale(tmp_path: Path) -> None:
    settings = made(tmp_path)
    shards = job(settings, "shards")
    shard = {"path": "train/00000.parquet", "sha256": hashlib.sha256(b"00000.parquet").hexdigest()}
    head = {"format": schemas.INDEX.name, "format_version": schemas.INDEX.version}
    for clock, one in enumerate(jobs(settings)):
        write(one, clock, **{"index.json": json.dumps({**head, "splits": {"train": [shard]}})})
    assert states(settings) == {}
    path = shards.seal.parent / "train/00000.parquet"
    path.write_text("another")
    reason = ("stale", f"{path} changed")
    found = states(settings)
    assert {name for name, state in found.items() if state == reason} == {
        "train base",
        "generate base",
        "generate unigram",
        "evaluate_likelihood base",
    }


def test_a_new_experiment_is_missing_and_the_report_is_stale(tmp_path: Path) -> None:
    settings = made(tmp_path)
    added = {**TWO["experiments"], "bigram": {"generate": {"method": "bigram"}}}
    assert states(changed(settings, experiments=added)) == {
        **{
            f"{stage} bigram": ("missing", "not made yet")
            for stage in ("generate", "evaluate_fidelity", "evaluate_utility", "evaluate_privacy")
        },
        "report": ("stale", 'experiments: ["base","unigram"] -> ["base","unigram","bigram"]'),
    }


def test_a_model_that_replaces_a_baseline_is_one_more_input(tmp_path: Path) -> None:
    settings = made(tmp_path, experiments={"base": {}, "second": {"generate": {"method": "unigram"}}})
    found = states(changed(settings, experiments={"base": {}, "second": {}}))
    assert found["generate second"] == (
        "stale",
        'generate.method: "unigram" -> "model"; model is read or not read any more',
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"key": {"settings": 1, "code": {}}}'])
def test_a_seal_without_a_readable_key_is_stale(tmp_path: Path, text: str) -> None:
    settings = made(tmp_path)
    job(settings, "report").seal.write_text(text)
    assert states(settings) == {"report": ("stale", "its seal cannot be read")}


# --- training ----------------------------------------------------------------------------------


def checkpointed(settings: Settings, *steps: int) -> None:
    """Checkpoints of the run that these settings ask for."""
    train = job(settings, "train", "base")
    folder = train.seal.parent / "checkpoints"
    for step in steps:
        (folder / f"step-{step:08d}").mkdir(parents=True)
    data = {name: artifacts.sha256(path) for name, path in status.inputs(train, {}).items()}
    key = {"settings": run_key_settings(settings), "data": data, "code": dict(train.key.code)}
    (folder / "key.json").write_text(json.dumps(key))


def test_an_interrupted_training_is_resumable(tmp_path: Path) -> None:
    settings = made(tmp_path)
    job(settings, "train", "base").seal.unlink()
    checkpointed(settings, 5, 10)
    assert states(settings)["train base"] == (
        "missing",
        "nothing that runs needs it; made again when something does",
    )
    needed = states(changed(settings, generate={"seed": 2}))
    assert needed["train base"] == ("resumable", "continues after step-00000010")
    assert states(changed(settings, train={"dropout": 0.2}, generate={"seed": 2}))["train base"] == (
        "missing",
        "not made yet; the checkpoints are of another run key",
    )


def test_a_model_folder_that_is_made_anew_is_no_puzzle(tmp_path: Path) -> None:
    settings = made(tmp_path)
    train = job(settings, "train", "base").seal
    for path in (train, *(train.parent / "model").iterdir()):
        path.unlink()
    status.put_in_order([found for found in jobs(settings) if found.seal.exists()])
    assert states(changed(settings, generate={"seed": 2}))["train base"] == ("missing", "not made yet")


def test_who_trains_is_named_as_long_as_the_heart_beats(tmp_path: Path) -> None:
    settings = made(tmp_path)
    train = job(settings, "train", "base")
    train.seal.unlink()
    checkpointed(settings, 5)
    needed = changed(settings, generate={"seed": 2})
    with lease.held(train.seal.parent / "checkpoints"):
        here = f"process {os.getpid()} on {socket.gethostname()} trains here"
        assert states(needed)["train base"] == ("resumable", f"continues after step-00000005; {here}")
    assert states(needed)["train base"] == ("resumable", "continues after step-00000005")
    for dead in (
        {"host": "elsewhere", "pid": 7, "heartbeat": time.time() - lease.DEAD_AFTER_S - 1},
        {"host": socket.gethostname(), "pid": 2**30, "heartbeat": time.time()},
    ):
        (train.seal.parent / "checkpoints/lease.json").write_text(json.dumps(dead))
        assert states(needed)["train base"] == ("resumable", "continues after step-00000005")


def test_a_run_that_was_moved_aside_is_resumable_when_its_key_is_back(tmp_path: Path) -> None:
    settings = made(tmp_path)
    train = job(settings, "train", "base")
    train.seal.unlink()
    checkpointed(settings, 5)
    folder = train.seal.parent / "checkpoints"
    (folder / "superseded-0123456789ab").mkdir()
    for name in ("step-00000005", "key.json"):
        (folder / name).rename(folder / "superseded-0123456789ab" / name)
    needed = states(changed(settings, generate={"seed": 2}))
    assert needed["train base"] == ("resumable", "continues after step-00000005")


def test_more_epochs_of_a_stopped_run_are_resumable(tmp_path: Path) -> None:
    settings = made(tmp_path, train={"stop_after_epochs": 1})
    checkpointed(settings, 5)
    assert states(changed(settings, train={"stop_after_epochs": 2}))["train base"] == (
        "resumable",
        "train.stop_after_epochs: 1 -> 2; continues after step-00000005",
    )


# --- copies ------------------------------------------------------------------------------------


def test_copies_of_another_key_are_named_with_what_differs(tmp_path: Path) -> None:
    settings = changed(made(tmp_path), report={"title": "Other"})
    present = jobs(settings)
    assert stale_copies(present) == {present[-1]: ["report.title"]}
    assert stale_copies(present[:-1]) == {}


def test_a_copy_without_a_readable_key_is_named(tmp_path: Path) -> None:
    present = jobs(made(tmp_path))
    present[-1].seal.write_text("{}")
    assert stale_copies(present) == {present[-1]: ["no key can be read"]}
    assert seals.read(present[-1].seal) is None


def test_times_of_a_copy_rise_again_up_to_an_artifact_whose_input_differs(tmp_path: Path) -> None:
    settings = made(tmp_path)
    present = jobs(settings)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    for age, path in enumerate(sorted(files)):
        os.utime(path, (1e9 - age, 1e9 - age))
    status.put_in_order(present)
    times = [job.seal.stat().st_mtime_ns for job in present]
    assert times == sorted(times)
    assert states(settings) == {}

    records, vocabulary = job(settings, "records").seal, job(settings, "vocabulary").seal
    (records.parent / "train.parquet").write_text("other")
    for path, at in ((records.parent / "train.parquet", 0), (vocabulary.parent / "vocabulary.json", 5e8)):
        os.utime(path, (at, at))
    os.utime(vocabulary, (3e9, 3e9))  # newer than what it does not know
    status.put_in_order(present)
    assert (vocabulary.parent / "vocabulary.json").stat().st_mtime == 5e8

    os.utime(vocabulary, (1e9, 1e9))
    os.utime(records.parent / "train.parquet", (2e9, 2e9))
    before = vocabulary.stat().st_mtime_ns
    status.put_in_order(present)
    assert vocabulary.stat().st_mtime_ns == before
    assert states(settings)["vocabulary"] == ("stale", f"{records.parent / 'train.parquet'} changed")
