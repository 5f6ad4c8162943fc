"""What of a training run lives and must survive a kill, and what the loop calls but does not know."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from promptehr.model.promptbart import PromptBartForConditionalGeneration


@dataclass
class LoopState:
    """Everything that must survive a kill; the learning rate and all randomness follow from `step`.

    Attributes:
        model: The weights.
        optimizer: AdamW and its moments.
        sums: [conditions, 4] float64: nats and number of the tokens scored in the epoch so far, then
            the same of the codes among them.
        alarm: [3] float64: step, loss and gradient norm of the first step that was not finite; step
            -1 before there was one. From then on no step changes a weight. Never saved.
        step: Steps done.
        best_step: Step of the best epoch so far; None before the first.
        best_nll: Its validation NLL of the codes under the prompt condition, nats.
        history: A record per epoch.
    """

    model: PromptBartForConditionalGeneration
    optimizer: torch.optim.AdamW
    sums: Tensor
    alarm: Tensor
    step: int = 0
    best_step: int | None = None
    best_nll: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Hooks:
    """The loop's way out.

    Attributes:
        save: Publish a checkpoint of the state.
        save_weights: Publish the weights of this step by themselves.
        beat: Called at every step: the run is alive.
        asked_to_stop: Name of the signal that asked the run to stop, if one did.
        timed: Told each epoch's number, seconds, scored tokens; none of it reaches an artifact.
        noted: Told each epoch's record of the history.
    """

    save: Callable[[LoopState], None]
    save_weights: Callable[[LoopState], None]
    beat: Callable[[], None]
    asked_to_stop: Callable[[], str | None]
    timed: Callable[[int, float, float], None]
    noted: Callable[[dict[str, Any]], None]
