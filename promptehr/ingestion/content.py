"""A source file's bytes as UTF-8 text with LF line ends, or one line that says what they are instead.

Unpacks gzip (any number of members), takes off the byte order mark, turns CRLF into LF and gives
the last line its end. Goes through the file piece by piece, so that memory holds no whole file.
Knows nothing of columns or records.
"""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from promptehr.errors import InputError

GZIP = b"\x1f\x8b"
NEWLINE = b"\n"
# What people rename to .csv, by its first bytes.
FOREIGN = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"PAR1", "a Parquet file"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (GZIP, "a gzip file packed twice"),
    (codecs.BOM_UTF32_LE, "UTF-32 text"),
    (codecs.BOM_UTF32_BE, "UTF-32 text"),
    (codecs.BOM_UTF16_LE, "UTF-16 text"),
    (codecs.BOM_UTF16_BE, "UTF-16 text"),
)
# Small enough for the processor's caches, large enough that the calls for each piece cost nothing.
PIECE = 1 << 22


def pieces(path: Path) -> Iterator[bytes]:
    """The text of a `.csv` or `.csv.gz`, still as bytes: valid UTF-8, LF line ends.

    Every piece is whole lines; the last one has one line end.

    Raises:
        InputError: if the file is missing, unreadable, damaged, empty or not UTF-8 text.
    """
    waiting, is_empty = b"", True
    for block in _beginning(_blocks(path)):
        if is_empty:
            _require_kind(path, block)
        _require_text(path, block)
        if is_empty and NEWLINE not in block and b"\r" in block:
            raise InputError(
                f"{path}: lines end in CR alone, expected LF or CRLF; save it with Unix line ends"
            )
        is_empty = False
        # Empty lines wait for what follows them: at the end of the file they mean nothing.
        text = waiting + _line_ends(block)
        is_whole = text.endswith(b"\n") and not text.endswith(b"\n\n") and text != b"\n"
        filled = text if is_whole else _without_last_ends(text)
        waiting = text[len(filled) :]
        if filled:
            yield filled
    if is_empty:
        raise InputError(f"{path}: empty file; expected a header and records, copy it again")


def require_undamaged(path: Path) -> None:
    """Read a file to its end, so that damage is found that shows only there.

    Raises:
        InputError: if it is cut off, damaged or unreadable.
    """
    for _ in _blocks(path):
        pass


def state(path: Path) -> tuple[int, ...] | None:
    """What changes with every write to a file: inode, size and time; None where there is none to read."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def require_state(path: Path, before: tuple[int, ...] | None) -> None:
    """Refuse a file that is not what it was: parts of it may have been read, and not those it holds now.

    Raises:
        InputError: if it was written, replaced or deleted since.
    """
    if state(path) != before:
        raise InputError(
            f"{path}: changed while it was read, expected a file at rest; wait until it is copied whole and"
            " run ingest again"
        )


def _blocks(path: Path) -> Iterator[bytes]:
    """The unpacked bytes, cut behind line ends where there are any."""
    with _opened(path) as file:
        while block := _read(path, file):
            yield block


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        # A pipe would wait for a writer, a device may never end.
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is no regular file; name a .csv or .csv.gz")
        raw = path.open("rb")
        start = raw.peek()
    except OSError as error:
        raise _unreadable(path, error) from None
    with raw:
        if start.startswith(GZIP):
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield cast(BinaryIO, unpacked)
            return
        if start and path.suffix.lower() == ".gz" and not _foreign(start):
            raise InputError(
                f"{path}: not a gzip file in spite of its name; rename it to .csv or copy it again"
            )
        yield raw


def _read(path: Path, file: BinaryIO) -> bytes:
    """The next piece and the rest of its last line."""
    try:
        return file.read(PIECE) + file.readline()
    except EOFError:
        raise InputError(f"{path}: the gzip file is cut off before its end; copy it again") from None
    except (gzip.BadGzipFile, zlib.error):
        raise InputError(
            f"{path}: the gzip file is damaged; compare its checksum and copy it again"
        ) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: {error.strerror}; correct source.path or the file's permissions")


def _beginning(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks without byte order mark; the first one is not blank, there is none if all are."""
    blank: list[bytes] = []
    for block in blocks:
        blank.append(block if blank else block.removeprefix(codecs.BOM_UTF8))
        if blank[-1].strip():
            yield b"".join(blank)
            break
    yield from blocks


def _require_kind(path: Path, start: bytes) -> None:
    kind = _foreign(start)
    if kind:
        raise InputError(f"{path}: holds {kind}, expected comma-separated UTF-8 text; export it as CSV")


def _foreign(content: bytes) -> str | None:
    return next((kind for start, kind in FOREIGN if content.startswith(start)), None)


def _require_text(path: Path, block: bytes) -> None:
    """Refuse NUL and what is not UTF-8, by its line, the header being line 1: what an editor shows."""
    place = _first_not_utf8(block)
    nul = block.find(b"\0")
    if nul >= 0 and (place is None or nul < place):
        raise InputError(
            f"{path}: line {_line_of(path, block, nul)} holds a NUL byte, expected UTF-8 text;"
            " export it as UTF-8 or copy it again"
        )
    if place is not None:
        raise InputError(
            f"{path}: line {_line_of(path, block, place)} holds bytes that are not UTF-8;"
            " save the file as UTF-8"
        )


def _line_of(path: Path, block: bytes, place: int) -> int:
    """The line of a place in a block; the lines before it are counted only now that somebody asks."""
    before = 0
    for other in _beginning(_blocks(path)):
        if other == block:
            break
        before += other.count(NEWLINE)
    return before + block.count(NEWLINE, 0, place) + 1


def _first_not_utf8(block: bytes) -> int | None:
    """Offset of the first byte that breaks UTF-8; no character goes over a line's end."""
    if block.isascii():
        return None
    try:
        codecs.utf_8_decode(block, "strict", True)
    except UnicodeDecodeError as error:
        return error.start
    return None


def _line_ends(block: bytes) -> bytes:
    if b"\r" not in block:
        return block
    # A copy that lost its last byte ends in half a line end; blocks before the last end in LF.
    return block.removesuffix(b"\r").replace(b"\r\n", b"\n")


def _without_last_ends(text: bytes) -> bytes:
    """The text with one line end instead of any number of them at its end; empty if it is those alone."""
    stripped = text.rstrip(b"\n")
    return stripped + b"\n" if stripped else b""
