"""Fidelity numbers against values computed by hand."""

import time
from itertools import count
from typing import Any

import numpy as np
import polars as pl
import pytest

from promptehr.metrics import bootstrap, pairs
from promptehr.metrics.fidelity import Cohorts, Draws, agreement, fidelity
from promptehr.metrics.incidence import Patients, catalogue
from promptehr.metrics.pairs import pair_sides
from promptehr.metrics.plausibility import implausible
from tests.record_builders import frame, patient

REAL = frame(patient(["4019", "25000"]), patient(["4019"]), patient(["4019"], ["4280"]))
SYNTHETIC = frame(patient(["4019", "25000"]), patient(["25000"]), patient(["4019", "25000"]))


def cohorts(real: pl.DataFrame, synthetic: pl.DataFrame, ceiling: pl.DataFrame) -> Cohorts:
    codes = catalogue(real, synthetic, ceiling)
    sides = [Patients.from_frame(one, codes) for one in (real, synthetic, ceiling)]
    every = np.ones(len(codes), dtype=np.bool_)
    return Cohorts(*sides, known=every, training_prevalence=np.full(len(codes), 0.5))


def measured(real: pl.DataFrame, synthetic: pl.DataFrame, ceiling: pl.DataFrame) -> dict[str, Any]:
    return fidelity(cohorts(real, synthetic, ceiling), draws=Draws(1, 100), pair_min_patients=1)


def test_agreement_of_three_prevalences() -> None:
    # SSE 6/9, SST 24/81; covariance 6/81 over sqrt(24 x 42)/81; ranks (3, 1.5, 1.5) and (2, 3, 1).
    real, synthetic = np.array([1, 1 / 3, 1 / 3]), np.array([2 / 3, 1, 0])
    np.testing.assert_allclose(agreement(real, synthetic), [-1.25, 6 / np.sqrt(24 * 42), 0.0], atol=1e-12)


def test_prevalence_counts_patients_and_stands_beside_the_ceiling() -> None:
    found = measured(REAL, SYNTHETIC, REAL)["prevalence"]
    assert found["points"] == {"code": ["25000", "4019", "4280"], "real": [1, 3, 1], "synthetic": [3, 2, 0]}
    assert found["r2"] == pytest.approx(-1.25)
    assert found["ceiling"]["r2"] == 1.0
    assert found["difference"]["r2"]["value"] == pytest.approx(-2.25)
    assert found["strata"]["head"]["n_codes"] == 3
    assert found["strata"]["tail"] == {
        "n_codes": 0,
        **dict.fromkeys(("r2", "pearson", "spearman")),
        "ceiling": dict.fromkeys(("r2", "pearson", "spearman")),
        "difference": dict.fromkeys(("r2", "pearson", "spearman")),
        "reason": "fewer than two codes",
    }


def test_equal_synthetic_and_ceiling_differ_by_nothing() -> None:
    codes = ["4019", "25000", "4280"]
    real = frame(*(patient(codes[: 1 + place % 3]) for place in range(60)))
    found = measured(real, real, real)["prevalence"]["difference"]["r2"]
    assert found["value"] == 0.0
    assert found["interval"][0] < 0.0 < found["interval"][1]


def test_prevalence_that_does_not_vary_is_null_with_a_reason() -> None:
    real = frame(patient(["4019", "25000"]), patient(["4019", "25000"]))
    found = measured(real, SYNTHETIC, real)["prevalence"]
    assert (found["r2"], found["ceiling"]["r2"]) == (None, None)
    assert found["reason"] == "the counts of one cohort, or of a resample of it, do not vary"


def test_lengths_are_counted_and_compared_by_total_variation() -> None:
    found = measured(REAL, SYNTHETIC, REAL)
    assert found["visits_per_patient"]["histogram"] == {
        "real": {"1": 2, "2": 1},
        "synthetic": {"1": 3},
        "ceiling": {"1": 2, "2": 1},
    }
    assert found["visits_per_patient"]["total_variation"] == pytest.approx(1 / 3)
    # Real visits have 2, 1, 1, 1 codes, synthetic ones 2, 1, 2.
    assert found["codes_per_visit"]["total_variation"] == pytest.approx(2 / 3 - 1 / 4)
    assert found["codes_per_visit"]["mean"] == {"real": 5 / 4, "synthetic": 5 / 3, "ceiling": 5 / 4}


@pytest.mark.parametrize(
    ("name", "real", "synthetic"),
    [
        # 25000+4019 in one visit of patient 1; 4019 then 4280 in patient 3.
        ("same_visit", [[1], [0], [0]], [[1], [0], [1]]),
        ("next_visit", [[0], [0], [1]], [[0], [0], [0]]),
    ],
)
def test_pairs_are_those_of_one_visit_or_of_consecutive_ones(
    name: str, real: list[list[int]], synthetic: list[list[int]]
) -> None:
    three = cohorts(REAL, SYNTHETIC, REAL)
    sides = pair_sides(three.real, three.synthetic, three.ceiling, name=name, min_patients=1)
    assert sides.real.toarray().tolist() == real
    assert sides.synthetic.toarray().tolist() == synthetic


def test_rare_pairs_are_left_out() -> None:
    three = cohorts(REAL, SYNTHETIC, REAL)
    sides = pair_sides(three.real, three.synthetic, three.ceiling, name="same_visit", min_patients=2)
    assert sides.real.shape == (3, 0)


