"""What one kind of source has of its own, as `stages/ingest` asks for it.

Everything else about rows is the same for all: ids, times, duplicates, who is whose.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from promptehr.ingestion.table import Places, SourceTable
from promptehr.settings import Ingest

MERGED = "code mapped to one that its admission has"
"""Reason of a row whose code repeats another only since the settings had it mapped."""


@dataclass(frozen=True)
class Births:
    """When the patients of a table were born.

    Attributes:
        frame: Per row `birth` (null where it cannot be told) and `birth_resolution`.
        reasons: Why a birth cannot be told, over the texts of odd rows and `birth`; the first holds.
    """

    frame: pl.DataFrame
    reasons: Mapping[str, pl.Expr]


@dataclass(frozen=True)
class Coding:
    """What the diagnoses of a table say, each distinct wording judged once.

    Attributes:
        places: A piece of the table to the place of each row's wording.
        table: Per wording, those with a code first: `text` (the wording); `code`, `system` and
            `rank` (dense from 1 by system and code), null where it gives no code; `refused`, the
            reason of those; `mapped`, whether the code is of another system than the wording;
            `numeric`, `zero`, `zeroless`, `floated` as in `values.codes`; `rows` that say it; and the columns
            of `facts`.
        facts: Remarkable fact to the boolean column of the wordings it is true of.
        column: The source's column of codes, named in errors.
    """

    places: Callable[[pl.DataFrame], Places]
    table: pl.DataFrame
    facts: Mapping[str, str]
    column: str


@dataclass(frozen=True)
class Kind:
    """One kind of source.

    Attributes:
        columns: Needed columns, by table.
        foreign: What a table is that lacks needed columns and has this one instead, and the remedy.
        ethnicity: The column of admissions that says it, lower case.
        births: Dates of birth of the table of patients.
        coding: Codes of the table of diagnoses.
        by_setting: Reasons for which settings leave rows out; no limit on rejected rows counts them.
    """

    columns: Mapping[str, tuple[str, ...]]
    foreign: Mapping[str, str]
    ethnicity: str
    births: Callable[[SourceTable], Births]
    coding: Callable[[SourceTable, Ingest], Coding]
    by_setting: frozenset[str] = frozenset()


def places_in(table: pl.DataFrame, wordings: pl.Series) -> Places:
    """The place of each wording among the texts of a coding's table."""
    found = wordings.replace_strict(table["text"], range(table.height), return_dtype=pl.Int32)
    return found.to_numpy()
