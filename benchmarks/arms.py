"""One way to train, from a training split to log-probabilities of the test tokens, kept once it is done.

An arm is the demo's settings with some of them changed and, where the product has no setting, with
something replaced while it trains. Every arm goes through the product's own loop: the same batches,
schedule, clipping, and choice of the epoch on the validation split.
"""

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from benchmarks import rivals
from benchmarks.cohort import Splits
from promptehr import provenance
from promptehr.metrics.likelihood import Array
from promptehr.model import kinds, loop, objective, scoring
from promptehr.model.batches import Condition, Step, TokenStore, derived_seed
from promptehr.model.evaluation import evaluate
from promptehr.model.repeats import Repeats
from promptehr.model.state import Hooks, LoopState
from promptehr.settings import Runtime, Train
from promptehr.stages import train as train_stage
from promptehr.tokens import FIRST_CODE, VISIT, Cohort, Ints, Vocabulary

DEMO = Path(__file__).parent.parent / "profiles/demo/settings.yaml"

Build = Callable[[TokenStore, Train, Vocabulary], nn.Module]
Around = Callable[[], contextlib.AbstractContextManager[Any]]


def ours(store: TokenStore, train: Train, vocabulary: Vocabulary) -> nn.Module:
    """The product's model as its train stage starts it."""
    return train_stage.start(store, vocabulary, train)


def as_recorded(cohort: Cohort) -> Ints:
    """[T] the token that each place gets: its own, so that codes stand in the order of SEQ_NUM."""
    return np.arange(len(cohort.tokens))


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        title: What stands in the table.
        changes: Of the train settings; groups are merged.
        build: Model in training mode, on the CPU; may draw from torch's global generator.
        around: What is replaced while it trains.
        order: [T] the token that each place gets, in every split, before anything sees it.
        ruled: Whether the model is scored a second time, with codes of the visit ruled out.
    """

    title: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    build: Build = ours
    around: Around = contextlib.nullcontext
    order: Callable[[Cohort], Ints] = as_recorded
    ruled: bool = False


@dataclass(frozen=True)
class Run:
    """What came of one arm, seed and learning rate.

    Attributes:
        log_prob: [T] of the test tokens under the condition `prompt`, as trained.
        valid_nll: Nats per code on the validation split, of the best epoch.
        epoch: The best one, from 1.
        parameters: Numbers that training changes.
        seconds: Of processor time in training and its validations.
        code: Digest of the code that made it.
        ruled: As log_prob with codes of the visit ruled out; None where that is the model's own rule.
    """

    log_prob: Array
    valid_nll: float
    epoch: int
    parameters: int
    seconds: float
    code: str = ""
    ruled: Array | None = None


# --- settings ----------------------------------------------------------------------------------


def demo(seed: int, *changes: Mapping[str, Any]) -> Train:
    """The demo's train settings with changes, later ones winning."""
    merged: dict[str, Any] = {**yaml.safe_load(DEMO.read_text())["train"], "seed": seed}
    for change in changes:
        for name, value in change.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
            merged[name] = {**merged[name], **value} if both else value
    return Train.model_validate(merged)


# --- one run -----------------------------------------------------------------------------------


@functools.cache
def code() -> str:
    """Digest of what a run depends on: the train stage's modules and the benchmarks' own."""
    own = {name: (Path(__file__).parent / f"{name}.py").read_text() for name in ("arms", "cohort", "rivals")}
    return _digest({**provenance.code("train"), **own})


def kept(folder: Path, key: Mapping[str, Any], arm: Arm, train: Train, cohort: Splits, any_code: bool) -> Run:
    """The run of this key out of the folder, or a new one, which is put there.

    Args:
        folder: Where runs are kept.
        key: What tells cohorts apart.
        arm: Known by its title.
        train: Settings.
        cohort: Of the key.
        any_code: Whether a run of other code will do.
    """
    settings = train.model_dump(mode="json", exclude_defaults=True)
    path = folder / f"{_digest({'arm': arm.title, 'train': settings, **key})}.npz"
    if path.exists():
        with np.load(path) as file:
            found = Run(**{name: file[name][()] for name in file})
        if any_code or found.code == code():
            return found
    found = run(arm, train, cohort)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part.npz")
    np.savez(partial, **{name: value for name, value in vars(found).items() if value is not None})
    partial.rename(path)
    return found


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def of_other_code(runs: Iterable[Run]) -> str:
    """A sentence for the caption; empty where all runs are of the code as it is."""
    old = [run.code != code() for run in runs]
    return f" {sum(old)} of {len(old)} runs were made by an earlier version of the code." if any(old) else ""


