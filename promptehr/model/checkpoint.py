"""The checkpoints of one training run: whole or not at all, checked before use, never lost twice.

    checkpoints/key.json              settings, data and code of the run that owns the folder
    checkpoints/step-00001200/        model.safetensors, state.pt, state.json, manifest.json
    checkpoints/weights-00000800/     model.safetensors, manifest.json: the best epoch, or the one to publish
    checkpoints/superseded-<key>/     the last run with another key
    checkpoints/lease.json            who is writing (see `lease`)

A folder is written under a temporary name, flushed and renamed; its manifest holds the sha256 of
its files. Nothing is pickled: weights are safetensors, the optimiser's state is read with
`weights_only`. Knows tensors and plain values, not the loop.
"""

import hashlib
import json
import logging
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from promptehr import artifacts
from promptehr.errors import ArtifactError, PromptEHRError

logger = logging.getLogger(__name__)

WEIGHTS, TENSORS, VALUES, MANIFEST = "model.safetensors", "state.pt", "state.json", "manifest.json"


@dataclass(frozen=True)
class Saved:
    """All that a run needs to go on.

    Attributes:
        step: Optimiser steps done.
        weights: Parameters and buffers by name, on the CPU.
        tensors: The optimiser's state and running sums: tensors, numbers and containers of them.
        values: Plain values: best so far, history.
        origin: Device, threads and versions it was written under.
    """

    step: int
    weights: Mapping[str, Tensor]
    tensors: Mapping[str, Any]
    values: Mapping[str, Any]
    origin: Mapping[str, Any]


