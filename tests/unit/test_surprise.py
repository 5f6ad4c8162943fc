"""Nats per code of generated patients under the true process, by hand and for known generators."""

import numpy as np
import polars as pl
import pytest

from promptehr.metrics.surprise import Scored, surprise
from promptehr.simulation import fresh
from promptehr.simulation.likelihood import patient_log_probs
from promptehr.stages.evaluate_fidelity import score
from tests.simulation_builders import drawn, tiny


def scored(log_prob: list[float], codes: list[int]) -> Scored:
    return Scored(np.array(log_prob), np.array(codes))


def test_nats_per_code_by_hand() -> None:
    synthetic = scored([-4.0, -np.inf, -8.0], [2, 3, 4])
    found = surprise(
        synthetic, scored([-3.0, -3.0], [2, 1]), generator=np.random.default_rng(1), resamples=100
    )
    assert found["synthetic"]["nats_per_code"] == pytest.approx(12 / 6)
    assert found["synthetic"]["impossible"] == pytest.approx(1 / 3)
    assert (found["new"]["nats_per_code"], found["new"]["impossible"]) == (2.0, 0.0)
    assert found["difference"]["value"] == 0.0
    assert found["new"]["interval"] == [1.5, 3.0]


def test_impossible_patients_alone_are_null_with_the_reason() -> None:
    none = scored([-np.inf], [2])
    found = surprise(none, none, generator=np.random.default_rng(1), resamples=100)
    assert (found["difference"], found["reason"]) == (None, "the process can produce none of the patients")


def test_records_are_scored_as_the_sampler_drew_them() -> None:
    truth = tiny()
    new = fresh.patients(truth, 50, np.random.default_rng(3))
    again = np.random.default_rng(3)
    people = fresh.draw_people(truth, 50, again)
    expected = patient_log_probs(truth, drawn(people, fresh.draw_visits(truth, people, again)))
    found = score(truth, pl.DataFrame(new))
    np.testing.assert_allclose(found.log_prob, expected)
    assert found.codes.sum() == pl.DataFrame(new)["visits"].explode().explode().len()


def test_the_process_surprises_itself_not_at_all_and_shuffled_demographics_do() -> None:
    truth = tiny()
    new, other = (pl.DataFrame(fresh.patients(truth, 3000, np.random.default_rng(seed))) for seed in (1, 2))
    shuffled = other.with_columns(pl.col("age").reverse())
    settings = {"generator": np.random.default_rng(1), "resamples": 200}
    same = surprise(score(truth, other), score(truth, new), **settings)["difference"]
    wrong = surprise(score(truth, shuffled), score(truth, new), **settings)["difference"]
    assert same["interval"][0] < 0.0 < same["interval"][1]
    assert wrong["interval"][0] > 0.0


def test_patients_of_unknown_sex_are_not_scored() -> None:
    truth = tiny()
    new = pl.DataFrame(fresh.patients(truth, 10, np.random.default_rng(3)))
    unknown = new.with_columns(
        gender=pl.when(pl.int_range(pl.len()) < 4).then(pl.lit("UNKNOWN")).otherwise("gender")
    )
    assert len(score(truth, unknown).codes) == 6
