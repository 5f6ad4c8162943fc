"""The token store and the plan of an epoch."""

from typing import Any

import numpy as np
import pytest
import torch

from promptehr.model.batches import (
    BUCKETS,
    CONDITIONS,
    DENOISE,
    HISTORY,
    PROMPT,
    Condition,
    Plan,
    derived_seed,
    epoch_starts,
    plan_epoch,
)
from promptehr.settings import Train
from tests.model_builders import MASK, SIZE, UNKNOWN, random_patients, store

ONLY_PROMPT = {"prompt": 1.0, "history": 0.0, "denoise": 0.0}


def plan(count: int = 200, *, epoch: int = 0, static: bool = False, **changes: Any) -> Plan:
    patients = store(*random_patients(count, seed=7))
    return plan_epoch(patients, Train.model_validate(changes), epoch=epoch, static=static)


def flat(made: Plan, name: str) -> list[int]:
    return np.concatenate([getattr(step, name).numpy() for step in made.steps]).tolist()


def test_the_store_knows_where_visits_and_patients_begin() -> None:
    made = store([[6, 7], [8]], [[9]])
    assert made.tokens.tolist() == [1, 3, 6, 7, 4, 3, 8, 4, 5, 1, 3, 9, 4, 5]
    assert made.offsets.tolist() == [0, 9, 14]
    assert made.visit_starts.tolist() == [1, 5, 8, 10, 13]  # each <v>, then END
    assert made.visit_offsets.tolist() == [0, 3, 5]
    assert (made.lengths.tolist(), made.visits.tolist()) == ([9, 5], [2, 1])
    assert (made.x_num.tolist(), made.x_cat.tolist()) == ([[0.0], [0.5]], [[0, 0], [1, 1]])
    assert (len(made), made.mask, made.unknown) == (2, MASK, UNKNOWN)
    assert made.vocabulary_size == SIZE


def test_places_count_the_tokens_before_a_visit() -> None:
    made = store([[6, 7], [8]], [[9]])
    assert made.places(np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 0, 1])).tolist() == [1, 5, 8, 1, 4]


def test_every_patient_is_trained_on_once_per_epoch() -> None:
    assert sorted(flat(plan(), "rows")) == list(range(200))
    assert sorted(flat(plan(batch_patients=None, batch_tokens=100), "rows")) == list(range(200))
    assert len(plan(33).steps) == 3


def test_a_plan_is_a_function_of_seed_and_epoch() -> None:
    def order(made: Plan) -> tuple[list[int], list[int], list[int]]:
        return flat(made, "rows"), flat(made, "condition"), flat(made, "first")

    assert order(plan()) == order(plan())
    assert order(plan(seed=2)) != order(plan())
    assert order(plan(epoch=1)) != order(plan())


def test_conditions_are_drawn_by_their_weights() -> None:
    share = np.bincount(flat(plan(2000), "condition"), minlength=3) / 2000
    assert share == pytest.approx([0.5, 0.25, 0.25], abs=0.04)
    alone = plan(conditions=ONLY_PROMPT)
    assert set(flat(alone, "condition")) == {PROMPT}


def test_what_each_condition_shows_and_asks_for() -> None:
    made, visits = plan(2000), store(*random_patients(2000, seed=7)).visits
    columns = [flat(made, name) for name in ("rows", "condition", "visible", "first", "corrupted")]
    for row, condition, visible, first, corrupted in zip(*columns, strict=True):
        expected = {
            PROMPT: (0, 0, False),
            HISTORY: (first, first, False),
            DENOISE: (visits[row], 0, True),
        }[condition]
        assert (visible, first, corrupted) == expected
        assert condition != HISTORY or 1 <= first <= visits[row]


def test_history_splits_reach_every_visit_and_the_end() -> None:
    made, visits = plan(2000), store(*random_patients(2000, seed=7)).visits
    columns = [flat(made, name) for name in ("rows", "condition", "first")]
    splits = {(int(visits[row]), first) for row, c, first in zip(*columns, strict=True) if c == HISTORY}
    assert splits == {(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)}


def test_batches_hold_patients_of_similar_length_in_random_order() -> None:
    made, lengths = plan(conditions=ONLY_PROMPT), store(*random_patients(200, seed=7)).lengths
    spread = [np.ptp(lengths[step.rows.numpy()]) for step in made.steps]
    assert np.mean(spread) < 0.2 * np.ptp(lengths)
    means = [lengths[step.rows.numpy()].mean() for step in made.steps]
    assert means != sorted(means)


