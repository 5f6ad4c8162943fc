"""A copy of the workflow and the package in a folder of its own, and what Snakemake does there."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SNAKEMAKE = str(Path(sys.executable).parent / "snakemake")
PROMPTEHR = str(Path(sys.executable).parent / "promptehr")
PARTS = ("Snakefile", "config.yaml", "workflow", "profiles", "promptehr")


@dataclass(frozen=True)
class Checkout:
    """A folder in which Snakemake runs, with the settings files it is given.

    Attributes:
        folder: Holds the workflow and the package.
        settings: Files merged over config.yaml, below the folder.
    """

    folder: Path
    settings: tuple[str, ...] = ()

    def snakemake(self, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run Snakemake here with the package of this folder; both streams are in `stdout`."""
        return subprocess.run(
            words_for(self, *words),
            cwd=self.folder,
            env=environment(self.folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=timeout,
            check=False,
        )

    def promptehr(self, command: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a subcommand that reads settings here, with this folder's package."""
        overlays = [word for name in self.settings for word in ("--configfile", name)]
        return subprocess.run(
            [PROMPTEHR, command, *words, *overlays],
            cwd=self.folder,
            env=environment(self.folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )

    def stale(self, *words: str) -> dict[str, int]:
        """Rule to number of jobs that would run, `all` left out."""
        return self.stale_because(*words)[0]

    def stale_because(self, *words: str) -> tuple[dict[str, int], set[str]]:
        """Jobs by rule, and the params, as they are now, that Snakemake gives as reasons."""
        output = self.dry_run(*words)
        return jobs(output), {text for line in output.splitlines() for text in _now(line)}

    def dry_run(self, *words: str) -> str:
        done = self.snakemake("-n", "--max-checksum-file-size", "1GB", *words)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace the text, which must be there, in a file of this checkout."""
        path = self.folder / file
        text = path.read_text("utf-8")
        assert old in text, f"{file} does not hold {old}"
        path.write_text(text.replace(old, new, 1), "utf-8")

    def with_settings(self, text: str) -> "Checkout":
        """The same checkout with one more settings file over the others."""
        name = f"overlay-{len(self.settings)}.yaml"
        (self.folder / name).write_text(text, "utf-8")
        return Checkout(self.folder, (*self.settings, name))

    def copy_to(self, folder: Path) -> "Checkout":
        """A copy with all times kept, as `cp -a` makes it."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Checkout(folder, self.settings)


def fresh(folder: Path) -> Checkout:
    """A checkout in which nothing has run."""
    folder.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / part)
    return Checkout(folder)


def words_for(checkout: Checkout, *words: str) -> list[str]:
    """The command line of Snakemake with these words and the checkout's settings files."""
    overlays = ["--configfile", *checkout.settings] if checkout.settings else []
    return [SNAKEMAKE, "--nocolor", *words, *overlays]


def artifacts(results: Path) -> dict[str, bytes]:
    """Path to content of every artifact: not logs, benchmarks, checkpoints, hidden files."""
    named = {path.relative_to(results): path for path in sorted(results.rglob("*")) if path.is_file()}
    kept = {
        name: path
        for name, path in named.items()
        if not {"logs", "benchmarks", "checkpoints"} & set(name.parts)
    }
    return {str(name): path.read_bytes() for name, path in kept.items() if not name.name.startswith(".")}


def remove(*folders: Path) -> None:
    """Delete folders with all they hold, where they are there."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def environment(folder: Path) -> dict[str, str]:
    """This process's, with the folder's package in front of the installed one; compiled files are kept."""
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": ""}


def jobs(output: str) -> dict[str, int]:
    """The job table that Snakemake prints, without `all` and `total`."""
    rows: Sequence[tuple[str, str]] = re.findall(r"^(\w+) +(\d+)$", output, flags=re.MULTILINE)
    return {rule: int(count) for rule, count in rows if rule not in ("all", "total", "job")}


def _now(line: str) -> list[str]:
    """`x` and `y` of `reason: Params have changed ... now: 'x', 'y'`."""
    changed = re.search(r"reason: .*Params have changed.* now: (.*)$", line)
    return re.findall(r"'([^']+)'", changed[1]) if changed else []
