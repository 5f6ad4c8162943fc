"""A real SLURM on this machine, a cohort that is ready to be trained on, and the events of a night.

A workflow on a cluster mostly waits. The events are therefore driven all at once, each in a
thread and a checkout of its own; a test asks for the outcome of one.
"""

import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.slurm import events
from tests.workflow.checkout import Checkout, fresh

HERE = Path(__file__).parent
CANNOT = 3

TINY = """
results_dir: results/tiny
simulate: {patients: 200}
train:
  shape: {width: 16, encoder_layers: 1, decoder_layers: 1, heads: 2, feed_forward: 32, positions: 288}
  prompt: {width: 8}
  epochs: 2
  batch_patients: 32
  warmup_steps: 2
generate: {patients: 60}
evaluate_likelihood: {bootstrap: 100}
evaluate_fidelity: {bootstrap: 100}
evaluate_utility: {bootstrap: 100, min_positives: 3}
evaluate_privacy: {bootstrap: 100, min_members: 10}
runtime: {device: cpu, threads: 1}
"""


@pytest.fixture(scope="session", autouse=True)
def cluster() -> None:
    """SLURM is up; a skip that says why where it cannot be had."""
    done = subprocess.run([HERE / "up"], capture_output=True, text=True, check=False, timeout=600)
    if done.returncode == CANNOT:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the checkouts of this session lie."""
    return tmp_path_factory.mktemp("slurm")


@pytest.fixture(scope="session")
def cohort(place: Path) -> Checkout:
    """A checkout whose cohort is sharded; nothing is trained."""
    checkout = fresh(place / "cohort").with_settings(TINY)
    done = checkout.snakemake("--cores", "2", "--until", "shards", timeout=300)
    assert done.returncode == 0, done.stdout[-4000:]
    return checkout


@pytest.fixture(scope="session")
def outcome(cohort: Checkout, place: Path) -> Iterator[Callable[[str], Any]]:
    """The outcome of an event by its name; all of them run from the first call on."""
    with ThreadPoolExecutor(max_workers=len(events.ALL)) as threads:
        started: Mapping[str, Future[Any]] = {
            name: threads.submit(event, checkout_for(name, cohort, place))
            for name, event in events.ALL.items()
        }
        yield lambda name: started[name].result()


def checkout_for(name: str, cohort: Checkout, place: Path) -> Checkout:
    """A checkout of the event's own: with the cohort, or bare for the whole pipeline."""
    if name == "pipeline":
        checkout = fresh(place / name)
        # One baseline is enough here; a settings file could add experiments, not take them away.
        checkout.edit("config.yaml", "  bigram: {", "  # bigram: {")
        checkout.edit("config.yaml", "  memoriser: {", "  # memoriser: {")
        # `auto` asks for a GPU; on a machine without one it then runs on the CPU.
        return checkout.with_settings(TINY.replace("device: cpu", "device: auto"))
    return cohort.copy_to(place / name)
