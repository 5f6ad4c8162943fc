"""Columns of few distinct texts: each text once, and its number in every row.

Sorting, joining and writing go by the numbers; the texts themselves are touched once each.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl


@dataclass(frozen=True)
class Numbered:
    """Texts under the numbers of an Enum.

    Attributes:
        kind: The Enum.
        number: Of each text; 0 where it is none of the Enum's.
    """

    kind: pl.Enum
    number: pl.Series

    def at(self, places: npt.NDArray[np.integer]) -> pl.Series:
        """The texts at these places."""
        return self.number.gather(pl.Series(places)).cat.to(self.kind)


def numbered(texts: pl.Series, occurs: npt.NDArray[np.bool_]) -> Numbered:
    """The texts as an Enum of those that occur, sorted.

    Args:
        texts: Texts.
        occurs: Whether a row has each.
    """
    kind = pl.Enum(texts.filter(pl.Series(occurs)).unique().sort())
    return Numbered(kind, texts.cast(kind, strict=False).to_physical().fill_null(0))


def picked(texts: pl.Series, places: npt.NDArray[np.integer]) -> pl.Series:
    """The texts at these places as an Enum of those that occur, sorted.

    >>> picked(pl.Series(["b", "a", "c"]), np.array([2, 0, 0])).to_physical().to_list()
    [1, 0, 0]
    """
    return numbered(texts, np.bincount(places, minlength=len(texts)) > 0).at(places)


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
