"""Records survive the way to tokens and back."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from promptehr import tokens
from promptehr.tokens import Vocabulary, decode, encode

CODES = ("4019", "25000", "V5861", "E8859", "0389")
VOCABULARY = Vocabulary(CODES, age_mean=50.0, age_spread=20.0, demographics=())
visit = st.lists(st.sampled_from(CODES), unique=True, min_size=1)
patients = st.lists(st.lists(visit, min_size=1, max_size=5), max_size=6)


@given(patients)
def test_decode_inverts_encode(visits: list[list[list[str]]]) -> None:
    sequences = encode(pa.array(visits, pa.list_(pa.list_(pa.string()))), VOCABULARY)
    assert decode(sequences, VOCABULARY).to_pylist() == visits


@given(patients)
def test_a_sequence_has_c_plus_2v_plus_2_tokens(visits: list[list[list[str]]]) -> None:
    sequences = encode(pa.array(visits, pa.list_(pa.list_(pa.string()))), VOCABULARY).to_pylist()
    assert [len(sequence) for sequence in sequences] == [
        sum(len(codes) for codes in patient) + 2 * len(patient) + 2 for patient in visits
    ]
    for sequence in sequences:
        assert (sequence[0], sequence[-1]) == (tokens.BOS, tokens.END)
