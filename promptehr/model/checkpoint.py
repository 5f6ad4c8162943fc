"""The checkpoints of one training run: whole or not at all, checked before use, never lost twice.

    checkpoints/step-00001200/        model.safetensors, state.pt, state.json, manifest.json
    checkpoints/weights-00000800/     model.safetensors, manifest.json: the best epoch, or the one to publish

A folder is written under a temporary name, flushed and renamed; its manifest holds the sha256 of
its files. Nothing is pickled: weights are safetensors, the optimiser's state is read with
`weights_only`. Knows tensors and plain values, not the loop.
"""

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

BEGUN, REPLACED = ".begun-", ".replaced-"
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
    """A run's folder, which must be this process's own (see `lease`); what a kill left half done is mended.

    `run` is the digest of the run's key, written into every checkpoint.
    """

    def __init__(self, folder: Path, *, keep: int, run: str = ""):
        self.folder, self.keep, self.run = folder, keep, run
        self._damaged: set[Path] = set()
        _finish_replacing(folder)

    def save(self, saved: Saved) -> None:
        """Publish a checkpoint, then drop what nobody needs any more (see `_prune`)."""
        values = {"step": saved.step, "values": saved.values, "origin": saved.origin, "run": self.run}
        self._publish(
            _name("step", saved.step),
            {
                WEIGHTS: lambda file: safetensors.torch.save_file(dict(saved.weights), file),
                TENSORS: lambda file: _save_tensors(saved.tensors, file),
                VALUES: lambda file: file.write_bytes(artifacts.json_bytes(values)),
            },
        )
        self._prune(saved.step)

    def save_weights(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Publish the weights of a step by themselves."""
        writers = {WEIGHTS: lambda file: safetensors.torch.save_file(dict(weights), file)}
        self._publish(_name("weights", step), writers)

    def newest(self, *, at_most: int) -> Saved | None:
        """The newest whole checkpoint up to a step; damaged ones are skipped with a warning."""
        for path in reversed(folders(self.folder, "step")):
            if _step_of(path) <= at_most and (saved := self._read(path)) is not None:
                return saved
        return None

    def named(self, name: str) -> Saved:
        """One checkpoint by its folder's name.

        Raises:
            ArtifactError: if it is missing or damaged.
        """
        path = self.folder / name
        saved = self._read(path) if path in folders(self.folder, "step") else None
        if saved is None:
            there = ", ".join(p.name for p in folders(self.folder, "step")) or "none"
            raise ArtifactError(f"{path}: not a whole checkpoint; there are: {there}")
        return saved

    def weights(self, step: int) -> Mapping[str, Tensor] | None:
        """The weights of a step, if they were kept and are whole, or its checkpoint is.

        Out of the checkpoint, which may go before they do, they are published anew.
        """
        apart, within = self.folder / _name("weights", step), self.folder / _name("step", step)
        if apart.is_dir() and (found := self._weights_in(apart)) is not None:
            return found
        found = self._weights_in(within) if within.is_dir() else None
        if found is not None:
            self.save_weights(step, found)
        return found

    def _weights_in(self, path: Path) -> Mapping[str, Tensor] | None:
        """The weights in a whole folder, all of them finite."""
        if not self._is_whole(path):
            return None
        try:
            found: Mapping[str, Tensor] = safetensors.torch.load_file(path / WEIGHTS)
        except SafetensorError:
            logger.warning("%s: skipped, %s is no safetensors file", path, WEIGHTS)
            self._damaged.add(path)
            return None
        if (name := not_finite(found)) is not None:
            logger.warning("%s: skipped, weight %s is not finite", path, name)
            self._damaged.add(path)
            return None
        return found

    def _read(self, path: Path) -> Saved | None:
        """A checkpoint whose files, and whose best weights, match their manifests."""
        weights = self._weights_in(path)
        if weights is None:
            return None
        values = json.loads((path / VALUES).read_bytes())
        for step in values["values"]["needs"]:
            if self.weights(step) is None:
                logger.warning("%s: skipped, the weights of step %d that it needs are gone", path, step)
                self._damaged.add(path)
                return None
        try:
            tensors = torch.load(path / TENSORS, map_location="cpu", weights_only=True)
        except (OSError, pickle.UnpicklingError) as error:
            raise ArtifactError(
                f"{path}: cannot be read ({type(error).__name__}); delete it, the one before is used then"
            ) from error
        return Saved(values["step"], weights, tensors, values["values"], values["origin"])

    def _is_whole(self, path: Path) -> bool:
        if _is_whole(path):
            return True
        self._damaged.add(path)
        return False

    def _publish(self, name: str, writers: Mapping[str, Callable[[Path], object]]) -> None:
        """Write a folder's files and their manifest, and give it its name at once."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=artifacts.PRIVATE_FOLDER)
        path = self.folder / name
        temporary, replaced = self.folder / f"{BEGUN}{name}", self.folder / f"{REPLACED}{name}"
        with writing(path, "the checkpoints before it are whole, free some space and run the same command"):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(mode=artifacts.PRIVATE_FOLDER)
            for file, write in writers.items():
                write(temporary / file)
                _flush(temporary / file)
            manifest = {file: artifacts.sha256(temporary / file) for file in writers}
            (temporary / MANIFEST).write_bytes(artifacts.json_bytes(manifest))
            _flush(temporary / MANIFEST)
            if path.exists():
                path.rename(replaced)
            temporary.rename(path)
            _flush(self.folder, private=False)
            shutil.rmtree(replaced, ignore_errors=True)
        self._damaged.discard(path)

    def _prune(self, step: int) -> None:
        """Drop all but the last `keep` checkpoints up to this step, and the weights that none needs.

        Damaged ones count for nothing. Those of later steps stay: a run that went further before
        `stop_after_epochs` was lowered goes on from them when it is raised again.
        """
        whole = [path for path in folders(self.folder, "step") if path not in self._damaged]
        done = [path for path in whole if _step_of(path) <= step]
        kept = {*done[-self.keep :], *whole[len(done) :]}
        needed = {_name("weights", step) for path in kept for step in _needs(path)}
        for path in folders(self.folder, "step"):
            if path not in kept:
                shutil.rmtree(path)
        for path in folders(self.folder, "weights"):
            if path.name not in needed:
                shutil.rmtree(path)


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


def not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """The first weight that holds a number that is not finite."""
    return next((name for name, tensor in weights.items() if not bool(tensor.isfinite().all())), None)


def _name(kind: str, step: int) -> str:
    return f"{kind}-{step:08d}"


def folders(folder: Path, kind: str) -> list[Path]:
    """The run's folders of a kind in the order of their steps; a person's copies have other names."""
    return sorted(
        (path for path in folder.glob(f"{kind}-*") if re.fullmatch(r"\d{8,}", path.name[len(kind) + 1 :])),
        key=_step_of,
    )


def _step_of(path: Path) -> int:
    return int(path.name.partition("-")[2])


def _finish_replacing(folder: Path) -> None:
    """Put back what a killed process had moved aside, and remove what it had half written."""
    for old in folder.glob(f"{REPLACED}*"):
        path = folder / old.name.removeprefix(REPLACED)
        if path.exists():
            shutil.rmtree(old)
        else:
            old.rename(path)
    for begun in folder.glob(f"{BEGUN}*"):
        shutil.rmtree(begun)


def run_of(path: Path) -> str | None:
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
