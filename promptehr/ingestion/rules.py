"""What every table's row rules share: the outcome, usable ids, and one reason for each rejected row."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from promptehr.ingestion import values
from promptehr.ingestion.table import RECORD

REJECTS = {RECORD: pl.Int64, "reason": pl.String}


@dataclass(frozen=True)
class Judged:
    """One table after its row rules.

    Attributes:
        kept: Rows with the columns of the table's schema, sorted as it says.
        rejects: `record` and `reason` of every other row.
        noted: Kept rows by remarkable fact.
    """

    kept: pl.DataFrame
    rejects: pl.DataFrame
    noted: Mapping[str, int]


def reject(
    rows: pl.DataFrame, odd: pl.DataFrame, suspect: pl.Expr, reasons: Mapping[str, pl.Expr]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows that are not suspect, and record and first reason of those that are."""
    is_suspect = rows.select(suspect).to_series()
    if not is_suspect.any():
        return rows, pl.DataFrame(schema=REJECTS)
    first = pl.coalesce(pl.when(applies).then(pl.lit(reason)) for reason, applies in reasons.items())
    suspects = rows.filter(is_suspect).join(odd, on=RECORD, how="left", maintain_order="left")
    rejects = suspects.select(RECORD, reason=first)
    assert not rejects.get_column("reason").null_count(), "a suspect row without a reason"
    return rows.filter(~is_suspect), rejects


def usable_id(number: str) -> pl.Expr:
    return pl.col(number).is_between(1, values.MAX_ID).fill_null(value=False)


def id_reasons(column: str) -> dict[str, pl.Expr]:
    """Why an id is not usable, in the order in which the reasons apply."""
    return {**values.number_reasons(column), f"{column} outside 1..2^40-1": ~usable_id(column)}
