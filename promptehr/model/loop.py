"""The training loop: a state that lives, a step on one screen, and what each epoch is judged by.

Turns a TokenStore into trained weights and a history. The order of the batches, the noise and
the dropout of a step are pure functions of (seed, step), so a run that continues from a
checkpoint is the run that was never interrupted. Knows no files: the caller hands in what saves.
"""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from promptehr.errors import Interrupted, NonFiniteError
from promptehr.model import objective
from promptehr.model.batches import (
    CONDITIONS,
    Plan,
    Step,
    TokenStore,
    derived_seed,
    plan_epoch,
    steps_per_epoch,
)
from promptehr.model.evaluation import evaluate
from promptehr.model.promptbart import PromptBartForConditionalGeneration
from promptehr.settings import Runtime, Train

logger = logging.getLogger(__name__)


@dataclass
class LoopState:
    """Everything that must survive a kill; the learning rate and all randomness follow from `step`.

    Attributes:
        model: The weights.
        optimizer: AdamW and its moments.
        sums: [conditions, 2] float64: nats and scored tokens of the epoch so far.
        step: Steps done.
        best_step: Step of the best epoch so far; None before the first.
        best_nll: Its validation NLL of the codes under the prompt condition, nats.
        history: A record per epoch.
    """

    model: PromptBartForConditionalGeneration
    optimizer: torch.optim.AdamW
    sums: Tensor
    step: int = 0
    best_step: int | None = None
    best_nll: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Hooks:
    """What the loop calls and does not know.

    Attributes:
        save: Publish a checkpoint of the state.
        save_weights: Publish the weights of this step by themselves.
        beat: Called at every step: the run is alive.
        asked_to_stop: Name of the signal that asked the run to stop, if one did.
        timed: Told each epoch's number, seconds, scored tokens; none of it reaches an artifact.
    """

    save: Callable[[LoopState], None]
    save_weights: Callable[[LoopState], None]
    beat: Callable[[], None]
    asked_to_stop: Callable[[], str | None]
    timed: Callable[[int, float, float], None]


def start_state(model: PromptBartForConditionalGeneration, train: Train) -> LoopState:
    """The state before the first step; the model stays on its device."""
    sums = torch.zeros(len(CONDITIONS), 2, dtype=torch.float64, device=model.device)
    return LoopState(model, optimizer_for(model, train), sums)


