"""What outlives a rule that fails, and two starts at the same moment."""

import resource
import subprocess
from pathlib import Path

from tests.workflow.checkout import Checkout, artifacts, environment, words_for

TRAIN = ("--cores", "2", "--forcerun", "train", "--until", "train")


def trained(checkout: Checkout) -> Path:
    return checkout.folder / "results" / "tiny" / "train" / "base"


def checkpoints(checkout: Checkout) -> set[str]:
    return {path.name for path in (trained(checkout) / "checkpoints").glob("step-*")}


def with_files_up_to(size: int, checkout: Checkout, *words: str) -> "subprocess.CompletedProcess[str]":
    """Snakemake, where neither it nor its jobs can write more than so many bytes into a file."""
    return subprocess.run(
        words_for(checkout, *words),
        cwd=checkout.folder,
        env=environment(checkout.folder),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )


def test_checkpoints_outlive_what_snakemake_deletes(finished: Checkout) -> None:
    expected, kept = artifacts(trained(finished)), checkpoints(finished)
    weights = len(expected["model/model.safetensors"])

    failed = with_files_up_to(weights // 2, finished, *TRAIN)
    assert failed.returncode == 1
    line = (
        "promptehr: results/tiny/train/base/model: cannot be written (File too large);"
        " free or change the folder"
    )
    assert line in failed.stdout.splitlines()
    assert artifacts(trained(finished)) == {}
    assert checkpoints(finished) == kept

    again = finished.snakemake(*TRAIN)
    assert again.returncode == 0, again.stdout
    log = (finished.folder / "results" / "tiny" / "logs" / "train.base.log").read_text("utf-8")
    assert f"continuing after step {int(max(kept).partition('-')[2])}" in log
    assert artifacts(trained(finished)) == expected


def test_of_two_starts_at_once_one_runs(finished: Checkout) -> None:
    expected = artifacts(finished.folder / "results")
    both = [
        subprocess.Popen(
            words_for(finished, "--cores", "1", "--forcerun", "evaluate_privacy"),
            cwd=finished.folder,
            env=environment(finished.folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(2)
    ]
    said = {run.pid: run.communicate(timeout=300)[0] for run in both}
    (ran, winner), (refused, loser) = sorted((run.returncode, run.pid) for run in both)
    output, line = said[winner], said[loser]
    assert (ran, refused) == (0, 2), output + line
    assert line.splitlines()[-1].startswith(f"promptehr: results/tiny: in use by process {winner} on ")
    assert artifacts(finished.folder / "results") == expected
    assert finished.stale() == {}
