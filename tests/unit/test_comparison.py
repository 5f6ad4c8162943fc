"""The comparison of models at a tiny size: what each arm is, and what the table says of it."""

import re
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import arms, cohort, comparison, data, rivals, study
from benchmarks.cohort import Judged, Splits
from promptehr import baselines
from promptehr.metrics.likelihood import Scores
from promptehr.model import loop, objective
from promptehr.model.batches import TokenStore
from promptehr.tokens import BOS, EOS, FIRST_CODE, VISIT, Vocabulary
from tests.model_builders import CODES, SIZE, random_patients
from tests.model_builders import cohort as patients

VOCABULARY = Vocabulary(CODES, age_mean=50.0, age_spread=20.0, demographics=(), groups=CODES)
TINY = {
    "shape": {"width": 8, "heads": 2, "feed_forward": 16, "positions": 64},
    "prompt": {"width": 4},
    "epochs": 1,
    "batch_patients": 8,
}


def splits() -> Splits:
    train, valid, test = (
        patients(*random_patients(count, seed=seed)) for seed, count in enumerate((24, 8, 8))
    )
    everything = np.ones(len(test.tokens), dtype=bool)
    optimum, demographic = (Scores(np.full(len(everything), nats), everything) for nats in (-1.0, -3.0))
    return Splits(train, valid, test, VOCABULARY, optimum, demographic)


# --- rivals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in comparison.ARMS if name != "copying"])
def test_an_arm_sees_no_token_before_it_writes_it(name: str) -> None:
    train = arms.demo(1, comparison.ARMS[name].changes, TINY, {"dropout": 0.0})
    store = TokenStore.from_cohort(splits().train, "cpu", vocabulary_size=SIZE)
    model = comparison.ARMS[name].build(store, train, VOCABULARY).eval()
    batch = objective.prompt(store, torch.arange(4))
    changed = batch.decoder_input_ids.clone()
    changed[:, 3:] = torch.where(changed[:, 3:] == 0, 0, FIRST_CODE)
    inputs = {**batch.inputs, "decoder_input_ids": changed}
    before, after = model(**batch.inputs).logits, model(**inputs).logits
    assert torch.equal(before[:, :3].argmax(-1), after[:, :3].argmax(-1))
    assert torch.allclose(before[:, :3], after[:, :3], atol=1e-5)
    assert not torch.allclose(before[:, 3:], after[:, 3:], atol=1e-5)


@pytest.mark.parametrize("name", list(comparison.ARMS))
def test_an_arm_is_a_distribution_and_starts_near_the_unigram(name: str) -> None:
    train = arms.demo(1, comparison.ARMS[name].changes, TINY)
    store = TokenStore.from_cohort(splits().train, "cpu", vocabulary_size=SIZE)
    model = comparison.ARMS[name].build(store, train, VOCABULARY).eval()
    logits = model(**objective.prompt(store, torch.arange(4)).inputs).logits
    assert torch.allclose(logits.exp().sum(-1), torch.ones(logits.shape[:2]), atol=1e-4)
    first = logits[:, 1, FIRST_CODE:].softmax(-1)  # which code, after <v>
    expected = objective.log_unigram(store)[FIRST_CODE:].softmax(0)
    assert torch.allclose(first, expected.expand_as(first), atol=0.05)


def test_only_the_rule_keeps_a_rival_from_repeating_a_code() -> None:
    train = arms.demo(1, comparison.ARMS["gpt2"].changes, TINY)
    store = TokenStore.from_cohort(splits().train, "cpu", vocabulary_size=SIZE)
    plain = comparison.ARMS["gpt2"].build(store, train, VOCABULARY).eval()
    written = torch.tensor([[BOS, VISIT, 7, 8]])
    inputs = {"x_num": store.x_num[:1], "x_cat": store.x_cat[:1], "decoder_input_ids": written}
    assert (plain(**inputs).logits[0, 3, [7, 8]].exp() > 0.01).all()
    plain.repeats = rivals.pointing(train.model_copy(update={"pointer_width": 0}))
    assert plain(**inputs).logits[0, 3, [7, 8]].exp().tolist() == [0.0, 0.0]


