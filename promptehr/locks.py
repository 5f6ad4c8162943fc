"""Who may write: one run on a results folder, one job on a stage's outputs.

The locks are the kernel's: they go with the process, however it ends, and are not inherited by
the programs it starts. A file beside what is locked names the holder. Standard library only,
because the Snakefile imports this module.
"""

import fcntl
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from promptehr.errors import ArtifactError, BusyError

logger = logging.getLogger(__name__)

WAIT_S = 600.0
POLL_S = 0.2


# --- the results folder ------------------------------------------------------------------------


def results(folder: Path) -> TextIO:
    """Take the results folder for this process until it ends; keep what is returned.

    Raises:
        BusyError: naming the process that holds it, or why the folder cannot be locked.
        ArtifactError: if nothing can be written there.
    """
    file = _opened(folder / ".lock")
    if not _taken(file):
        with file:
            raise BusyError(f"{folder}: in use by {_holder(file)}; wait for it to end, or stop it")
    _sign(file)
    return file


def drop_dead_locks(locks: Path, results: Path, folders: Iterable[str]) -> None:
    """Remove Snakemake's locks that a dead run left on a results folder; call it holding `results`.

    Snakemake's locks list the files of a run, one per line, and name no process. Those of a
    live run on another results folder stay, even where one folder contains the other.

    Args:
        locks: `.snakemake/locks` of the working folder.
        results: The folder that this process has locked, as it is written in file names.
        folders: The stages' folders directly below it.
    """
    ours = tuple(f"{results / folder}{os.sep}" for folder in folders)
    for file in locks.glob("*.lock"):
        if any(line.startswith(ours) for line in file.read_text("utf-8").splitlines()):
            file.unlink(missing_ok=True)


# --- a stage's outputs -------------------------------------------------------------------------


@contextmanager
def outputs(files: Sequence[Path], *, wait_s: float = WAIT_S) -> Iterator[None]:
    """Be the only job that writes these files; the last one names the lock.

    A job whose Snakemake was killed goes on. What it still writes must not fall among the files
    of the job that follows it, so that one waits; then it removes what killed jobs left half
    written.

    Raises:
        BusyError: naming the holder, if it still writes after `wait_s` seconds.
    """
    seal = files[-1]
    with _opened(_lock_of(seal)) as file:
        _wait_for(file, seal, wait_s, fcntl.LOCK_EX)
        _sign(file)
        for path in files:
            drop_temporaries(path)
        yield


@contextmanager
def part_of(seal: Path, *, wait_s: float = WAIT_S) -> Iterator[None]:
    """Be one of the jobs that write parts of what `seal` will seal; the job that seals waits for all.

    Raises:
        BusyError: naming the holder, if another job still writes the whole after `wait_s` seconds.
    """
    with _opened(_lock_of(seal)) as file:
        _wait_for(file, seal, wait_s, fcntl.LOCK_SH)
        _sign(file, "the job of a part")  # which of them is the last to end, nobody knows
        yield


def _lock_of(seal: Path) -> Path:
    return seal.parent / f".{seal.name}.lock"


def _wait_for(file: TextIO, seal: Path, wait_s: float, how: int) -> None:
    end, told = time.monotonic() + wait_s, False
    while not _taken(file, how):
        holder = _holder(file)
        if time.monotonic() > end:
            raise BusyError(f"{seal}: {holder} still writes it; wait for it to end, or stop it")
        if not told:
            logger.warning("%s: %s of a stopped run still writes it; waiting for its end", seal, holder)
            told = True
        time.sleep(POLL_S)


def drop_temporaries(path: Path) -> None:
    """Remove the dot-files and folders in which a killed job wrote this output."""
    inside = path.glob(".*.????????") if path.is_dir() else ()
    for left in [*path.parent.glob(f".{path.name}.????????"), *inside]:
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


# --- locking -----------------------------------------------------------------------------------


def _opened(path: Path) -> TextIO:
    try:
        for folder in reversed(path.parents):
            if not folder.exists():
                folder.mkdir(exist_ok=True, mode=0o700)
        return open(path, "r+", encoding="utf-8", opener=_private)
    except OSError as error:
        raise ArtifactError(
            f"{path.parent}: cannot be written ({error.strerror}); free or change the folder"
        ) from None


def _private(path: str, _flags: int) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _taken(file: TextIO, how: int = fcntl.LOCK_EX) -> bool:
    """Whether this process has the lock now, alone or shared."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise BusyError(
            f"{Path(str(file.name)).parent}: cannot be locked ({error.strerror});"
            " use a folder on another disk"
        ) from None
    return True


def _sign(file: TextIO, holder: str | None = None) -> None:
    file.seek(0)
    file.truncate()
    file.write(f"{holder or f'process {os.getpid()} on {socket.gethostname()}'}\n")
    file.flush()


def _holder(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip() or "another process"
