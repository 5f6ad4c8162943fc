"""A pipeline that is killed 20 times ends with the bytes of an undisturbed one."""

from pathlib import Path

import pytest

from tests.workflow.kill_harness import prepared


@pytest.mark.slow
def test_a_killed_pipeline_ends_with_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    harness = prepared(tmp_path / "checkout", seed=1)
    harness.run(20)
    assert harness.hits.total() == 20
