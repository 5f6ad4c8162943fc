"""What can happen to a run on a cluster, driven on the real one: each event ends with its outcome."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.slurm import cluster
from tests.slurm.cluster import BASE, PROFILE, Ended
from tests.workflow.checkout import Checkout

TRAINED = f"{BASE}/summary.json"
# Long enough for a command to reach the running job; saved after every epoch.
EPOCHS = 40
LONG = f"train: {{epochs: {EPOCHS}, checkpoint_every: 1}}\n"
ADDRESS = "ada@example.org"
WARNING = """  slurm_extra: "'--signal=TERM@300'"\n"""
PROMPTEHR = Path(sys.executable).parent / "promptehr"


@dataclass(frozen=True)
class Outcome:
    """A checkout, the runs that were started in it one after the other, and what was noted meanwhile."""

    checkout: Checkout
    runs: tuple[Ended, ...]
    noted: Any = None


def pipeline(checkout: Checkout) -> Outcome:
    """Account, partition and mail are set as the profile's comments say; then everything runs, parts too."""
    checkout = checkout.with_settings("shards: {count: 2}\ngenerate: {patients: 300, parts: 2}\n")
    checkout.edit(PROFILE, "# slurm_account: NAME ", "slurm_account: lab ")
    checkout.edit(PROFILE, "  # slurm_partition: NAME ", "  slurm_partition: cpu ")
    with_mail(checkout)
    checkout.edit(PROFILE, "# set-resources:", "set-resources:")
    checkout.edit(PROFILE, "#   train: {slurm_partition: gpu}", "  train: {slurm_partition: gpu}")
    checkout.edit(PROFILE, "#   evaluate_likelihood: {gpu: 0}", "  evaluate_likelihood: {gpu: 0}")
    without_network(checkout)
    with cluster.ended_at_last(cluster.start(checkout)) as run:
        return Outcome(checkout, (run.wait(),))


def with_mail(checkout: Checkout) -> None:
    """The line with the address, as the profile says."""
    checkout.edit(PROFILE, '  # slurm_extra: "', '  slurm_extra: "')
    checkout.edit(PROFILE, "--mail-user=ADDRESS", f"--mail-user={ADDRESS}")


def without_network(checkout: Checkout) -> None:
    """Each stage runs where there is no network but a loopback that is down, and notes its routes."""
    folder = checkout.folder / "without-network"
    folder.mkdir()
    stage = folder / "promptehr"
    note = f'echo "$1 $(tail -n +2 /proc/self/net/route | wc -l)" >> {folder / "routes"}'
    stage.write_text(
        f'#!/bin/sh\nexec unshare --net sh -c \'{note}; exec {PROMPTEHR} "$@"\' promptehr "$@"\n'
    )
    stage.chmod(0o700)
    checkout.edit("workflow/rules/common.smk", "[str(Path(sys.executable).parent)", f"[{str(folder)!r}")


def failure(checkout: Checkout) -> Outcome:
    """Training finds in its job that the model is too small for the sequences.

    The profile would try four times, with minutes of polling between; once tells the same.
    """
    checkout = checkout.with_settings("train: {shape: {positions: 20}}\n")
    with_mail(checkout)
    with cluster.ended_at_last(cluster.start(checkout, TRAINED, "--retries", "0")) as run:
        return Outcome(checkout, (run.wait(),))


def memory(checkout: Checkout) -> Outcome:
    """Training needs more memory than its rule asks for, and less than twice that."""
    checkout = checkout.with_settings(LONG)
    checkout.edit("workflow/rules/model.smk", "memory(32768)", "memory(500)")
    with cluster.ended_at_last(cluster.start(checkout, TRAINED)) as run:
        return Outcome(checkout, (run.wait(),))


def time_limit(checkout: Checkout) -> Outcome:
    """Five minutes remain of the training's time."""
    checkout = checkout.with_settings(LONG)
    with cluster.ended_at_last(cluster.start(checkout, TRAINED)) as run:
        number = cluster.running_training(checkout)
        # SLURM looks at the limits every 30 s: the trainer stands still until the signal is there.
        with cluster.frozen(checkout) as trainer:
            cluster.slurm("scontrol", "update", f"JobId={number}", "TimeLimit=5")
            cluster.until(lambda: cluster.is_asked_to_stop(trainer), "SLURM's SIGTERM")
        return Outcome(checkout, (run.wait(),))


