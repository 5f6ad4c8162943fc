"""The split: disjoint, stable, and of the stated shares."""

from hypothesis import given
from hypothesis import strategies as st

from promptehr.settings import Split
from promptehr.stages.records import SPLITS, places, splits_of

patients = st.lists(st.integers(1, 2**40 - 1), unique=True, min_size=1, max_size=50)


@given(patients, st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_a_patients_split_depends_on_seed_and_id_alone(found, seed, random) -> None:  # type: ignore[no-untyped-def]
    together = dict(zip(found, splits_of(found, seed, Split()), strict=True))
    some = random.sample(found, random.randint(1, len(found)))
    assert splits_of(some, seed, Split()) == [together[patient] for patient in some]


@given(patients, st.integers(0, 2**32 - 1))
def test_places_are_in_the_half_open_unit_interval(found: list[int], seed: int) -> None:
    assert all(0.0 <= place < 1.0 for place in places(seed, found))


def test_shares_are_met_within_three_standard_errors() -> None:
    chosen = splits_of(list(range(1, 20_001)), 1, Split())
    for name, share in zip(SPLITS, (0.8, 0.1, 0.1), strict=True):
        error = (share * (1 - share) / 20_000) ** 0.5
        assert abs(chosen.count(name) / 20_000 - share) < 3 * error
