"""CSV bytes to a header and a number of records: the reader that the ledger's rows_in comes from.

Counts separators and line ends by quote parity on byte arrays (RFC 4180), without the CSV parser
that later reads the values, so that the two can be compared. A record's number counts records,
not lines: the header is 0, and a line end inside quotes ends nothing. Quotes that only enclose are
taken out on the way: of such a piece, the parser sees the separators alone.
"""

import codecs
import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from promptehr.errors import InputError
from promptehr.ingestion.threads import in_threads

NEWLINE, QUOTE, COMMA, CR = b'\n",\r'
MARK = codecs.BOM_UTF8.decode()
LONGEST_NAME = 60  # of a column, as errors show it
LINE_ENDS = "save the file with LF or CRLF line ends"
OTHER_SEPARATORS = {
    ";": "semicolons",
    "\t": "tabs",
    "|": "vertical bars",
    ":": "colons",
    "^": "carets",
    "\x01": "control characters (Ctrl-A)",
    " ": "spaces",
}

Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]
Piece = TypeVar("Piece")


@dataclass(frozen=True)
class Body:
    """Whole records.

    Attributes:
        content: Their bytes; quotes are left out where they enclose fields that need none, line ends
            inside quotes are replaced by spaces.
        before: Records in front of them.
        records: Their number.
        quoted: Whether the content has any quote.
    """

    content: bytes
    before: int
    records: int
    quoted: bool


def header(
    path: Path, content: bytes, needed: tuple[str, ...], foreign: Mapping[str, str]
) -> tuple[list[str], int]:
    """Column names, upper case without surrounding space, and the offset of the first record.

    Raises:
        InputError: if a needed column is missing, or a name is there twice.
    """
    end = _header_end(path, content)
    text = content[:end].decode()
    # Tools that join files leave the mark of each before a name.
    names = [name.replace(MARK, "").strip().upper() for name in _fields(path, text)]
    missing = [name for name in needed if name not in names]
    if missing:
        other = next(
            (f"has column {name}, no {missing[0]}: {foreign[name]}" for name in foreign if name in names),
            None,
        )
        raise InputError(f"{path}: {other or _missing(text, missing, names, needed)}")
    twice = sorted(name for name, count in Counter(names).items() if name and count > 1)
    if twice:
        raise InputError(
            f"{path}: header names column {twice[0][:LONGEST_NAME]} more than once; keep one of them"
        )
    return names, end


def bodies(path: Path, texts: Iterable[bytes], columns: int) -> Iterator[Body]:
    """Check and count records, piece by piece.

    Args:
        path: Named in errors.
        texts: What follows the header: UTF-8 text with LF line ends and one at the end.
        columns: Columns of the header.

    Raises:
        InputError: for no records, a ragged record, a quote out of place or left open.
    """
    records, wanted = 0, 0
    held: list[bytes] = []
    # Looked at ahead, as if each piece began with a record, which those of most files do.
    looked_at = in_threads(lambda text: (text, _whole(path, text, columns)), texts)
    for (text, whole), is_last in _with_last(looked_at):
        if whole is not None and not any(held):
            yield replace(whole, before=records)
            records += whole.records
            continue
        held.append(text)
        if sum(map(len, held)) < wanted and not is_last:
            continue
        rest = b"".join(held)
        marks = _marks(rest)
        _check_quotes(path, marks, records)
        ends = marks.places[marks.is_end]
        end = int(ends[-1]) + 1 if len(ends) else 0
        if is_last and end < len(rest):
            number = records + len(ends) + 1
            raise InputError(f"{path}: record {number} opens a quote that nothing closes; close it")
        if end:
            yield _body(path, _marks(rest[:end]), rest[:end], columns, records)
        records += len(ends)
        # A quote that stays open is looked for in ever larger pieces: in twice the time of one look.
        wanted = 0 if end else 2 * len(rest)
        held = [rest[end:]]
    if not records:
        raise InputError(f"{path}: a header and no records; copy the table again")