def test_widths_are_those_of_the_longest_patient() -> None:
    patients = [[[6, 7, 8]], [[6]], [[6], [7]]]
    for name, encoder, decoder in (("prompt", 2, 7), ("denoise", 8, 7)):
        made = plan_epoch(store(*patients), only(name, batch_patients=3), epoch=0)
        assert [(step.encoder_width, step.decoder_width) for step in made.steps] == [(encoder, decoder)]
        assert made.labels_per_step == 6 + 4 + 7


def only(condition: Condition, **changes: Any) -> Train:
    """Train settings with a single condition; `prompt` is left a weight that no draw meets."""
    weights = {name: float(name == condition) for name in CONDITIONS} | {"prompt": 1e-12}
    return Train.model_validate({"conditions": weights, **changes})


def test_the_useful_share_counts_padding_and_what_is_not_scored() -> None:
    made = plan_epoch(store([[UNKNOWN]], [[6, 7, 8]]), only("prompt", batch_patients=2), epoch=0)
    assert made.useful_share == (3 + 6) / (2 * 6)
    assert made.labels_per_step == 9


def test_little_is_padding_at_the_reference_s_batch_size() -> None:
    """Lengths as skewed as those of hospital patients: most short, some ten times as long."""
    rng = np.random.default_rng(1)
    lengths = np.minimum(1 + rng.geometric(0.12, size=2000) * rng.choice([1, 8], 2000, p=[0.95, 0.05]), 200)
    patients = store(*[[[6] * int(length)] for length in lengths])
    for changes in ({"batch_patients": 16}, {"batch_patients": None, "batch_tokens": 1024}):
        assert plan_epoch(patients, Train.model_validate(changes), epoch=0).useful_share > 0.85


# --- budgets and static shapes -----------------------------------------------------------------


def test_a_budget_bounds_the_padded_tokens_of_both_sides() -> None:
    made = plan(500, batch_patients=None, batch_tokens=100)
    for step in made.steps:
        assert len(step.rows) * max(step.encoder_width, step.decoder_width) <= 100
    assert len(made.steps) < 500 / 4


def test_epochs_begin_where_the_ones_before_end() -> None:
    patients = store(*random_patients(33, seed=1))
    assert epoch_starts(patients, Train(epochs=3, batch_patients=16)) == [0, 3, 6, 9]
    train = Train(epochs=4, batch_patients=None, batch_tokens=64)
    steps = [len(plan_epoch(patients, train, epoch=epoch).steps) for epoch in range(4)]
    assert epoch_starts(patients, train) == np.cumsum([0, *steps]).tolist()
    assert len(set(steps)) > 1, "the epochs differ, or the test shows nothing"


@pytest.mark.parametrize("size", [{"batch_patients": 16}, {"batch_patients": None, "batch_tokens": 128}])
def test_static_shapes_are_few_and_hold_the_same_batches(size: dict[str, Any]) -> None:
    free, static = plan(500, **size), plan(500, static=True, **size)
    for loose, tight in zip(free.steps, static.steps, strict=True):
        there = tight.present
        assert torch.equal(tight.rows[there], loose.rows)
        assert torch.equal(tight.condition[there], loose.condition)
        assert tight.encoder_width in BUCKETS
        assert tight.decoder_width in BUCKETS
        assert loose.encoder_width <= tight.encoder_width
        assert loose.decoder_width <= tight.decoder_width
    shapes = {(step.encoder_width, step.decoder_width): set[int]() for step in static.steps}
    for step in static.steps:
        shapes[step.encoder_width, step.decoder_width].add(len(step.rows))
    assert all(len(rows) == 1 for rows in shapes.values())
    assert static.labels_per_step == free.labels_per_step
    assert static.useful_share < free.useful_share


def test_a_width_beyond_the_last_bucket_is_a_multiple_of_it() -> None:
    patients = store([[6] * 300], [[6]])
    [step] = plan_epoch(patients, only("denoise", batch_patients=2), epoch=0, static=True).steps
    assert (step.encoder_width, step.decoder_width) == (512, 512)


def test_seeds_of_purposes_and_steps_differ() -> None:
    seeds = {derived_seed(s, p, k) for s in (1, 2) for p in ("noise", "dropout") for k in range(50)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(1, "noise", 0) == 751824365871223921
