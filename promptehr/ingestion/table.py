"""A source file to a frame of text columns with record numbers, read by two independent readers."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import polars as pl

from promptehr.errors import InputError
from promptehr.ingestion import content, structure

RECORD = "record"
NOTHING_FOREIGN: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class SourceTable:
    """One table as it was found.

    Attributes:
        name: patients, admissions or diagnoses.
        path: Its file, named in errors.
        rows_in: Records as counted on the bytes.
        text: The needed columns, lower case, all text, null where blank; and `record`, from 1.
    """

    name: str
    path: Path
    rows_in: int
    text: pl.DataFrame


def read(
    name: str, path: Path, needed: tuple[str, ...], foreign: Mapping[str, str] = NOTHING_FOREIGN
) -> SourceTable:
    """Read the needed columns of a `.csv` or `.csv.gz` as text.

    Args:
        name: Of the table.
        path: Its file.
        needed: Column names, upper case.
        foreign: What a table is, and what to do, that lacks a needed column and has this one.

    Raises:
        InputError: naming file, record or column, what was expected and what to do.
    """
    whole = content.read(path)
    columns, start = structure.header(path, whole, needed, foreign)
    body = structure.body(path, whole, start, len(columns))
    text = _parse(body, columns, needed)
    if text.height != body.records:
        raise InputError(
            f"{path}: {body.records} records by their line ends, {text.height} by their fields;"
            " export the table again as comma-separated values"
        )
    return SourceTable(name, path, body.records, text)


def _parse(body: structure.Body, columns: list[str], needed: tuple[str, ...]) -> pl.DataFrame:
    """The needed columns by position, since names may differ in letter case or be blank."""
    places = {f"column_{columns.index(name) + 1}": name.lower() for name in needed}
    scan = pl.scan_csv(
        io.BytesIO(body.content),
        has_header=False,
        schema={f"column_{place + 1}": pl.String for place in range(len(columns))},
        quote_char='"' if body.quoted else None,
        row_index_name=RECORD,
        row_index_offset=1,
        raise_if_empty=False,
    )
    return scan.select(
        pl.col(RECORD).cast(pl.Int64), *(pl.col(c).alias(n) for c, n in places.items())
    ).collect()
