"""Whose a checkpoints folder is: one run's, by its key; what another run left is moved aside and comes back.

    checkpoints/key.json              settings, data and code of the run that owns the folder
    checkpoints/superseded-<key>/     the last run with another key
    checkpoints/lease.json            who is writing (see `lease`)

Moves folders by their names, keys last, so that a move that was cut short goes on where it was.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from promptehr import artifacts
from promptehr.errors import ArtifactError
from promptehr.model import checkpoint

logger = logging.getLogger(__name__)


def claim(folder: Path, key: Mapping[str, Any], *, may_start_over: bool = True) -> None:
    """Make the folder this run's: what another run left is moved aside and named in a warning.

    What this run left when another one moved it aside comes back.

    Args:
        folder: The checkpoints folder.
        key: `settings` (list of section.key=value), `data` and `code` (name to hash).
        may_start_over: Whether another run's folder may be claimed.

    Raises:
        ArtifactError: if it is another run's and may not be.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=artifacts.PRIVATE_FOLDER)
    owner, own = folder / "key.json", folder / _superseded(key)
    found = _read_key(owner)
    if found == key:
        return
    if any(checkpoint.run_of(path) == digest(key) for path in checkpoint.folders(folder, "step")):
        logger.warning("%s: damaged; the checkpoints say that they are this run's, so it is made anew", owner)
    elif found is not None or checkpoint.folders(folder, "step"):
        differing = ", ".join(_differing(found or {}, key)) or "settings"
        if not may_start_over and not own.is_dir():
            raise ArtifactError(
                f"{folder}: belongs to a run with other {differing}; put that back, or resume with auto,"
                " which starts over"
            )
        target = _supersede(folder, found, keep=own)
        after = "this run's own come back" if own.is_dir() else "training starts over"
        logger.warning(
            "%s: belongs to a run with other %s; moved to %s, %s", folder, differing, target.name, after
        )
    if own.is_dir():
        for path in _run_files(own):
            path.rename(folder / path.name)
        shutil.rmtree(own)
    artifacts.write_bytes(owner, artifacts.json_bytes(key))


def digest(key: Mapping[str, Any]) -> str:
    """A run's key as one word."""
    return hashlib.sha256(artifacts.json_bytes(key)).hexdigest()


def _read_key(path: Path) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found


def _superseded(key: Mapping[str, Any] | None) -> str:
    return f"superseded-{digest(key or {})[:12]}"


def _supersede(folder: Path, key: Mapping[str, Any] | None, *, keep: Path) -> Path:
    """Move a run's files into one folder named by its key, in place of those before but the one to keep.

    The key goes last: a move that was cut short goes on where it was.
    """
    target = folder / _superseded(key)
    for old in folder.glob("superseded-*"):
        if old not in (keep, target):
            shutil.rmtree(old)
    target.mkdir(mode=artifacts.PRIVATE_FOLDER, exist_ok=True)
    for path in _run_files(folder):
        if (there := target / path.name).is_dir():
            shutil.rmtree(there)
        path.rename(there)
    return target


def _run_files(folder: Path) -> Iterator[Path]:
    """What belongs to a run, its key last."""
    for pattern in ("step-*", "weights-*", "timing.jsonl", "history.jsonl", "key.json"):
        yield from list(folder.glob(pattern))


def _differing(found: Mapping[str, Any], key: Mapping[str, Any]) -> list[str]:
    """What differs between two keys: settings by name, data and code by name."""
    settings = set(found.get("settings", [])) ^ set(key["settings"])
    names = {text.partition("=")[0] for text in settings}
    for part in ("data", "code"):
        names |= {name for name, _ in dict(found.get(part, {})).items() ^ dict(key[part]).items()}
    return sorted(names)