def test_implausible_codes_are_counted_in_their_group_only() -> None:
    strange = frame(
        patient(["64001"], gender="M"),
        patient(["4019"], ["V270"], gender="M"),
        patient(["V290", "68110"], gender="M", age=0.0),
        patient(["60000", "64001"], gender="F"),
        patient(["V3000"], gender="F", age=17.9),
        patient(["V3000"], gender="UNKNOWN", age=18.0),
    )
    patients = Patients.from_frame(strange, catalogue(strange))
    found = implausible(patients, patients, patients)
    counts = {
        rule: (block["synthetic"]["patients"], block["synthetic"]["affected"])
        for rule, block in found.items()
    }
    assert counts == {
        "males_with_pregnancy": (3, 2),
        "females_with_male_only": (2, 1),
        "adults_with_perinatal": (4, 1),
    }
    assert found["males_with_pregnancy"]["excess"]["value"] == 0.0


def test_a_group_without_patients_has_no_share() -> None:
    men = Patients.from_frame(REAL, catalogue(REAL))
    found = implausible(men, men, men)["females_with_male_only"]
    assert found["real"] == {
        "patients": 0,
        "affected": 0,
        "share": None,
        "interval": None,
        "reason": "no patient of the group",
    }


def test_wilson_interval_of_nothing_in_ten() -> None:
    assert bootstrap.wilson(0, 10) == pytest.approx((0.0, 3.841459 / 13.841459))


def test_newcombe_interval_of_his_first_example() -> None:
    # 56/70 against 48/80: 0.0524 to 0.3339 (Newcombe 1998, table II, method 10).
    assert bootstrap.newcombe(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_a_centred_interval_is_moved_to_the_value() -> None:
    # Draws 0 to 100 have mean 50, 2.5th percentile 2.5 and 97.5th 97.5.
    assert bootstrap.centred(np.arange(101.0), 10.0) == pytest.approx([-37.5, 57.5])
    assert bootstrap.centred(np.array([1.0, np.nan]), 1.0) is None


def test_bootstrap_weights_draw_as_many_patients_as_there_are() -> None:
    drawn = bootstrap.weights(np.random.default_rng(1), 7, 5)
    assert drawn.shape == (5, 7)
    assert drawn.sum(axis=1).tolist() == [7.0] * 5


@pytest.mark.parametrize("name", ["same_visit", "next_visit"])
def test_how_many_patients_form_their_pairs_at_once_changes_no_pair(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = [patient(["A", "B"], ["A", "C"]), patient(["C"]), patient(["B", "A"], ["B"], ["A", "C", "D"])]
    side = Patients.from_frame(frame(*people, *people), "ABCD")
    whole = pair_sides(side, side, side, name=name, min_patients=2)
    assert whole.real.shape == (6, 4 if name == "same_visit" else 7)
    monkeypatch.setattr(pairs, "BLOCK", 4)
    parts = pair_sides(side, side, side, name=name, min_patients=2)
    for one, other in zip(vars(parts).values(), vars(whole).values(), strict=True):
        assert one.toarray().tolist() == other.toarray().tolist()


def test_how_many_counts_are_held_at_once_changes_no_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = Patients.from_frame(frame(*(patient([code]) for code in "ABCAB")), "ABC").ever()
    whole = bootstrap.resampled_means(np.random.default_rng(1), matrix, 9)
    assert whole[0] == pytest.approx(bootstrap.weights(np.random.default_rng(1), 5, 1)[0] @ matrix / 5)
    monkeypatch.setattr(bootstrap, "COUNTS", 10)
    assert bootstrap.resampled_means(np.random.default_rng(1), matrix, 9).tolist() == whole.tolist()


def test_blocks_of_resamples_are_counted_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = count(0, 20)
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    with caplog.at_level("INFO"):
        assert list(bootstrap.blocks(120, "3 tasks")) == [50, 50, 20]
    assert caplog.messages == ["2 of 3 blocks of resamples, 3 tasks"]


def test_implausible_icd10_codes_are_found_and_not_read_as_icd9() -> None:
    codes = ("O80", "Z3A40", "Z348", "Z35", "C61", "E030", "P073", "V2209", "N401")
    men = frame(*(patient([f"ICD10:{code}"]) for code in codes))
    women = frame(*(patient([f"ICD10:{code}"], gender="F") for code in codes))
    shared = catalogue(men, women)
    found = implausible(*(Patients.from_frame(side, shared) for side in (men, women, men)))
    assert found["males_with_pregnancy"]["real"]["affected"] == 3
    assert found["females_with_male_only"]["synthetic"]["affected"] == 2
    assert found["adults_with_perinatal"]["real"]["affected"] == 1


def test_implausible_ccs_groups_are_found_where_records_hold_groups() -> None:
    men = frame(patient(["CCS181"]), patient(["CCS29"]), patient(["CCS18"]), patient(["CCS290"]))
    women = frame(*(patient([code], gender="F") for code in ("CCS29", "CCS290", "CCS31", "CCS164")))
    codes = catalogue(men, women)
    found = implausible(*(Patients.from_frame(side, codes) for side in (men, women, men)))
    assert found["males_with_pregnancy"]["real"]["affected"] == 1
    assert found["females_with_male_only"]["synthetic"]["affected"] == 3
    assert found["adults_with_perinatal"]["real"]["affected"] == 0
