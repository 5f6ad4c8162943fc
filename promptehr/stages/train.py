"""Shards to a trained PromptBART: resumes what is there, publishes the chosen weights.

Beside the outputs lies `checkpoints/`, which is no output: a run that was stopped continues from
there and ends with the bytes of an undisturbed one.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from promptehr import artifacts, lease, locks, provenance, schemas, tokens
from promptehr.errors import ArtifactError, SettingsError
from promptehr.model import (
    checkpoint,
    config,
    device,
    kinds,
    loop,
    objective,
    offsets,
    ownership,
    pretrained,
    promptbart,
    publish,
    resume,
    signals,
)
from promptehr.model.batches import TokenStore, derived_seed
from promptehr.model.checkpoint import Checkpoints
from promptehr.model.state import Hooks, LoopState
from promptehr.model.watching import Board
from promptehr.settings import Runtime, Settings, Train, assignments, run_key_settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """Files read: the shards' index and the vocabulary, each with the ledger that seals it.

    `init_from` is the folder of a BART checkpoint to start from.
    """

    index: Path
    shards_ledger: Path
    vocabulary: Path
    vocabulary_ledger: Path
    init_from: Path | None = None


@dataclass(frozen=True)
class Outputs:
    """Files written: the model's folder, a record per epoch, and the summary that seals both."""

    model: Path
    history: Path
    summary: Path


def run(inputs: Inputs, outputs: Outputs, settings: Settings, runtime: Runtime) -> None:
    """Train, or go on training, and publish the chosen weights."""
    if settings.train.init_from is not None and inputs.init_from is None:
        raise SettingsError("train.init_from: on the command line the folder is given as --init-from FOLDER")
    train, key = settings.train, run_key(inputs, settings)
    vocabulary = read_vocabulary(inputs)
    where = device.decide(runtime)
    folder = outputs.summary.parent / "checkpoints"
    with loop.advice_on_memory(train), device.repeatable(train.deterministic, where):
        stores = {name: read_store(inputs.index, name, vocabulary, where) for name in ("train", "valid")}
        check(stores, train)
        with checkpoint.writing(folder), lease.held(folder) as held, signals.watched() as asked:
            ownership.claim(folder, key, may_start_over=runtime.resume == "auto")
            checkpoints = Checkpoints(folder, keep=train.keep_checkpoints, run=ownership.digest(key))
            model = start(stores["train"], vocabulary, train)
            state = resume.start_or_resume(
                checkpoints, model, stores["train"], inputs.init_from, train, runtime, where
            )
            artifacts.write_bytes(folder / "history.jsonl", history_lines(state.history))
            with board_of(folder, state, runtime) as board:
                hooks = hooks_for(checkpoints, train, held, asked, where, board)
                loop.fit(state, stores["train"], stores["valid"], train, runtime, hooks)
            record = chosen_record(state, train)
            restore_chosen(state, checkpoints, record)
            held.require()
            publish_all(inputs, outputs, settings, state, record, vocabulary, key)
    logger.info("published epoch %d of %d", record["epoch"], len(state.history))


# --- what goes in ------------------------------------------------------------------------------


def run_key(inputs: Inputs, settings: Settings) -> dict[str, Any]:
    """Settings, data and code that decide the weights: a checkpoint of another key is not used."""
    data = {name: artifacts.sha256(getattr(inputs, name)) for name in ("index", "vocabulary")}
    if inputs.init_from is not None:
        data |= pretrained.hashes(inputs.init_from)
    return {"settings": run_key_settings(settings), "data": data, "code": dict(provenance.code("train"))}


def read_files(inputs: Inputs) -> dict[str, Path]:
    """Every file that was read, by the name it has in the summary."""
    files = {name: path for name, path in vars(inputs).items() if path is not None and name != "init_from"}
    if inputs.init_from is not None:
        files |= {f"init_from/{name}": inputs.init_from / name for name in pretrained.FILES}
    return files


