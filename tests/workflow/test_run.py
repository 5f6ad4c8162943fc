"""The whole pipeline on 200 simulated patients: one run, then what it left."""

import json
import os
import stat
import statistics
import subprocess
from pathlib import Path

from promptehr.stage_table import STAGES
from tests.workflow.checkout import SNAKEMAKE, Checkout, artifacts, environment, words_for


def results(checkout: Checkout) -> Path:
    return checkout.folder / "results" / "tiny"


def test_the_run_ends_with_a_report_of_every_experiment(once: Checkout) -> None:
    assert (results(once) / "report" / "report.html").stat().st_size > 10_000
    for experiment in ("base", "unigram", "bigram", "memoriser"):
        folder = results(once) / "evaluate" / experiment
        found = {path.stem for path in folder.glob("*.json")}
        assert found == {"fidelity", "utility", "privacy"} | (
            {"likelihood"} if experiment == "base" else set()
        )


def test_every_stage_has_its_log_and_benchmark(once: Checkout) -> None:
    logs = {path.name.split(".")[0] for path in (results(once) / "logs").iterdir()}
    benchmarks = {path.name.split(".")[0] for path in (results(once) / "benchmarks").iterdir()}
    assert logs == benchmarks == {stage.name for stage in STAGES} - {"generate_part"}


def test_every_ledger_balances(once: Checkout) -> None:
    for stage in ("ingest", "records", "vocabulary", "shards"):
        ledger = json.loads((results(once) / stage / "ledger.json").read_bytes())
        for table in ledger["tables"].values():
            assert table["rows_in"] == table["rows_kept"] + sum(table["rejected"].values())


def test_files_and_folders_are_private(once: Checkout) -> None:
    for path in [results(once), *results(once).rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_no_artifact_names_the_place_it_was_made_in(once: Checkout) -> None:
    place = str(once.folder).encode()
    assert [name for name, content in artifacts(results(once)).items() if place in content] == []


def test_snakemakes_own_report_works(finished: Checkout) -> None:
    done = finished.snakemake("--report", "snakemake-report.html")
    assert done.returncode == 0, done.stdout
    assert (finished.folder / "snakemake-report.html").stat().st_size > 10_000


def test_a_second_run_gives_the_same_bytes(finished: Checkout) -> None:
    before = artifacts(results(finished))
    for folder in results(finished).iterdir():
        if folder.name in ("vocabulary", "shards", "train"):
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
    done = finished.snakemake("--cores", "2", "--forcerun", "simulate", timeout=600)
    assert done.returncode == 0, done.stdout[-4000:]
    assert artifacts(results(finished)) == before


def test_a_results_folder_may_have_a_space_in_its_name(checkout: Checkout) -> None:
    spaced = checkout.with_settings("results_dir: my results\nsimulate: {patients: 200}\n")
    done = spaced.snakemake("--cores", "1", "--until", "records")
    assert done.returncode == 0, done.stdout[-4000:]
    assert (checkout.folder / "my results" / "records" / "ledger.json").exists()


def processor_seconds(checkout: Checkout, words: list[str]) -> float:
    """What one command takes of the processor; the clock on the wall tells of the machine's other work."""
    run = subprocess.Popen(
        words,
        cwd=checkout.folder,
        env=environment(checkout.folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(run.pid, 0)
    run.returncode = os.waitstatus_to_exitcode(status)
    assert run.returncode == 0
    return used.ru_utime + used.ru_stime


def test_a_run_with_nothing_to_do_costs_little_more_than_starting_snakemake(finished: Checkout) -> None:
    commands = ([SNAKEMAKE, "--version"], words_for(finished, "--profile", "profiles/local"))
    for words in commands:
        processor_seconds(finished, words)
    pairs = [[processor_seconds(finished, words) for words in commands] for _ in range(5)]
    assert statistics.median(run / start for start, run in pairs) < 1.4
