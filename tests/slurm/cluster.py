"""A checkout whose pipeline runs on the test cluster, and what SLURM knows of its jobs."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.workflow.checkout import SNAKEMAKE, Checkout, environment

T = TypeVar("T")

PROFILE = "profiles/slurm/config.yaml"
BASE = "results/tiny/train/base"
PATIENCE_S = float(os.environ.get("PROMPTEHR_PATIENCE_S", 600))
# The profile's status checks wait 20 s at first, more each time: right for hours, not for a test.
QUICK = ("--slurm-init-seconds-before-status-checks", "2")


@dataclass(frozen=True)
class Ended:
    """How a run ended: its status, both its streams, and its length in seconds."""

    status: int
    output: str
    seconds: float


@dataclass(frozen=True)
class Run:
    """A main process that runs in a session of its own, as in a terminal of its own."""

    process: subprocess.Popen[bytes]
    log: Path
    began: float

    def output(self) -> str:
        return self.log.read_text("utf-8", errors="replace")

    def wait(self) -> Ended:
        status = self.process.wait(timeout=PATIENCE_S)
        return Ended(status, self.output(), time.monotonic() - self.began)

    def kill(self) -> None:
        """The main process dies as under the kernel's memory killer: nothing is tidied up."""
        self.process.kill()
        self.process.wait()


def start(checkout: Checkout, *words: str, name: str = "run") -> Run:
    """Start the workflow through the profile; `words` are targets and options."""
    log = checkout.folder / f"{name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                *(SNAKEMAKE, "--nocolor", *words, "--profile", "profiles/slurm", *QUICK),
                *("--configfile", *checkout.settings),
            ],
            cwd=checkout.folder,
            env=environment(checkout.folder),
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            # A background job of a shell script would inherit that it ignores Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    return Run(process, log, time.monotonic())


@contextmanager
def ended_at_last(run: Run) -> Iterator[Run]:
    """Kill the main process, if it lives, when the block fails."""
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.kill()


def until(found: Callable[[], T | None], what: str) -> T:
    """The first true value."""
    patience = time.monotonic() + PATIENCE_S
    while time.monotonic() < patience:
        if value := found():
            return value
        time.sleep(0.3)
    raise AssertionError(f"{what}: not within {PATIENCE_S:.0f} s")


def slurm(*command: str) -> str:
    """What one of SLURM's commands prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def jobs(checkout: Checkout) -> list[dict[str, str]]:
    """The jobs submitted from a checkout, oldest first: `scontrol show job` as words and values."""
    rows = slurm("scontrol", "--oneliner", "show", "job").splitlines()
    parsed = [dict(re.findall(r"(\S+?)=(\S*)", row)) for row in rows]
    ours = [job for job in parsed if job.get("WorkDir") == str(checkout.folder)]
    return sorted(ours, key=lambda job: int(job["JobId"]))


def trainings(checkout: Checkout) -> list[dict[str, str]]:
    return [job for job in jobs(checkout) if job["Comment"] == "rule_train_wildcards_base"]


def running_training(checkout: Checkout) -> str:
    """The number of the training job, as soon as it has saved a checkpoint."""

    def found() -> str | None:
        numbers = [job["JobId"] for job in trainings(checkout) if job["JobState"] == "RUNNING"]
        saved = list((checkout.folder / BASE / "checkpoints").glob("step-*"))
        return numbers[-1] if numbers and saved else None

    return until(found, "a training job with a checkpoint")


@contextmanager
def frozen(checkout: Checkout) -> Iterator[int]:
    """The trainer's process stands still for the length of the block."""
    lease = json.loads((checkout.folder / BASE / "checkpoints" / "lease.json").read_bytes())
    os.kill(lease["pid"], signal.SIGSTOP)
    try:
        # While it waits for the disk it does not stop yet.
        until(lambda: stands_still(lease["pid"]), "the trainer to stand still")
        yield lease["pid"]
    finally:
        with suppress(ProcessLookupError):
            os.kill(lease["pid"], signal.SIGCONT)


def stands_still(process: int) -> bool:
    return re.search(r"^State:\s*T", status_of(process), flags=re.MULTILINE) is not None


def is_asked_to_stop(process: int) -> bool:
    """Whether SIGTERM waits for a process that stands still; SLURM may also set it going again."""
    try:
        masks = re.findall(r"^S[hi][dg]Pnd:\s*(\w+)$", status_of(process), flags=re.MULTILINE)
        waits = any(int(mask, 16) >> (signal.SIGTERM - 1) & 1 for mask in masks)
        return waits or not stands_still(process)
    except FileNotFoundError:
        return True


def status_of(process: int) -> str:
    return Path(f"/proc/{process}/status").read_text("utf-8")


def training_log(checkout: Checkout) -> str:
    """The log of the last attempt: Snakemake empties it before each."""
    return (checkout.folder / "results/tiny/logs/train.base.log").read_text("utf-8")


def epochs_trained(checkout: Checkout) -> list[int]:
    """Numbers of the epochs that were completed, over all attempts."""
    text = (checkout.folder / BASE / "checkpoints" / "timing.jsonl").read_text("utf-8")
    return [int(number) for number in re.findall(r'"epoch": (\d+)', text)]


def model(checkout: Checkout) -> dict[str, bytes]:
    """File to content of what training publishes."""
    folder = checkout.folder / BASE
    files = [*sorted((folder / "model").iterdir()), folder / "history.jsonl", folder / "summary.json"]
    return {path.name: path.read_bytes() for path in files}


def home() -> Path:
    """Where `up` keeps the cluster's files."""
    return Path(os.environ.get("PROMPTEHR_SLURM") or f"{os.environ.get('TMPDIR', '/tmp')}/promptehr-slurm")


def mail() -> str:
    """What the cluster has mailed so far."""
    return (home() / "log" / "mail.log").read_text("utf-8")


def daemons() -> dict[str, int]:
    """Name to process of what `up` started."""
    rows = (line.split() for line in (home() / "pids").read_text("utf-8").splitlines())
    return {name: int(pid) for pid, name in rows}
