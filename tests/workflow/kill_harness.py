"""Kill the running pipeline at random and run the same command again, until it ends.

    python -m tests.workflow.kill_harness --kills 200 --seed 1

A round starts on empty results. At random moments a process of the run gets SIGKILL: Snakemake
itself, the program of a rule, or all at once as in a power cut. What lives of the command may be hit
again; the same command follows at once, beside whatever the dead one left running. When the command
ends well and the last orphan is gone, every artifact must have the bytes of an undisturbed run.
Rounds follow each other until the kills are used up.
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
# More than the machine has: rules that ask for four run side by side, and can be hit together.
COMMAND = ("--profile", "profiles/local", "--cores", "8")
MARK = "PROMPTEHR_KILL_HARNESS"
# A moment is so many programs on, and somewhere in the last one's usual time or a little after it: a
# slow machine is hit in the same places.
PROGRAMS_ON = (0, 1, 1, 2, 2, 3, 3)
PAST_ITS_END = 1.2
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
        seconds: What each stage's program takes undisturbed, and `start` what Snakemake takes to read.
        hits: What was killed, and how often.
    """

    checkout: Checkout
    rng: random.Random
    expected: dict[str, bytes]
    seconds: dict[str, float]
    hits: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    rounds: int = 0

    def run(self, kills: int) -> None:
        """Rounds until so many kills were done; each ends with the expected bytes."""
        while self.hits.total() < kills:
            self.rounds += 1
            remove(self.checkout.folder / "results", self.checkout.folder / ".snakemake")
            self.round(kills)

    def round(self, kills: int) -> None:
        """From nothing to a finished run, with kills up to this number of all rounds."""
        output = ""
        for _ in range(MOST_STARTS):
            before = self.hits.total()
            status, output = self.start(kills)
            if status == 0 and self.hits.total() == before:
                self.compare()
                return
        raise AssertionError(f"did not end after {MOST_STARTS} starts:\n{output}")

    def start(self, kills: int) -> tuple[int, str]:
        """(status, output) of one command, which is hit until it ends or the kills are used up."""
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
            programs = self.rng.choice(PROGRAMS_ON)
            while self.hits.total() < kills and self.lives_to_its_moment(main, programs):
                if hit := self.kill_one(main.pid):
                    self.hits[hit] += 1
                    print(f"kill {self.hits.total()}, round {self.rounds}: {hit}", flush=True)
                # A rule's death ends Snakemake, after the jobs beside it: it starts no more programs.
                programs = 0
            status = main.wait(1800)
        return status, log.read_text("utf-8")

    def lives_to_its_moment(self, main: "subprocess.Popen[bytes]", programs: int) -> bool:
        """Wait for a random moment of the program so many on; whether the command still runs then."""
        stage = "start"
        seen = {pid for pid, stage in self.programs() if stage}
        wanted = len(seen) + programs
        while len(seen) < wanted and main.poll() is None:
            found = {pid: name for pid, name in self.programs() if name and pid not in seen}
            stage = next(iter(found.values()), stage)
            seen |= found.keys()
            time.sleep(0.05)
        try:
            main.wait(self.rng.uniform(0.0, PAST_ITS_END * self.seconds[stage]))
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
        others = [pid for pid, _ in self.programs() if pid != main] if choice == "everything" else []
        done = [pid for pid in [main, *others] if kill(pid)]
        return f"{'everything' if others else 'snakemake'} during {running}" if done else None

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
    began = time.monotonic()
    assert checkout.stale() == {}
    seconds = {
        "start": time.monotonic() - began,
        **usual_seconds(folder / "results" / "killed" / "benchmarks"),
    }
    return Harness(checkout, random.Random(seed), artifacts(folder / "results"), seconds)


def usual_seconds(benchmarks: Path) -> dict[str, float]:
    """Stage to the time its program took, from Snakemake's benchmark files."""
    return {
        path.name.partition(".")[0]: float(path.read_text("utf-8").splitlines()[1].split("\t")[0])
        for path in sorted(benchmarks.iterdir())
    }


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
            f"{harness.hits.total()} kills in {harness.rounds} rounds and {harness.starts} starts,"
            f" {time.monotonic() - began:.0f} s: all artifacts byte for byte as undisturbed"
        )


if __name__ == "__main__":
    sys.exit(main())
