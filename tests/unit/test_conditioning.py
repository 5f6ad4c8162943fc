"""Swaps and gains: a planted model that knows one fact about one feature."""

from typing import Any

import numpy as np
import pytest
import torch

from promptehr.model import conditioning
from promptehr.tokens import Cohort, Vocabulary
from tests.model_builders import CODES, SIZE, cohort, random_patients

VOCABULARY = Vocabulary(CODES, age_mean=60.0, age_spread=20.0, demographics=())


class Believer(torch.nn.Module):
    """Says code 6 four times as often as the others to patients with a positive value of a feature."""

    device = torch.device("cpu")

    def __init__(self, feature: str):
        super().__init__()
        self.feature = feature

    def forward(
        self,
        x_num: torch.Tensor,
        x_cat: torch.Tensor,
        decoder_input_ids: torch.Tensor,
        answers: torch.Tensor,
        **_: Any,
    ) -> Any:
        value = {"gender": x_cat[:, 0], "ethnicity": x_cat[:, 1], "age": x_num[:, 0]}[self.feature]
        logits = torch.zeros(*decoder_input_ids.shape, SIZE)
        logits[:, :, 6] = torch.where(value > 0, np.log(4.0), 0.0)[:, None]
        log_p = logits[..., 3:-2].log_softmax(-1)  # over <v>, <\\v>, END and the codes
        chosen = log_p.gather(2, (answers - 3).clamp(min=0)[..., None])[..., 0]
        return type("Output", (), {"logits": chosen})


def scorer(feature: str) -> conditioning.Scorer:
    return conditioning.Scorer(Believer(feature), VOCABULARY)  # type: ignore[arg-type]


def people(count: int = 60) -> Cohort:
    """Those of odd number are women; who has code 6 is one, at any age."""
    made = cohort(*random_patients(count, seed=1))
    has = np.array([6 in made.tokens[a:b] for a, b in zip(made.offsets, made.offsets[1:], strict=False)])
    return Cohort(
        subject_id=made.subject_id,
        age_z=np.linspace(-2, 2, count, dtype=np.float32),
        gender_id=has.astype(np.int64),
        ethnicity_id=made.ethnicity_id,
        tokens=made.tokens,
        offsets=made.offsets,
    )


def test_a_swap_costs_where_the_model_heeds_the_feature_and_nowhere_else() -> None:
    found = conditioning.swaps(scorer("gender"), people(), seed=1)
    assert found["gender"].mean() > 0.1
    assert not found["age"].any()
    assert not found["ethnicity"].any()


def test_a_model_gains_what_the_mixture_over_the_feature_does_not_know() -> None:
    patients = people()
    found = conditioning.gains(scorer("gender"), patients, patients)
    assert found["age"] == pytest.approx(np.zeros(60), abs=1e-9)
    assert found["ethnicity"] == pytest.approx(np.zeros(60), abs=1e-9)
    first = patients.take(np.arange(1))
    own, other = (
        scorer("gender").log_p(Cohort(**{**vars(first), "gender_id": np.array([value])}))
        for value in (first.gender_id[0], 1 - first.gender_id[0])
    )
    band = patients.age_z < (40 - 60) / 20  # the first patient is 20, of the band from 18 to 40
    same = (patients.gender_id[band] == first.gender_id[0]).sum()
    share = (same + (patients.gender_id == first.gender_id[0]).mean()) / (band.sum() + 1)
    expected = own - np.log(share * np.exp(own) + (1 - share) * np.exp(other))
    assert found["gender"][0] == pytest.approx(expected[0])


def test_a_feature_that_misleads_has_a_negative_gain() -> None:
    patients = people()
    wrong = Cohort(**{**vars(patients), "gender_id": 1 - patients.gender_id})
    assert conditioning.gains(scorer("gender"), wrong, wrong)["gender"].mean() < 0


def test_ages_are_mixed_over_those_of_the_training_patients() -> None:
    patients = people()
    found = conditioning.gains(scorer("age"), patients, patients)["age"]
    old = [
        scorer("age").log_p(Cohort(**{**vars(patients), "age_z": patients.age_z * 0 + age}))
        for age in (-1, 1)
    ]
    known = np.where(patients.age_z > 0, old[1], old[0])
    assert found == pytest.approx(known - np.log((np.exp(old[0]) + np.exp(old[1])) / 2))


def test_patients_are_taken_with_all_they_have() -> None:
    patients = people(6)
    found = patients.take(np.array([4, 1]))
    assert found.subject_id.tolist() == [5, 2]
    for place, row in enumerate((4, 1)):
        expected = patients.tokens[patients.offsets[row] : patients.offsets[row + 1]]
        assert found.tokens[found.offsets[place] : found.offsets[place + 1]].tolist() == expected.tolist()
        assert found.age_z[place] == patients.age_z[row]
