"""What is refused before anything is submitted, and a cluster that died half."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.slurm import cluster
from tests.workflow.checkout import Checkout

pytestmark = pytest.mark.slurm


@pytest.mark.parametrize(
    ("line", "value", "refusal"),
    [
        (
            "  # slurm_partition: NAME ",
            "  slurm_partition: nights ",
            "profile, default-resources: slurm_partition: this cluster has no partition nights;"
            " choose from cpu, gpu, scavenge, urgent",
        ),
        (
            "  # slurm_account: NAME ",
            "  slurm_account: office ",
            "profile, default-resources: slurm_account: root has no account office; choose from lab, root",
        ),
        (
            "--signal=TERM@300'\"",
            "--signal=TERM@300 --mail-user=ada'\"",
            "profile, default-resources: slurm_extra: --mail-user=ada is no mail address;"
            " write name@example.org",
        ),
    ],
)
def test_a_wrong_line_of_the_site_is_refused_before_anything_is_submitted(
    line: str, value: str, refusal: str, cohort: Checkout, tmp_path: Path
) -> None:
    checkout = cohort.copy_to(tmp_path / "checkout")
    checkout.edit(cluster.PROFILE, line, value)
    done = cluster.start(checkout).wait()
    assert (done.status, done.output.splitlines()[-1]) == (2, f"promptehr: {refusal}")
    assert cluster.jobs(checkout) == []


def test_a_cluster_that_died_half_is_started_anew() -> None:
    os.kill(cluster.daemons()["slurmctld"], signal.SIGKILL)
    subprocess.run([Path(__file__).parent / "up"], check=True, timeout=300, capture_output=True)
    assert cluster.slurm("sinfo", "--noheader", "--format=%t", "--partition=cpu") == "idle\n"
