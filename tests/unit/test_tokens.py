"""Token ids by hand."""

import numpy as np
import pyarrow as pa
import pytest

from promptehr import tokens
from promptehr.tokens import Cohort, Vocabulary, decode, encode

VOCABULARY = Vocabulary(("4019", "25000"), age_mean=50.0, age_spread=20.0, demographics=())
VISITS = pa.list_(pa.list_(pa.string()))


def test_layout_of_ids_is_fixed() -> None:
    assert (tokens.PAD, tokens.BOS, tokens.EOS) == (0, 1, 2)
    assert (tokens.VISIT, tokens.VISIT_END, tokens.END, tokens.FIRST_CODE) == (3, 4, 5, 6)
    assert VOCABULARY.names == (
        "PAD",
        "BOS",
        "EOS",
        "<v>",
        "<\\v>",
        "END",
        "4019",
        "25000",
        "<mask>",
        "<unk>",
    )
    assert (VOCABULARY.mask, VOCABULARY.unknown, VOCABULARY.size) == (8, 9, 10)


def test_two_patients_by_hand() -> None:
    visits = pa.array([[["4019"], ["25000", "V5861"]], [["25000"]]], VISITS)
    assert encode(visits, VOCABULARY).to_pylist() == [[1, 3, 6, 4, 3, 7, 9, 4, 5], [1, 3, 7, 4, 5]]


def test_codes_read_as_a_dictionary_have_the_same_ids() -> None:
    codes = pa.DictionaryArray.from_arrays([2, 0, 1, 0], ["25000", "V5861", "4019"])
    visits = pa.ListArray.from_arrays([0, 2], pa.ListArray.from_arrays([0, 1, 4], codes))
    assert visits.to_pylist() == [[["4019"], ["25000", "V5861", "25000"]]]
    assert encode(visits, VOCABULARY).to_pylist() == [[1, 3, 6, 4, 3, 7, 9, 7, 4, 5]]


def test_no_patient_gives_no_sequence() -> None:
    assert encode(pa.array([], VISITS), VOCABULARY).to_pylist() == []
    assert decode(encode(pa.array([], VISITS), VOCABULARY), VOCABULARY).to_pylist() == []


def test_a_slice_of_records_is_encoded_as_if_alone() -> None:
    visits = pa.array([[["4019"]], [["25000"], ["4019"]], [["4019", "25000"]]], VISITS)
    assert encode(visits.slice(1, 1), VOCABULARY).to_pylist() == [[1, 3, 7, 4, 3, 6, 4, 5]]
    sequences = encode(visits, VOCABULARY)
    assert decode(sequences.slice(1), VOCABULARY).to_pylist() == visits.slice(1).to_pylist()


def test_unknown_codes_come_back_as_unk() -> None:
    visits = pa.array([[["V5861"]]], VISITS)
    assert decode(encode(visits, VOCABULARY), VOCABULARY).to_pylist() == [[["<unk>"]]]


def test_ages_in_standard_units() -> None:
    z = VOCABULARY.age_z(np.array([30.0, 50.0, 90.0]))
    assert (z.tolist(), z.dtype) == ([-1.0, 0.0, 2.0], np.float32)
    assert VOCABULARY.age(z).tolist() == [30.0, 50.0, 90.0]


def test_categories_have_the_ids_of_the_contract() -> None:
    found = tokens.ids(pa.chunked_array([["F", "UNKNOWN", "M"]]), tokens.GENDERS)
    assert (found.to_pylist(), found.type) == ([1, 2, 0], pa.int8())


@pytest.mark.parametrize("chunks", [1, 2])
def test_a_cohort_is_flat_arrays_with_offsets(chunks: int) -> None:
    table = pa.table(
        {
            "subject_id": pa.array([4, 9], pa.int64()),
            "age_z": pa.array([0.5, -1.0], pa.float32()),
            "gender_id": pa.array([1, 0], pa.int8()),
            "ethnicity_id": pa.array([0, 5], pa.int8()),
            "tokens": pa.array([[1, 3, 6, 4, 5], [1, 3, 6, 7, 4, 5]], pa.list_(pa.int32())),
        }
    )
    table = table if chunks == 1 else pa.concat_tables([table.slice(0, 1), table.slice(1, 1)])
    cohort = Cohort.from_shards(table)
    assert len(cohort) == 2
    assert cohort.tokens.tolist() == [1, 3, 6, 4, 5, 1, 3, 6, 7, 4, 5]
    assert cohort.offsets.tolist() == [0, 5, 11]
    assert cohort.gender_id.tolist() == [1, 0]


def test_a_cohort_may_be_empty() -> None:
    table = pa.table(
        {
            "subject_id": pa.array([], pa.int64()),
            "age_z": pa.array([], pa.float32()),
            "gender_id": pa.array([], pa.int8()),
            "ethnicity_id": pa.array([], pa.int8()),
            "tokens": pa.array([], pa.list_(pa.int32())),
        }
    )
    assert Cohort.from_shards(table).offsets.tolist() == [0]
    assert Cohort.from_shards(pa.concat_tables([table, table])).offsets.tolist() == [0]
