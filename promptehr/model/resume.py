"""From a checkpoint to a state and back: what a run saves of itself, and how it goes on.

Turns what the loop keeps in memory into what `model.checkpoint` keeps in files, and chooses the
checkpoint that a run continues from.
"""

import logging
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

from promptehr.errors import ArtifactError, NonFiniteError
from promptehr.model import checkpoint, loop, pretrained, promptbart
from promptehr.model.batches import TokenStore, epoch_starts
from promptehr.model.checkpoint import Checkpoints, Saved
from promptehr.model.state import LoopState
from promptehr.settings import Runtime, Train

logger = logging.getLogger(__name__)


def start_or_resume(
    checkpoints: Checkpoints,
    model: promptbart.PromptBartForConditionalGeneration,
    store: TokenStore,
    init_from: Path | None,
    train: Train,
    runtime: Runtime,
    where: torch.device,
) -> LoopState:
    """The state of the newest whole checkpoint, or of the one asked for, or a fresh one."""
    saved = find(checkpoints, store, train, runtime)
    if saved is None and init_from is not None:
        copied = pretrained.start_from(init_from, model)
        logger.info("starting from %d tensors of %s", copied, init_from)
    state = loop.start_state(model.to(where), train)
    if saved is not None:
        restore(state, saved)
        logger.info("continuing after step %d", state.step)
        if (here := origin(where)) != saved.origin:
            logger.warning(
                "checkpoint was written under %s, this is %s: bytes may differ", saved.origin, here
            )
    return state


def find(checkpoints: Checkpoints, store: TokenStore, train: Train, runtime: Runtime) -> Saved | None:
    """The checkpoint to continue from.

    Raises:
        ArtifactError: if one is required or named and there is none.
    """
    if runtime.resume not in ("auto", "require"):
        return checkpoints.named(runtime.resume)
    starts = epoch_starts(store, train)
    saved = checkpoints.newest(at_most=starts[loop.ends_after([], train)])
    if saved is not None:
        # With less patience than the run had so far, it ends earlier than its newest checkpoint.
        saved = checkpoints.newest(at_most=starts[loop.ends_after(saved.values["history"], train)])
    if saved is None and runtime.resume == "require":
        raise ArtifactError(f"{checkpoints.folder}: no whole checkpoint of this run to resume from")
    return saved


def capture(state: LoopState, train: Train, where: torch.device) -> Saved:
    """All that must survive a kill; `restore` is its inverse."""
    return Saved(
        step=state.step,
        weights=finite_weights(state),
        tensors={"optimizer": state.optimizer.state_dict(), "sums": state.sums.cpu()},
        values={
            "best_step": state.best_step,
            "best_nll": state.best_nll,
            "history": state.history,
            "needs": needed_steps(state, train),
        },
        origin=origin(where),
    )


def finite_weights(state: LoopState) -> dict[str, torch.Tensor]:
    """The weights on the CPU.

    Raises:
        NonFiniteError: naming the first that is not a finite number: no loss has met it yet.
    """
    weights = checkpoint.weights_of(state.model)
    if (name := checkpoint.not_finite(weights)) is not None:
        raise NonFiniteError(
            f"step {state.step}: weight {name} is not finite; the last finite checkpoint is kept. Lower"
            " train.learning_rate, or set train.precision to fp32"
        )
    return weights


def needed_steps(state: LoopState, train: Train) -> list[int]:
    """Steps whose weights a checkpoint cannot do without: the best so far, and the one to publish."""
    named = [record["step"] for record in state.history if record["epoch"] == train.publish]
    return sorted({*named, *([] if state.best_step is None else [state.best_step])})


def restore(state: LoopState, saved: Saved) -> None:
    """Put a saved state into a fresh one."""
    checkpoint.restore_weights(state.model, saved.weights)
    state.optimizer.load_state_dict(dict(saved.tensors["optimizer"]))
    state.sums.copy_(saved.tensors["sums"])
    state.step = saved.step
    state.best_step, state.best_nll = saved.values["best_step"], saved.values["best_nll"]
    state.history = list(saved.values["history"])


def origin(where: torch.device) -> dict[str, Any]:
    """What a run's bytes depend on besides its key."""
    return {
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "python": ".".join(map(str, sys.version_info[:2])),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
