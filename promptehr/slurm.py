"""What SLURM says before a run submits to it, and while its jobs are retried.

Turns the site's lines of a profile into an error in one line before anything is submitted, and
SLURM's queue into the jobs that a killed run left behind and those that somebody cancelled.
Asks SLURM's own commands; submits and cancels nothing. Standard library only, because the
Snakefile imports this module.
"""

import getpass
import re
import subprocess
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from promptehr.errors import SettingsError

# Set as `slurm-jobname-prefix` in the profile: the queue tells our jobs from the user's others by it.
PREFIX = "promptehr_"
POLL_S = 10.0
UNFINISHED = "PENDING,CONFIGURING,RUNNING,SUSPENDED,COMPLETING"


@dataclass(frozen=True)
class Line:
    """One of the site's lines: `where: name: value`."""

    where: str
    name: str
    value: str

    def refusal(self, why: str) -> SettingsError:
        return SettingsError(f"profile, {self.where}: {self.name}: {why}")


@dataclass(frozen=True)
class Job:
    """A job of the queue: its number, state and the rule it runs, as the queue shows it."""

    number: str
    state: str
    rule: str

    def __str__(self) -> str:
        return f"job {self.number} ({self.rule}, {self.state.lower()})"


# --- before anything is submitted --------------------------------------------------------------


def check(lines: Iterable[Line]) -> None:
    """Refuse what would fail in the queue, or send no mail.

    Raises:
        SettingsError: naming the line of the profile and what the cluster has instead.
    """
    partitions = _partitions()
    if partitions is None:
        raise SettingsError(
            "sinfo: no SLURM answers here; start on the cluster's login node, or run with"
            " --profile profiles/local"
        )
    for line in lines:
        if not line.name.startswith("slurm_"):
            raise line.refusal("is a rule, which belongs under set-resources; take the # off that line too")
        if line.name == "slurm_partition":
            _check_partitions(line, set(partitions))
        elif line.name == "slurm_account":
            _check_accounts(line)
        elif line.name == "slurm_extra":
            _check_mail(line)


def answers() -> bool:
    """Whether there is a cluster to ask: a dry run may be made far from it."""
    return _partitions() is not None


def _partitions() -> list[str] | None:
    return _answer("sinfo", "--noheader", "--format=%R")


def _check_partitions(line: Line, known: set[str]) -> None:
    for name in line.value.split(","):
        if name not in known:
            raise line.refusal(f"this cluster has no partition {name}; choose from {_listed(known)}")


def _check_accounts(line: Line) -> None:
    """Accounts can be checked only where SLURM keeps them."""
    answer = _answer(
        "sacctmgr", "--noheader", "--parsable2", "list", "associations", f"user={_user()}", "format=account"
    )
    known = {name for name in answer or () if name}
    for name in re.split(r"[,\s]+", line.value):
        if known and name not in known:
            raise line.refusal(f"{_user()} has no account {name}; choose from {_listed(known)}")


def _check_mail(line: Line) -> None:
    for found in re.finditer(r"--mail-user[= ]([^\s']*)", line.value):
        if not re.fullmatch(r"[^@\s,]+@[^@\s,]+\.[^@\s,.]+", found[1]):
            raise line.refusal(f"--mail-user={found[1]} is no mail address; write name@example.org")


# --- what runs already -------------------------------------------------------------------------


def left_behind(folder: Path) -> list[Job]:
    """Jobs of the workflow in this folder that wait or run, by number.

    A run that has the results folder to itself and has submitted nothing yet finds here what a
    killed one left.

    Raises:
        SettingsError: if SLURM does not say: what was left might be trained a second time.
    """
    jobs = _jobs(folder, UNFINISHED)
    if jobs is None:
        raise SettingsError("squeue: SLURM does not answer; give the same command again when it does")
    return jobs


def wait_for(
    jobs: Collection[Job],
    folder: Path,
    *,
    tell: Callable[[str], object],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when none of the jobs waits or runs any longer; tell when SLURM falls silent meanwhile."""
    numbers, was_silent = {job.number for job in jobs}, False
    while (rows := _jobs(folder, UNFINISHED)) is None or numbers & {job.number for job in rows}:
        if rows is None and not was_silent:
            tell("squeue: SLURM does not answer; it is asked again until it does")
        was_silent = rows is None
        sleep(POLL_S)


def cancelled(folder: Path) -> list[Job]:
    """Jobs of the workflow in this folder that somebody cancelled, as long as SLURM remembers."""
    return _jobs(folder, "CANCELLED") or []


def _jobs(folder: Path, states: str) -> list[Job] | None:
    """This user's jobs that the workflow in `folder` submitted, by number; None without an answer."""
    answer = _answer(
        *("squeue", "--noheader", f"--user={_user()}", f"--states={states}", "--format=%i|%T|%j|%k|%Z")
    )
    if answer is None:
        return None
    rows = [row.split("|", 4) for row in answer]
    jobs = [
        Job(number, state, rule.replace("_wildcards_", " "))
        for number, state, name, rule, place in rows
        if name.startswith(PREFIX) and place == str(folder)
    ]
    return sorted(jobs, key=lambda job: (len(job.number), job.number))


# --- asking ------------------------------------------------------------------------------------


def _answer(*command: str) -> list[str] | None:
    """The lines that a command prints; None where there is no such command or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.splitlines()


def _user() -> str:
    return getpass.getuser()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
