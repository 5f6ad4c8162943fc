"""Privacy numbers against values computed by hand, and attacks against planted publishers."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from promptehr.metrics import neighbours
from promptehr.metrics.attributes import attributes, f1, guesses
from promptehr.metrics.controls import doubt
from promptehr.metrics.incidence import catalogue
from promptehr.metrics.membership import p_value, rates
from promptehr.metrics.neighbours import nearest, nearest_row
from promptehr.metrics.privacy import adversarial_accuracy, distances, gate, privacy
from promptehr.metrics.records import Records, copies
from tests.record_builders import cohort, frame, patient

CODES = [str(code) for code in range(4000, 4300)]


def records(*frames: pl.DataFrame, min_codes: int = 1) -> list[Records]:
    codes = catalogue(*frames)
    return [Records.from_frame(one, codes, min_codes=min_codes) for one in frames]


def test_nearest_is_the_jaccard_distance_of_code_sets() -> None:
    ours = frame(patient(["A", "B"]), patient(["A"], ["A"]), patient(["D"]))
    queries, references = records(ours, frame(patient(["A"], ["B", "C"]), patient(["E"])))
    assert nearest(queries.ever, references.ever).tolist() == pytest.approx([1 / 3, 2 / 3, 1.0])


@pytest.mark.parametrize("name", ["BLOCK", "PAIRS"])
def test_pairs_compared_at_once_change_no_distance(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, references = records(cohort(40, 1, CODES), cohort(30, 2, CODES, first_id=100))
    whole = [f(queries.ever, references.ever).tolist() for f in (nearest, nearest_row)]
    whole.append(nearest(queries.ever, queries.ever, own=np.arange(40)).tolist())
    monkeypatch.setattr(neighbours, name, 7)
    assert [f(queries.ever, references.ever).tolist() for f in (nearest, nearest_row)] == whole[:2]
    assert nearest(queries.ever, queries.ever, own=np.arange(40)).tolist() == whole[2]


def test_a_patient_is_not_its_own_neighbour_but_its_twin_is() -> None:
    (twins,) = records(frame(patient(["A", "B"]), patient(["B"], ["A"]), patient(["A"])))
    assert nearest(twins.ever, twins.ever, own=np.arange(3)).tolist() == [0.0, 0.0, 0.5]


def test_copies_have_the_same_visits_in_whatever_order_of_codes() -> None:
    train = frame(patient(["A", "B"], ["C"]), patient(["D"]))
    synthetic = frame(
        patient(["B", "A"], ["C"], gender="F", age=3.0),
        patient(["C"], ["A", "B"]),
        patient(["A", "B", "C"]),
        patient(["D"]),
    )
    found = copies(*records(synthetic, train, frame(patient(["X", "Y", "Z"])), min_codes=3))
    assert found["synthetic"] == {"records": 3, "copies": 1, "share": 1 / 3}
    assert found["held_out"] == {"records": 1, "copies": 0, "share": 0.0}
    assert found["excess"] == 1 / 3


def test_copies_without_long_records_are_null_with_the_reason() -> None:
    short = frame(patient(["A"]))
    found = copies(*records(short, short, short, min_codes=2))
    assert (found["excess"], found["alarm"], found["synthetic"]["share"]) == (None, None, None)
    assert found["reason"] == "no record with codes enough among the synthetic or the held-out ones"


def test_auc_and_tpr_of_three_members_and_three_others() -> None:
    # 8.5 of 9 pairs; two of three members lie before the first other, then 0.01 x 3 of the next.
    auc, tpr = rates(np.array([0.0, 0.0, 0.5]), np.array([0.5, 1.0, 1.0]))
    assert auc == pytest.approx(8.5 / 9)
    assert tpr == pytest.approx(2 / 3 + 0.03 / 3)


def test_equal_distances_tell_nothing() -> None:
    assert rates(np.full(5, 0.3), np.full(5, 0.3)) == pytest.approx((0.5, 0.01))


def test_distance_zero_counts() -> None:
    assert rates(np.zeros(5), np.ones(5)) == (1.0, 1.0)


def test_p_value_is_small_for_members_found_and_one_for_members_hidden() -> None:
    near, far = np.linspace(0.0, 0.4, 50), np.linspace(0.5, 1.0, 50)
    generator = np.random.default_rng(1)
    assert p_value(near, far, resamples=99, generator=generator) == 0.01
    assert p_value(far, near, resamples=99, generator=generator) == 1.0


def test_adversarial_accuracy_of_copies() -> None:
    train, held_out = frame(patient(["A"]), patient(["B"])), frame(patient(["C"]), patient(["D"]))
    found = adversarial_accuracy(*records(train, train, held_out), most=1000, resamples=100, seed=1)
    assert {name: found[name]["value"] for name in ("train", "held_out", "privacy_loss")} == {
        "train": 0.0,
        "held_out": 0.5,
        "privacy_loss": 0.5,
    }


def test_nearest_neighbours_of_copies_are_training_patients() -> None:
    train, held_out = frame(patient(["A"]), patient(["B"])), frame(patient(["A", "C"]), patient(["D"]))
    found = distances(*records(train, train, held_out), most=1000, resamples=100, seed=1)
    assert found["closer_to_train"]["value"] == 1.0
    assert (found["synthetic_to_train"]["mean"], found["synthetic_to_held_out"]["mean"]) == (0.0, 0.75)
    assert found["held_out_to_train"]["mean"] == 0.75


def test_a_tie_between_training_and_held_out_counts_half() -> None:
    train, held_out = frame(patient(["A"]), patient(["B"])), frame(patient(["A"]), patient(["C"]))
    synthetic = frame(patient(["A"]), patient(["D"]), patient(["B"]), patient(["B", "C", "A"]))
    found = distances(*records(synthetic, train, held_out), most=1000, resamples=100, seed=1)
    assert found["closer_to_train"]["value"] == (0.5 + 0.5 + 1.0 + 0.5) / 4


TRAIN, HELD_OUT = cohort(800, 1, CODES), cohort(400, 2, CODES, first_id=5000)
PUBLISHERS = {
    "honest": (cohort(800, 3, CODES), True),
    "held-out": (HELD_OUT.sample(800, with_replacement=True, seed=1), True),
    "memoriser": (TRAIN, False),
    "copies of 5 %": (pl.concat([TRAIN.head(40), cohort(760, 3, CODES)]), False),
}


def judged(synthetic: pl.DataFrame, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "min_members": 100,
        "attacked_patients": 10_000,
        "resamples": 100,
        "seed": 1,
        **changes,
    }
    return privacy(*records(synthetic, TRAIN, HELD_OUT, min_codes=5), **options)


@pytest.mark.parametrize("publisher", PUBLISHERS)
def test_the_gate_stops_copiers_and_no_one_else(publisher: str) -> None:
    synthetic, passes = PUBLISHERS[publisher]
    found = judged(synthetic)
    assert found["gate"]["passed"] is passes
    assert found["planted"]["controls"]["0"]["flagged"] <= 2
    assert [found["planted"]["controls"][share]["flagged"] for share in ("0.05", "1")] == [20, 20]


@pytest.mark.parametrize("publisher", PUBLISHERS)
def test_a_draw_of_attacked_patients_gives_the_same_verdict(publisher: str) -> None:
    synthetic, passes = PUBLISHERS[publisher]
    found = judged(synthetic, attacked_patients=150)
    assert found["gate"]["passed"] is passes
    asked = [found["membership"]["members"], found["membership"]["non_members"]]
    context = [found["distances"]["synthetic"], found["adversarial_accuracy"]["asked"]]
    assert [*asked, *context, found["attributes"]["attacked"]] == [150] * 5
    assert found["copies"] == judged(synthetic)["copies"]


def test_a_memoriser_loses_as_much_privacy_by_a_draw_as_by_everybody() -> None:
    three = records(TRAIN, TRAIN, HELD_OUT)
    everybody, draw = (adversarial_accuracy(*three, most=most, resamples=200, seed=1) for most in (400, 100))
    assert everybody["privacy_loss"]["value"] == pytest.approx(0.25, abs=0.05)
    assert draw["privacy_loss"]["interval"][0] > 0.0
    for name in ("train", "held_out", "privacy_loss"):
        assert draw[name]["value"] == pytest.approx(everybody[name]["value"], abs=0.1)


def test_a_drawn_patient_is_not_its_own_neighbour() -> None:
    all_of_them = records(frame(patient(["A"]), patient(["A", "B"]), patient(["A", "B", "C", "D"])))[0].ever
    asked = np.array([2, 0])
    assert nearest(all_of_them[asked], all_of_them, own=asked).tolist() == [0.5, 0.5]
    assert nearest(all_of_them[asked], all_of_them).tolist() == [0.0, 0.0]


def test_few_patients_are_all_attacked() -> None:
    assert judged(PUBLISHERS["honest"][0], attacked_patients=800) == judged(PUBLISHERS["honest"][0])


def test_too_few_members_leave_the_gate_open_with_the_reason() -> None:
    found = judged(PUBLISHERS["honest"][0], min_members=1000)
    assert found["membership"]["auc"] is None
    assert found["planted"]["controls"] is None
    assert found["gate"]["passed"] is None
    assert found["gate"]["reason"] == "400 members and non-members with codes enough, 1000 are needed"


def test_copies_fail_the_gate_even_with_too_few_members() -> None:
    assert judged(TRAIN, min_members=1000)["gate"]["passed"] is False


def controls_with(**flagged: int) -> dict[str, Any]:
    shares = {"honest": "0", "five": "0.05", "all": "1"}
    counts = {"honest": 0, "five": 20, "all": 20, **flagged}
    return {shares[name]: {"repeats": 20, "flagged": count} for name, count in counts.items()}


@pytest.mark.parametrize(
    ("flagged", "reason"),
    [
        ({"honest": 3}, "the attacks flag an honest publisher in 3 of 20 repeats"),
        (
            {"five": 17},
            "the attacks flag a publisher that copies 5 % of the training records in 17 of 20 repeats",
        ),
        ({"all": 19}, "the attacks flag a publisher of the training records in 19 of 20 repeats"),
    ],
)
def test_attacks_that_miss_their_controls_judge_no_one(flagged: dict[str, int], reason: str) -> None:
    planted = {"controls": controls_with(**flagged)}
    quiet = {"alarm": False}
    assert doubt(planted["controls"]) == reason
    assert (gate(quiet, quiet, planted)["passed"], gate(quiet, quiet, planted)["reason"]) == (None, reason)


def test_sound_controls_leave_no_doubt() -> None:
    assert doubt(controls_with()) is None
    assert gate({"alarm": False}, {"alarm": True}, {"controls": controls_with()})["passed"] is False


# --- attribute inference -----------------------------------------------------------------------


def test_the_first_of_equally_near_patients_is_the_nearest() -> None:
    ours = frame(patient(["A", "B"]), patient(["Z"]))
    theirs = frame(patient(["C"]), patient(["A"]), patient(["B"]), patient(["A", "B", "C"]))
    queries, references = records(ours, theirs)
    assert nearest_row(queries.ever, references.ever).tolist() == [3, -1]
    assert nearest_row(queries.ever, references.ever[:3]).tolist() == [1, -1]


def test_rare_codes_are_those_of_the_patient_nearest_in_frequent_ones() -> None:
    # A and B are known. The first target's nearest has X, Y: one right of two guessed, two there.
    targets = frame(patient(["A", "B", "X", "Z"]), patient(["A", "Y"]), patient(["B", "X"]))
    published = frame(patient(["A", "B", "X", "Y"]), patient(["A", "X"]))
    ours, theirs = records(targets, published)
    found = guesses(ours.ever, theirs.ever, np.array([True, True, False, False, False]))
    assert found.tolist() == [[1, 2, 2], [0, 1, 1], [1, 2, 1]]
    assert float(f1(found.sum(axis=0))) == pytest.approx(2 * 2 / (5 + 4))


def rare_and_frequent(count: int, seed: int, first_id: int = 1) -> pl.DataFrame:
    """Patients of some of 30 frequent codes and two of 3,000 rare ones, which nothing foretells."""
    generator = np.random.default_rng(seed)
    return frame(
        *(
            patient(
                [f"F{code}" for code in np.flatnonzero(generator.random(30) < 0.3)]
                + [f"R{code}" for code in generator.choice(3000, 2, replace=False)]
            )
            for _ in range(count)
        ),
        first_id=first_id,
    )


def test_copies_give_rare_codes_away_and_other_patients_do_not() -> None:
    train, held_out, other = (rare_and_frequent(300, seed) for seed in (1, 2, 3))
    ours, theirs, honest = records(train, held_out, other)
    leaked = attributes(ours, ours, theirs, most=1000, resamples=200, seed=1)
    assert leaked["attacked"] == leaked["published"] == 300
    assert leaked["synthetic"] == pytest.approx(1.0, abs=0.02)
    assert leaked["held_out"] < 0.02
    assert leaked["interval"][0] > 0.9
    clean = attributes(honest, ours, theirs, most=1000, resamples=200, seed=1)
    assert clean["interval"][0] <= 0.0 <= clean["interval"][1]


def test_nobody_to_attack_is_null_with_the_reason() -> None:
    (same,) = records(frame(patient(["A"]), patient(["A"])))
    found = attributes(same, same, same, most=1000, resamples=100, seed=1)
    assert (found["excess"], found["reason"]) == (None, "no patient to attack, or none published")