def run(arm: Arm, train: Train, cohort: Splits) -> Run:
    """Train and score."""
    size = cohort.vocabulary.size
    splits = {name: ordered(getattr(cohort, name), arm) for name in ("train", "valid", "test")}
    stores = {
        name: TokenStore.from_cohort(split, "cpu", vocabulary_size=size) for name, split in splits.items()
    }
    began = time.process_time()
    with torch.random.fork_rng(devices=[]), arm.around():
        torch.manual_seed(derived_seed(train.seed, "weights"))
        state = fitted(
            arm.build(stores["train"], train, cohort.vocabulary), stores["train"], stores["valid"], train
        )
    seconds = time.process_time() - began
    best = next(record for record in state.history if record["step"] == state.best_step)
    return Run(
        log_prob=in_places(arm, cohort.test, scored(state.model, splits["test"], stores["test"])),
        ruled=in_places(arm, cohort.test, with_rule(state.model, splits["test"], stores["test"]))
        if arm.ruled
        else None,
        valid_nll=best["valid"]["prompt"]["codes"]["nll"],
        epoch=best["epoch"],
        parameters=rivals.parameters(state.model),
        seconds=seconds,
        code=code(),
    )


def ordered(cohort: Cohort, arm: Arm) -> Cohort:
    return replace(cohort, tokens=cohort.tokens[arm.order(cohort)])


def in_places(arm: Arm, cohort: Cohort, log_prob: Array) -> Array:
    """[T] of the reordered tokens back where the tokens stand in the cohort."""
    found = np.empty_like(log_prob)
    found[arm.order(cohort)] = log_prob
    return found


def fitted(model: nn.Module, patients: TokenStore, valid: TokenStore, train: Train) -> LoopState:
    """The state after the last epoch, with the weights of the best one."""
    state = loop.start_state(model.train(), train)  # type: ignore[arg-type]  # rivals stand in for ours
    best: dict[str, Tensor] = {}

    def keep(state: LoopState) -> None:
        best.update({name: value.clone() for name, value in state.model.state_dict().items()})

    hooks = Hooks(
        save=lambda _: None,
        save_weights=keep,
        beat=lambda: None,
        asked_to_stop=lambda: None,
        timed=lambda *_: None,
        noted=lambda _: None,
    )
    with mock.patch.object(loop, "evaluate", under_prompt):
        loop.fit(state, patients, valid, train, Runtime(), hooks)
    state.model.load_state_dict(best)
    state.model.eval()
    return state


def under_prompt(
    model: Any,
    store: TokenStore,
    condition: Condition,
    train: Train,
    between: Callable[[], None],
    log_every_s: float,
) -> dict[str, dict[str, Any]]:
    """What the product judges an epoch by, without the conditions that choose nothing."""
    if condition == "prompt":
        return evaluate(model, store, condition, train, between, log_every_s)
    return {"all": {"nll": None}, "codes": {"nll": None}}


def scored(model: nn.Module, cohort: Cohort, store: TokenStore) -> Array:
    """[T] log-probabilities when generating."""
    return scoring.score(model, cohort, store, "prompt", seed=1).log_prob  # type: ignore[arg-type]


def with_rule(model: nn.Module, cohort: Cohort, store: TokenStore) -> Array:
    """The same of a model that was trained without it: codes of the visit so far are ruled out."""
    own, model.repeats = model.repeats, Repeats(width=0, d_model=1, kinds=False)  # type: ignore[assignment]
    found = scored(model, cohort, store)
    model.repeats = own
    return found


# --- what can be replaced ----------------------------------------------------------------------


def unruled(build: Build) -> Build:
    """A plain softmax: neither rule."""

    def plain(store: TokenStore, train: Train, vocabulary: Vocabulary) -> nn.Module:
        model = build(store, train, vocabulary)
        model.repeats = rivals.Unruled()
        return model

    return plain


def may_repeat(store: TokenStore, train: Train, vocabulary: Vocabulary) -> nn.Module:
    """Ours, but a code may come twice in a visit."""
    model = ours(store, train, vocabulary)
    free = rivals.MayRepeat(width=train.pointer_width, d_model=train.shape.width, kinds=train.kinds)
    free.load_state_dict(model.repeats.state_dict())
    model.repeats = free
    return model


def even_ends(store: TokenStore, train: Train, vocabulary: Vocabulary) -> nn.Module:
    """Ours, but visits and records start as likely to end as not, wherever they are."""
    model = ours(store, train, vocabulary)
    model.repeats.kinds.start(kinds.even())
    return model


