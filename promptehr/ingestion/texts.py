"""Columns of few distinct texts: each text once, and its number in every row.

Sorting, joining and writing go by the numbers; the texts themselves are touched once each.
"""

import numpy as np
import numpy.typing as npt
import polars as pl


def picked(
    texts: pl.Series, places: npt.NDArray[np.integer], rows: npt.NDArray[np.integer] | None = None
) -> pl.Series:
    """The texts at these places as an Enum of those that occur, sorted.

    Args:
        texts: Texts.
        places: Of each row, among the texts.
        rows: How many rows have each text, where that is known.

    >>> picked(pl.Series(["b", "a", "c"]), np.array([2, 0, 0])).to_physical().to_list()
    [1, 0, 0]
    """
    if rows is None:
        rows = np.bincount(places, minlength=len(texts))
    kind = pl.Enum(texts.filter(pl.Series(rows > 0)).unique().sort())
    number = texts.cast(kind, strict=False).to_physical().fill_null(0)
    return number.gather(pl.Series(places)).cat.to(kind)


def distinct(column: pl.Series) -> pl.Series:
    """A column of categories as an Enum of those that occur, sorted."""
    found = column.unique().drop_nulls()
    texts = found.cast(pl.String)
    kind = pl.Enum(texts.sort())
    numbers = found.to_physical().to_numpy()
    number = np.zeros(int(numbers.max(initial=0)) + 1, np.uint32)
    number[numbers] = texts.cast(kind).to_physical().to_numpy()
    return pl.Series(column.name, number).gather(column.to_physical()).cat.to(kind)


def names_of(column: pl.Series) -> list[str]:
    """The texts of an Enum."""
    assert isinstance(column.dtype, pl.Enum)
    return column.dtype.categories.to_list()