def time_out(checkout: Checkout) -> Outcome:
    """SLURM ends the training at its time limit without a warning, which would wake the trainer."""
    checkout = checkout.with_settings(LONG)
    checkout.edit(PROFILE, WARNING, "")
    with cluster.ended_at_last(cluster.start(checkout, TRAINED)) as run:
        number = cluster.running_training(checkout)
        with cluster.frozen(checkout):
            cluster.slurm("scontrol", "update", f"JobId={number}", "TimeLimit=1")
            going = ("RUNNING", "COMPLETING")
            cluster.until(lambda: cluster.trainings(checkout)[0]["JobState"] not in going, "the time limit")
        return Outcome(checkout, (run.wait(),))


def scancel(checkout: Checkout) -> Outcome:
    """The user cancels the training job, and later types the same command again."""
    checkout = checkout.with_settings(LONG)
    with cluster.ended_at_last(cluster.start(checkout, TRAINED, name="first")) as run:
        cluster.slurm("scancel", cluster.running_training(checkout))
        first = run.wait()
    with cluster.ended_at_last(cluster.start(checkout, TRAINED, name="second")) as run:
        return Outcome(checkout, (first, run.wait()))


def ctrl_c(checkout: Checkout) -> Outcome:
    """The user presses Ctrl-C in the main process's terminal, and types the same command again."""
    checkout = checkout.with_settings(LONG)
    with cluster.ended_at_last(cluster.start(checkout, TRAINED, name="first")) as run:
        cluster.running_training(checkout)
        os.killpg(run.process.pid, signal.SIGINT)
        first = run.wait()
    with cluster.ended_at_last(cluster.start(checkout, TRAINED, name="second")) as run:
        return Outcome(checkout, (first, run.wait()))


def preemption(checkout: Checkout) -> Outcome:
    """An urgent job takes what the training job uses; SLURM queues the training again."""
    checkout = checkout.with_settings(LONG)
    with_mail(checkout)
    checkout.edit(PROFILE, "# set-resources:", "set-resources:")
    site = "  train: {slurm_partition: scavenge, gres: slot}"
    checkout.edit(PROFILE, "#   train: {slurm_partition: gpu}", site)
    with cluster.ended_at_last(cluster.start(checkout, TRAINED)) as run:
        cluster.running_training(checkout)
        cluster.slurm(
            "sbatch", "--partition=urgent", "--gres=slot", "--mem=100", "--output=/dev/null", "--wrap=sleep 2"
        )

        def came_back() -> bool:
            """SLURM holds a job that it has queued again for two minutes; an operator need not."""
            job = cluster.trainings(checkout)[0]
            was_preempted = job["Restarts"] != "0"
            waits = was_preempted and job["JobState"] == "PENDING"
            if waits:
                # Refused when the job has started in between.
                with suppress(subprocess.CalledProcessError):
                    cluster.slurm("scontrol", "update", f"JobId={job['JobId']}", "StartTime=now")
            return was_preempted and not waits

        cluster.until(came_back, "the preempted job")
        return Outcome(checkout, (run.wait(),))


def killed_main_process(checkout: Checkout) -> Outcome:
    """The main process dies while training runs, and the same command is typed again at once."""
    checkout = checkout.with_settings(LONG)
    with cluster.ended_at_last(cluster.start(checkout, TRAINED, name="first")) as run:
        number = cluster.running_training(checkout)
        with cluster.frozen(checkout):
            run.kill()
            second = cluster.start(checkout, TRAINED, name="second")
            cluster.until(lambda: "a killed run left" in second.output(), "the second start waits")
    with cluster.ended_at_last(second) as run:
        return Outcome(checkout, (run.wait(),), noted=number)


ALL: Mapping[str, Callable[[Checkout], Outcome]] = {
    event.__name__: event
    for event in (
        pipeline,
        failure,
        memory,
        time_limit,
        time_out,
        scancel,
        ctrl_c,
        preemption,
        killed_main_process,
    )
}
