"""Values to table cells: how numbers, shares, intervals and missing values read.

A value that could not be computed is an em-dash whose reason becomes a note under the table.
Knows nothing of the documents that values come from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

DASH = "—"
SMALL = "<11"


@dataclass(frozen=True)
class Cell:
    """One cell: its text, a note that explains it, whether it is a number, whether it alarms."""

    text: str
    note: str | None = None
    numeric: bool = True
    bad: bool = False


def words(value: object, note: str | None = None) -> Cell:
    """Words, set flush left."""
    return Cell(str(value), note, numeric=False)


def count(value: Any, note: str | None = None) -> Cell:
    """A whole number with thousands separated; a masked one as it is."""
    return _cell(value, note, lambda whole: f"{whole:,}")


def decimal(value: Any, note: str | None = None, *, digits: int = 3) -> Cell:
    """A number with fixed decimals."""
    return _cell(value, note, lambda number: f"{number:z,.{digits}f}")


def perplexity(value: Any, note: str | None = None) -> Cell:
    """Three significant digits at least: 1.19, 23.4, 208, 30,217."""
    return _cell(value, note, lambda number: f"{number:,.{2 if number < 10 else 1 if number < 100 else 0}f}")


def percent(value: Any, note: str | None = None, *, digits: int = 1) -> Cell:
    """A share as per cent."""
    return _cell(value, note, lambda share: f"{100 * share:z.{digits}f} %")


def interval(value: Any, note: str | None = None, *, digits: int = 3) -> Cell:
    """A 95 % interval."""
    return _cell(value, note, lambda bounds: f"{bounds[0]:z.{digits}f} to {bounds[1]:z.{digits}f}")


def with_interval(value: Any, bounds: Sequence[float] | None, note: str | None = None) -> Cell:
    """A number and, where there is one, its 95 % interval in brackets."""
    inner = "" if bounds is None else f" [{bounds[0]:z.3f}, {bounds[1]:z.3f}]"
    return _cell(value, note, lambda number: f"{number:z.3f}{inner}")


def with_percents(value: Any, bounds: Sequence[float] | None, note: str | None = None) -> Cell:
    """A share and, where there is one, its 95 % interval in brackets, as per cent."""
    inner = "" if bounds is None else f" [{100 * bounds[0]:z.2f}, {100 * bounds[1]:z.2f}]"
    return _cell(value, note, lambda share: f"{100 * share:z.2f}{inner} %")


def verdict(value: Any, note: str | None = None, *, yes: str = "passed", no: str = "FAILED") -> Cell:
    """A truth value in words; an untrue one stands out."""
    if value is None:
        return Cell(DASH, note, numeric=False)
    return Cell(yes if value else no, numeric=False, bad=not value)


def _cell(value: Any, note: str | None, form: Callable[[Any], str]) -> Cell:
    if value is None:
        return Cell(DASH, note)
    return Cell(value if isinstance(value, str) else form(value).replace("-", "−"))
