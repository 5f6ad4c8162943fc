"""The order of ingest's rows is that of a sort by key after key, however wide the keys are."""

from collections.abc import Iterator
from itertools import islice
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from promptehr.ingestion import diagnoses

key = st.one_of(st.integers(0, 3), st.integers(-(2**31), 2**40))
rows = st.lists(st.tuples(key, key, st.integers(0, 2)), max_size=12)


@given(rows)
def test_rows_are_sorted_by_all_keys_and_stay_as_they_come_where_equal(rows: list[tuple[int, ...]]) -> None:
    expected = sorted(range(len(rows)), key=rows.__getitem__)
    assert diagnoses._order(*_columns(rows)).tolist() == expected


@given(rows)
def test_the_first_row_of_each_key_is_the_one_that_comes_first(rows: list[tuple[int, ...]]) -> None:
    pairs = [row[::2] for row in sorted(rows, key=lambda row: row[0])]
    stays = np.unique([stay for stay, _ in pairs], return_inverse=True)[1].astype(np.int32)
    first = diagnoses._first(stays, np.array([rank for _, rank in pairs], np.int64))
    assert first.tolist() == [pair not in pairs[:place] for place, pair in enumerate(pairs)]


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=4), st.integers(1, 5))
def test_parts_hold_all_rows_of_their_stays_as_they_come(pieces: list[list[int]], at_once: int) -> None:
    records = iter(range(100))
    with mock.patch.object(diagnoses, "ROWS_AT_ONCE", at_once):
        parts = list(diagnoses._by_stays([_rows(stays, records) for stays in pieces], 10))
    joined = [diagnoses._joined(part) for part in parts]
    stays, found = (np.concatenate([vars(part)[name] for part in joined]) for name in ("stay", "record"))
    assert len(parts) == max(1, sum(map(len, pieces)) // at_once)
    assert (np.diff([part.stay.max() for part in joined if len(part.stay)]) > 0).all()
    assert sorted(found.tolist()) == list(range(sum(map(len, pieces))))
    assert stays.tolist() == [[stay for piece in pieces for stay in piece][record] for record in found]
    assert all((np.diff(found[stays == stay].astype(int)) > 0).all() for stay in range(10))


def test_keys_of_more_than_63_bits_are_sorted_too() -> None:
    wide = [np.array([2**40, 1, 2**40]), np.array([2**31, 5, 0])]
    assert diagnoses._order(*wide).tolist() == [1, 2, 0]


def _rows(stays: list[int], records: Iterator[int]) -> diagnoses.Diagnoses:
    """Diagnoses of these stays, numbered."""
    zeros = np.zeros(len(stays), np.int32)
    numbers = np.fromiter(islice(records, len(stays)), np.uint32)
    return diagnoses.Diagnoses(np.array(stays, np.int32), zeros, zeros, numbers)


def _columns(rows: list[tuple[int, ...]]) -> list[np.ndarray]:
    return list(np.array(rows, np.int64).reshape(-1, 3).T)