def flat_start(store: TokenStore, train: Train, vocabulary: Vocabulary) -> nn.Module:
    """Ours, but without the log-unigram: tokens that can be written start alike."""
    model = ours(store, train, vocabulary)
    bias = model.final_logits_bias
    assert isinstance(bias, Tensor)
    bias[..., VISIT : store.mask] = 0.0
    return model


def untied(store: TokenStore, train: Train, vocabulary: Vocabulary) -> nn.Module:
    """Ours, but codes are compared with other vectors than the ones they are read by."""
    model = ours(store, train, vocabulary)
    head = model.lm_head
    assert isinstance(head, nn.Linear)
    head.weight = nn.Parameter(head.weight.detach().clone())
    return model


def prompts_on_one_side(side: str, store: TokenStore, train: Train, vocabulary: Vocabulary) -> nn.Module:
    """Ours, with prompts in front of the encoder's tokens only, or of the decoder's."""
    model = ours(store, train, vocabulary)
    if side == "encoder":
        model.decoder_prompts = None
    else:
        model.model.encoder.prompts = None  # type: ignore[union-attr]  # torch types no submodules
    return model


def structure_weighs(weight: float) -> contextlib.AbstractContextManager[Any]:
    """<v>, <\\v> and END count for less in the loss than codes."""
    costs = loop._costs

    def weighted(forward: nn.Module, batch: objective.Batch, answer: Tensor, train: Train) -> Any:
        nll, cost = costs(forward, batch, answer, train)
        return nll, torch.where(answer >= FIRST_CODE, cost, weight * cost)

    return mock.patch.object(loop, "_costs", weighted)


def patients_weigh_alike() -> contextlib.AbstractContextManager[Any]:
    """A record of one code counts as much in the loss as one of a hundred."""
    costs = loop._costs

    def weighted(forward: nn.Module, batch: objective.Batch, answer: Tensor, train: Train) -> Any:
        nll, cost = costs(forward, batch, answer, train)
        scored = (answer != objective.NOT_SCORED).sum(1, keepdim=True)
        return nll, cost * scored.float().mean() / scored.clamp(min=1)

    return mock.patch.object(loop, "_costs", weighted)


def copying() -> contextlib.AbstractContextManager[Any]:
    """Input = labels: the encoder is shown the record that the decoder has to write."""

    def shown(store: TokenStore, step: Step, *_: Any) -> objective.Batch:
        return objective.copy(store, step.rows)

    return mock.patch.object(objective, "training", shown)


def constant_rate() -> contextlib.AbstractContextManager[Any]:
    """The peak to the end, after the warm-up."""

    def rate(step: int, _: int, train: Train) -> float:
        return train.learning_rate * min(1.0, (step + 1) / max(1, train.warmup_steps))

    return mock.patch.object(loop, "learning_rate", rate)


def cosine_rate() -> contextlib.AbstractContextManager[Any]:
    """Half a cosine to 0 after the warm-up."""

    def rate(step: int, steps: int, train: Train) -> float:
        if step < train.warmup_steps:
            return train.learning_rate * (step + 1) / train.warmup_steps
        done = (step - train.warmup_steps) / max(1, steps - train.warmup_steps)
        return train.learning_rate * 0.5 * (1.0 + float(np.cos(np.pi * done)))

    return mock.patch.object(loop, "learning_rate", rate)


@contextlib.contextmanager
def averaged(decay: float) -> Iterator[None]:
    """Epochs are judged, and weights kept, by the moving average of the weights after each step."""
    step, end = loop.train_step, loop._end_epoch
    mean: dict[str, Tensor] = {}

    def train_step(state: LoopState, *arguments: Any, **options: Any) -> None:
        step(state, *arguments, **options)
        reached = min(decay, state.step / (state.step + 10))  # so that the first weights are soon forgotten
        for name, value in state.model.state_dict().items():
            if value.is_floating_point():
                mean.setdefault(name, value.clone()).lerp_(value, 1.0 - reached)

    def end_epoch(state: LoopState, *arguments: Any) -> None:
        own = {name: value.clone() for name, value in state.model.state_dict().items()}
        state.model.load_state_dict({**own, **mean})
        end(state, *arguments)
        state.model.load_state_dict(own)

    with mock.patch.object(loop, "train_step", train_step), mock.patch.object(loop, "_end_epoch", end_epoch):
        yield


def shuffled(cohort: Cohort) -> Ints:
    """[T] the token that each place gets: codes of a visit in random order, always the same one."""
    tokens = cohort.tokens
    is_code = tokens >= FIRST_CODE
    by_visit = np.lexsort((np.random.default_rng(1).random(len(tokens)), np.cumsum(tokens == VISIT)))
    found = np.arange(len(tokens))
    found[is_code] = by_visit[is_code[by_visit]]
    return found
