"""Kill the running pipeline at random and run the same command again, until it ends.

    python -m tests.workflow.kill_harness --kills 200 --seed 1

A round starts on empty results. At random moments one process of the run gets SIGKILL: Snakemake
itself, the program of a rule, or all at once as in a power cut. The same command follows at once,
beside whatever the dead run left running. When the command ends well and the last orphan is gone,
every artifact must have the bytes of an undisturbed run. Rounds follow each other until the kills
are used up.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.workflow.checkout import Checkout, artifacts, environment, fresh, remove, words_for

# Long enough in every stage to be hit there; checkpoints close to each other.
SETTINGS = """
results_dir: results/killed
simulate: {patients: 400}
shards: {count: 2}
train:
  shape: {width: 32, encoder_layers: 1, decoder_layers: 1, heads: 2, feed_forward: 64, positions: 288}
  prompt: {width: 8}
  epochs: 8
  batch_patients: 16
  warmup_steps: 2
  checkpoint_every: 1
generate: {patients: 300, parts: 2}
evaluate_likelihood: {bootstrap: 100}
evaluate_fidelity: {bootstrap: 100, fresh_patients: 500}
evaluate_utility: {bootstrap: 100, min_positives: 3}
evaluate_privacy: {bootstrap: 100, min_members: 10}
runtime: {device: cpu, threads: 1}
"""
COMMAND = ("--profile", "profiles/local", "--cores", "2")
MARK = "PROMPTEHR_KILL_HARNESS"
# Moments are counted in programs started, so that a slow machine is hit in the same stages.
MOST_PROGRAMS = 3
MEAN_DELAY_S = 1.0
READING_S = 4.0
WITHOUT = ("unigram", "bigram", "memoriser")
ORPHANS_END_S = 120.0
# A command may be refused while an orphan trains; each try takes seconds.
MOST_STARTS = 60


@dataclass
class Harness:
    """One checkout that is killed again and again.

    Attributes:
        checkout: Where the pipeline runs.
        rng: Chooses moments and victims.
        expected: Path to bytes of every artifact of an undisturbed run.
        hits: What was killed, and how often.
    """

    checkout: Checkout
    rng: random.Random
    expected: dict[str, bytes]
    hits: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    rounds: int = 0

    def run(self, kills: int) -> None:
        """Rounds until so many kills were done; each ends with the expected bytes."""
        while sum(self.hits.values()) < kills:
            self.rounds += 1
            remove(self.checkout.folder / "results", self.checkout.folder / ".snakemake")
            self.round(kills - sum(self.hits.values()))

    def round(self, kills: int) -> None:
        """From nothing to a finished run through at most so many kills."""
        killed, output = 0, ""
        for _ in range(MOST_STARTS):
            status, output, hit = self.start(doomed=killed < kills)
            if hit:
                killed += 1
                self.hits[hit] += 1
                print(f"kill {sum(self.hits.values())}, round {self.rounds}: {hit}", flush=True)
            elif status == 0:
                self.compare()
                return
        raise AssertionError(f"did not end after {MOST_STARTS} starts:\n{output}")

    def start(self, *, doomed: bool) -> tuple[int, str, str | None]:
        """(status, output, what was killed) of one command; an undoomed one may end."""
        self.starts += 1
        log = self.checkout.folder / "command.log"
        with log.open("w") as file:
            main = subprocess.Popen(
                words_for(self.checkout, *COMMAND),
                cwd=self.checkout.folder,
                env={**environment(self.checkout.folder), MARK: str(self.checkout.folder)},
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            hit = self.kill_one(main.pid) if doomed and self.lives_to_its_moment(main) else None
            # A rule's death ends Snakemake by itself, after the jobs beside it.
            status = main.wait(1800)
        return status, log.read_text("utf-8"), hit

    def lives_to_its_moment(self, main: "subprocess.Popen[bytes]") -> bool:
        """Wait for a random moment of a random program; whether the command still runs then."""
        programs = self.rng.randint(0, MOST_PROGRAMS)
        delay = self.rng.expovariate(1 / MEAN_DELAY_S) if programs else self.rng.uniform(0.0, READING_S)
        seen = {pid for pid, stage in self.programs() if stage}
        wanted = len(seen) + programs
        while len(seen) < wanted and main.poll() is None:
            seen |= {pid for pid, stage in self.programs() if stage}
            time.sleep(0.05)
        try:
            main.wait(delay)
        except subprocess.TimeoutExpired:
            return True
        return False

    def kill_one(self, main: int) -> str | None:
        """Kill Snakemake, one of its programs or all of them; says what, and during which stages."""
        programs = {pid: stage for pid, stage in self.programs() if stage}
        running = "+".join(sorted(set(programs.values()))) or "start"
        choice = self.rng.choice(("snakemake", "everything", "program", "program"))
        if choice == "program" and programs:
            pid = self.rng.choice(sorted(programs))
            return f"program of {programs[pid]}" if kill(pid) else None
        victims = [main] if choice != "everything" else [pid for pid, _ in self.programs()]
        done = [pid for pid in [main, *victims] if kill(pid)]
        return f"{'everything' if len(done) > 1 else 'snakemake'} during {running}" if done else None

    def programs(self) -> Iterator[tuple[int, str | None]]:
        """Every process of this checkout, orphans too, and the stage it runs if it is a stage's."""
        mark = f"{MARK}={self.checkout.folder}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    marked = mark in (entry / "environ").read_bytes().split(b"\0")
                    words = (entry / "cmdline").read_bytes().decode().split("\0")
                except OSError:
                    continue
                if marked and words != [""]:
                    yield int(entry.name), stage_of(words)

    def compare(self) -> None:
        """Every artifact, once the last orphan has ended, has the bytes of the undisturbed run."""
        end = time.monotonic() + ORPHANS_END_S
        while any(self.programs()):
            assert time.monotonic() < end, f"still running: {list(self.programs())}"
            time.sleep(0.05)
        found = artifacts(self.checkout.folder / "results")
        differing = sorted(
            name for name in found.keys() | self.expected.keys() if found.get(name) != self.expected.get(name)
        )
        assert not differing, f"after {dict(self.hits)}: differ from the undisturbed run: {differing}"
        assert self.checkout.stale() == {}


