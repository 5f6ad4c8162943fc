"""A source file to typed columns with record numbers, read by two independent readers.

A field becomes a number, a time or a word at once, piece by piece, and its text is forgotten; only
rows in which something cannot be read keep theirs, for the reasons that the ledger gives.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import polars as pl

from promptehr.errors import InputError
from promptehr.ingestion import content, structure, values
from promptehr.ingestion.threads import in_threads

RECORD = "record"
NOTHING_FOREIGN: Mapping[str, str] = MappingProxyType({})

# Whole numbers and times of the sources' tables, lower case; all other columns hold words.
NUMBERS = frozenset({"subject_id", "hadm_id", "seq_num", "anchor_age", "anchor_year", "icd_version"})
TIMES = frozenset({"dob", "admittime", "dischtime"})

Ints = npt.NDArray[np.int64]
Places = npt.NDArray[np.int32]


@dataclass(frozen=True)
class SourceTable:
    """One table as it was found.

    Attributes:
        name: patients, admissions or diagnoses.
        path: Its file, named in errors.
        rows_in: Records as counted on the bytes.
        pieces: `record`, from 1, and the needed columns, lower case, in pieces of the file's order:
            numbers Int64, times Datetime, null where blank or unreadable; words Categorical.
        odd: `record` and the texts, under the names of `values.text_of`, null where blank, of the
            rows with such a null.
    """

    name: str
    path: Path
    rows_in: int
    pieces: Sequence[pl.DataFrame]
    odd: pl.DataFrame

    @property
    def rows(self) -> pl.DataFrame:
        return pl.concat(self.pieces)


@dataclass(frozen=True)
class Words:
    """The distinct texts of a column of words.

    Attributes:
        texts: Sorted, null last where it occurs.
        rows: How many rows say each.
        physical: Place of each text by the number that polars knows it by; of null at the end.
    """

    texts: pl.Series
    rows: Ints
    physical: Ints

    def places(self, column: pl.Series) -> Ints:
        """Per row of the column, or of a piece of it, the place of its text."""
        numbers: Ints = column.to_physical().fill_null(len(self.physical) - 1).to_numpy()
        return self.physical[numbers]


def read(
    name: str, path: Path, needed: tuple[str, ...], foreign: Mapping[str, str] = NOTHING_FOREIGN
) -> SourceTable:
    """Read the needed columns of a `.csv` or `.csv.gz`.

    Args:
        name: Of the table.
        path: Its file.
        needed: Column names, upper case.
        foreign: What a table is, and what to do, that lacks a needed column and has this one.

    Raises:
        InputError: naming file, record or column, what was expected and what to do.
    """
    try:
        texts = content.pieces(path)
        first = next(texts)
        columns, start = structure.header(path, first, needed, foreign)
        bodies = structure.bodies(path, chain([first[start:]] if first[start:] else [], texts), len(columns))
        parts = list(in_threads(partial(_typed, columns, _types(needed)), bodies))
    except InputError:
        # What is wrong may be the work of damage that a gzip file confesses only at its end.
        content.require_undamaged(path)
        raise
    counts, pieces, odd = zip(*parts, strict=True)
    found = sum(piece.height for piece in pieces)
    if sum(counts) != found:
        raise InputError(
            f"{path}: {sum(counts)} records by their line ends, {found} by their fields;"
            " export the table again as comma-separated values"
        )
    return SourceTable(name, path, found, pieces, pl.concat(odd))


def words(pieces: Sequence[pl.DataFrame], name: str) -> Words:
    """The distinct texts of one column."""
    distinct = pl.concat(in_threads(lambda piece: piece[name].unique(), pieces)).unique()
    table = pl.DataFrame({"text": distinct.cast(pl.String), "physical": distinct.to_physical()})
    table = table.sort("text", nulls_last=True).with_row_index("place")
    known = table.drop_nulls("text")
    numbers: Ints = known["physical"].to_numpy()
    physical = np.zeros(int(numbers.max(initial=0)) + 2, np.int64)
    physical[numbers] = known["place"].to_numpy()
    physical[-1] = table.height - 1
    found = Words(table["text"], np.zeros(table.height, np.int64), physical)
    for rows in in_threads(
        lambda piece: np.bincount(found.places(piece[name]), minlength=table.height), pieces
    ):
        found.rows[:] += rows
    return found


def _types(needed: Iterable[str]) -> dict[str, pl.DataType]:
    """The type in which each column is kept, by its name in lower case."""
    kinds = {**dict.fromkeys(NUMBERS, pl.Int64()), **dict.fromkeys(TIMES, pl.Datetime("us"))}
    names = [name.lower() for name in needed]
    return {name: kinds.get(name) or pl.Categorical(pl.Categories.random()) for name in names}


def _typed(
    columns: Sequence[str], types: Mapping[str, pl.DataType], body: structure.Body
) -> tuple[int, pl.DataFrame, pl.DataFrame]:
    """Records counted on the bytes, the records with their types, and the texts of odd ones."""
    texts = _parse(body, columns, types)
    typed = texts.with_columns(_as(texts[name], kind) for name, kind in types.items())
    odd = pl.Series(np.zeros(typed.height, np.bool_))
    for name in types.keys() & (NUMBERS | TIMES):
        odd |= typed[name].is_null()
    named = (pl.col(name).cast(pl.String).alias(values.text_of(name)) for name in types)
    return body.records, typed, texts.filter(odd).select(RECORD, *named)


def _as(texts: pl.Series, kind: pl.DataType) -> pl.Series:
    if texts.dtype == kind:
        return texts
    if kind == pl.Int64:
        return values.numbers(texts)
    return values.times(texts) if kind == pl.Datetime else texts.cast(kind)


def _parse(body: structure.Body, columns: Sequence[str], types: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """The needed columns as text; numbers as such, where all their fields are whole or blank.

    They are found by position, since names may differ in letter case or be blank.
    """
    places = {f"column_{columns.index(name.upper()) + 1}": name for name in types}
    texts = {f"column_{place + 1}": pl.String() for place in range(len(columns))}
    numbers = {place: pl.Int64() for place, name in places.items() if name in NUMBERS}

    def parsed(schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
        scan = pl.scan_csv(
            body.content,
            has_header=False,
            schema=dict(schema),
            quote_char='"' if body.quoted else None,
            row_index_name=RECORD,
            row_index_offset=body.before + 1,
            raise_if_empty=False,
        )
        named = (pl.col(place).alias(name) for place, name in places.items())
        return scan.select(pl.col(RECORD).cast(pl.Int64), *named).collect()

    try:
        return parsed({**texts, **numbers})
    except pl.exceptions.ComputeError:
        return parsed(texts)
