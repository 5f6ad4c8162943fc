"""A full disk and a folder that cannot be written: one line, nothing half-published, nothing lost."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.workflow.checkout import Checkout, artifacts
from tests.workflow.conftest import TINY

PAGE = 4096


@contextmanager
def small_disk(folder: Path, pages: int) -> Iterator[None]:
    """A disk of so many pages, mounted over the folder and what it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    mount(f"size={pages * PAGE},mode=0700", folder)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mount(options: str, folder: Path) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"needs to mount a small disk: {done.stderr.strip()}")


def said(output: str) -> set[str]:
    """The lines for people; Snakemake shows a rule's log after its failure once more."""
    return {line for line in output.splitlines() if line.startswith("promptehr: ")}


def pages_of(files: dict[str, bytes]) -> int:
    return sum(-(-len(content) // PAGE) for content in files.values())


def finished_files(folder: Path) -> dict[str, bytes]:
    """The artifacts without those that go once the shards they seal are listed."""
    return {name: content for name, content in artifacts(folder).items() if not name[:5].isdigit()}


@pytest.mark.parametrize("stage", ["simulate", "ingest", "shards", "train", "generate", "report"])
def test_a_full_disk_is_one_line_and_room_is_all_it_needs(finished: Checkout, stage: str) -> None:
    folder = finished.folder / "results" / "tiny" / stage
    expected = artifacts(folder)
    # One job at a time: of two, each would say its line.
    words = ("--cores", "1", "--forcerun", stage, "--until", stage)
    with small_disk(folder, 1 + pages_of(expected) // 3):
        full = finished.snakemake(*words)
        assert full.returncode == 1
        assert "Traceback" not in full.stdout
        (line,) = said(full.stdout)
        assert line.startswith(f"promptehr: results/tiny/{stage}/")
        assert ": cannot be written (" in line
        assert "No space left on device); " in line
        assert finished_files(folder).items() <= expected.items()
        mount("remount,size=20m", folder)
        done = finished.snakemake(*words)
        assert done.returncode == 0, done.stdout
        assert artifacts(folder) == expected


def test_a_disk_that_is_full_of_logs_too_is_one_line(checkout: Checkout) -> None:
    with small_disk(checkout.folder / "results" / "tiny", 8):
        full = checkout.with_settings(TINY).snakemake("--cores", "1")
        assert full.returncode == 1
        assert "Traceback" not in full.stdout
        (line,) = said(full.stdout)
        assert line.startswith("promptehr: results/tiny/simulate/")
        assert "No space left on device" in line


def test_a_folder_that_cannot_be_written_ends_the_start(checkout: Checkout) -> None:
    folder = checkout.folder / "results" / "tiny"
    with small_disk(folder, 8):
        mount("remount,ro", folder)
        refused = checkout.with_settings(TINY).snakemake("--cores", "1")
    assert refused.returncode == 2
    line = "promptehr: results/tiny: cannot be written (Read-only file system); free or change the folder"
    assert said(refused.stdout) == {line}
    assert refused.stdout.splitlines()[-1] == line