def _with_last(pieces: Iterable[Piece]) -> Iterator[tuple[Piece, bool]]:
    """Each piece, and whether it is the last one."""
    before: Piece | None = None
    for piece in pieces:
        if before is not None:
            yield before, False
        before = piece
    if before is not None:
        yield before, True


def _whole(path: Path, text: bytes, columns: int) -> Body | None:
    """A piece that is whole records with nothing wrong in it; None where the pieces before it decide."""
    marks = _marks(text)
    if marks.is_open or not text.endswith(b"\n"):
        return None
    try:
        _check_quotes(path, marks, 0)
        return _body(path, marks, text, columns, 0)
    except InputError:
        return None  # it is raised with the record's number when those before it are counted


def _body(path: Path, marks: "_Marks", content: bytes, columns: int, before: int) -> Body:
    _check_cr(path, marks, before)
    _check_ragged(path, marks, columns, before)
    if b'"' in content:
        content = _with_spaces(_without_quotes(content, marks), marks)
    return Body(content, before, int(np.count_nonzero(marks.is_end)), quoted=b'"' in content)


def _header_end(path: Path, content: bytes) -> int:
    if content.startswith(b"\n"):
        raise InputError(f"{path}: an empty line before the header; delete it")
    end = content.find(b"\n") + 1
    quotes = content.count(b'"', 0, end)
    while quotes % 2:
        following = content.find(b"\n", end) + 1
        if not following:
            raise InputError(f"{path}: record 0, the header, opens a quote that nothing closes; close it")
        quotes += content.count(b'"', end, following)
        end = following
    return end


def _fields(path: Path, text: str) -> list[str]:
    if "\r" in text:
        raise InputError(f"{path}: record 0, the header, holds a CR that ends no line; {LINE_ENDS}")
    try:
        return next(csv.reader(io.StringIO(text, newline="")), [])
    except csv.Error:
        raise InputError(
            f"{path}: record 0, the header, is no line of column names; export the table as CSV"
        ) from None


def _missing(text: str, missing: list[str], names: list[str], needed: tuple[str, ...]) -> str:
    for separator, words in OTHER_SEPARATORS.items():
        parts = {part.strip(' "\n').upper() for part in text.split(separator)}
        if len(parts & set(needed)) > len(set(names) & set(needed)):
            return f"columns are separated by {words}, expected commas; export it as comma-separated values"
    if len(names) == 1 and set(names[0].split(",")) & set(needed):
        return "every record is one field in quotes; take off the quotes around the lines"
    columns = ", ".join(missing)
    return (
        f"header has no column {columns}; expected {', '.join(needed)} in any order and letter case;"
        " name the columns so in record 0"
    )


@dataclass(frozen=True)
class _Marks:
    """The bytes that give a piece structure, the piece beginning with a record.

    Polars chooses bytes by a mask many times as fast as numpy.

    Attributes:
        text: The bytes of the piece.
        is_mark: Per byte, whether it is one of the four that count, of which the comma is the last, or
            one of the few before it.
        kinds: [M] those bytes.
        outside: [M] whether each is outside quotes; so is a quote that closes.
    """

    text: Bytes
    is_mark: pl.Series
    kinds: Bytes
    outside: Bools

    @property
    def places(self) -> Places:
        """[M] of the marks in the piece; needed where something is odd, and slow to find."""
        return np.flatnonzero(self.is_mark.to_numpy())

    @property
    def is_end(self) -> Bools:
        """[M] whether each ends a record."""
        found: Bools = self.outside & (self.kinds == NEWLINE)
        return found

    @property
    def is_inside(self) -> Bools:
        """[M] whether each is a comma or line end inside quotes."""
        found: Bools = ~self.outside & ((self.kinds == COMMA) | (self.kinds == NEWLINE))
        return found

    @property
    def is_open(self) -> bool:
        """Whether the last quote opens what nothing closes."""
        return bool(len(self.outside) and not self.outside[-1])

    def bytes_ahead(self) -> Bytes:
        """[M] the byte in front of each; in front of the piece there is a line end."""
        found = pl.Series(self.text[:-1]).filter(self.is_mark[1:]).to_numpy()
        return np.concatenate([np.full(len(self.kinds) - len(found), NEWLINE, np.uint8), found])

    def bytes_behind(self) -> Bytes:
        """[M] the byte behind each; behind the piece there is a line end."""
        found = pl.Series(self.text[1:]).filter(self.is_mark[:-1]).to_numpy()
        return np.concatenate([found, np.full(len(self.kinds) - len(found), NEWLINE, np.uint8)])