def test_rivals_are_about_as_large_as_our_model() -> None:
    store = TokenStore.from_cohort(splits().train, "cpu", vocabulary_size=SIZE)
    train = arms.demo(1)
    wanted = rivals.parameters(arms.ours(store, train, VOCABULARY))
    for name in ("lstm", "gpt2"):
        assert rivals.parameters(comparison.ARMS[name].build(store, train, VOCABULARY)) == pytest.approx(
            wanted, rel=0.1
        )


# --- counting ----------------------------------------------------------------------------------


def test_ruled_baselines_share_what_used_codes_leave() -> None:
    cohorts = splits()
    for name in baselines.NAMES:
        fit = baselines.fit(name, cohorts.train, cohorts.valid, VOCABULARY)
        record = patients([[7, 8, 9]])
        plain, ruled = fit.log_probs(record), cohort.without_repeats(fit, record)
        contexts = fit.contexts(record)
        share = [
            np.exp(fit.code_log_probs(contexts[place : place + 1], np.array([code - FIRST_CODE])))[0]
            for place, code in ((3, 7), (4, 7), (4, 8))
        ]
        expected = plain - [0, 0, 0, np.log1p(-share[0]), np.log1p(-share[1] - share[2]), 0, 0]
        assert ruled == pytest.approx(expected)


def test_judged_by_hand() -> None:
    """Two patients of one code each, two seeds: 2 nats against 3 by counting and 1 at best."""
    one = splits()
    each = Judged.of([np.full(len(one.test.tokens), -2.0)] * 2, [one, one])
    assert (each.nll, each.gap_closed, each.by_seed) == (2.0, 0.5, (2.0, 2.0))
    other = Judged.of([np.full(len(one.test.tokens), -2.5)] * 2, [one, one])
    assert other.above(each) == (0.5, [0.5, 0.5])
    every = Judged.of([np.full(len(one.test.tokens), -2.0)] * 2, [one, one], "every")
    assert every.tokens.sum() == 2 * one.every.sum() > each.tokens.sum()


# --- what is replaced while an arm trains ------------------------------------------------------


def test_the_copying_arm_shows_the_answer_and_puts_the_objective_back() -> None:
    store = TokenStore.from_cohort(splits().train, "cpu", vocabulary_size=SIZE)
    train = arms.demo(1, comparison.ARMS["copying"].changes, TINY)
    step = loop.plan_epoch(store, train, epoch=0).steps[0]
    own = objective.training
    with arms.copying():
        shown = objective.training(store, step, train.corruption, torch.Generator())
    assert torch.equal(shown.input_ids, objective.copy(store, step.rows).input_ids)
    assert objective.training is own


@pytest.mark.parametrize(
    ("around", "rates"), [(arms.constant_rate, [0.5, 1, 1]), (arms.cosine_rate, [0.5, 1, 0.5])]
)
def test_schedules(around: type[AbstractContextManager[None]], rates: list[float]) -> None:
    train = arms.demo(1, {"learning_rate": 1.0, "warmup_steps": 2})
    with around():
        assert [loop.learning_rate(step, 6, train) for step in (0, 2, 4)] == pytest.approx(rates)


def test_shuffling_keeps_each_visit_s_codes_and_scores_find_their_places() -> None:
    before = patients([[7, 8, 9, 10, 11], [6, 7, 8]], [[9, 10, 11, 6]])
    arm = arms.Arm("shuffled", order=arms.shuffled)
    after = arms.ordered(before, arm)
    assert not np.array_equal(before.tokens, after.tokens)
    visit = np.cumsum(before.tokens == VISIT)
    for number in range(4):
        assert sorted(before.tokens[visit == number]) == sorted(after.tokens[visit == number])
    scores = after.tokens.astype(float)
    assert arms.in_places(arm, before, scores).tolist() == before.tokens.tolist()