def read_vocabulary(inputs: Inputs) -> tokens.Vocabulary:
    """The vocabulary, after it and the index were compared with their seals and each other."""
    artifacts.open_sealed(inputs.vocabulary_ledger, schemas.LEDGER, "vocabulary", inputs.vocabulary)
    sealed = artifacts.open_sealed(inputs.shards_ledger, schemas.LEDGER, "shards", inputs.index)
    if sealed["inputs"].get("vocabulary") != artifacts.sha256(inputs.vocabulary):
        raise ArtifactError(f"{inputs.index}: made with another {inputs.vocabulary}; rerun shards")
    return tokens.Vocabulary.from_document(artifacts.read_json(inputs.vocabulary, schemas.VOCABULARY))


def read_store(index: Path, split: str, vocabulary: tokens.Vocabulary, where: torch.device) -> TokenStore:
    """One split on the device."""
    cohort = tokens.Cohort.from_shards(artifacts.read_split(index, split))
    return TokenStore.from_cohort(cohort, where, vocabulary_size=vocabulary.size)


def check(stores: Mapping[str, TokenStore], train: Train) -> None:
    """Refuse what would fail hours later.

    Raises:
        SettingsError: if sequences do not fit the model's positions, or a choice cannot be met.
        ArtifactError: if a split is empty.
    """
    for name, store in stores.items():
        if not len(store):
            raise ArtifactError(f"the {name} split has no patients; change records.split or the source")
        longest = int(store.lengths.max())
        needed = longest + config.from_settings(train, store.vocabulary_size).prompts
        if train.batch_tokens is not None and train.batch_tokens < longest:
            raise SettingsError(
                f"train.batch_tokens: {train.batch_tokens}, but the longest {name} sequence takes {longest};"
                " raise it or lower shards.max_tokens"
            )
        if not bool(((store.tokens >= tokens.FIRST_CODE) & (store.tokens < store.mask)).any()):
            raise ArtifactError(
                f"the {name} split has no code of the vocabulary; change records.split or the source"
            )
        if not bool(store.x_num.isfinite().all()):
            raise ArtifactError(
                f"the {name} split: age_z is not a finite number for every patient; rerun shards"
            )
        if needed > train.shape.positions:
            raise SettingsError(
                f"train.shape.positions: {train.shape.positions}, but the longest {name} sequence and the"
                f" prompts take {needed}; raise it or lower shards.max_tokens"
            )
    last = min(train.epochs, train.stop_after_epochs or train.epochs)
    if isinstance(train.publish, int) and train.publish > last:
        raise SettingsError(f"train.publish: epoch {train.publish}, but training ends after epoch {last}")


# --- state -------------------------------------------------------------------------------------


def start(
    store: TokenStore, vocabulary: tokens.Vocabulary, train: Train
) -> promptbart.PromptBartForConditionalGeneration:
    """The model before its first step: random weights, counted offsets and ends."""
    names, groups = np.unique(vocabulary.groups, return_inverse=True)
    of_token = torch.zeros(vocabulary.size, dtype=torch.int64)
    of_token[tokens.FIRST_CODE : vocabulary.mask] = torch.from_numpy(groups) + 1
    edges = offsets.age_edges(vocabulary) if train.offsets else []
    shared = len(names) if train.group_embeddings else 0
    return promptbart.start(
        config.from_settings(train, store.vocabulary_size, edges, shared),
        objective.log_unigram(store),
        seed=derived_seed(train.seed, "weights"),
        offsets=offsets.counted(store, edges, groups) if edges else None,
        groups=of_token,
        ends=kinds.counted(store) if train.kinds else None,
    )


