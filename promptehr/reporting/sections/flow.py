"""The flow of rows from stage to stage, with what was left out and why."""

from collections.abc import Mapping
from typing import Any

from promptehr.reporting.cells import Cell, count, words
from promptehr.reporting.reading import flow
from promptehr.reporting.views import Section, Table


def section(content: Mapping[str, Any]) -> Section:
    """A table per stage and unit, from the ledgers."""
    rows = [row for stage, unit, table in flow(content) for row in _rows(stage, unit, table)]
    caption = (
        "Rows read, kept and left out, by stage and unit. Every line balances: rows in = kept + left out."
        " A remark counts rows that were kept all the same."
    )
    head = ("stage", "unit", "rows in", "kept", "left out", "reason", "remarks")
    return Section("flow", "Flow of rows", _paragraphs(content), (Table(caption, head, tuple(rows)),))


def _paragraphs(content: Mapping[str, Any]) -> tuple[str, ...]:
    vocabulary = content["vocabulary"]
    cohort = (
        f"The training split has {vocabulary['patients']:,} patients and {vocabulary['codes']:,} codes, of"
        f" which {vocabulary['unlisted']:,} are in no published list and are shown without a title."
        f" Mean age at the first visit is {vocabulary['age_mean']:.1f} years, spread"
        f" {vocabulary['age_spread']:.1f}."
    )
    planted = ", ".join(
        f"{count(n).text} {what.replace('_', ' ')}" for what, n in (content["planted"] or {}).items()
    )
    source = (f"The simulator wrote {planted}.",) if planted else ()
    masked = (
        "Counts of real patients below 11 are shown as <11. Where one is, the other counts of this"
        " table are rounded to tens, so that no difference gives it away."
    )
    return (*source, cohort, *((masked,) if content["small_counts"] == "masked" else ()))


def _rows(stage: str, unit: str, table: Mapping[str, Any]) -> list[tuple[Cell, ...]]:
    """The unit's line, and a further line for each further reason."""
    reasons = list(table["rejected"].items()) or [("", 0)]
    noted = "; ".join(f"{fact}: {count(rows).text}" for fact, rows in table["noted"].items())
    first = (words(stage), words(unit), count(table["rows_in"]), count(table["rows_kept"]))
    blank = (words(""), words(""), Cell(""), Cell(""))
    return [
        (*(first if place == 0 else blank), count(rows), words(why), words(noted if place == 0 else ""))
        for place, (why, rows) in enumerate(reasons)
    ]
