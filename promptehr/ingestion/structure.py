"""CSV bytes to a header and a number of records: the reader that the ledger's rows_in comes from.

Counts separators and line ends by quote parity on byte arrays (RFC 4180), without the CSV parser
that later reads the values, so that the two can be compared. A record's number counts records,
not lines: the header is 0, and a line end inside quotes ends nothing.
"""

import csv
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from promptehr.errors import InputError

NEWLINE, QUOTE, COMMA, CR = b'\n",\r'
CHUNK = 1 << 22
LINE_ENDS = "save the file with LF or CRLF line ends"
OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars", ":": "colons"}

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Body:
    """What stands after the header.

    Attributes:
        content: The records' bytes; line ends inside quotes are replaced by spaces.
        records: Their number.
        quoted: Whether any quote occurs.
    """

    content: bytes
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
    names = [name.strip().upper() for name in _fields(path, text)]
    missing = [name for name in needed if name not in names]
    if missing:
        other = next(
            (f"has column {name}, no {missing[0]}: {foreign[name]}" for name in foreign if name in names),
            None,
        )
        raise InputError(f"{path}: {other or _missing(text, missing, names, needed)}")
    twice = sorted(name for name, count in Counter(names).items() if name and count > 1)
    if twice:
        raise InputError(f"{path}: header names column {twice[0]} more than once; keep one of them")
    return names, end


def body(path: Path, content: bytes, start: int, columns: int) -> Body:
    """Check and count the records that begin at an offset.

    Args:
        path: Named in errors.
        content: UTF-8 text with LF line ends and one at the end.
        start: Offset of the first record.
        columns: Columns of the header.

    Raises:
        InputError: for no records, a ragged record, a quote out of place or left open.
    """
    content = content[start:]
    if not content:
        raise InputError(f"{path}: a header and no records; copy the table again")
    text = np.frombuffer(content, np.uint8)
    records, place, size = 0, 0, CHUNK
    inside: list[Places] = []
    while place < len(text):
        marks = _marks(text[place : place + size])
        last = place + size >= len(text)
        _check_quotes(path, marks, records)
        if not len(marks.ends) or (last and marks.ends[-1] + 1 < len(marks.text)):
            if last:
                number = records + len(marks.ends) + 1
                raise InputError(f"{path}: record {number} opens a quote that nothing closes; close it")
            size *= 2
            continue
        _check_cr(path, marks, records)
        _check_ragged(path, marks, columns, records)
        inside.append(place + marks.inside)
        records += len(marks.ends)
        place += int(marks.ends[-1]) + 1
    return Body(_with_spaces(content, np.concatenate(inside)), records, quoted=b'"' in content)


def _header_end(path: Path, content: bytes) -> int:
    end = content.find(b"\n") + 1
    while content.count(b'"', 0, end) % 2:
        following = content.find(b"\n", end) + 1
        if not following:
            raise InputError(f"{path}: record 0, the header, opens a quote that nothing closes; close it")
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
    columns = ", ".join(missing)
    return (
        f"header has no column {columns}; expected {', '.join(needed)} in any order and letter case;"
        " name the columns so in record 0"
    )


@dataclass(frozen=True)
class _Marks:
    """The bytes of a piece that begins with a record, and the places that give it structure.

    Attributes:
        text: The bytes.
        quotes: Places of quotes.
        delimiters: Places of commas and line ends outside quotes, up to the last record's end.
        ends: Places of line ends outside quotes.
        inside: Places of line ends inside quotes, up to the last record's end.
    """

    text: Bytes
    quotes: Places
    delimiters: Places
    ends: Places
    inside: Places


def _marks(text: Bytes) -> _Marks:
    places = np.flatnonzero((text == COMMA) | (text == NEWLINE) | (text == QUOTE))
    kinds = text[places]
    is_quote = kinds == QUOTE
    # The sum may wrap around: only its last bit is read.
    outside = np.cumsum(is_quote, dtype=np.uint8) & 1 == 0
    is_end = kinds == NEWLINE
    ends = places[is_end & outside]
    until = ends[-1] if len(ends) else -1
    delimiters = places[outside & ~is_quote]
    inside = places[is_end & ~outside]
    return _Marks(text, places[is_quote], delimiters[delimiters <= until], ends, inside[inside <= until])


def _check_quotes(path: Path, marks: _Marks, before: int) -> None:
    """Every quote opens a field, closes one, or is doubled inside one."""
    text, opening, closing = marks.text, marks.quotes[::2], marks.quotes[1::2]
    closing = closing[closing + 1 < len(text)]
    allowed = np.zeros(256, np.bool_)
    allowed[[COMMA, NEWLINE, QUOTE]] = True
    ahead = np.where(opening > 0, text[opening - 1], NEWLINE)
    stray = np.concatenate([opening[~allowed[ahead]], closing[~allowed[text[closing + 1]]]])
    if len(stray):
        record = before + int(np.searchsorted(marks.ends, stray.min())) + 1
        raise InputError(
            f"{path}: record {record} has a quote inside a field;"
            " enclose the whole field in quotes and double the quote"
        )


def _check_ragged(path: Path, marks: _Marks, columns: int, before: int) -> None:
    """Every record has the header's columns."""
    fields = np.diff(np.flatnonzero(marks.text[marks.delimiters] == NEWLINE), prepend=-1)
    ragged = np.flatnonzero(fields != columns)
    if len(ragged) and _is_empty(marks, ragged[0]):
        raise InputError(f"{path}: record {before + int(ragged[0]) + 1} is an empty line; delete it")
    if len(ragged):
        raise InputError(
            f"{path}: record {before + int(ragged[0]) + 1} has {fields[ragged[0]]} fields,"
            f" the header {columns}; quote fields that hold commas, or repair the record"
        )


def _is_empty(marks: _Marks, record: int) -> bool:
    start = marks.ends[record - 1] + 1 if record else 0
    return bool(marks.ends[record] == start)


def _check_cr(path: Path, marks: _Marks, before: int) -> None:
    """No CR is left outside quotes, where readers disagree whether it ends a record."""
    returns = np.flatnonzero(marks.text == CR)
    stray = returns[np.searchsorted(marks.quotes, returns) % 2 == 0]
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
