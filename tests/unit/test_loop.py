"""The loop: schedule, optimiser groups, the step against transformers' own, what an epoch notes."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainingArguments

from promptehr import tokens
from promptehr.errors import NonFiniteError, SettingsError
from promptehr.model import config, loop, objective, promptbart
from promptehr.model.batches import CONDITIONS, Condition, TokenStore, plan_epoch
from promptehr.model.evaluation import by_length, evaluate
from promptehr.model.promptbart import PromptBartForConditionalGeneration
from promptehr.model.state import Hooks, LoopState
from promptehr.settings import Runtime, Train
from tests.model_builders import SIZE, UNKNOWN, random_patients, store, tiny_train

QUIET = Hooks(
    save=lambda _: None,
    save_weights=lambda _: None,
    beat=lambda: None,
    asked_to_stop=lambda: None,
    timed=lambda *_: None,
    noted=lambda _: None,
)


PROMPT_ONLY: dict[Condition, float] = {"prompt": 1.0, "history": 0.0, "denoise": 0.0}


def started(train: Train, patients: TokenStore) -> LoopState:
    shape = config.from_settings(train, patients.vocabulary_size)
    return loop.start_state(promptbart.start(shape, objective.log_unigram(patients), seed=1), train)


def fitted(train: Train, patients: TokenStore, valid: TokenStore, hooks: Hooks = QUIET) -> LoopState:
    state = started(train, patients)
    loop.fit(state, patients, valid, train, Runtime(), hooks)
    return state


# --- schedule and optimiser --------------------------------------------------------------------


def test_learning_rate_rises_to_the_peak_and_falls_to_zero() -> None:
    train = Train(learning_rate=0.1, warmup_steps=4)
    rates = [loop.learning_rate(step, 14, train) for step in range(14)]
    expected = [0.025, 0.05, 0.075, 0.1, *(0.1 * (14 - step) / 10 for step in range(4, 14))]
    assert rates == pytest.approx(expected)


def test_without_warm_up_the_peak_is_the_first_step() -> None:
    assert loop.learning_rate(0, 10, Train(learning_rate=0.1, warmup_steps=0)) == 0.1


def test_decay_spares_biases_norms_and_embeddings() -> None:
    model = started(tiny_train(weight_decay=0.3), store([[6]])).model
    optimizer = loop.optimizer_for(model, tiny_train(weight_decay=0.3))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = ([names[id(p)] for p in group["params"]] for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert sorted(decayed + spared) == sorted(names.values())
    assert all(name.endswith("weight") and "norm" not in name for name in decayed)
    assert "model.shared.weight" in spared
    assert "model.decoder.embed_positions.weight" in spared
    assert "model.decoder.layers.0.self_attn.q_proj.weight" in decayed
    assert "decoder_prompts.numeric_map.weight" in decayed


# --- the step ----------------------------------------------------------------------------------


def test_a_step_is_a_function_of_the_state_and_its_number() -> None:
    patients, train = store(*random_patients(16, seed=1)), tiny_train()
    plan = plan_for(patients, train)
    results = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        state = started(train, patients)
        loop.train_step(state, plan.steps[0], patients, train, labels=plan.labels_per_step, steps=6)
        results.append([parameter.detach().clone() for parameter in state.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def plan_for(patients: TokenStore, train: Train) -> Any:
    return plan_epoch(patients, train, epoch=0)


def twenty_steps() -> tuple[TokenStore, Train]:
    """Two epochs of patients of one length, whose visits differ and repeat codes of earlier ones.

    So every parameter has a gradient: of one that has none but rounding, AdamW makes a step of full size.
    """
    visits = (((0, 1), (1, 3), (0, 2)), ((0,), (1, 3, 0), (0, 2)))
    patients = store(*[[[6 + (i + k) % 6 for k in codes] for codes in visits[i % 2]] for i in range(40)])
    only_prompt = {"history": 0.0, "denoise": 0.0}
    return patients, tiny_train(
        dropout=0.0, batch_patients=4, epochs=2, conditions=only_prompt, warmup_steps=3, weight_decay=0.5
    )


def under_way(train: Train, patients: TokenStore) -> LoopState:
    """Started, but for the maps that start at zero, behind which nothing has a gradient yet."""
    state = started(train, patients)
    assert state.model.repeats.kinds is not None
    with torch.random.fork_rng():
        torch.manual_seed(2)
        for parameter in state.model.repeats.kinds.parameters():
            nn.init.normal_(parameter)
    return state


def our_losses(patients: TokenStore, train: Train) -> list[float]:
    """Mean NLL of each of the twenty steps."""
    state, losses = under_way(train, patients), []
    for epoch in range(2):
        plan = plan_epoch(patients, train, epoch=epoch)
        for step in plan.steps:
            before = state.sums.sum(0)[:2].clone()
            loop.train_step(state, step, patients, train, labels=plan.labels_per_step, steps=20)
            nats, scored = (state.sums.sum(0)[:2] - before).tolist()
            losses.append(nats / scored)
    return losses


def decayed(model: nn.Module, train: Train) -> torch.optim.AdamW:
    """torch's own AdamW with the two groups written out."""
    return torch.optim.AdamW(
        [
            {
                "params": [p for n, p in model.named_parameters() if is_decayed(n, p)],
                "weight_decay": train.weight_decay,
            },
            {"params": [p for n, p in model.named_parameters() if not is_decayed(n, p)], "weight_decay": 0.0},
        ],
        lr=train.learning_rate,
    )


