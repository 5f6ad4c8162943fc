"""One run at a time on a results folder, and a dead one in nobody's way."""

import os
import signal
import subprocess
import time
from pathlib import Path

from promptehr import locks
from tests.workflow.checkout import Checkout, environment, words_for


def started(checkout: Checkout, *words: str) -> "subprocess.Popen[str]":
    """Snakemake in a session of its own, which a test may kill as a whole."""
    return subprocess.Popen(
        words_for(checkout, "--cores", "1", *words),
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


def test_a_run_that_ends_with_snakemakes_report_is_a_run_too(finished: Checkout) -> None:
    report = ("--cores", "1", "--report", "report.html")
    with locks.results(finished.folder / "results/tiny"):
        refused = finished.snakemake(*report, "--report-after-run")
        assert refused.returncode == 2
        assert f"in use by process {os.getpid()} on " in refused.stdout
        looking = finished.snakemake(*report)
    assert looking.returncode == 0, looking.stdout


def test_a_second_run_is_refused_and_a_killed_one_leaves_nothing_in_the_way(finished: Checkout) -> None:
    finished.edit(
        "promptehr/stages/report.py", "\nfrom promptehr", "\nimport time\ntime.sleep(60)\nfrom promptehr"
    )
    first = started(finished)
    left = finished.folder / ".snakemake" / "locks" / "0.output.lock"
    wait_for(left)
    second = finished.snakemake("--cores", "1")
    assert second.returncode == 2
    assert f"promptehr: results/tiny: in use by process {first.pid} on " in second.stdout
    assert "report" in finished.dry_run()

    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert left.exists()
    finished.edit("promptehr/stages/report.py", "time.sleep(60)", "time.sleep(0)")
    third = finished.snakemake("--cores", "1", "--rerun-incomplete")
    assert third.returncode == 0, third.stdout