def optimizer_for(model: nn.Module, train: Train) -> torch.optim.AdamW:
    """AdamW; weight decay is for matrices, not for biases, norms and embeddings."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for parameter in model.parameters():
        is_matrix = parameter.ndim > 1 and id(parameter) not in embeddings
        (decayed if is_matrix else spared).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": train.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=train.learning_rate)


def learning_rate(step: int, steps: int, train: Train) -> float:
    """Linear warm-up to the peak, then linear decay that ends after the last of `steps`."""
    if step < train.warmup_steps:
        return train.learning_rate * (step + 1) / train.warmup_steps
    return train.learning_rate * (steps - step) / max(1, steps - train.warmup_steps)


def fit(
    state: LoopState,
    train_store: TokenStore,
    valid_store: TokenStore,
    train: Train,
    runtime: Runtime,
    hooks: Hooks,
) -> None:
    """Train until the last epoch that the settings ask for; `state` is changed in place.

    Raises:
        NonFiniteError: before the step that a loss or gradient would spoil.
        Interrupted: after saving, when a signal asked for it.
    """
    per_epoch = steps_per_epoch(train_store, train.batch_patients)
    last_epoch = min(train.epochs, train.stop_after_epochs or train.epochs)
    devices = [state.sums.device] if state.sums.is_cuda else []
    # Dropout draws from torch's global generators: they are put back as they were.
    with torch.random.fork_rng(devices=devices):
        for epoch in range(state.step // per_epoch, last_epoch):
            plan = plan_epoch(
                train_store,
                {name: getattr(train.conditions, name) for name in CONDITIONS},
                batch_patients=train.batch_patients,
                seed=train.seed,
                epoch=epoch,
            )
            began = time.monotonic()
            _train_epoch(state, plan, train_store, train, runtime, hooks, steps=per_epoch * train.epochs)
            hooks.timed(epoch + 1, time.monotonic() - began, float(state.sums[:, 1].sum()))
            _end_epoch(
                state, plan, valid_store, train, hooks, epoch=epoch + 1, is_last=epoch + 1 == last_epoch
            )


def _train_epoch(
    state: LoopState,
    plan: Plan,
    store: TokenStore,
    train: Train,
    runtime: Runtime,
    hooks: Hooks,
    *,
    steps: int,
) -> None:
    """The steps of an epoch that are not done yet."""
    done = state.step % len(plan.steps)
    state.model.train()
    for step in _watched(state, plan.steps[done:], runtime, steps):
        hooks.beat()
        if reason := hooks.asked_to_stop():
            hooks.save(state)
            raise Interrupted(
                f"training stopped by {reason} after step {state.step}; its state is saved, the same"
                " command continues"
            )
        train_step(state, step, store, train, labels=plan.labels_per_step, steps=steps)


def train_step(
    state: LoopState, step: Step, store: TokenStore, train: Train, *, labels: float, steps: int
) -> None:
    """One update of the weights.

    Args:
        state: Changed in place.
        step: The patients and their conditions.
        store: The training split.
        train: Learning rate, noise, clipping, precision.
        labels: Labels of an average step of the epoch: what the sum of losses is divided by, so
            that every token weighs the same, whatever the length of the batch it is in.
        steps: Steps of the whole schedule.

    Raises:
        NonFiniteError: before the optimiser changes anything.
    """
    rate = learning_rate(state.step, steps, train)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    torch.manual_seed(derived_seed(train.seed, "dropout", state.step))
    noise = torch.Generator(store.device).manual_seed(derived_seed(train.seed, "noise", state.step))
    batch = objective.training(store, step, train.corruption, noise)
    with autocast(train, store.device):
        logits = state.model(**batch.inputs, use_cache=False).logits
    nll = objective.token_nll(logits, batch.labels)
    cost = nll
    if train.label_smoothing:
        even = objective.smoothing_nll(logits, batch.labels)
        cost = torch.lerp(nll, even, train.label_smoothing)
    loss = cost.sum() / labels
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), train.max_grad_norm)
    _require_finite(loss, norm, step=state.step, rate=rate)
    state.optimizer.step()
    state.sums += _sums(nll.detach(), batch.labels, step.condition)
    state.step += 1


def _sums(nll: Tensor, labels: Tensor, condition: Tensor) -> Tensor:
    """[conditions, 2] nats and scored tokens; a matrix product, because it adds in a fixed order."""
    scored = (labels != objective.NOT_SCORED).sum(1)
    per_patient = torch.stack([nll.double().sum(1), scored.double()], dim=1)
    return nn.functional.one_hot(condition, len(CONDITIONS)).double().T @ per_patient


def _require_finite(loss: Tensor, norm: Tensor, *, step: int, rate: float) -> None:
    if not bool(torch.isfinite(loss.detach() + norm)):
        raise NonFiniteError(
            f"step {step}: loss {float(loss.detach())}, gradient norm {float(norm)} at learning rate"
            f" {rate:.3g}; the weights were left as they are. Lower train.learning_rate, raise"
            " train.warmup_steps, or set train.precision to fp32"
        )


def autocast(train: Train, device: torch.device) -> AbstractContextManager[None]:
    """The arithmetic of the matrix products: bfloat16 where asked for, or on a GPU that has it."""
    gpu_has_it = device.type == "cuda" and torch.cuda.is_bf16_supported()
    wanted = train.precision == "bf16" or (train.precision == "auto" and gpu_has_it)
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


# --- the end of an epoch -----------------------------------------------------------------------


def _end_epoch(
    state: LoopState,
    plan: Plan,
    store: TokenStore,
    train: Train,
    hooks: Hooks,
    *,
    epoch: int,
    is_last: bool,
) -> None:
    """Judge the epoch, note it, and save what has to be kept."""
    with autocast(train, store.device):
        valid = {name: evaluate(state.model, store, name, train) for name in CONDITIONS}
    nll = valid["prompt"]["codes"]["nll"]
    is_best = state.best_nll is None or nll < state.best_nll
    if is_best:
        state.best_step, state.best_nll = state.step, nll
    state.history.append(
        {
            "epoch": epoch,
            "step": state.step,
            "learning_rate": state.optimizer.param_groups[0]["lr"],
            "useful_share": plan.useful_share,
            "train": _training_means(state.sums),
            "valid": valid,
            "best": is_best,
        }
    )
    state.sums.zero_()
    _log_epoch(state.history[-1], train.epochs)
    if is_best or train.publish == epoch:
        hooks.save_weights(state)
    if is_last or epoch % train.checkpoint_every == 0:
        hooks.save(state)


def _training_means(sums: Tensor) -> dict[str, dict[str, float | None]]:
    """NLL per condition with dropout on, weights moving: below the validation's when overfitting."""
    return {
        name: {"nll": nats / scored if scored else None, "tokens": scored}
        for name, (nats, scored) in zip(CONDITIONS, sums.tolist(), strict=True)
    }


def _log_epoch(record: Mapping[str, Any], epochs: int) -> None:
    codes, everything = record["valid"]["prompt"]["codes"], record["valid"]["prompt"]["all"]
    logger.info(
        "epoch %d of %d, step %d: validation, prompts only: code NLL %.4f, code perplexity %.1f,"
        " code accuracy %.4f, all tokens: NLL %.4f, perplexity %.1f, accuracy %.4f; useful tokens %.0f %%",
        *(record["epoch"], epochs, record["step"]),
        *(codes["nll"], codes["perplexity"], codes["accuracy"]),
        *(everything["nll"], everything["perplexity"], everything["accuracy"]),
        100 * record["useful_share"],
    )
    if record["best"]:
        logger.info("epoch %d is the best so far: code NLL %.4f", record["epoch"], codes["nll"])


# --- watching it -------------------------------------------------------------------------------


def _watched(state: LoopState, steps: Iterable[Step], runtime: Runtime, total: int) -> Iterator[Step]:
    """The steps, with a bar on a terminal and a line every `log_every_s` seconds in the log."""
    last_line, last_tokens = time.monotonic(), float(state.sums[:, 1].sum())
    with tqdm(
        total=total,
        initial=state.step,
        unit="step",
        disable=not sys.stderr.isatty(),
        dynamic_ncols=True,
        leave=False,
    ) as bar:
        shown = last_line
        for step in steps:
            yield step
            now = time.monotonic()
            if not bar.disable and now - shown > 0.5:
                bar.n, shown = state.step, now
                bar.set_postfix_str(_numbers(state))
            if now - last_line > runtime.log_every_s:
                seen = float(state.sums[:, 1].sum())
                rate = (seen - last_tokens) / (now - last_line)
                logger.info("step %d of %d: %s, %.0f tokens/s", state.step, total, _numbers(state), rate)
                last_line, last_tokens = now, seen


def _numbers(state: LoopState) -> str:
    """Loss and perplexity of the epoch so far, all conditions, and the learning rate."""
    nats, scored = state.sums.sum(0).tolist()
    nll = nats / max(scored, 1.0)
    rate = state.optimizer.param_groups[0]["lr"]
    return f"loss {nll:.4f}, perplexity {math.exp(nll):.1f}, learning rate {rate:.2e}"