def test_twenty_steps_equal_a_plain_torch_loop_on_the_model_s_own_loss() -> None:
    """Oracle: transformers' loss, torch's scheduler; prompt condition, one length, no dropout."""
    patients, train = twenty_steps()
    assert our_losses(patients, train) == pytest.approx(plain_losses(patients, train), rel=1e-5)


def plain_losses(patients: TokenStore, train: Train) -> list[float]:
    model = under_way(train, patients).model
    optimizer = decayed(model, train)
    warm, steps = train.warmup_steps, 20
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: (k + 1) / warm if k < warm else (steps - k) / (steps - warm)
    )
    losses = []
    for epoch in range(2):
        plan = plan_epoch(patients, train, epoch=epoch)
        for step in plan.steps:
            batch = objective.prompt(patients, step.rows)
            loss = model(**batch.inputs, labels=batch.labels).loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
    return losses


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    embeds = "embed" in name or "shared" in name or ("prompts.categorical" in name and "map" not in name)
    return parameter.ndim > 1 and not embeds


def test_sums_hold_nats_and_tokens_by_condition() -> None:
    patients, train = store(*random_patients(30, seed=1)), tiny_train(batch_patients=30, dropout=0.0)
    state, plan = started(train, patients), plan_for(patients, train)
    step = plan.steps[0]
    noise = torch.Generator().manual_seed(loop.derived_seed(train.seed, "noise", 0))
    batch = objective.training(patients, step, train.corruption, noise)
    nll = objective.token_nll(state.model(**batch.inputs).logits, batch.labels).detach().double()
    loop.train_step(state, step, patients, train, labels=plan.labels_per_step, steps=3)
    for place in range(3):
        mine = step.condition == place
        scored = (batch.labels[mine] != objective.NOT_SCORED).sum()
        codes = batch.labels[mine] >= tokens.FIRST_CODE
        assert state.sums[place].tolist() == pytest.approx(
            [float(nll[mine].sum()), float(scored), float(nll[mine][codes].sum()), float(codes.sum())]
        )


def test_label_smoothing_is_not_in_the_noted_nll() -> None:
    patients = store(*random_patients(16, seed=1))
    sums = []
    for smoothing in (0.0, 0.3):
        train = tiny_train(label_smoothing=smoothing)
        state, plan = started(train, patients), plan_for(patients, train)
        loop.train_step(state, plan.steps[0], patients, train, labels=plan.labels_per_step, steps=6)
        sums.append(state.sums.tolist())
    np.testing.assert_allclose(*sums, rtol=1e-6)


