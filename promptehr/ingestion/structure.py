"""CSV bytes to a header and a number of records: the reader that the ledger's rows_in comes from.

Counts separators and line ends by quote parity on byte arrays (RFC 4180), without the CSV parser
that later reads the values, so that the two can be compared. A record's number counts records,
not lines: the header is 0, and a line end inside quotes ends nothing.
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
Places = npt.NDArray[np.int64]
Piece = TypeVar("Piece")


@dataclass(frozen=True)
class Body:
    """Whole records.

    Attributes:
        content: Their bytes; line ends inside quotes are replaced by spaces.
        before: Records in front of them.
        records: Their number.
        quoted: Whether any quote occurs.
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
        end = int(marks.ends[-1]) + 1 if len(marks.ends) else 0
        _check_quotes(path, marks, records)
        if is_last and end < len(rest):
            number = records + len(marks.ends) + 1
            raise InputError(f"{path}: record {number} opens a quote that nothing closes; close it")
        if end:
            yield _body(path, marks, rest[:end], columns, records)
        records += len(marks.ends)
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
    if (plain := _plain(text, columns)) is not None:
        return Body(text, 0, *plain)
    marks = _marks(text)
    try:
        _check_quotes(path, marks, 0)
        return _body(path, marks, text, columns, 0) if text.endswith(b"\n") and _is_closed(marks) else None
    except InputError:
        return None  # it is raised with the record's number when those before it are counted


def _body(path: Path, marks: "_Marks", content: bytes, columns: int, before: int) -> Body:
    _check_cr(path, marks, before)
    _check_ragged(path, marks, columns, before)
    return Body(_with_spaces(content, marks.inside), before, len(marks.ends), quoted=bool(len(marks.quotes)))


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


def _plain(content: bytes, columns: int) -> tuple[int, bool] | None:
    """Number of records and whether quotes occur, if nothing is odd: whole records, no CR and no
    comma or line end inside quotes. None says that the places have to be looked at one by one."""
    text = np.frombuffer(content, np.uint8)
    places = _candidates(text)
    kinds = text[places]
    quotes = np.flatnonzero(kinds == QUOTE)
    opening, closing = quotes[::2], quotes[1::2]
    if (kinds == CR).any() or len(quotes) % 2 or (closing - opening != 1).any():
        return None
    if _stray_quotes(text, places[quotes]).size:
        return None
    is_end = kinds[(kinds == COMMA) | (kinds == NEWLINE)] == NEWLINE
    records, ragged = divmod(len(is_end), columns)
    if ragged or not is_end[columns - 1 :: columns].all() or np.count_nonzero(is_end) != records:
        return None
    return records, len(quotes) > 0


def _candidates(text: Bytes) -> Places:
    """Places of the four bytes that count, of which the comma is the last, and of the few before it."""
    return np.flatnonzero(text <= COMMA)


@dataclass(frozen=True)
class _Marks:
    """The bytes of a piece that begins with a record, and the places that give it structure.

    Attributes:
        text: The bytes.
        quotes: Places of quotes.
        returns: Places of CRs.
        kinds: Commas and line ends outside quotes, up to the last record's end.
        ends: Places of line ends outside quotes.
        inside: Places of line ends inside quotes, up to the last record's end.
    """

    text: Bytes
    quotes: Places
    returns: Places
    kinds: Bytes
    ends: Places
    inside: Places


def _marks(content: bytes) -> _Marks:
    text = np.frombuffer(content, np.uint8)
    places = _candidates(text)
    kinds = text[places]
    is_quote, is_end = kinds == QUOTE, kinds == NEWLINE
    quotes = places[is_quote]
    if len(quotes):
        # The sum may wrap around: only its last bit is read.
        is_outside = np.cumsum(is_quote, dtype=np.uint8) & 1 == 0
        inside = places[is_end & ~is_outside]
        is_end &= is_outside
        is_delimiter = is_end | (is_outside & (kinds == COMMA))
    else:
        inside = quotes
        is_delimiter = is_end | (kinds == COMMA)
    ends = places[is_end]
    until = ends[-1] if len(ends) else -1
    delimiters = kinds[is_delimiter]
    behind = np.count_nonzero(is_delimiter[np.searchsorted(places, until, "right") :])
    returns = places[kinds == CR]
    return _Marks(
        text, quotes, returns, delimiters[: len(delimiters) - behind], ends, inside[inside <= until]
    )


def _is_closed(marks: _Marks) -> bool:
    return len(marks.quotes) % 2 == 0


def _check_quotes(path: Path, marks: _Marks, before: int) -> None:
    """Every quote opens a field, closes one, or is doubled inside one."""
    stray = _stray_quotes(marks.text, marks.quotes)
    if len(stray):
        record = before + int(np.searchsorted(marks.ends, stray.min())) + 1
        raise InputError(
            f"{path}: record {record} has a quote inside a field;"
            " enclose the whole field in quotes and double the quote"
        )


def _stray_quotes(text: Bytes, quotes: Places) -> Places:
    """Places of quotes that neither open a field, nor close one, nor are doubled inside one."""
    opening, closing = quotes[::2], quotes[1::2]
    closing = closing[closing + 1 < len(text)]
    allowed = np.zeros(256, np.bool_)
    allowed[[COMMA, NEWLINE, QUOTE]] = True
    ahead = np.where(opening > 0, text[opening - 1], NEWLINE)
    return np.concatenate([opening[~allowed[ahead]], closing[~allowed[text[closing + 1]]]])


def _check_ragged(path: Path, marks: _Marks, columns: int, before: int) -> None:
    """Every record has the header's columns."""
    fields = np.diff(np.flatnonzero(marks.kinds == NEWLINE), prepend=-1)
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
    start = marks.ends[record - 1] + 1 if record else 0
    return bool(marks.ends[record] == start)


def _check_cr(path: Path, marks: _Marks, before: int) -> None:
    """No CR is left outside quotes, where readers disagree whether it ends a record."""
    stray = marks.returns[np.searchsorted(marks.quotes, marks.returns) % 2 == 0]
    if len(stray):
        raise InputError(
            f"{path}: record {before + int(np.searchsorted(marks.ends, stray[0])) + 1} holds a CR that ends"
            f" no line; {LINE_ENDS}"
        )


def _with_spaces(content: bytes, places: Places) -> bytes:
    """The content with a space at each of the places; a line end in a field carries no meaning."""
    if not len(places):
        return content
    changed = np.frombuffer(content, np.uint8).copy()
    changed[places] = ord(" ")
    return changed.tobytes()
