"""One writer per training run: a kernel lock on this host, a heartbeat for the others.

The lock goes with the process, however it ends. Where two hosts share a file system without
locks, the heartbeat in the file tells a live holder from a dead one.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from promptehr import artifacts
from promptehr.errors import BusyError

HEARTBEAT_S = 20.0
DEAD_AFTER_S = 120.0


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
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps(content) + "\n")
        self._file.flush()


@contextmanager
def held(folder: Path) -> Iterator[Lease]:
    """The lease on a checkpoints folder for the length of the block.

    Raises:
        BusyError: naming the holder, if another process trains there.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=artifacts.PRIVATE_FOLDER)
    path = folder / "lease.json"
    with path.open("a+", encoding="utf-8") as file:
        path.chmod(artifacts.PRIVATE_FILE)
        holder = _holder(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{folder}: {_named(holder)} trains here; wait for it or stop it") from None
        _refuse_live_holder_elsewhere(folder, holder)
        lease = Lease(path, file)
        lease.beat()
        yield lease
        file.seek(0)
        file.truncate()


def _holder(file: TextIO) -> dict[str, object]:
    file.seek(0)
    try:
        found = json.loads(file.read() or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _refuse_live_holder_elsewhere(folder: Path, holder: dict[str, object]) -> None:
    """On this host the lock has said that the holder is dead; of another only its clock speaks."""
    beat = holder.get("heartbeat")
    if holder.get("host") in (None, socket.gethostname()) or not isinstance(beat, int | float):
        return
    silent = time.time() - beat
    if silent < DEAD_AFTER_S:
        ago = f"{silent:.0f} s ago" if silent >= 0 else f"until {-silent:.0f} s ahead of this host's clock"
        raise BusyError(
            f"{folder}: {_named(holder)} trained here {ago}; stop it, or start again"
            f" {DEAD_AFTER_S:.0f} s after its end, or delete {folder / 'lease.json'} if it has ended"
        )


def _named(holder: dict[str, object]) -> str:
    if not holder:
        return "another process"
    return f"process {holder.get('pid')} on {holder.get('host')}"