def test_training_in_bfloat16_runs_and_keeps_float_weights() -> None:
    patients = store(*random_patients(16, seed=1))
    state = fitted(tiny_train(precision="bf16", epochs=1), patients, patients)
    assert {parameter.dtype for parameter in state.model.parameters()} == {torch.float32}
    assert math.isfinite(state.history[0]["valid"]["prompt"]["all"]["nll"])


class Ordered(Dataset[Any]):
    """The steps of the plans as ready batches, one item each; what the Trainer draws nothing from."""

    def __init__(self, patients: TokenStore, train: Train, epochs: int):
        plans = [plan_epoch(patients, train, epoch=epoch) for epoch in range(epochs)]
        batches = [objective.prompt(patients, step.rows) for plan in plans for step in plan.steps]
        self.items = [{**batch.inputs, "labels": batch.labels} for batch in batches]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.items[place]


def test_twenty_steps_equal_the_transformers_trainer(tmp_path: Path) -> None:
    """Oracle: transformers.Trainer on the same batches; its loss, optimiser, clipping and schedule.

    All patients are of one length, so that its mean over a batch's tokens is our division.
    """
    pytest.importorskip("accelerate", reason="transformers.Trainer needs it")
    patients, train = twenty_steps()
    assert our_losses(patients, train) == pytest.approx(trainer_losses(patients, train, tmp_path), rel=1e-5)


def trainer_losses(patients: TokenStore, train: Train, folder: Path) -> list[float]:
    model = under_way(train, patients).model
    optimizer = decayed(model, train)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: (k + 1) / 3 if k < 3 else (20 - k) / 17)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=20,
            per_device_train_batch_size=1,
            max_grad_norm=train.max_grad_norm,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
        ),
        train_dataset=Ordered(patients, train, 2),
        data_collator=lambda items: items[0],
        optimizers=(optimizer, schedule),
    )
    trainer._get_train_sampler = lambda *_: SequentialSampler(trainer.train_dataset)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


class Watched(TorchDispatchMode):
    """Fails where the host would have to wait for a device: numbers, places and conditions read off it."""

    ASKING = ("_local_scalar_dense", "nonzero", "item", "equal", "unique")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name().removeprefix("aten::").partition(".")[0].strip("_")
        assert name not in {asking.strip("_") for asking in self.ASKING}, func.name()
        return func(*args, **(kwargs or {}))


def test_nothing_in_a_step_waits_for_the_device() -> None:
    patients, train = store(*random_patients(40, seed=1)), tiny_train(label_smoothing=0.1)
    state, plan = started(train, patients), plan_for(patients, train)
    with Watched():
        for step in plan.steps:
            loop.train_step(state, step, patients, train, labels=plan.labels_per_step, steps=6)
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            bool(state.alarm[0] < 0)


