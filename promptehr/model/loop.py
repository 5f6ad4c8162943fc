"""The training loop: a state that lives, a step on one screen, and what each epoch is judged by.

Turns a TokenStore into trained weights and a history. The order of the batches, the noise and
the dropout of a step are pure functions of (seed, step), so a run that continues from a
checkpoint is the run that was never interrupted. Knows no files: the caller hands in what saves.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from promptehr.errors import Interrupted, NonFiniteError, SettingsError
from promptehr.model import device, objective
from promptehr.model.batches import (
    CONDITIONS,
    Plan,
    Step,
    TokenStore,
    derived_seed,
    epoch_starts,
    plan_epoch,
)
from promptehr.model.evaluation import evaluate, perplexity
from promptehr.model.objective import Batch
from promptehr.model.promptbart import PromptBartForConditionalGeneration
from promptehr.model.state import Hooks, LoopState
from promptehr.model.watching import watched
from promptehr.settings import Runtime, Train
from promptehr.tokens import FIRST_CODE

logger = logging.getLogger(__name__)

# A GPU runs ahead of the host; asking it at every step whether all is finite would make it wait.
STEPS_BETWEEN_QUESTIONS = 32


def start_state(model: PromptBartForConditionalGeneration, train: Train) -> LoopState:
    """The state before the first step; the model stays on its device."""
    sums = torch.zeros(len(CONDITIONS), 4, dtype=torch.float64, device=model.device)
    alarm = torch.full((3,), -1.0, dtype=torch.float64, device=model.device)
    return LoopState(model, optimizer_for(model, train), sums, alarm)


def optimizer_for(model: nn.Module, train: Train) -> torch.optim.AdamW:
    """Fused AdamW; weight decay is for matrices, not for biases, norms and embeddings."""
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
    return torch.optim.AdamW(groups, lr=train.learning_rate, fused=True)


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
    starts = epoch_starts(train_store, train)
    where = state.sums.device
    static = device.compiles(train.compile, where)
    forward = compiled(state.model) if static else state.model
    # Dropout draws from torch's global generators: they are put back as they were.
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        while (epoch := len(state.history)) < ends_after(state.history, train):
            plan = plan_epoch(train_store, train, epoch=epoch, static=static)
            between = partial(_stop_if_asked, state, train, starts, hooks)
            began, before = time.monotonic(), float(state.sums[:, 1].sum())
            for step in watched(state, plan.steps[state.step - starts[epoch] :], runtime, starts[-1]):
                between()
                labels, steps = plan.labels_per_step, starts[-1]
                train_step(state, step, train_store, train, labels=labels, steps=steps, forward=forward)
                if where.type == "cpu" or state.step % STEPS_BETWEEN_QUESTIONS == 0:
                    require_finite(state, train, starts)
            require_finite(state, train, starts)
            hooks.timed(epoch + 1, time.monotonic() - began, float(state.sums[:, 1].sum()) - before)
            _end_epoch(state, plan, valid_store, train, runtime, hooks, between)


def ends_after(history: list[dict[str, Any]], train: Train) -> int:
    """The epoch that training ends after, as far as the epochs done tell; from 1.

    It is the last one the settings ask for, or the one that makes `train.patience` epochs in a row
    without a better validation NLL.
    """
    last = min(train.epochs, train.stop_after_epochs or train.epochs)
    in_vain = 0
    for record in history[:last]:
        in_vain = 0 if record["best"] else in_vain + 1
        if in_vain == train.patience:
            return int(record["epoch"])
    return last


def _stop_if_asked(state: LoopState, train: Train, starts: list[int], hooks: Hooks) -> None:
    """Save and leave, if a signal asked for it; say that the run is alive, if not."""
    hooks.beat()
    if reason := hooks.asked_to_stop():
        require_finite(state, train, starts)
        hooks.save(state)
        raise Interrupted(
            f"training stopped by {reason} after step {state.step}; its state is saved, the same"
            " command continues"
        )


@contextmanager
def advice_on_memory(train: Train) -> Iterator[None]:
    """Turn torch's out-of-memory errors into which setting to lower.

    Raises:
        SettingsError: in place of them.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not device.is_out_of_memory(error):
            raise
        name = "batch_patients" if train.batch_tokens is None else "batch_tokens"
        raise SettingsError(
            f"train.{name}: {getattr(train, name)} does not fit into memory; halve it, or lower"
            " shards.max_tokens or train.shape; a run with another batch size starts over"
        ) from error


def train_step(
    state: LoopState,
    step: Step,
    store: TokenStore,
    train: Train,
    *,
    labels: float,
    steps: int,
    forward: nn.Module | None = None,
) -> None:
    """One update of the weights; nothing in it waits for the device.

    Where loss or gradient are not finite nothing is updated, and `state.alarm` says so.

    Args:
        state: Changed in place.
        step: The patients and their conditions.
        store: The training split.
        train: Learning rate, noise, clipping, precision.
        labels: Labels of an average step of the epoch: what the sum of losses is divided by, so
            that every token weighs the same, whatever the length of the batch it is in.
        steps: Steps of the whole schedule.
        forward: The model, compiled; the model itself if left out.
    """
    rate = learning_rate(state.step, steps, train)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    torch.manual_seed(derived_seed(train.seed, "dropout", state.step))
    noise = torch.Generator(store.device).manual_seed(derived_seed(train.seed, "noise", state.step))
    batch = objective.training(store, step, train.corruption, noise)
    answer = batch.labels.masked_fill(~step.present[:, None], objective.NOT_SCORED)
    with autocast(train, store.device):
        nll, cost = _costs(state.model if forward is None else forward, batch, answer, train)
    loss = cost.sum() / labels
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), train.max_grad_norm)
    _watch_for_non_finite(state, loss.detach(), norm)
    state.optimizer.step()
    state.sums += _sums(nll.detach(), answer, step.condition)
    state.step += 1


