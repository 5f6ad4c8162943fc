"""A stage reruns exactly when its settings, its inputs' content or its code change."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workflow.checkout import SNAKEMAKE, Checkout, environment

REPORT = {"report": 1}
FIDELITY = {"evaluate_fidelity": 4}
OF_SYNTHETIC = {"evaluate_fidelity": 4, "evaluate_utility": 4, "evaluate_privacy": 4}
OF_MODEL = {
    "train": 1,
    "generate": 1,
    "evaluate_likelihood": 1,
    "report": 1,
    **dict.fromkeys(("evaluate_fidelity", "evaluate_utility", "evaluate_privacy"), 1),
}
AFTER_SHARDS = {"train": 1, "generate": 4, "evaluate_likelihood": 1, **OF_SYNTHETIC, **REPORT}
AFTER_VOCABULARY = {"shards": 1, **AFTER_SHARDS}
AFTER_RECORDS = {"vocabulary": 1, **AFTER_VOCABULARY}
AFTER_INGEST = {"records": 1, **AFTER_RECORDS}
AFTER_SIMULATE = {"ingest": 1, **AFTER_INGEST}


def test_a_finished_run_is_not_stale(finished: Checkout) -> None:
    assert finished.stale() == {}


@pytest.mark.parametrize(
    ("settings", "reason", "stale"),
    [
        ("simulate: {seed: 2}", "simulate.seed=2", {"simulate": 1, **AFTER_SIMULATE}),
        (
            "ingest: {max_rejected_share: 0.06}",
            "ingest.max_rejected_share=0.06",
            {"ingest": 1, **AFTER_INGEST},
        ),
        ("records: {min_age: 18.0}", "records.min_age=18.0", {"records": 1, **AFTER_RECORDS}),
        ("vocabulary: {min_patients: 2}", "vocabulary.min_patients=2", {"vocabulary": 1, **AFTER_VOCABULARY}),
        ("shards: {drop: oldest}", 'shards.drop="oldest"', {"shards": 1, **AFTER_SHARDS}),
        ("train: {dropout: 0.2}", "train.dropout=0.2", OF_MODEL),
        ("generate: {top_k: 5}", "generate.top_k=5", {"generate": 4, **OF_SYNTHETIC, **REPORT}),
        (
            "evaluate_likelihood: {seed: 2}",
            "evaluate_likelihood.seed=2",
            {"evaluate_likelihood": 1, **REPORT},
        ),
        ("evaluate_fidelity: {seed: 2}", "evaluate_fidelity.seed=2", {**FIDELITY, **REPORT}),
        ("evaluate_utility: {tasks: 9}", "evaluate_utility.tasks=9", {"evaluate_utility": 4, **REPORT}),
        (
            "evaluate_privacy: {min_codes: 4}",
            "evaluate_privacy.min_codes=4",
            {"evaluate_privacy": 4, **REPORT},
        ),
        ("report: {title: 'A {b} c'}", 'report.title="A {b} c"', REPORT),
    ],
)
def test_one_setting_makes_its_stage_and_what_follows_stale(
    once: Checkout, settings: str, reason: str, stale: dict[str, int]
) -> None:
    assert once.with_settings(settings).stale_because() == (stale, {reason})


def test_runtime_makes_nothing_stale(once: Checkout) -> None:
    assert once.with_settings("runtime: {device: auto, threads: 2, log_every_s: 5.0}").stale() == {}


def test_a_new_experiment_runs_only_its_own_and_the_report(once: Checkout) -> None:
    added = once.with_settings("experiments: {seed-2: {train: {seed: 2}, generate: {seed: 2}}}")
    assert added.stale() == OF_MODEL


def test_an_override_of_one_experiment_leaves_the_others(once: Checkout) -> None:
    changed = once.with_settings("experiments: {bigram: {generate: {method: bigram, seed: 3}}}")
    ones = dict.fromkeys(("generate", "evaluate_fidelity", "evaluate_utility", "evaluate_privacy"), 1)
    assert changed.stale_because() == ({**ones, **REPORT}, {"generate.seed=3"})


def test_comments_docstrings_and_blank_lines_rerun_nothing(finished: Checkout) -> None:
    for path in (finished.folder / "promptehr").rglob("*.py"):
        if path.read_text("utf-8"):
            path.write_text(
                '"""Another first line."""\n\n# A comment.\n' + path.read_text("utf-8") + "\n# End.\n"
            )
    for path in (finished.folder / "workflow" / "rules").glob("*.smk"):
        path.write_text("# A comment.\n" + path.read_text("utf-8"))
    assert finished.stale() == {}


@pytest.mark.parametrize(
    ("module", "stale"),
    [
        ("stages/records", {"records": 1, **AFTER_RECORDS}),
        ("stages/report", REPORT),
        ("stages/train", OF_MODEL),
        ("model/objective", {**OF_MODEL, "generate": 4, **OF_SYNTHETIC}),
        ("cli", {}),
        ("settings", {}),
    ],
)
def test_an_edit_of_code_makes_the_stages_behind_it_stale(
    finished: Checkout, module: str, stale: dict[str, int]
) -> None:
    path = finished.folder / "promptehr" / f"{module}.py"
    path.write_text(path.read_text("utf-8") + "\nADDED = 1\n", "utf-8")
    found, reasons = finished.stale_because()
    assert found == stale
    named = {reason.partition(" ")[0] for reason in reasons}
    assert named == ({f"promptehr.{module.replace('/', '.')}"} if stale else set())


def test_a_touched_file_is_compared_by_content(finished: Checkout) -> None:
    (finished.folder / "results" / "tiny" / "simulate" / "PATIENTS.csv").touch()
    (finished.folder / "results" / "tiny" / "records" / "train.parquet").touch()
    assert finished.stale() == {}


def test_moving_the_checkout_reruns_nothing(finished: Checkout, elsewhere: Callable[[str], Path]) -> None:
    assert finished.copy_to(elsewhere("moved")).stale() == {}


def test_identical_records_stop_the_rerun_in_two_steps(finished: Checkout) -> None:
    finished.edit("promptehr/stages/records.py", "\nfrom promptehr", "\nADDED = 1\nfrom promptehr")
    done = finished.snakemake("--cores", "1", "--until", "records", "--max-checksum-file-size", "1GB")
    assert done.returncode == 0, done.stdout
    assert finished.stale() == REPORT


def test_results_without_snakemakes_records_are_named_when_their_key_differs(finished: Checkout) -> None:
    shutil.rmtree(finished.folder / ".snakemake")
    assert "copied here" not in finished.dry_run()
    changed = finished.with_settings("records: {min_age: 18.0}")
    path = "results/tiny/records/ledger.json"
    assert (
        f"{path}: copied here, and written with another records.min_age;"
        " to rerun it, add to this command: --forcerun records\n" in changed.dry_run()
    )
    assert changed.stale("--forcerun", "records") == {"records": 1, **AFTER_RECORDS}


# --- the lock of the results folder ------------------------------------------------------------


def started(checkout: Checkout, *words: str) -> "subprocess.Popen[str]":
    """Snakemake in a session of its own, which a test may kill as a whole."""
    return subprocess.Popen(
        [SNAKEMAKE, "--cores", "1", *words, "--configfile", *checkout.settings],
        cwd=checkout.folder,
        env=environment(checkout.folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )


def wait_for(path: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


def test_a_second_run_is_refused_and_a_killed_one_leaves_nothing_in_the_way(finished: Checkout) -> None:
    finished.edit(
        "promptehr/stages/report.py", "\nfrom promptehr", "\nimport time\ntime.sleep(60)\nfrom promptehr"
    )
    first = started(finished)
    locks = finished.folder / ".snakemake" / "locks" / "0.output.lock"
    wait_for(locks)
    second = finished.snakemake("--cores", "1")
    assert second.returncode == 2
    assert f"promptehr: results/tiny: in use by process {first.pid} on " in second.stdout
    assert "report" in finished.dry_run()

    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert locks.exists()
    finished.edit("promptehr/stages/report.py", "time.sleep(60)", "time.sleep(0)")
    third = finished.snakemake("--cores", "1", "--rerun-incomplete")
    assert third.returncode == 0, third.stdout