class Checkpoints:
    """A run's folder, which must be this process's own (see `lease`).

    `run` is the digest of the run's key, written into every checkpoint.
    """

    def __init__(self, folder: Path, *, keep: int, run: str = ""):
        self.folder, self.keep, self.run = folder, keep, run

    def save(self, saved: Saved) -> None:
        """Publish a checkpoint, then drop those beyond the last `keep` and unreferenced weights."""
        values = {"step": saved.step, "values": saved.values, "origin": saved.origin, "run": self.run}
        self._publish(
            _name("step", saved.step),
            {
                WEIGHTS: lambda file: safetensors.torch.save_file(dict(saved.weights), file),
                TENSORS: lambda file: _save_tensors(saved.tensors, file),
                VALUES: lambda file: file.write_bytes(artifacts.json_bytes(values)),
            },
        )
        self._prune()

    def save_weights(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Publish the weights of a step by themselves."""
        writers = {WEIGHTS: lambda file: safetensors.torch.save_file(dict(weights), file)}
        self._publish(_name("weights", step), writers)

    def newest(self, *, at_most: int) -> Saved | None:
        """The newest whole checkpoint up to a step; damaged ones are skipped with a warning."""
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            if _step_of(path) <= at_most and (saved := self._read(path)) is not None:
                return saved
        return None

    def named(self, name: str) -> Saved:
        """One checkpoint by its folder's name.

        Raises:
            ArtifactError: if it is missing or damaged.
        """
        path = self.folder / name
        saved = self._read(path) if path.parent == self.folder and path.name.startswith("step-") else None
        if saved is None:
            there = ", ".join(sorted(p.name for p in self.folder.glob("step-*"))) or "none"
            raise ArtifactError(f"{path}: not a whole checkpoint; there are: {there}")
        return saved

    def weights(self, step: int) -> Mapping[str, Tensor] | None:
        """The weights of a step, if they were kept and are whole."""
        for kind in ("weights", "step"):
            path = self.folder / _name(kind, step)
            if path.is_dir() and _is_whole(path):
                found: Mapping[str, Tensor] = safetensors.torch.load_file(path / WEIGHTS)
                return found
        return None

    def _read(self, path: Path) -> Saved | None:
        """A checkpoint whose files, and whose best weights, match their manifests."""
        if not _is_whole(path):
            return None
        values = json.loads((path / VALUES).read_bytes())
        for step in values["values"]["needs"]:
            if self.weights(step) is None:
                logger.warning("%s: skipped, the weights of step %d that it needs are gone", path, step)
                return None
        try:
            tensors = torch.load(path / TENSORS, map_location="cpu", weights_only=True)
            weights = safetensors.torch.load_file(path / WEIGHTS)
        except (OSError, SafetensorError, pickle.UnpicklingError) as error:
            raise ArtifactError(
                f"{path}: cannot be read ({type(error).__name__}); delete it, the one before is used then"
            ) from error
        return Saved(values["step"], weights, tensors, values["values"], values["origin"])

    def _publish(self, name: str, writers: Mapping[str, Callable[[Path], object]]) -> None:
        """Write a folder's files and their manifest, and give it its name at once."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=artifacts.PRIVATE_FOLDER)
        temporary, path = self.folder / f".{name}", self.folder / name
        with writing(path, "the checkpoints before it are whole, free some space and run the same command"):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(mode=artifacts.PRIVATE_FOLDER)
            for file, write in writers.items():
                write(temporary / file)
                _flush(temporary / file)
            manifest = {file: artifacts.sha256(temporary / file) for file in writers}
            (temporary / MANIFEST).write_bytes(artifacts.json_bytes(manifest))
            _flush(temporary / MANIFEST)
            shutil.rmtree(path, ignore_errors=True)
            temporary.rename(path)
            _flush(self.folder, private=False)

    def _prune(self) -> None:
        steps = sorted(self.folder.glob("step-*"))
        for path in steps[: -self.keep]:
            shutil.rmtree(path)
        needed = {_name("weights", step) for path in steps[-self.keep :] for step in _needs(path)}
        for path in self.folder.glob("weights-*"):
            if path.name not in needed:
                shutil.rmtree(path)


# --- the run -----------------------------------------------------------------------------------


def claim(folder: Path, key: Mapping[str, Any]) -> None:
    """Make the folder this run's: what another run left is moved aside and named in a warning.

    Args:
        folder: The checkpoints folder.
        key: `settings` (list of section.key=value), `data` and `code` (name to hash).
    """
    folder.mkdir(parents=True, exist_ok=True, mode=artifacts.PRIVATE_FOLDER)
    owner = folder / "key.json"
    found = _read_key(owner)
    if found == key:
        return
    if any(_run_of(path) == digest(key) for path in folder.glob("step-*")):
        logger.warning("%s: damaged; the checkpoints say that they are this run's, so it is made anew", owner)
    elif found is not None or list(folder.glob("step-*")):
        target = _supersede(folder, found)
        logger.warning(
            "%s: belongs to a run with other %s; moved to %s, training starts over",
            folder,
            ", ".join(_differing(found or {}, key)) or "settings",
            target.name,
        )
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


def _supersede(folder: Path, key: Mapping[str, Any] | None) -> Path:
    """Move a run's files into one folder named by its key, in place of the one before."""
    for old in folder.glob("superseded-*"):
        shutil.rmtree(old)
    target = folder / f"superseded-{digest(key or {})[:12]}"
    target.mkdir(mode=artifacts.PRIVATE_FOLDER)
    for path in _run_files(folder):
        path.rename(target / path.name)
    return target


def _run_files(folder: Path) -> Iterator[Path]:
    for pattern in ("step-*", "weights-*", "key.json", "timing.jsonl"):
        yield from list(folder.glob(pattern))


def _differing(found: Mapping[str, Any], key: Mapping[str, Any]) -> list[str]:
    """What differs between two keys: settings by name, data and code by name."""
    settings = set(found.get("settings", [])) ^ set(key["settings"])
    names = {text.partition("=")[0] for text in settings}
    for part in ("data", "code"):
        names |= {name for name, _ in dict(found.get(part, {})).items() ^ dict(key[part]).items()}
    return sorted(names)


# --- tensors -----------------------------------------------------------------------------------


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name on the CPU, tied ones once."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in named}


@torch.no_grad()
def restore_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into a model that has exactly these names.

    Raises:
        ArtifactError: naming the first that is missing or too many.
    """
    own = dict([*model.named_parameters(), *model.named_buffers()])
    if differing := sorted(own.keys() ^ weights.keys()):
        raise ArtifactError(f"checkpoint does not fit the model: {differing[0]} is on one side only")
    for name, tensor in own.items():
        tensor.copy_(weights[name])


# --- files -------------------------------------------------------------------------------------


def _name(kind: str, step: int) -> str:
    return f"{kind}-{step:08d}"


def _step_of(path: Path) -> int:
    digits = path.name.partition("-")[2]
    return int(digits) if digits.isdigit() else 0


def _run_of(path: Path) -> str | None:
    """The digest of the run that a checkpoint says it is of; None where it is not whole."""
    if not _is_whole(path):
        return None
    run: str | None = json.loads((path / VALUES).read_bytes()).get("run")
    return run


def _needs(path: Path) -> list[int]:
    """Steps whose weights a checkpoint cannot do without; a damaged one is never used and needs none."""
    try:
        return list(json.loads((path / VALUES).read_bytes())["values"]["needs"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _is_whole(path: Path) -> bool:
    """Whether every file of the manifest is there with its hash; a warning says what is not."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        damaged = [name for name, digest in manifest.items() if artifacts.sha256(path / name) != digest]
    except (OSError, ValueError, AttributeError, ArtifactError):
        damaged = [MANIFEST]
    if damaged:
        logger.warning("%s: skipped, %s is damaged", path, damaged[0])
    return not damaged


@contextmanager
def writing(path: Path, remedy: str = "free or change the folder") -> Iterator[None]:
    """Tell of a full or read-only disk in one line, whichever library met it.

    Raises:
        ArtifactError: naming the path and what the system says.
    """
    try:
        yield
    except PromptEHRError:
        raise
    except Exception as error:  # tokenizers raises no narrower one
        reason = _of_system(error)
        if reason is None:
            raise
        raise ArtifactError(f"{path}: cannot be written ({reason}); {remedy}") from error


def _of_system(error: BaseException) -> str | None:
    """What the system said: torch puts an error of its own before it, Rust has it in the text."""
    if found := re.search(r"\(os error (\d+)\)", str(error)):
        return os.strerror(int(found[1]))
    cause = error if isinstance(error, OSError) else error.__context__
    return cause.strerror if isinstance(cause, OSError) else None


def _save_tensors(tensors: Mapping[str, Any], path: Path) -> None:
    # Into a file of ours: of one that torch opens itself, a full disk leaves no word.
    with path.open("wb") as file:
        torch.save(dict(tensors), file)


def _flush(path: Path, *, private: bool = True) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    if private:
        path.chmod(artifacts.PRIVATE_FILE)
