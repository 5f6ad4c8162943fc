"""Likelihood metrics against numbers computed by hand on three patients."""

import numpy as np
import pytest

from promptehr.metrics import likelihood
from promptehr.metrics.likelihood import Classes, Resamples, Scores
from promptehr.tokens import Vocabulary
from tests.model_builders import CODES, UNKNOWN, cohort

VOCABULARY = Vocabulary(CODES, age_mean=60.0, age_spread=20.0, demographics=())
# Tokens: BOS <v> 6 <\v> END; BOS <v> 7 8 <\v> <v> 9 <\v> END; BOS <v> 6 <unk> <\v> END.
THREE = cohort([[6]], [[7, 8], [9]], [[6, UNKNOWN]])
CLASSES = Classes.of(THREE, VOCABULARY)
RESAMPLES = Resamples(3, resamples=200, seed=1)


def scores(code: float, structure: float = 0.5) -> Scores:
    """The same probability for every code, and for every structure token."""
    log_prob = np.where(CLASSES.codes, np.log(code), np.log(structure))
    return Scores(log_prob, CLASSES.named()["all"])


def test_classes_leave_out_bos_and_unknown_codes() -> None:
    assert CLASSES.codes.sum() == 5
    assert CLASSES.structure.sum() == 11
    assert not (CLASSES.codes | CLASSES.structure)[THREE.tokens == UNKNOWN].any()


def test_nll_is_a_mean_over_tokens_and_not_over_patients() -> None:
    log_prob = np.zeros(len(THREE.tokens))
    # One code of patient 1 has 1/8, the three of patient 2 have 1/2, the one of patient 3 has 1.
    log_prob[2] = np.log(1 / 8)
    log_prob[[7, 8, 11]] = np.log(1 / 2)
    found = likelihood.measured(Scores(log_prob, CLASSES.codes), CLASSES, THREE, RESAMPLES)
    assert found["codes"]["nll"] == pytest.approx((np.log(8) + 3 * np.log(2)) / 5)
    assert found["codes"]["perplexity"] == pytest.approx(64 ** (1 / 5))
    assert found["codes"]["tokens"] == 5
    assert found["structure"]["nll"] is None
    assert "no token" in found["structure"]["reason"]


def test_a_uniform_distribution_has_the_perplexity_of_its_size() -> None:
    found = likelihood.measured(scores(1 / 6, 1 / 6), CLASSES, THREE, RESAMPLES)
    assert {kind: found[kind]["perplexity"] for kind in found} == pytest.approx(
        {"all": 6.0, "codes": 6.0, "structure": 6.0}
    )
    assert found["codes"]["interval"] == pytest.approx([np.log(6), np.log(6)])


def test_accuracy_is_the_share_of_scored_tokens() -> None:
    right = np.zeros(len(THREE.tokens), dtype=bool)
    right[[2, 7]] = True
    marked = Scores(scores(0.5).log_prob, CLASSES.named()["all"], top1=right, top10=right | CLASSES.codes)
    found = likelihood.measured(marked, CLASSES, THREE, RESAMPLES)
    assert (found["codes"]["accuracy"], found["codes"]["top10_accuracy"]) == (2 / 5, 1.0)
    assert found["all"]["accuracy"] == 2 / 16


@pytest.mark.parametrize(("code", "closed"), [(1 / 8, 0.0), (1 / 2, 1.0), (1 / 4, 0.5), (1 / 16, -0.5)])
def test_the_gap_closed_is_0_at_the_baseline_and_1_at_the_optimum(code: float, closed: float) -> None:
    found = likelihood.gap_closed(scores(code), scores(1 / 8), scores(1 / 2), CLASSES.codes, THREE, RESAMPLES)
    assert found["value"] == pytest.approx(closed)
    assert found["interval"] == pytest.approx([closed, closed])


def test_without_a_gap_there_is_no_share_of_it() -> None:
    found = likelihood.gap_closed(scores(0.5), scores(0.5), scores(0.5), CLASSES.codes, THREE, RESAMPLES)
    assert found["value"] is None
    assert found["reason"]


@pytest.mark.parametrize(("model", "alarm"), [(0.1, False), (0.2, False), (0.9, True)])
def test_the_alarm_is_on_where_the_model_beats_the_optimum(model: float, alarm: bool) -> None:
    many = cohort(*[[[6], [7]] if place % 2 else [[6, 7, 8]] for place in range(200)])
    classes = Classes.of(many, VOCABULARY)
    noise = np.random.default_rng(1).normal(0, 0.3, len(many.tokens))
    best = Scores(np.full(len(many.tokens), np.log(0.2)) + noise, classes.codes)
    found = likelihood.leak_alarm(
        Scores(np.full(len(many.tokens), np.log(model)), classes.codes), best, classes.codes, many
    )
    assert found["alarm"] is alarm


def test_a_mean_has_the_interval_of_its_patients() -> None:
    found = likelihood.mean(np.array([1.0, 2.0, 6.0]), RESAMPLES)
    assert found["value"] == pytest.approx(3.0)
    assert 1.0 <= found["interval"][0] < 3.0 < found["interval"][1] <= 6.0


def test_a_share_is_of_the_sums_and_null_where_there_is_nothing_to_share() -> None:
    whole = np.array([1.0, 3.0, 4.0])
    found = likelihood.share(whole / 2, whole, RESAMPLES)
    assert (found["value"], found["interval"]) == (0.5, [0.5, 0.5])
    assert likelihood.share(whole, -whole, RESAMPLES)["value"] is None


def test_later_visits_are_those_after_the_first() -> None:
    later = likelihood.later_visits(THREE)
    assert THREE.tokens[later].tolist() == [3, 9, 4, 5]


def test_the_bootstrap_repeats_with_its_seed() -> None:
    ones, values = np.ones(3), np.array([1.0, 2.0, 6.0])
    one, two = (Resamples(3, resamples=300, seed=1).ratio(values, ones) for _ in range(2))
    assert one.tolist() == two.tolist()
    assert len(one) == 300
    assert one.mean() == pytest.approx(3.0, abs=0.3)


def test_resamples_that_are_not_kept_are_drawn_again_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    ones, values = np.ones(3), np.array([1.0, 2.0, 6.0])
    kept = Resamples(3, resamples=300, seed=1)
    monkeypatch.setattr(likelihood, "MOST_KEPT", 899)
    drawn = Resamples(3, resamples=300, seed=1)
    assert (kept.kept is None, drawn.kept is None) == (False, True)
    for _ in range(2):
        assert drawn.ratio(values, ones).tolist() == kept.ratio(values, ones).tolist()
