"""One writer per training run: a kernel lock on this host, a heartbeat for the others.

The lock goes with the process, however it ends. Where hosts share a file system whose locks hold on
one host only, the heartbeat in the file tells a live holder from a dead one, who is waited for.
"""

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from promptehr import artifacts
from promptehr.errors import BusyError

logger = logging.getLogger(__name__)

HEARTBEAT_S = 20.0
DEAD_AFTER_S = 120.0
POLL_S = 2.0
SIGNED_OFF = "{}"
LENGTH = 255  # of the line in the file; a host's name has 64 characters at most


class Lease:
    """A held lease; call `beat` often, it writes at most every HEARTBEAT_S seconds."""

    def __init__(self, path: Path, file: TextIO):
        self._path, self._file = path, file
        self._last: float | None = None

    def require(self) -> None:
        """See that the lease still is this process's, before anything is written on its strength.

        Raises:
            BusyError: if its file was deleted or replaced, or another process has written to it.
        """
        try:
            found = self._path.stat()
        except FileNotFoundError:
            found = None
        own = os.fstat(self._file.fileno())
        if found is None or (found.st_dev, found.st_ino) != (own.st_dev, own.st_ino):
            raise BusyError(f"{self._path}: deleted or replaced while this process trained; start again")
        holder = _holder(self._file)
        if (holder.get("host"), holder.get("pid")) != (socket.gethostname(), os.getpid()):
            raise BusyError(f"{self._path}: {_named(holder)} took over, so this one ends without saving")

    def beat(self) -> None:
        """Say that the holder lives."""
        tick = time.monotonic()
        if self._last is not None and tick - self._last < HEARTBEAT_S:
            return
        if self._last is not None:
            self.require()
        self._last = tick
        content = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job": os.environ.get("SLURM_JOB_ID"),
            "heartbeat": time.time(),
        }
        self._write(json.dumps(content))

    def give_back(self) -> None:
        """Sign off, so that nobody waits for this process; nothing where another has taken over."""
        with suppress(BusyError):
            self.require()
            self._write(SIGNED_OFF)

    def _write(self, text: str) -> None:
        """In place and of one length: who reads meanwhile finds what was there or this, never nothing."""
        line = text.ljust(LENGTH).encode() + b"\n"
        number = self._file.fileno()
        os.pwrite(number, line, 0)
        os.ftruncate(number, len(line))
        os.fsync(number)


@contextmanager
def held(folder: Path) -> Iterator[Lease]:
    """The lease on a checkpoints folder for the length of the block.

    A holder on another host that has gone without signing off, by a kill or with its node, is waited
    for until its heart has been silent for DEAD_AFTER_S.

    Raises:
        BusyError: naming the holder, if another process trains there.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=artifacts.PRIVATE_FOLDER)
    path = folder / "lease.json"
    with open(os.open(path, os.O_RDWR | os.O_CREAT), "r+", encoding="utf-8") as file:
        path.chmod(artifacts.PRIVATE_FILE)
        holder = _holder(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{folder}: {_named(holder)} trains here; wait for it or stop it") from None
        _outwait_holder_elsewhere(path, holder)
        lease = Lease(path, file)
        lease.beat()
        try:
            yield lease
        finally:
            lease.give_back()


def signed(folder: Path) -> str | None:
    """Who holds the lease on a checkpoints folder, by the last sign of life, or None; takes nothing."""
    try:
        with (folder / "lease.json").open(encoding="utf-8") as file:
            holder = _holder(file)
    except OSError:
        return None
    beat = holder.get("heartbeat")
    if not isinstance(beat, int | float) or abs(time.time() - beat) >= DEAD_AFTER_S:
        return None
    is_here = holder.get("host") == socket.gethostname()
    return None if is_here and not Path(f"/proc/{holder.get('pid')}").exists() else _named(holder)


def _holder(file: TextIO) -> dict[str, object]:
    file.seek(0)
    try:
        found = json.loads(file.read() or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _outwait_holder_elsewhere(path: Path, holder: dict[str, object]) -> None:
    """On this host the lock has said that the holder is dead; of another only its heart tells.

    Where the clocks of the two hosts differ by less than DEAD_AFTER_S - HEARTBEAT_S, two beats of a
    live one are awaited.
    """
    beat = holder.get("heartbeat")
    if holder.get("host") in (None, socket.gethostname()) or not isinstance(beat, int | float):
        return
    silent = time.time() - beat
    if silent >= DEAD_AFTER_S:
        return
    left = max(2 * HEARTBEAT_S, DEAD_AFTER_S - max(silent, 0.0))
    logger.warning(
        "%s: %s trained here; waiting %.0f s for a sign of life", path.parent, _named(holder), left
    )
    end = time.monotonic() + left
    while time.monotonic() < end:
        time.sleep(POLL_S)
        try:
            with path.open(encoding="utf-8") as file:  # anew: another host's writing is seen on opening
                now = json.loads(file.read())
        except FileNotFoundError:
            raise BusyError(f"{path}: deleted while it was waited for; start again") from None
        except ValueError:
            continue  # no news
        if now == json.loads(SIGNED_OFF):
            return
        if isinstance(now, dict) and now != holder:
            raise BusyError(f"{path.parent}: {_named(now)} trains here; wait for it or stop it")


def _named(holder: dict[str, object]) -> str:
    if not holder:
        return "another process"
    return f"process {holder.get('pid')} on {holder.get('host')}"