def hooks_for(
    checkpoints: Checkpoints,
    train: Train,
    held: lease.Lease,
    asked: signals.StopRequest,
    where: torch.device,
    board: Board | None,
) -> Hooks:
    """The loop's way out to files and signals."""

    def timed(epoch: int, seconds: float, scored: float) -> None:
        if not scored:
            return  # a run that was stopped between the last step of an epoch and its judgement
        line = {"epoch": epoch, "seconds": seconds, "tokens_per_s": scored / seconds, **resume.origin(where)}
        with (checkpoints.folder / "timing.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, sort_keys=True) + "\n")

    def save(state: LoopState) -> None:
        held.require()
        checkpoints.save(resume.capture(state, train, where))

    def save_weights(state: LoopState) -> None:
        held.require()
        checkpoints.save_weights(state.step, resume.finite_weights(state))

    live = checkpoints.folder / "history.jsonl"

    def noted(record: dict[str, Any]) -> None:
        with live.open("ab") as file:
            file.write(history_lines([record]))
        if board:
            board.add(record)

    return Hooks(
        save=save,
        save_weights=save_weights,
        beat=held.beat,
        asked_to_stop=asked,
        timed=timed,
        noted=noted,
    )


@contextmanager
def board_of(folder: Path, state: LoopState, runtime: Runtime) -> Iterator[Board | None]:
    """TensorBoard's event files of this run, if the settings ask for them."""
    if not runtime.tensorboard:
        yield None
        return
    board = Board(folder / "tensorboard", state.history)
    try:
        yield board
    finally:
        board.close()


# --- what comes out ----------------------------------------------------------------------------


def publish_all(
    inputs: Inputs,
    outputs: Outputs,
    settings: Settings,
    state: LoopState,
    record: Mapping[str, Any],
    vocabulary: tokens.Vocabulary,
    key: Mapping[str, Any],
) -> None:
    """Write the model's folder, the history, and the summary that seals them."""
    parameters = sum(parameter.numel() for parameter in state.model.parameters())
    card = publish.card(
        settings=assignments("train", settings),
        data=key["data"],
        record=record,
        parameters=parameters,
        vocabulary=vocabulary,
    )
    for path in (outputs.history, outputs.summary):
        locks.drop_temporaries(path)
    files = publish.publish(outputs.model, state.model, vocabulary, card)
    artifacts.write_bytes(outputs.history, history_lines(state.history))
    artifacts.write_sealed(
        outputs.summary,
        {"parameters": parameters, "published": record, "epochs": len(state.history)},
        schemas.SUMMARY,
        stage="train",
        settings=settings,
        inputs=read_files(inputs),
        files=[*files, outputs.history],
    )


def chosen_record(state: LoopState, train: Train) -> dict[str, Any]:
    """The history's record of the epoch to publish."""
    if train.publish == "last":
        return state.history[-1]
    if train.publish == "best":
        return next(record for record in state.history if record["step"] == state.best_step)
    if train.publish > len(state.history):
        raise SettingsError(
            f"train.publish: epoch {train.publish}, but train.patience ended training after epoch"
            f" {len(state.history)}; choose best, last or an earlier epoch"
        )
    return state.history[train.publish - 1]


def restore_chosen(state: LoopState, checkpoints: Checkpoints, record: Mapping[str, Any]) -> None:
    """Put the weights of the epoch to publish into the model.

    Raises:
        SettingsError: if they were not kept, because another epoch was asked for at the time, or were
            damaged since.
        NonFiniteError: if one of them is not finite.
    """
    if record["step"] != state.step:
        weights = checkpoints.weights(record["step"])
        if weights is None:
            raise SettingsError(
                f"train.publish: the weights of epoch {record['epoch']} were not kept whole; choose an epoch"
                f" that was, or delete {checkpoints.folder} to train again"
            )
        checkpoint.restore_weights(state.model, weights)
    resume.finite_weights(state)


def history_lines(history: list[dict[str, Any]]) -> bytes:
    """One JSON object per epoch and line."""
    return "".join(json.dumps(r, sort_keys=True, allow_nan=False) + "\n" for r in history).encode()
