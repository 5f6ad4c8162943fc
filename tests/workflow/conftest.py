"""Builders for the workflow's tests: a fresh checkout, and copies of one that has run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workflow.checkout import Checkout, fresh

TINY = """
results_dir: results/tiny
simulate: {patients: 200}
shards: {count: 2}
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


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """The workflow in a folder of its own, nothing run yet."""
    return fresh(tmp_path / "checkout")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout whose pipeline has run to its report on 200 patients; not to be changed."""
    tiny = fresh(tmp_path_factory.mktemp("run") / "checkout").with_settings(TINY)
    done = tiny.snakemake("--cores", "2", "--max-checksum-file-size", "1GB", timeout=600)
    assert done.returncode == 0, done.stdout[-4000:]
    return tiny


@pytest.fixture
def finished(once: Checkout, tmp_path: Path) -> Checkout:
    """A copy of the finished checkout that a test may change."""
    return once.copy_to(tmp_path / "finished")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Callable[[str], Path]:
    """A place for one more copy."""
    return lambda name: tmp_path / "elsewhere" / name