def test_a_filled_up_batch_trains_as_the_batch_itself() -> None:
    """Static shapes change the padding and nothing else."""
    patients = store(*random_patients(50, seed=1))
    train = tiny_train(dropout=0.0, conditions={"denoise": 0.0}, batch_patients=16)
    states = []
    for static in (False, True):
        state, plan = started(train, patients), plan_epoch(patients, train, epoch=0, static=static)
        for step in plan.steps:
            loop.train_step(state, step, patients, train, labels=plan.labels_per_step, steps=6)
        states.append(state)
    free, filled = states
    assert filled.sums.flatten().tolist() == pytest.approx(free.sums.flatten().tolist(), rel=1e-5)
    for one, other in zip(free.model.parameters(), filled.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_the_compiled_model_is_one_graph_and_gives_the_same_losses() -> None:
    patients, train = store(*random_patients(50, seed=1)), tiny_train(dropout=0.0)
    sums = []
    for is_compiled in (False, True):
        state, plan = started(train, patients), plan_epoch(patients, train, epoch=0, static=True)
        forward = loop.compiled(state.model, backend="aot_eager", fullgraph=True) if is_compiled else None
        for step in plan.steps:
            loop.train_step(
                state, step, patients, train, labels=plan.labels_per_step, steps=9, forward=forward
            )
        sums.append(state.sums.flatten().tolist())
    assert sums[1] == pytest.approx(sums[0], rel=1e-5)


@pytest.mark.parametrize("planted", ["gradient", "weight", "age"])
def test_a_step_that_is_not_finite_changes_no_weight_nor_any_step_after_it(planted: str) -> None:
    patients, train = store(*random_patients(40, seed=1)), tiny_train()
    state, plan = started(train, patients), plan_for(patients, train)
    parameter = state.model.model.decoder.layers[0].fc1.weight
    if planted == "gradient":
        parameter.register_hook(lambda gradient: gradient * float("inf"))
    elif planted == "weight":
        parameter.data[0, 0] = float("nan")
    else:
        patients.x_num[plan.steps[0].rows[0]] = float("nan")
    before = [weight.detach().clone() for weight in state.model.parameters()]
    for step in plan.steps:
        loop.train_step(state, step, patients, train, labels=plan.labels_per_step, steps=15)
    for old, new in zip(before, state.model.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old, rtol=0, atol=0, equal_nan=True)
    assert all(float(moments["step"]) == 0 for moments in state.optimizer.state.values())
    with pytest.raises(NonFiniteError, match=r"step 0, batch 1 of epoch 1: loss .*gradient norm (nan|inf)"):
        loop.require_finite(state, train, [0, 5, 10, 15])


def test_a_validation_that_is_not_finite_stops_before_anything_is_kept() -> None:
    patients, valid = store(*random_patients(8, seed=1)), store(*random_patients(4, seed=2))
    valid.x_num[1] = float("nan")
    kept: list[int] = []
    hooks = replace(QUIET, save=lambda s: kept.append(s.step), save_weights=lambda s: kept.append(s.step))
    with pytest.raises(NonFiniteError, match="step 1: validation NLL nan under prompt"):
        fitted(tiny_train(), patients, valid, hooks)
    assert kept == []


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"batch_patients": 8}, "train.batch_patients: 8 does not fit into memory; halve it"),
        ({"batch_patients": None, "batch_tokens": 96}, "train.batch_tokens: 96 does not fit"),
    ],
)
@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("[enforce fail] DefaultCPUAllocator: 1 GB")],
)
def test_out_of_memory_is_advice(size: dict[str, Any], message: str, error: Exception) -> None:
    with pytest.raises(SettingsError, match=message), loop.advice_on_memory(tiny_train(**size)):
        raise error


@pytest.mark.parametrize("kind", [RuntimeError, NotImplementedError])
def test_another_error_keeps_its_traceback(kind: type[Exception]) -> None:
    with pytest.raises(kind, match="shapes do not match"), loop.advice_on_memory(tiny_train()):
        raise kind("shapes do not match")


def test_an_nll_whose_perplexity_no_float_holds_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    patients = store(*random_patients(8, seed=1))
    monkeypatch.setattr(objective, "token_nll", lambda _, labels: (labels > 0) * 1000.0)
    with pytest.raises(NonFiniteError, match=r"validation NLL 1000\.0 under prompt"):
        fitted(tiny_train(), patients, patients)


# --- epochs ------------------------------------------------------------------------------------


def test_the_history_holds_every_condition_and_the_best_epoch_is_marked() -> None:
    patients, valid = store(*random_patients(40, seed=1)), store(*random_patients(20, seed=2))
    state = fitted(tiny_train(), patients, valid)
    nlls = [record["valid"]["prompt"]["codes"]["nll"] for record in state.history]
    assert [record["best"] for record in state.history] == [
        n == min(nlls[: i + 1]) for i, n in enumerate(nlls)
    ]
    assert (state.best_nll, state.best_step) == (min(nlls), 5 * (nlls.index(min(nlls)) + 1))
    record = state.history[-1]
    assert sorted(record) == ["best", "epoch", "learning_rate", "step", "train", "useful_share", "valid"]
    assert sorted(record["valid"]) == sorted(record["train"]) == sorted(CONDITIONS)
    labels = int(valid.lengths.sum() - len(valid))
    assert record["valid"]["prompt"]["all"]["tokens"] == labels
    assert 0.5 < record["useful_share"] <= 1.0