def stage_of(words: list[str]) -> str | None:
    """The stage of a `promptehr <stage>` process; its shell and others have none."""
    places = [place for place, word in enumerate(words[:3]) if word.endswith("/promptehr")]
    return words[places[0] + 1] if places else None


def kill(pid: int) -> bool:
    """Whether there was such a process to kill."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def prepared(folder: Path, seed: int) -> Harness:
    """A checkout with the bytes of its undisturbed run."""
    checkout = fresh(folder).with_settings(SETTINGS)
    lines = (folder / "config.yaml").read_text("utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(tuple(f"  {name}:" for name in WITHOUT))]
    (folder / "config.yaml").write_text("".join(kept), "utf-8")
    done = checkout.snakemake(*COMMAND, timeout=1800)
    assert done.returncode == 0, done.stdout[-4000:]
    return Harness(checkout, random.Random(seed), artifacts(folder / "results"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="an empty place to work in; default: a temporary one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        began = time.monotonic()
        harness = prepared(Path(name) / "checkout", given.seed)
        took = time.monotonic() - began
        print(f"undisturbed run: {took:.0f} s, {len(harness.expected)} artifacts", flush=True)
        try:
            harness.run(given.kills)
        finally:
            for hit, count in sorted(harness.hits.items()):
                print(f"{count:4d}  {hit}")
        print(
            f"{sum(harness.hits.values())} kills in {harness.rounds} rounds and {harness.starts} starts,"
            f" {time.monotonic() - began:.0f} s: all artifacts byte for byte as undisturbed"
        )


if __name__ == "__main__":
    sys.exit(main())
