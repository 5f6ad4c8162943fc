"""Baselines: counts, smoothing, structure, samplers."""

import numpy as np
import pytest

from promptehr import baselines
from promptehr.baselines import Baseline
from promptehr.errors import ArtifactError
from promptehr.tokens import FIRST_CODE, Cohort, Vocabulary
from tests.model_builders import CODES, UNKNOWN, cohort, random_patients, visits_of

VOCABULARY = Vocabulary(CODES, age_mean=60.0, age_spread=20.0, demographics=())


def fitted(name: baselines.Name) -> Baseline:
    train, valid = (cohort(*random_patients(count, seed=count)) for count in (400, 100))
    return baselines.fit(name, train, valid, VOCABULARY)


def people(count: int) -> Cohort:
    return cohort(*[[[6]]] * count)


def test_the_unigram_is_the_share_of_each_code() -> None:
    train = cohort([[6, 7]], [[6]], [[6], [8]])
    model = baselines.fit("unigram", train, train, VOCABULARY)
    scores = model.log_probs(cohort([[6]]))
    # Codes 6, 6, 6, 7, 8 of 5; after one code 3 of 4 visits end: (3 + 1/2) / (4 + 1).
    code, end_of_visit = scores[2], scores[3]
    assert code == pytest.approx(np.log(3 / 5), abs=1e-3)
    assert end_of_visit == pytest.approx(np.log(3.5 / 5))
    # Two of three records end after one visit: (2 + 1/2) / (3 + 1).
    assert scores[4] == pytest.approx(np.log(2.5 / 4))
    assert scores[:2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", baselines.NAMES)
def test_each_place_is_a_distribution_over_the_alphabet(name: baselines.Name) -> None:
    model = fitted(name)
    prefix = [[6, 7]]
    follow = [model.log_probs(cohort([[6, 7, code]]))[4] for code in range(6, 6 + len(CODES))]
    stop = model.log_probs(cohort(prefix))[4]
    assert np.exp([*follow, stop]).sum() == pytest.approx(1.0)
    another = model.log_probs(cohort([[6], [7]]))[4]
    end = model.log_probs(cohort([[6]]))[4]
    assert np.exp([another, end]).sum() == pytest.approx(1.0)


def test_an_unknown_code_is_scored_by_no_one() -> None:
    assert fitted("bigram").log_probs(cohort([[6, UNKNOWN]]))[3] == 0.0


def test_the_demographic_unigram_knows_sex_and_age_band() -> None:
    # Patient i has gender i mod 2: men have code 6, women code 7.
    train = cohort(*[[[6 + place % 2]] for place in range(400)])
    one = cohort([[6]], [[7]])
    demographic = baselines.fit("demographic_unigram", train, train, VOCABULARY).log_probs(one)
    plain = baselines.fit("unigram", train, train, VOCABULARY).log_probs(one)
    assert demographic.sum() > plain.sum() + 0.5


def test_the_bigram_knows_the_code_before() -> None:
    train = cohort(*[[[6, 7]] if place % 2 else [[8, 9]] for place in range(400)])
    bigram = baselines.fit("bigram", train, train, VOCABULARY)
    assert np.exp(bigram.log_probs(cohort([[6, 7]]))[3]) > 0.9
    assert np.exp(bigram.log_probs(cohort([[6, 9]]))[3]) < 0.05


@pytest.mark.parametrize(
    ("years", "band"), [(0.0, 0), (0.99, 0), (1.0, 1), (17.9, 1), (18.0, 2), (54.9, 3), (84.9, 5), (85.0, 6)]
)
def test_age_bands_begin_at_their_first_year(years: float, band: int) -> None:
    assert baselines.age_band(np.array([years])).tolist() == [band]


def test_shards_without_a_known_code_are_refused() -> None:
    empty = cohort([[UNKNOWN]])
    with pytest.raises(ArtifactError, match="no code of the vocabulary"):
        baselines.fit("unigram", empty, empty, VOCABULARY)


@pytest.mark.parametrize("name", ["demographic_unigram", "bigram"])
def test_samples_obey_the_grammar_and_the_limit(name: baselines.Name) -> None:
    drawn = baselines.sample(fitted(name), people(500), most_tokens=9, rng=np.random.default_rng(1))
    records = visits_of(drawn.tokens, drawn.offsets)
    assert len(records) == 500
    assert np.diff(drawn.offsets).max() <= 9
    assert drawn.closed > 0


def test_the_same_seed_draws_the_same_records() -> None:
    model = fitted("bigram")
    one, two, other = (
        baselines.sample(model, people(50), most_tokens=40, rng=np.random.default_rng(seed)).tokens.tolist()
        for seed in (1, 1, 2)
    )
    assert one == two
    assert one != other


def test_samples_have_the_frequencies_of_the_distribution() -> None:
    # First codes are not touched by the rule against repeats.
    model = fitted("unigram")
    drawn = baselines.sample(model, people(20_000), most_tokens=60, rng=np.random.default_rng(3))
    first = [record[0][0] - FIRST_CODE for record in visits_of(drawn.tokens, drawn.offsets)]
    share = np.bincount(first, minlength=len(CODES)) / len(first)
    np.testing.assert_allclose(share, model.unigram, atol=0.012)
    ends = np.mean([len(record) == 1 for record in visits_of(drawn.tokens, drawn.offsets)])
    assert ends == pytest.approx(model.structure.end[0], abs=0.012)