def test_saves_at_the_asked_epochs_and_at_the_end() -> None:
    patients = store(*random_patients(8, seed=1))
    saved: list[int] = []
    hooks = Hooks(
        save=lambda state: saved.append(state.step),
        save_weights=QUIET.save_weights,
        beat=QUIET.beat,
        asked_to_stop=QUIET.asked_to_stop,
        timed=QUIET.timed,
        noted=QUIET.noted,
    )
    fitted(tiny_train(epochs=5, checkpoint_every=2), patients, patients, hooks)
    assert saved == [2, 4, 5]


def test_a_new_best_has_its_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    patients = store(*random_patients(8, seed=1))
    with caplog.at_level(logging.INFO, "promptehr"):
        fitted(tiny_train(epochs=1), patients, patients)
    assert "epoch 1 of 1, step 1: validation, prompts only: code NLL" in caplog.text
    assert "epoch 1 is the best so far: code NLL" in caplog.text


def test_a_line_per_interval_tells_loss_perplexity_and_learning_rate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    patients, train = store(*random_patients(40, seed=1)), tiny_train(epochs=1)
    with caplog.at_level(logging.INFO, "promptehr"):
        loop.fit(started(train, patients), patients, patients, train, Runtime(log_every_s=1e-9), QUIET)
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("step ")]
    assert len(lines) == 5
    assert all(
        word in lines[0] for word in ("loss", "code perplexity", "learning rate", "useful tokens/s", " left")
    )


def record(epoch: int, *, best: bool) -> dict[str, Any]:
    return {"epoch": epoch, "best": best}


@pytest.mark.parametrize(
    ("best", "changes", "expected"),
    [
        ([], {}, 6),
        ([], {"stop_after_epochs": 4}, 4),
        ([True, False, False], {}, 6),
        ([True, False], {"patience": 2}, 6),
        ([True, False, False], {"patience": 2}, 3),
        ([True, False, True, False], {"patience": 2}, 6),
        ([True, False, False, True, False], {"patience": 2}, 3),
        ([True, True, False], {"patience": 1, "stop_after_epochs": 2}, 2),
    ],
)
def test_training_ends_where_patience_does(best: list[bool], changes: dict[str, Any], expected: int) -> None:
    history = [record(epoch, best=one) for epoch, one in enumerate(best, start=1)]
    assert loop.ends_after(history, tiny_train(epochs=6, **changes)) == expected


# --- evaluation --------------------------------------------------------------------------------


def uniform(patients: TokenStore) -> PromptBartForConditionalGeneration:
    """A model whose logits are its offset alone: the log-unigram."""
    model = started(tiny_train(kinds=False), patients).model
    with torch.no_grad():
        model.model.shared.weight.zero_()
    return model


def test_evaluation_of_a_unigram_model_by_hand() -> None:
    patients = store([[6, 7]], [[6, UNKNOWN]])
    # Labels: <v> 6 7 <\v> END and <v> 6 (unk) <\v> END; counts plus one over nine tokens, sum 18.
    # From a code on, it is ruled out until the next visit: 6 takes 3 of the 18, 7 takes 2.
    codes = 2 * math.log(3 / 18) + math.log(2 / 15)
    expected_codes = -codes / 3
    expected_all = -(codes + 2 * math.log(3 / 18) + 2 * math.log(3 / 13) + 2 * math.log(3 / 15)) / 9
    found = evaluate(uniform(patients), patients, "prompt", tiny_train())
    assert found["codes"]["tokens"] == 3
    assert found["codes"]["nll"] == pytest.approx(expected_codes, rel=1e-6)
    assert found["codes"]["perplexity"] == pytest.approx(math.exp(expected_codes), rel=1e-6)
    assert found["all"]["tokens"] == 9
    assert found["all"]["nll"] == pytest.approx(expected_all, rel=1e-6)


