"""Utility numbers against values computed by hand."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from promptehr.icd9 import Group
from promptehr.metrics import bootstrap
from promptehr.metrics.incidence import Patients, catalogue
from promptehr.metrics.utility import Task, Visits, areas, tasks, utility
from tests.record_builders import frame, patient

HEART, LUNG = "Diseases of the circulatory system", "Diseases of the respiratory system"
GROUPS = {
    "4019": Group(98, "Essential hypertension", HEART, True),
    "41401": Group(101, "Coronary atherosclerosis", HEART, True),
    "41071": Group(100, "Acute myocardial infarction", HEART, False),
    "496": Group(127, "COPD", LUNG, True),
}


def visits(of: pl.DataFrame, codes: tuple[str, ...]) -> Visits:
    return Visits.first(Patients.from_frame(of, codes))


def test_areas_with_a_tie() -> None:
    # Positives score 3 and 2, negatives 2 and 1: 3.5 of 4 pairs; precision 1 at 3, 2/3 at 2.
    found = areas(np.array([True, False, True, False]), np.array([3.0, 2.0, 2.0, 1.0]), np.ones((1, 4)))
    np.testing.assert_allclose(found, [[3.5 / 4, 0.5 * 1 + 0.5 * 2 / 3]])


def test_weights_are_repeated_patients() -> None:
    labels, scores = np.array([True, False, True]), np.array([1.0, 2.0, 3.0])
    weighted = areas(labels, scores, np.array([[2.0, 1.0, 1.0]]))
    repeated = areas(labels[[0, 0, 1, 2]], scores[[0, 0, 1, 2]], np.ones((1, 4)))
    np.testing.assert_allclose(weighted, repeated)


def test_a_constant_score_is_chance() -> None:
    found = areas(np.array([True, False, False, False]), np.zeros(4), np.ones((1, 4)))
    np.testing.assert_allclose(found, [[0.5, 0.25]])


def test_tasks_are_the_most_frequent_chronic_groups_without_their_chapter() -> None:
    train = frame(patient(["4019", "496", "999"]), patient(["4019", "41401"]), patient(["41071"], ["496"]))
    codes = catalogue(train)
    found = tasks(visits(train, codes), [GROUPS.get(code) for code in codes], count=2)
    assert codes == ("4019", "41071", "41401", "496", "999")
    assert [task.ccs for task in found] == [98, 101]  # 101 and 127 tie: the lower number
    assert found[0].label_codes.tolist() == [True, False, False, False, False]
    # 999 has no group here, so its chapter is unknown.
    assert found[0].feature_codes.tolist() == [False, False, False, True, False]


def test_labels_and_features_come_from_the_first_visit_only() -> None:
    one = frame(patient(["496"], ["4019"], gender="F", age=70.0))
    codes = catalogue(one)
    first = visits(one, codes)
    assert first.codes.toarray().tolist() == [[0.0, 1.0]]
    # male, female, seven age bands, age / 100
    assert first.demographics.toarray().tolist() == [[0, 1, 0, 0, 0, 0, 0, 1, 0, 0.7]]


def linked(count: int, follows: bool, first_id: int = 1) -> pl.DataFrame:
    """Every other patient has 496; 4019 goes with it, or with its absence."""
    return frame(
        *(
            patient((["496"] if place % 2 else ["V5861"]) + (["4019"] if bool(place % 2) == follows else []))
            for place in range(count)
        ),
        first_id=first_id,
    )


def judged(synthetic: pl.DataFrame, train: pl.DataFrame, **changes: Any) -> dict[str, Any]:
    codes = ("4019", "496", "V5861")
    groups = {**GROUPS, "V5861": Group(257, "Other aftercare", "Factors", False)}
    chosen = tasks(visits(train, codes), [groups.get(code) for code in codes], count=1)
    options: dict[str, Any] = {"min_positives": 5, "train_patients": 1000, "resamples": 100, **changes}
    sides = (visits(side, codes) for side in (synthetic, train, linked(40, True)))
    return utility(*sides, chosen, generator=np.random.default_rng(1), **options)


def test_what_synthetic_patients_teach_is_tested_on_real_ones() -> None:
    right, wrong = judged(linked(60, True), linked(60, True)), judged(linked(60, False), linked(60, True))
    assert right["tasks"]["98"]["synthetic"]["auroc"] == 1.0
    assert wrong["tasks"]["98"]["synthetic"]["auroc"] == 0.0
    assert wrong["macro"]["difference"]["auroc"] == -1.0
    assert wrong["macro"]["baseline"]["auroc"] == 0.5
    assert wrong["tasks"]["98"]["positives"] == {"synthetic": 30, "real": 30, "test": 20}


def test_synthetic_patients_without_positives_teach_nothing_and_stay_in_the_mean() -> None:
    found = judged(frame(*(patient(["496"]) for _ in range(60))), linked(60, True))
    assert found["macro"]["n_tasks"] == 1
    assert found["tasks"]["98"]["synthetic"]["auroc"] == 0.5


def test_resamples_held_at_once_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic, train = linked(300, follows=True), linked(300, follows=True, first_id=1000)
    whole = judged(synthetic, train)
    monkeypatch.setattr(bootstrap, "BLOCK", 7)
    assert judged(synthetic, train) == whole


def test_training_sets_are_of_equal_size() -> None:
    assert judged(linked(30, True), linked(60, True))["patients"] == {"synthetic": 30, "real": 30, "test": 40}
    few = judged(linked(30, True), linked(60, True), train_patients=20)
    assert few["patients"] == {"synthetic": 20, "real": 20, "test": 40}


def test_a_task_with_few_positives_is_null_with_the_reason() -> None:
    found = judged(linked(60, True), linked(60, True), min_positives=21)
    assert found["tasks"]["98"]["synthetic"] is None
    assert found["tasks"]["98"]["reason"] == "fewer than 21 positives or negatives in real train or test"
    assert found["macro"] == {
        "n_tasks": 0,
        **dict.fromkeys(("synthetic", "real", "baseline", "difference")),
        "reason": "no task has enough positives",
    }


def test_a_task_knows_its_own_labels() -> None:
    one = visits(frame(patient(["4019"]), patient(["496"])), ("4019", "496"))
    task = Task(98, "", "", np.array([True, False]), np.array([False, True]))
    assert task.labels(one).tolist() == [True, False]
    assert task.features(one).toarray()[:, -1].tolist() == [0.0, 1.0]
