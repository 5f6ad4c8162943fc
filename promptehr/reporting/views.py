"""What a section of the page consists of: paragraphs, tables, figures, patients."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from promptehr.reporting.cells import Cell

# In one piece, so that a narrow column title does not break within it.
INTERVAL = "[95 %\N{NO-BREAK SPACE}interval]"


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        caption: What it shows and what good looks like.
        head: Column titles.
        rows: Cells, as many as the head in each row.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    kind: Literal["table"] = "table"

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of all cells, each once, in order of first use."""
        return tuple(dict.fromkeys(cell.note for row in self.rows for cell in row if cell.note))

    def mark(self, cell: Cell) -> str:
        """The letter of a cell's note."""
        return chr(ord("a") + self.notes.index(cell.note or ""))

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers, so that its title is set flush right."""
        return any(row[column].numeric for row in self.rows)


@dataclass(frozen=True)
class Figure:
    """One figure: its data URI, what it says without being seen, and what good looks like."""

    source: str
    alt: str
    caption: str
    kind: Literal["figure"] = "figure"


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        anchor: Name within the page.
        title: Its heading.
        paragraphs: Plain text, before the views.
        views: Tables and figures in order.
        patients: Synthetic patients: heading, visits of {code, title}.
    """

    anchor: str
    title: str
    paragraphs: tuple[str, ...] = ()
    views: tuple[Table | Figure, ...] = ()
    patients: tuple[Mapping[str, Any], ...] = ()