def _marks(content: bytes) -> _Marks:
    text = np.frombuffer(content, np.uint8)
    is_mark = pl.Series(text) <= COMMA
    kinds = pl.Series(text).filter(is_mark).to_numpy()
    # The sum may wrap around: only its last bit is read.
    outside = np.cumsum(kinds == QUOTE, dtype=np.uint8) & 1 == 0
    return _Marks(text, is_mark, kinds, outside)


def _check_quotes(path: Path, marks: _Marks, before: int) -> None:
    """Every quote opens a field, closes one, or is doubled inside one."""
    is_quote = marks.kinds == QUOTE
    opens, closes = is_quote & ~marks.outside, is_quote & marks.outside
    stray = (opens & ~_is_edge(marks.bytes_ahead())) | (closes & ~_is_edge(marks.bytes_behind()))
    if stray.any():
        raise InputError(
            f"{path}: record {_record_of(marks, stray, before)} has a quote inside a field;"
            " enclose the whole field in quotes and double the quote"
        )


def _is_edge(kinds: Bytes) -> Bools:
    found: Bools = (kinds == COMMA) | (kinds == NEWLINE) | (kinds == QUOTE)
    return found


def _check_ragged(path: Path, marks: _Marks, columns: int, before: int) -> None:
    """Every record has the header's columns."""
    is_delimiter = marks.outside & ((marks.kinds == COMMA) | (marks.kinds == NEWLINE))
    delimiters = pl.Series(marks.kinds).filter(pl.Series(is_delimiter)).to_numpy()
    fields = np.diff(np.flatnonzero(delimiters == NEWLINE), prepend=-1)
    if (fields == columns).all():
        return
    ragged = int(np.flatnonzero(fields != columns)[0])
    if _is_empty(marks, ragged):
        raise InputError(f"{path}: record {before + ragged + 1} is an empty line; delete it")
    raise InputError(
        f"{path}: record {before + ragged + 1} has {fields[ragged]} fields,"
        f" the header {columns}; quote fields that hold commas, or repair the record"
    )


def _is_empty(marks: _Marks, record: int) -> bool:
    ends = marks.places[marks.is_end]
    return bool(ends[record] == (ends[record - 1] + 1 if record else 0))


def _check_cr(path: Path, marks: _Marks, before: int) -> None:
    """No CR is left outside quotes, where readers disagree whether it ends a record."""
    stray = marks.outside & (marks.kinds == CR)
    if stray.any():
        raise InputError(
            f"{path}: record {_record_of(marks, stray, before)} holds a CR that ends no line; {LINE_ENDS}"
        )


def _record_of(marks: _Marks, where: Bools, before: int) -> int:
    """The record of the first mark that is meant."""
    return before + int(np.count_nonzero(marks.is_end[: where.argmax()])) + 1


def _without_quotes(content: bytes, marks: _Marks) -> bytes:
    """The content without its quotes, where fields say the same without; read three times as fast."""
    is_quote = marks.kinds == QUOTE
    is_doubled = (is_quote & marks.outside)[:-1] & is_quote[1:]
    if is_doubled.any() or marks.is_inside.any() or (marks.kinds == CR).any():
        return content
    text = pl.Series(marks.text)
    return text.filter(text != QUOTE).to_numpy().tobytes()


def _with_spaces(content: bytes, marks: _Marks) -> bytes:
    """The content with a space at each line end in a field, where it carries no meaning."""
    is_inside = marks.is_inside & (marks.kinds == NEWLINE)
    if not is_inside.any():
        return content
    changed = np.frombuffer(content, np.uint8).copy()
    changed[marks.places[is_inside]] = ord(" ")
    return changed.tobytes()
