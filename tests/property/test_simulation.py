"""Whatever the process, its next-token probabilities are a distribution."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptehr.simulation import likelihood
from promptehr.simulation.process import Process
from tests.simulation_builders import histories, tiny

visits = st.lists(st.integers(0, 4), min_size=1, max_size=2, unique=True)


@given(
    seed=st.integers(0, 10_000),
    earlier=st.lists(visits, max_size=1),
    visit=visits,
    alphabet=st.sets(st.integers(0, 4), min_size=1),
    kind=st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 5)),
)
def test_the_next_token_of_a_visit_sums_to_one_over_the_alphabet(
    seed: int, earlier: list[list[int]], visit: list[int], alphabet: set[int], kind: tuple[int, int, int]
) -> None:
    truth, known = tiny(seed), np.isin(np.arange(5), list(alphabet))
    band, female, ethnicity = kind
    place = sum(len(codes) + 2 for codes in earlier) + 1 + len(visit)
    nexts = [[*earlier, [*visit, code]] for code in alphabet - set(visit)]

    def token(record: list[list[int]]) -> float:
        person = histories(record, band=band, female=female, ethnicity=ethnicity)
        return float(np.exp(likelihood.log_probs(truth, person, known)[place]))

    assert token([*earlier, visit]) + sum(map(token, nexts)) == pytest.approx(1.0, abs=1e-9)


@given(seed=st.integers(0, 10_000))
def test_a_stored_process_is_the_same_process(seed: int) -> None:
    truth = tiny(seed)
    again = Process.from_document(truth.to_document())
    assert again.to_document() == truth.to_document()
    people = histories([[0, 1], [2]], [[3, 4, 0]])
    everything = np.ones(5, dtype=bool)
    assert (
        likelihood.log_probs(truth, people, everything).tolist()
        == likelihood.log_probs(again, people, everything).tolist()
    )