def _costs(forward: nn.Module, batch: Batch, answer: Tensor, train: Train) -> tuple[Tensor, Tensor]:
    """[N, L] -log P of the answers in nats, and what is minimised: the same, smoothed if asked for."""
    scored = answer != objective.NOT_SCORED
    if not train.label_smoothing:
        log_p = forward(**batch.inputs, answers=answer.clamp(min=0), use_cache=False).logits
        nll = -log_p.masked_fill(~scored, 0.0)
        return nll, nll
    log_probs = forward(**batch.inputs, use_cache=False).logits
    nll = objective.token_nll(log_probs, answer)
    return nll, torch.lerp(nll, objective.smoothing_nll(log_probs, answer), train.label_smoothing)


def _sums(nll: Tensor, labels: Tensor, condition: Tensor) -> Tensor:
    """[conditions, 4] as `LoopState.sums`; a matrix product, because it adds in a fixed order."""
    nats = nll.double()
    columns = [
        column
        for counted in (labels != objective.NOT_SCORED, labels >= FIRST_CODE)
        for column in ((nats * counted).sum(1), counted.double().sum(1))
    ]
    place = torch.arange(len(CONDITIONS), device=condition.device)
    return (place[:, None] == condition).double() @ torch.stack(columns, dim=1)


def _watch_for_non_finite(state: LoopState, loss: Tensor, norm: Tensor) -> None:
    """Note the first step that is not finite; from it on the optimiser is told to change nothing."""
    here = torch.stack([torch.full_like(loss, state.step), loss, norm]).double()
    is_first = (state.alarm[0] < 0) & ~torch.isfinite(loss + norm)
    state.alarm = torch.where(is_first, here, state.alarm)
    # What fused optimisers read, as torch's GradScaler sets it: 1 leaves weights and moments alone.
    state.optimizer.found_inf = (state.alarm[0] >= 0).float()  # type: ignore[attr-defined]


def require_finite(state: LoopState, train: Train, starts: list[int]) -> None:
    """Ask the device whether all steps were finite.

    Raises:
        NonFiniteError: naming the first that was not.
    """
    step, loss, norm = state.alarm.tolist()
    if step < 0:
        return
    epoch = next(e for e, start in enumerate(starts[1:]) if step < start)
    rate = learning_rate(int(step), starts[-1], train)
    raise NonFiniteError(
        f"step {step:.0f}, batch {step - starts[epoch] + 1:.0f} of epoch {epoch + 1}: loss {loss}, gradient"
        f" norm {norm} at learning rate {rate:.3g}; the weights were left as they are. Lower"
        " train.learning_rate, raise train.warmup_steps, or set train.precision to fp32"
    )


def compiled(model: PromptBartForConditionalGeneration, **options: Any) -> nn.Module:
    """The model as one graph per shape, which a GPU replays without waiting for Python.

    Args:
        model: Its weights stay its own.
        **options: Of torch.compile, in place of the ones that suit a GPU.
    """
    chosen = options or {"mode": "reduce-overhead"}
    found: nn.Module = torch.compile(model, dynamic=True, **chosen)  # type: ignore[assignment]
    return found


def autocast(train: Train, where: torch.device) -> AbstractContextManager[None]:
    """The arithmetic of the matrix products: bfloat16 where asked for, or where the hardware has it."""
    wanted = train.precision == "bf16" or (train.precision == "auto" and device.has_bf16(where))
    return torch.autocast(where.type, torch.bfloat16, enabled=wanted)


# --- the end of an epoch -----------------------------------------------------------------------


def _end_epoch(
    state: LoopState,
    plan: Plan,
    store: TokenStore,
    train: Train,
    runtime: Runtime,
    hooks: Hooks,
    between: Callable[[], None],
) -> None:
    """Judge the epoch, note it, and save what has to be kept."""
    epoch = len(state.history) + 1
    valid = _validation(state, store, train, runtime, between)
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
    hooks.noted(state.history[-1])
    if is_best or train.publish == epoch:
        hooks.save_weights(state)
    is_last = epoch == ends_after(state.history, train)
    if is_last and epoch < min(train.epochs, train.stop_after_epochs or train.epochs):
        logger.info("no better code NLL in %d epochs: training ends after epoch %d", train.patience, epoch)
    if is_last or epoch % train.checkpoint_every == 0:
        hooks.save(state)


def _validation(
    state: LoopState, store: TokenStore, train: Train, runtime: Runtime, between: Callable[[], None]
) -> dict[str, Any]:
    """The numbers of the validation split under each condition.

    Raises:
        NonFiniteError: if one is not finite.
        Interrupted: after saving, when a signal asked for it; the epoch is judged when the run goes on.
    """
    found: dict[str, Any] = {}
    for name in CONDITIONS:
        with autocast(train, store.device):
            found[name] = evaluate(state.model, store, name, train, between, runtime.log_every_s)
        nll = found[name]["all"]["nll"]
        if nll is not None and not math.isfinite(perplexity(nll)):
            raise NonFiniteError(
                f"step {state.step}: validation NLL {nll} under {name}; the last finite checkpoint is"
                " kept. Lower train.learning_rate, or set train.precision to fp32"
            )
    return found


def _training_means(sums: Tensor) -> dict[str, dict[str, float | None]]:
    """NLL per condition with dropout on, weights moving: below the validation's when overfitting."""
    return {
        name: {"nll": nats / scored if scored else None, "tokens": scored}
        for name, (nats, scored, *_) in zip(CONDITIONS, sums.tolist(), strict=True)
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