def test_accuracy_counts_labels_that_are_the_likeliest_token() -> None:
    patients = store([[6, 7], [6]], [[8, 6]])
    model = uniform(patients)
    # Where the visit has 6 already, the likeliest token is <\v>.
    model.final_logits_bias[0, 6], model.final_logits_bias[0, tokens.VISIT_END] = 10.0, 9.0
    found = evaluate(model, patients, "prompt", tiny_train())
    assert found["codes"]["accuracy"] == 3 / 5
    assert found["all"]["accuracy"] == 6 / 13


def test_history_needs_two_visits_and_says_so() -> None:
    found = evaluate(uniform(store([[6]])), store([[6]]), "history", tiny_train())
    assert found["all"] == {
        "nll": None,
        "perplexity": None,
        "accuracy": None,
        "tokens": 0,
        "reason": "no label is scored under this condition in this split",
    }
    two = evaluate(uniform(store([[6]])), store([[6]], [[7], [8, 9]]), "history", tiny_train())
    assert two["codes"]["tokens"] == 2


def test_evaluation_leaves_the_model_in_its_mode_and_repeats() -> None:
    patients = store(*random_patients(10, seed=1))
    model = started(tiny_train(dropout=0.5), patients).model
    found = [evaluate(model, patients, "denoise", tiny_train()) for _ in range(2)]
    assert model.training
    assert found[0] == found[1]


def test_judging_an_epoch_says_how_far_it_is(caplog: pytest.LogCaptureFixture) -> None:
    patients = store([[6]])
    with caplog.at_level(logging.INFO):
        evaluate(uniform(patients), patients, "prompt", tiny_train(), log_every_s=0.0)
    assert caplog.messages == ["1 of 1 validation batches, prompt"]


def test_batches_by_length_hold_everyone_once_within_the_budget() -> None:
    lengths = np.array([5, 1, 9, 30, 2, 9, 8])
    batches = list(by_length(lengths, 20))
    assert sorted(np.concatenate(batches).tolist()) == list(range(7))
    assert all(len(b) == 1 or len(b) * lengths[b].max() <= 20 for b in batches)


# --- copying -----------------------------------------------------------------------------------


def copying(store: TokenStore, step: Any, *_: Any) -> objective.Batch:
    """Input = labels: the objective of earlier implementations."""
    return objective.copy(store, step.rows)


@pytest.mark.parametrize(("objective_of", "copies"), [(None, False), (copying, True)])
def test_a_trained_model_does_not_copy_what_it_is_shown(
    monkeypatch: pytest.MonkeyPatch, objective_of: Callable[..., objective.Batch] | None, copies: bool
) -> None:
    """The measured difference: one random code, so no honest model can beat log 6 nats.

    A model trained with input = labels reads the code off the encoder and cannot do without.
    The prompt condition is the same for both, and tells them apart.
    """
    rng = np.random.default_rng(1)
    patients, held_out = (
        store(*[[[int(code)]] for code in rng.integers(6, 12, size=count)]) for count in (256, 128)
    )
    if objective_of is not None:
        monkeypatch.setattr(objective, "training", objective_of)
    # Pointing would copy without harm to the rest of the model.
    train = tiny_train(
        epochs=10,
        dropout=0.0,
        batch_patients=16,
        learning_rate=0.02,
        conditions=PROMPT_ONLY,
        pointer_width=0,
    )
    state = fitted(train, patients, held_out)
    shown = state_nll(state, held_out, objective.copy(held_out, torch.arange(128)))
    generated = state_nll(state, held_out, objective.prompt(held_out, torch.arange(128)))
    assert (shown < 0.5 * math.log(6)) == copies
    assert generated > math.log(6) - 0.1
    assert (generated > math.log(6) + 0.3) == copies


@torch.no_grad()
def state_nll(state: LoopState, _: TokenStore, batch: objective.Batch) -> float:
    state.model.eval()
    nll = objective.token_nll(state.model(**batch.inputs).logits, batch.labels)
    codes = (batch.labels >= tokens.FIRST_CODE) & (batch.labels < SIZE)
    return float(nll[codes].mean())
