"""The token store and the plan of an epoch."""

import numpy as np
import pytest

from promptehr.model.batches import (
    CONDITIONS,
    DENOISE,
    HISTORY,
    PROMPT,
    Plan,
    derived_seed,
    plan_epoch,
    steps_per_epoch,
)
from tests.model_builders import MASK, SIZE, UNKNOWN, random_patients, store

MIX = {"prompt": 0.5, "history": 0.25, "denoise": 0.25}


def plan(count: int = 200, *, size: int = 16, seed: int = 1, epoch: int = 0, mix: object = None) -> Plan:
    patients = store(*random_patients(count, seed=7))
    return plan_epoch(patients, mix or MIX, batch_patients=size, seed=seed, epoch=epoch)  # type: ignore[arg-type]


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
    assert steps_per_epoch(store(*random_patients(33, seed=1)), 16) == 3
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
    alone = plan(mix={"prompt": 1.0, "history": 0.0, "denoise": 0.0})
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
    made, lengths = plan(), store(*random_patients(200, seed=7)).lengths
    spread = [np.ptp(lengths[step.rows.numpy()]) for step in made.steps]
    assert np.mean(spread) < 0.2 * np.ptp(lengths)
    means = [lengths[step.rows.numpy()].mean() for step in made.steps]
    assert means != sorted(means)


def test_widths_are_those_of_the_longest_patient() -> None:
    patients = [[[6, 7, 8]], [[6]], [[6], [7]]]
    for name, encoder, decoder in (("prompt", 2, 7), ("denoise", 8, 7)):
        mix = dict.fromkeys(CONDITIONS, 0.0) | {name: 1.0}
        made = plan_epoch(store(*patients), mix, batch_patients=3, seed=1, epoch=0)  # type: ignore[arg-type]
        assert [(step.encoder_width, step.decoder_width) for step in made.steps] == [(encoder, decoder)]
        assert made.labels_per_step == 6 + 4 + 7


def test_the_useful_share_counts_padding() -> None:
    mix = {"prompt": 1.0, "history": 0.0, "denoise": 0.0}
    made = plan_epoch(store([[6]], [[6, 7, 8]]), mix, batch_patients=2, seed=1, epoch=0)  # type: ignore[arg-type]
    assert made.useful_share == (4 + 6) / (2 * 6)
    assert made.labels_per_step == 10


def test_seeds_of_purposes_and_steps_differ() -> None:
    seeds = {derived_seed(s, p, k) for s in (1, 2) for p in ("noise", "dropout") for k in range(50)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(1, "noise", 0) == 751824365871223921
