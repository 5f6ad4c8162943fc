"""Offsets by demographics: what is counted, how it is shrunk, and where it enters the logits."""

from pathlib import Path

import numpy as np
import pytest
import torch

from promptehr import tokens
from promptehr.model import load, offsets, promptbart
from promptehr.model.batches import TokenStore
from promptehr.model.config import from_settings
from promptehr.tokens import ETHNICITIES, FIRST_CODE, GENDERS, Cohort, Vocabulary
from tests.model_builders import sequence, tiny_train

# Ids 6 to 25: ten codes of one clinical group, then ten each in a group of its own.
CODES, GROUPS = 20, np.array([0] * 10 + list(range(1, 11)))
SIZE = 6 + CODES + 2
VOCABULARY = Vocabulary((), age_mean=50.0, age_spread=20.0, demographics=())
EDGES = offsets.age_edges(VOCABULARY)
MALE, FEMALE = (len(EDGES) + 1 + GENDERS.index(name) for name in ("M", "F"))


def store(*patients: tuple[str, float, list[int]]) -> TokenStore:
    """From sex, age in years and the codes of the only visit."""
    sequences = [sequence([codes]) for _, _, codes in patients]
    people = Cohort(
        subject_id=np.arange(len(patients)) + 1,
        age_z=VOCABULARY.age_z(np.array([age for _, age, _ in patients])),
        gender_id=np.array([GENDERS.index(sex) for sex, _, _ in patients]),
        ethnicity_id=np.zeros(len(patients), dtype=np.int64),
        tokens=np.concatenate(sequences),
        offsets=tokens.offsets_of(np.array([len(one) for one in sequences])),
    )
    return TokenStore.from_cohort(people, "cpu", vocabulary_size=SIZE)


def half_and_half(women: int) -> TokenStore:
    """As many men: everybody has the codes 16 to 19, women one of 6 to 14 each as well."""
    everybody = [16, 17, 18, 19]
    return store(
        *(("F", 60.0, [6 + number % 9, *everybody]) for number in range(women)),
        *(("M", 60.0, everybody) for _ in range(women)),
    )


def test_what_only_one_sex_has_is_ruled_out_for_the_other() -> None:
    found = offsets.counted(half_and_half(90), EDGES, GROUPS).exp()
    assert (found[MALE, 6:15] < 0.05).all()
    assert (found[FEMALE, 6:15] > 1.5).all()
    # Women have five codes, men four: each is a smaller share of a woman's.
    assert found[[MALE, FEMALE], 16:20] == pytest.approx(np.array([[9 / 8] * 4, [9 / 10] * 4]), rel=0.1)


def test_codes_of_one_group_share_their_evidence() -> None:
    """Code 6 has one patient, as code 20 has, but is of a group that only women have."""
    rare = [("F", 60.0, [6, 16]), ("F", 60.0, [20, 16])]
    common = [("F", 60.0, [7 + number % 8, 16]) for number in range(80)]
    found = offsets.counted(
        store(*rare, *common, *(("M", 60.0, [16]) for _ in range(82))), EDGES, GROUPS
    ).exp()
    assert found[MALE, 6] < 0.1
    assert found[MALE, 20] > 3 * found[MALE, 6]


def test_where_nobody_differs_all_factors_are_one() -> None:
    rng = np.random.default_rng(1)
    people = [
        (sex, age, (6 + rng.permutation(CODES)[:6]).tolist())
        for sex in ("M", "F")
        for age in (0.0, 30.0, 89.0)
        for _ in range(100)
    ]
    found = offsets.counted(store(*people), EDGES, GROUPS)
    assert float(found.exp().sub(1).abs().max()) < 0.15
    nobody = [1, 3, 4, 5, *range(MALE + 2, MALE + 2 + len(ETHNICITIES))]  # other ages, no sex, one ethnicity
    assert float(found[nobody].abs().max()) == pytest.approx(0.0, abs=1e-6)


def test_tokens_that_are_no_codes_have_no_factor() -> None:
    found = offsets.counted(half_and_half(30), EDGES, GROUPS)
    assert not found[:, :6].any()
    assert not found[:, 26:].any()


def test_the_factors_have_the_highest_held_out_likelihood_among_more_and_less_shrinking() -> None:
    """Counts from known factors: the posterior means score better than counts, and than no factors."""
    rng = np.random.default_rng(2)
    truth = np.where(rng.random((2, 400)) < 0.9, 1.0, rng.choice([0.05, 4.0], size=(2, 400)))
    expected = rng.gamma(0.5, 6.0, size=400)[None].repeat(2, axis=0) + 0.01
    seen, other = rng.poisson(truth * expected), rng.poisson(truth * expected)

    def held_out(factors: np.ndarray) -> float:
        return float((other * np.log(factors) - factors * expected).sum())

    shrunk = held_out(offsets.factors(seen.astype(float), expected))
    assert shrunk > held_out((seen + 0.5) / (expected + 0.5)) + 20
    assert shrunk > held_out(np.ones_like(expected)) + 20


def test_the_logits_of_each_patient_are_moved_by_its_own_demographics() -> None:
    shape = from_settings(tiny_train(prompt={"length": 0}), SIZE, EDGES)
    kinds = len(EDGES) + 1 + len(GENDERS) + len(ETHNICITIES)
    table = torch.randn(kinds, SIZE, generator=torch.Generator().manual_seed(1))
    with_offsets = promptbart.start(shape, torch.zeros(SIZE), seed=1, offsets=table).eval()
    without = promptbart.start(shape, torch.zeros(SIZE), seed=1).eval()
    age = torch.tensor(VOCABULARY.age_z(np.array([0.0, 0.99, 1.0, 17.9, 18.0, 90.0])))[:, None]
    sex_and_ethnicity = torch.tensor([[0, 5], [1, 2], [2, 0], [0, 1], [1, 1], [0, 0]])
    given = {
        "input_ids": torch.tensor([[1, 2]] * 6),
        "x_num": age,
        "x_cat": sex_and_ethnicity,
        "decoder_input_ids": torch.tensor([[1, 3]] * 6),
    }
    moved = with_offsets(**given).logits[:, 1] - without(**given).logits[:, 1]
    expected = torch.stack(
        [
            table[band] + table[7 + sex] + table[10 + ethnicity]
            for band, (sex, ethnicity) in zip((0, 0, 1, 1, 2, 6), sex_and_ethnicity.tolist(), strict=True)
        ]
    )
    # The logits are log-probabilities of which code comes: up to a constant codes move so far.
    moved, expected = (one[:, FIRST_CODE:] for one in (moved, expected))
    moved, expected = (one - one.mean(1, keepdim=True) for one in (moved, expected))
    assert torch.allclose(moved, expected, atol=1e-4)


def test_the_table_is_published_with_the_weights(tmp_path: Path) -> None:
    shape = from_settings(tiny_train(), SIZE, EDGES)
    table = torch.randn(7 + len(GENDERS) + len(ETHNICITIES), SIZE)
    promptbart.start(shape, torch.zeros(SIZE), seed=1, offsets=table).save_pretrained(tmp_path)
    found = load(tmp_path, "cpu")
    assert torch.equal(found.offsets.table, table)
    assert found.offsets.edges.tolist() == pytest.approx(EDGES)
