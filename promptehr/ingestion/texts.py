"""Columns of few distinct texts: each text once, and its number in every row.

Sorting, joining and writing go by the numbers; the texts themselves are touched once each.
"""

import numpy as np
import numpy.typing as npt
import polars as pl


def picked(texts: pl.Series, places: npt.NDArray[np.integer]) -> pl.Series:
    """The texts at these places as an Enum of those that occur, sorted.

    >>> picked(pl.Series(["b", "a", "c"]), np.array([2, 0, 0])).to_physical().to_list()
    [1, 0, 0]
    """
    used = pl.Series(np.bincount(places, minlength=len(texts)) > 0)
    kind = pl.Enum(texts.filter(used).unique().sort())
    number = texts.cast(kind, strict=False).to_physical().fill_null(0)
    return number.gather(pl.Series(places)).cat.to(kind)


def distinct(column: pl.Series) -> pl.Series:
    """A column of texts or categories as an Enum of its texts, sorted."""
    return column.cast(pl.Enum(column.unique().drop_nulls().cast(pl.String).sort()))


def names_of(column: pl.Series) -> list[str]:
    """The texts of an Enum."""
    assert isinstance(column.dtype, pl.Enum)
    return column.dtype.categories.to_list()