def test_averaging_keeps_the_mean_of_the_weights() -> None:
    one = splits()
    stores = [TokenStore.from_cohort(each, "cpu", vocabulary_size=SIZE) for each in (one.train, one.valid)]
    train = arms.demo(1, TINY, {"warmup_steps": 0, "learning_rate": 0.02})

    def weights() -> torch.Tensor:
        model = arms.fitted(arms.ours(stores[0], train, VOCABULARY), *stores, train).model
        return model.state_dict()["model.shared.weight"]

    last = weights()
    with arms.averaged(0.0):
        assert torch.equal(weights(), last)
    with arms.averaged(0.9):
        mean = weights()
    assert 0.001 < float((mean - last).abs().max()) < 0.1


def test_a_code_may_come_twice_only_where_the_rule_is_off() -> None:
    store = TokenStore.from_cohort(splits().train, "cpu", vocabulary_size=SIZE)
    train = arms.demo(1, TINY)
    inputs = {
        "x_num": store.x_num[:1],
        "x_cat": store.x_cat[:1],
        "input_ids": torch.tensor([[BOS, EOS]]),
        "decoder_input_ids": torch.tensor([[BOS, VISIT, 7, 8]]),
    }
    for build, may in ((arms.ours, False), (arms.may_repeat, True)):
        p = build(store, train, VOCABULARY).eval()(**inputs).logits[0, 3].exp().detach()
        assert (p[7] > 0.001) == may
        assert float(p.sum()) == pytest.approx(1.0, abs=1e-4)


def test_a_flat_start_is_uniform_over_what_can_be_written() -> None:
    store = TokenStore.from_cohort(splits().train, "cpu", vocabulary_size=SIZE)
    model = arms.flat_start(store, arms.demo(1, TINY, {"offsets": False}), VOCABULARY).eval()
    first = model(**objective.prompt(store, torch.arange(4)).inputs).logits[:, 1].exp()
    expected = torch.zeros(SIZE)
    expected[FIRST_CODE : store.mask] = 1 / (store.mask - FIRST_CODE)
    assert torch.allclose(first, expected.expand_as(first), atol=0.05)


def test_weights_of_the_loss() -> None:
    store = TokenStore.from_cohort(splits().train, "cpu", vocabulary_size=SIZE)
    train = arms.demo(1, TINY)
    batch = objective.prompt(store, torch.arange(8))
    model = arms.ours(store, train, VOCABULARY).eval()
    is_code = batch.labels >= FIRST_CODE
    with arms.structure_weighs(0.25):
        nll, cost = loop._costs(model, batch, batch.labels, train)
    assert torch.equal(cost, torch.where(is_code, nll, nll / 4))
    with arms.patients_weigh_alike():
        nll, cost = loop._costs(model, batch, batch.labels, train)
    scored = (batch.labels != objective.NOT_SCORED).sum(1)
    assert torch.allclose(cost.sum(1) * scored / nll.sum(1), scored.float().mean().expand(8))


def test_prompts_on_one_side_and_untied_words() -> None:
    store = TokenStore.from_cohort(splits().train, "cpu", vocabulary_size=SIZE)
    train = arms.demo(1, TINY)
    whole, one, other = (
        rivals.parameters(build(store, train, VOCABULARY))
        for build in (
            arms.ours,
            *(partial(arms.prompts_on_one_side, side) for side in ("encoder", "decoder")),
        )
    )
    assert whole > one == other
    free = arms.untied(store, train, VOCABULARY)
    assert rivals.parameters(free) == whole + SIZE * train.shape.width
    batch = objective.prompt(store, torch.arange(4))
    same = arms.ours(store, train, VOCABULARY).eval()
    assert torch.equal(free.eval()(**batch.inputs).logits, same(**batch.inputs).logits)


# --- kept runs --------------------------------------------------------------------------------


