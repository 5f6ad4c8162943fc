"""The train stage: what it publishes, and that a run cannot be lost."""

import itertools
import json
import logging
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from promptehr import artifacts, schemas
from promptehr.errors import ArtifactError, BusyError, Interrupted, NonFiniteError, SettingsError
from promptehr.model import checkpoint, load, loop, promptbart
from promptehr.settings import Runtime, Settings
from promptehr.stages import train as stage
from tests.model_builders import CODES, SIZE, bart, outputs, random_patients, tiny_settings, write_inputs

CPU = Runtime(device="cpu", threads=1)  # one: threads that wait for each other are slow on a busy machine


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> stage.Inputs:
    folder = tmp_path_factory.mktemp("cohort")
    return write_inputs(folder, train=random_patients(40, seed=1), valid=random_patients(12, seed=2))


@pytest.fixture(scope="module")
def undisturbed(inputs: stage.Inputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every published file of a run of three epochs of five steps."""
    folder = tmp_path_factory.mktemp("undisturbed")
    stage.run(inputs, outputs(folder), tiny_settings(), CPU)
    return published(folder)


def published(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "checkpoints" not in path.parts
    }


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[loop.LoopState], Any]) -> None:
    """Call `act` once, before the step with this number is done."""
    original, done = loop.train_step, []

    def stepped(state: loop.LoopState, *arguments: Any, **named: Any) -> None:
        if state.step == step and not done:
            done.append(step)
            act(state)
        original(state, *arguments, **named)

    monkeypatch.setattr(loop, "train_step", stepped)


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


def kill(_: loop.LoopState) -> None:
    raise Killed


def test_publishes_what_transformers_opens(inputs: stage.Inputs, tmp_path: Path) -> None:
    stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert type(model) is promptbart.PromptBartForConditionalGeneration
    assert model.config.vocab_size == SIZE
    generation = model.generation_config
    assert (generation.eos_token_id, generation.forced_eos_token_id) == (5, None)
    ids = tokenizer("BOS <v> 4019 0389 <\\v> END 99999 <mask> PAD EOS", add_special_tokens=False).input_ids
    assert ids == [1, 3, 6, 11, 4, 5, SIZE - 1, SIZE - 2, 0, 2]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 5)
    assert len(tokenizer) == SIZE
    assert tokenizer.convert_ids_to_tokens(list(range(6, 12))) == list(CODES)


def test_loads_the_published_weights(inputs: stage.Inputs, tmp_path: Path) -> None:
    stage.run(inputs, outputs(tmp_path), tiny_settings(publish="last"), CPU)
    model = load(tmp_path / "model", "cpu")
    newest = checkpoint.Checkpoints(tmp_path / "checkpoints", keep=3).newest(at_most=15)
    assert newest is not None
    assert not model.training
    found = checkpoint.weights_of(model)
    assert found.keys() == newest.weights.keys()
    assert all(torch.equal(found[name], newest.weights[name]) for name in found)


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a published model; rerun train"):
        load(tmp_path, "cpu")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: 1 GB"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("name", ["from_pretrained", "to"])
def test_a_model_that_does_not_fit_into_memory_is_not_called_damaged(
    name: str, error: Exception, inputs: stage.Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: Any, **__: Any) -> None:
        raise error

    stage.run(inputs, outputs(tmp_path), tiny_settings(epochs=1), CPU)
    monkeypatch.setattr(promptbart.PromptBartForConditionalGeneration, name, short)
    with pytest.raises(SettingsError, match="does not fit into memory"):
        load(tmp_path / "model", "cpu")


def test_weights_of_another_shape_are_an_error(inputs: stage.Inputs, tmp_path: Path) -> None:
    stage.run(inputs, outputs(tmp_path), tiny_settings(epochs=1), CPU)
    config = tmp_path / "model/config.json"
    told = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps({**told, "pointer_width": told["pointer_width"] + 1}), "utf-8")
    with pytest.raises(ArtifactError, match="not a published model; rerun train"):
        load(tmp_path / "model", "cpu")


def test_summary_seals_the_files_and_names_the_best_epoch(
    inputs: stage.Inputs, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    for name, content in undisturbed.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    model = [tmp_path / "model" / name for name in ("config.json", "model.safetensors", "tokenizer.json")]
    summary = artifacts.open_sealed(
        tmp_path / "summary.json", schemas.SUMMARY, "train", *model, tmp_path / "history.jsonl"
    )
    history = [json.loads(line) for line in undisturbed["history.jsonl"].splitlines()]
    best = min(history, key=lambda record: record["valid"]["prompt"]["codes"]["nll"])
    assert summary["published"] == best
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert [record["step"] for record in history] == [5, 10, 15]
    assert summary["inputs"]["index"] == artifacts.sha256(inputs.index)


def test_no_artifact_holds_a_path_or_a_clock(undisturbed: dict[str, bytes]) -> None:
    for name, content in undisturbed.items():
        if not name.endswith(".safetensors"):
            text = content.decode()
            assert "/tmp" not in text, name
            assert "seconds" not in text, name
    assert sorted(undisturbed) == [
        "history.jsonl",
        *(
            f"model/{name}"
            for name in (
                "README.md",
                "config.json",
                "generation_config.json",
                "model.safetensors",
                "tokenizer.json",
                "tokenizer_config.json",
            )
        ),
        "summary.json",
    ]


def test_the_same_settings_give_the_same_bytes(
    inputs: stage.Inputs, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    torch.manual_seed(99)  # the global generator is none of training's business
    before = torch.get_rng_state()
    stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
    assert published(tmp_path) == undisturbed
    assert torch.equal(torch.get_rng_state(), before)


def test_another_seed_gives_other_weights(
    inputs: stage.Inputs, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    stage.run(inputs, outputs(tmp_path), tiny_settings(seed=2), CPU)
    assert published(tmp_path)["model/model.safetensors"] != undisturbed["model/model.safetensors"]


@pytest.mark.parametrize("step", [0, 3, 5, 9, 14])
def test_a_killed_run_ends_with_the_bytes_of_the_undisturbed_one(
    inputs: stage.Inputs,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    stop_at(monkeypatch, step, kill)
    with pytest.raises(Killed):
        stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
    assert published(tmp_path) == {}
    stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
    assert published(tmp_path) == undisturbed


@pytest.mark.parametrize("step", [2, 5, 13])
def test_a_signal_saves_at_the_next_step_and_the_same_command_continues(
    inputs: stage.Inputs,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    stop_at(monkeypatch, step, lambda _: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted, match=f"SIGTERM after step {step + 1}"):
        stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
    assert (tmp_path / "checkpoints" / f"step-{step + 1:08d}").is_dir()
    stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
    assert published(tmp_path) == undisturbed


def test_a_process_killed_by_the_kernel_is_resumed_exactly(
    inputs: stage.Inputs, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED, "utf-8")
    arguments = [str(value) for value in vars(inputs).values() if value is not None]
    ended = subprocess.run(
        [sys.executable, str(script), str(Path(__file__).parents[2]), str(tmp_path / "run"), *arguments],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert published(tmp_path / "run") == {}
    stage.run(inputs, outputs(tmp_path / "run"), tiny_settings(), CPU)
    assert published(tmp_path / "run") == undisturbed


KILLED = """
import os, signal, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from tests.model_builders import outputs, tiny_settings
from promptehr.model import loop
from promptehr.settings import Runtime
from promptehr.stages import train as stage

original = loop.train_step

def stepped(state, *arguments, **named):
    if state.step == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    original(state, *arguments, **named)

loop.train_step = stepped
inputs = stage.Inputs(*map(Path, sys.argv[3:]))
stage.run(inputs, outputs(Path(sys.argv[2])), tiny_settings(), Runtime(device="cpu", threads=1))
"""


def test_what_a_kill_leaves_of_a_half_published_model_is_cleared(
    inputs: stage.Inputs, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    half = (".model/model.safetensors", "model/.config.json.a1b2c3", ".summary.json.a1b2c3d4")
    for left in (tmp_path / name for name in half):
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_bytes(b"half")
    stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
    assert published(tmp_path) == undisturbed


def test_more_epochs_of_a_stopped_run_end_as_if_it_never_stopped(
    inputs: stage.Inputs, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    stage.run(inputs, outputs(tmp_path), tiny_settings(stop_after_epochs=1), CPU)
    assert len(published(tmp_path)["history.jsonl"].splitlines()) == 1
    stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
    assert published(tmp_path) == undisturbed


def test_the_best_epoch_survives_a_resume(
    inputs: stage.Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validations = itertools.chain.from_iterable(itertools.repeat(nll, 3) for nll in (1.0, 2.0, 1.5))
    monkeypatch.setattr(loop, "evaluate", lambda *_: fake_metrics(next(validations)))
    stop_at(monkeypatch, 12, kill)
    with pytest.raises(Killed):
        stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
    stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
    summary = json.loads((tmp_path / "summary.json").read_text("utf-8"))
    assert summary["published"]["epoch"] == 1


def fake_metrics(nll: float) -> dict[str, Any]:
    row = {"nll": nll, "perplexity": 1.0, "accuracy": 0.0, "tokens": 1}
    return {"all": row, "codes": row}


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(
    inputs: stage.Inputs,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
    newest = tmp_path / "checkpoints" / "step-00000015" / "model.safetensors"
    flipped = bytearray(newest.read_bytes())
    flipped[-1] ^= 1
    newest.write_bytes(flipped)
    with caplog.at_level(logging.INFO, "promptehr"):
        stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
    assert "step-00000015: skipped, model.safetensors is damaged" in caplog.text
    assert "continuing after step 10" in caplog.text
    assert published(tmp_path) == undisturbed


def test_another_run_key_starts_over_and_says_what_differed(
    inputs: stage.Inputs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage.run(inputs, outputs(tmp_path), tiny_settings(stop_after_epochs=1), CPU)
    stage.run(inputs, outputs(tmp_path), tiny_settings(dropout=0.2), CPU)
    assert "belongs to a run with other train.dropout; moved to superseded-" in caplog.text
    superseded = list((tmp_path / "checkpoints").glob("superseded-*/step-00000005"))
    assert len(superseded) == 1


def test_settings_that_change_no_weight_keep_the_run(
    inputs: stage.Inputs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
    caplog.clear()
    with caplog.at_level(logging.INFO, "promptehr"):
        stage.run(inputs, outputs(tmp_path), tiny_settings(publish="last", keep_checkpoints=1), CPU)
    assert "continuing after step 15" in caplog.text
    assert "moved" not in caplog.text


def test_resume_from_a_named_checkpoint(
    inputs: stage.Inputs, undisturbed: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
    with caplog.at_level(logging.INFO, "promptehr"):
        named = Runtime(device="cpu", threads=1, resume="step-00000005")
        stage.run(inputs, outputs(tmp_path), tiny_settings(), named)
    assert "continuing after step 5" in caplog.text
    assert published(tmp_path) == undisturbed
    with pytest.raises(ArtifactError, match="not a whole checkpoint; there are: step-00000005"):
        stage.run(inputs, outputs(tmp_path), tiny_settings(), Runtime(threads=1, resume="step-00000099"))


@pytest.mark.parametrize("keep", [1, 3])
def test_fewer_epochs_than_a_run_has_done_end_as_if_it_had_done_no_more(
    inputs: stage.Inputs, tmp_path: Path, keep: int
) -> None:
    shorter = tiny_settings(epochs=9, stop_after_epochs=3, keep_checkpoints=keep)
    stage.run(inputs, outputs(tmp_path / "straight"), shorter, CPU)
    stage.run(inputs, outputs(tmp_path / "later"), tiny_settings(epochs=9, keep_checkpoints=keep), CPU)
    stage.run(inputs, outputs(tmp_path / "later"), shorter, CPU)
    assert published(tmp_path / "later") == published(tmp_path / "straight")


@pytest.mark.parametrize("condition", ["prompt", "denoise"])
def test_a_signal_during_a_validation_saves_and_the_epoch_is_judged_after(
    inputs: stage.Inputs,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    condition: str,
) -> None:
    evaluate = loop.evaluate

    def asked(model: Any, store: Any, name: Any, *others: Any) -> Any:
        if name == condition:
            signal.raise_signal(signal.SIGUSR1)
        return evaluate(model, store, name, *others)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "evaluate", asked)
        with pytest.raises(Interrupted, match="SIGUSR1 after step 5"):
            stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
    stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
    assert published(tmp_path) == undisturbed


def test_the_rate_of_an_epoch_counts_what_this_process_did(
    inputs: stage.Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, 7, lambda _: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted, match="after step 8"):
        stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
    stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
    lines = (tmp_path / "checkpoints/timing.jsonl").read_text("utf-8").splitlines()
    done = {line["epoch"]: line["seconds"] * line["tokens_per_s"] for line in map(json.loads, lines)}
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text("utf-8").splitlines()]
    scored = [sum(part["tokens"] for part in record["train"].values()) for record in history]
    assert done[1] == pytest.approx(scored[0])
    assert 0 < done[2] < 0.7 * scored[1]
    assert done[3] == pytest.approx(scored[2])


def test_the_history_can_be_read_while_the_run_goes_on(
    inputs: stage.Inputs, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = tmp_path / "checkpoints/history.jsonl"
    for step, lines in ((7, 1), (12, 2)):
        with monkeypatch.context() as patched:
            stop_at(patched, step, lambda _: signal.raise_signal(signal.SIGTERM))
            with pytest.raises(Interrupted):
                stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
        assert undisturbed["history.jsonl"].splitlines()[:lines] == live.read_bytes().splitlines()


def test_a_weight_that_no_loss_has_met_is_not_saved_unless_finite(
    inputs: stage.Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(state: loop.LoopState) -> None:
        with torch.no_grad():
            state.model.model.decoder.embed_positions.weight[-1] = math.nan

    stop_at(monkeypatch, 6, spoil)
    with pytest.raises(
        NonFiniteError, match=r"step 10: weight model\.decoder\.embed_positions\.weight is not"
    ):
        stage.run(inputs, outputs(tmp_path), tiny_settings(publish="last", checkpoint_every=1), CPU)
    assert not (tmp_path / "summary.json").exists()
    newest = checkpoint.Checkpoints(tmp_path / "checkpoints", keep=3).newest(at_most=15)
    assert newest is not None
    assert newest.step == 5


def test_a_required_resume_refuses_to_start_over(inputs: stage.Inputs, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no whole checkpoint"):
        stage.run(inputs, outputs(tmp_path), tiny_settings(), Runtime(threads=1, resume="require"))


def test_non_finite_weights_stop_before_the_step_and_keep_the_checkpoint(
    inputs: stage.Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poison(state: loop.LoopState) -> None:
        next(state.model.parameters()).data[7] = float("nan")

    stop_at(monkeypatch, 6, poison)
    with pytest.raises(NonFiniteError, match=r"step 6, batch 2 of epoch 2: loss nan.* rate 0\.00"):
        stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
    assert [p.name for p in sorted((tmp_path / "checkpoints").glob("step-*"))] == ["step-00000005"]


def test_two_trainers_of_one_run_are_refused(
    inputs: stage.Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def second(_: loop.LoopState) -> None:
        with pytest.raises(BusyError, match=r"process \d+ on \S+ trains here"):
            stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
        raise Killed

    stop_at(monkeypatch, 1, second)
    with pytest.raises(Killed):
        stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)


def test_a_second_trainer_is_refused_until_the_first_has_published(
    inputs: stage.Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = stage.publish.publish

    def second(*arguments: Any) -> list[Path]:
        with pytest.raises(BusyError, match="trains here"):
            stage.run(inputs, outputs(tmp_path), tiny_settings(), CPU)
        return original(*arguments)

    monkeypatch.setattr(stage.publish, "publish", second)
    stage.run(inputs, outputs(tmp_path), tiny_settings(epochs=1), CPU)
    assert (tmp_path / "summary.json").is_file()


def test_publishes_the_epoch_asked_for(inputs: stage.Inputs, tmp_path: Path) -> None:
    settings = tiny_settings(publish=2, checkpoint_every=3)
    stage.run(inputs, outputs(tmp_path), settings, CPU)
    summary = json.loads((tmp_path / "summary.json").read_text("utf-8"))
    assert summary["published"]["epoch"] == 2
    stage.run(inputs, outputs(tmp_path / "two"), tiny_settings(stop_after_epochs=2, publish="last"), CPU)
    weights = "model/model.safetensors"
    assert (tmp_path / weights).read_bytes() == (tmp_path / "two" / weights).read_bytes()


def test_an_epoch_whose_weights_are_gone_is_refused(inputs: stage.Inputs, tmp_path: Path) -> None:
    stage.run(inputs, outputs(tmp_path), tiny_settings(keep_checkpoints=1), CPU)
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text("utf-8").splitlines()]
    gone = next(
        record["epoch"] for record in history[:2] if not record["best"] or record is not best_of(history)
    )
    with pytest.raises(SettingsError, match=f"weights of epoch {gone} were not kept"):
        stage.run(inputs, outputs(tmp_path), tiny_settings(publish=gone, keep_checkpoints=1), CPU)


def best_of(history: list[dict[str, Any]]) -> dict[str, Any]:
    return min(history, key=lambda record: record["valid"]["prompt"]["codes"]["nll"])


# --- where a run starts from -------------------------------------------------------------------


def test_a_run_that_starts_from_a_checkpoint_says_so_and_other_content_is_another_run(
    inputs: stage.Inputs, undisturbed: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given, run = tmp_path / "bart", tmp_path / "run"
    bart(given)
    started = replace(inputs, init_from=given)
    stage.run(started, outputs(run), tiny_settings(), CPU)
    first = published(run)
    assert first["model/model.safetensors"] != undisturbed["model/model.safetensors"]
    card, summary = first["model/README.md"].decode(), json.loads(first["summary.json"])
    digest = artifacts.sha256(given / "model.safetensors")
    assert f"- init_from/model.safetensors: sha256 `{digest}`" in card
    assert "started from the transformer weights, not the embeddings, of a BART checkpoint" in card
    assert summary["inputs"]["init_from/model.safetensors"] == digest
    assert str(given) not in card + first["summary.json"].decode()

    given.rename(tmp_path / "elsewhere")
    started = replace(inputs, init_from=tmp_path / "elsewhere")
    stage.run(started, outputs(run), tiny_settings(), CPU)
    assert published(run) == first
    assert "moved" not in caplog.text
    bart(tmp_path / "elsewhere", init_std=0.03)
    stage.run(started, outputs(run), tiny_settings(), CPU)
    assert "belongs to a run with other init_from/config.json, init_from/model.safetensors" in caplog.text


def test_a_starting_point_is_an_option_not_an_assignment(inputs: stage.Inputs, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="given as --init-from"):
        stage.run(inputs, outputs(tmp_path), tiny_settings(init_from="bart"), CPU)


# --- when it ends ------------------------------------------------------------------------------


def worse_after(monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """Validation improves for some epochs and never again; each epoch judges three conditions."""
    nlls = (abs(epoch - epochs + 1) for epoch in range(99))
    judged = itertools.chain.from_iterable(itertools.repeat(1.0 + nll, 3) for nll in nlls)
    monkeypatch.setattr(loop, "evaluate", lambda *_: fake_metrics(next(judged)))


def test_patience_ends_training_and_the_same_command_leaves_it_ended(
    inputs: stage.Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worse_after(monkeypatch, 2)
    settings = tiny_settings(epochs=9, patience=2, checkpoint_every=9)
    with caplog.at_level(logging.INFO, "promptehr"):
        stage.run(inputs, outputs(tmp_path), settings, CPU)
    assert "no better code NLL in 2 epochs: training ends after epoch 4" in caplog.text
    first = published(tmp_path)
    assert json.loads(first["summary.json"])["published"]["epoch"] == 2
    stage.run(inputs, outputs(tmp_path), settings, CPU)
    assert published(tmp_path) == first
    with pytest.raises(SettingsError, match=r"epoch 7, but train.patience ended training after epoch 4"):
        stage.run(inputs, outputs(tmp_path), tiny_settings(epochs=9, patience=2, publish=7), CPU)


def test_less_patience_ends_a_run_where_it_would_have_ended(
    inputs: stage.Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = tiny_settings(epochs=9, patience=2, keep_checkpoints=9)
    worse_after(monkeypatch, 1)
    stage.run(inputs, outputs(tmp_path / "straight"), impatient, CPU)
    worse_after(monkeypatch, 1)
    longer = tiny_settings(epochs=9, patience=5, keep_checkpoints=9)
    stage.run(inputs, outputs(tmp_path / "later"), longer, CPU)
    stage.run(inputs, outputs(tmp_path / "later"), impatient, CPU)
    assert len(published(tmp_path / "later")["history.jsonl"].splitlines()) == 3
    assert published(tmp_path / "later") == published(tmp_path / "straight")


def test_tensorboard_shows_the_history_once_per_epoch_however_often_the_run_stopped(
    inputs: stage.Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs the tensorboard package"
    )
    watched = Runtime(device="cpu", threads=1, tensorboard=True)
    stop_at(monkeypatch, 12, kill)
    with pytest.raises(Killed):
        stage.run(inputs, outputs(tmp_path), tiny_settings(), watched)
    stage.run(inputs, outputs(tmp_path), tiny_settings(), watched)
    events = event_accumulator.EventAccumulator(str(tmp_path / "checkpoints" / "tensorboard"))
    events.Reload()
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text("utf-8").splitlines()]
    shown = events.Scalars("valid/prompt/codes/nll")
    assert [event.step for event in shown] == [record["step"] for record in history]
    nlls = [record["valid"]["prompt"]["codes"]["nll"] for record in history]
    assert [event.value for event in shown] == pytest.approx(nlls)


def test_tensorboard_without_its_package_is_refused(
    inputs: stage.Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SettingsError, match=r"runtime.tensorboard: true, but .* not installed"):
        stage.run(inputs, outputs(tmp_path), tiny_settings(), Runtime(threads=1, tensorboard=True))


def test_an_age_that_is_no_number_is_refused(tmp_path: Path) -> None:
    cohort = write_inputs(tmp_path, train=random_patients(4, seed=1), valid=random_patients(2, seed=1))
    vocabulary = stage.read_vocabulary(cohort)
    stores = {
        name: stage.read_store(cohort.index, name, vocabulary, torch.device("cpu"))
        for name in ("train", "valid")
    }
    stores["valid"].x_num[1] = float("nan")
    with pytest.raises(ArtifactError, match="the valid split: age_z is not a finite number"):
        stage.check(stores, tiny_settings().train)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"publish": 4}, "train.publish: epoch 4, but training ends after epoch 3"),
        ({"shape": {"width": 16, "heads": 2, "positions": 16}}, "train.shape.positions: 16, but the longest"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    inputs: stage.Inputs, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        stage.run(inputs, outputs(tmp_path), tiny_settings(**changes), CPU)


def test_a_split_without_a_known_code_is_refused(tmp_path: Path) -> None:
    cohort = write_inputs(tmp_path, train=random_patients(4, seed=1), valid=[[[SIZE - 1]]] * 2)
    vocabulary = stage.read_vocabulary(cohort)
    stores = {
        name: stage.read_store(cohort.index, name, vocabulary, torch.device("cpu"))
        for name in ("train", "valid")
    }
    with pytest.raises(ArtifactError, match="the valid split has no code of the vocabulary"):
        stage.check(stores, tiny_settings().train)


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    cohort = write_inputs(
        tmp_path / "cohort", train=random_patients(4, seed=1), valid=random_patients(1, seed=1)
    )
    index = json.loads(cohort.index.read_text("utf-8"))
    assert index["splits"]["valid"][0]["rows"] == 1
    stores = {
        "train": stage.read_store(cohort.index, "train", stage.read_vocabulary(cohort), torch.device("cpu")),
    }
    empty = stores["train"].__class__.from_cohort(
        stage.tokens.Cohort.from_shards(artifacts.read_split(cohort.index, "valid").slice(0, 0)),
        "cpu",
        vocabulary_size=SIZE,
    )
    with pytest.raises(ArtifactError, match="the valid split has no patients"):
        stage.check({**stores, "valid": empty}, tiny_settings().train)


def test_another_vocabulary_than_the_shards_is_refused(inputs: stage.Inputs, tmp_path: Path) -> None:
    shutil.copytree(inputs.vocabulary.parent.parent, tmp_path / "cohort")
    moved = stage.Inputs(
        **{
            name: tmp_path / "cohort" / path.relative_to(inputs.vocabulary.parent.parent)
            for name, path in vars(inputs).items()
            if path is not None
        }
    )
    content = artifacts.read_json(moved.vocabulary, schemas.VOCABULARY)
    content["age"]["mean"] = 50.0
    artifacts.write_json(moved.vocabulary, content, schemas.VOCABULARY)
    artifacts.write_sealed(
        moved.vocabulary_ledger,
        {"tables": {}},
        schemas.LEDGER,
        stage="vocabulary",
        settings=Settings(),
        inputs={},
        files=[moved.vocabulary],
    )
    with pytest.raises(ArtifactError, match="made with another"):
        stage.read_vocabulary(moved)