def test_a_run_is_kept_until_the_code_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def run(*_: object) -> arms.Run:
        made.append(arms.code())
        return arms.Run(np.array([-1.0]), valid_nll=1.0, epoch=1, parameters=2, seconds=3.0, code=made[-1])

    def kept(*, any_code: bool) -> arms.Run:
        return arms.kept(tmp_path, {"seed": 1}, arms.Arm("arm"), arms.demo(1), splits(), any_code)

    monkeypatch.setattr(arms, "run", run)
    first, second = kept(any_code=False), kept(any_code=False)
    assert (len(made), second) == (1, first)
    assert arms.of_other_code([first]) == ""
    monkeypatch.setattr(arms, "code", lambda: "other")
    old = kept(any_code=True)
    assert (len(made), old) == (1, first)
    assert arms.of_other_code([old, old]) == " 2 of 2 runs were made by an earlier version of the code."
    assert kept(any_code=False).code == "other"
    assert kept(any_code=False).code == "other"
    assert len(made) == 2


# --- the whole script --------------------------------------------------------------------------


def test_the_table_has_a_row_per_distribution_and_runs_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{comparison.BEGIN}\n{comparison.END}\n")
    given = [
        "--seeds",
        "1",
        "2",
        "--patients",
        "120",
        "--epochs",
        "1",
        "--rates",
        "2e-3",
        "--dropouts",
        "0.2",
        "0.3",
        "--arms",
        "lstm",
        "ours",
    ]
    given += ["--work", str(tmp_path / "work"), "--into", str(page)]
    comparison.main(given)
    first = capsys.readouterr().out
    rows = [line.split(" | ")[0] for line in first.splitlines() if line.startswith("| ")]
    titles = ["unigram", "demographic unigram", "bigram", "LSTM", "**this model**", "exact optimum"]
    assert rows == [f"| {title}" for title in ("distribution", *titles)]
    assert len({line.count("|") for line in first.splitlines() if line.startswith("|")}) == 1
    assert page.read_text() == f"{comparison.BEGIN}\n{first.rstrip()}\n{comparison.END}\n"
    assert len(list((tmp_path / "work").glob("*.npz"))) == 6
    comparison.main(given)
    assert capsys.readouterr().out == first


def test_the_study_has_a_row_per_change_beside_the_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--seeds", "1", "--train", "60", "--valid", "20", "--test", "40", "--epochs", "1"]
    study.main([*given, "--rows", "no_pointer", "shuffled", "--work", str(tmp_path)])
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    titles = [line.split(" | ")[0] for line in table]
    expected = ["what is changed", "**the demo's recipe**", "no pointer", "codes of a visit in random order"]
    assert titles == [f"| {title}" for title in expected]
    assert len({line.count("|") for line in table}) == 1


def test_the_study_of_a_folder_has_no_optimum_and_says_what_counting_reaches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data.stage("simulate", tmp_path / "made", "simulate.patients=100")
    monkeypatch.setattr(study, "OF_SOURCE", {"epochs": 1})
    given = ["--source", str(tmp_path / "made/source"), "--seeds", "1", "2", "--work", str(tmp_path / "work")]
    study.main([*given, "--rows", "no_pointer"])
    said = capsys.readouterr().out
    assert re.search(r"2 random splits .* The demographic unigram has [4-9]\.\d{3}\.", said, re.DOTALL)
    table = [line.split(" | ") for line in said.splitlines() if line.startswith("| ")]
    assert [cells[0] for cells in table] == ["| what is changed", "| **the demo's recipe**", "| no pointer"]
    assert [cells[4] for cells in table[1:]] == ["", ""]


def test_splits_have_about_the_sizes_asked_for(tmp_path: Path) -> None:
    made = cohort.simulated(tmp_path, 400, 1, cohort.split_of(200, 80, 120))
    sizes = [len(made.train), len(made.valid), len(made.test)]
    assert sizes == [pytest.approx(size, abs=30) for size in (200, 80, 120)]
