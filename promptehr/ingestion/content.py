"""A source file's bytes as UTF-8 text with LF line ends, or one line that says what they are instead.

Unpacks gzip (any number of members), takes off the byte order mark, turns CRLF into LF and gives
the last line its end. Knows nothing of columns or records.
"""

import codecs
import gzip
import zlib
from pathlib import Path

from promptehr.errors import InputError

GZIP = b"\x1f\x8b"
# What people rename to .csv, by its first bytes.
FOREIGN = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook"),
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
SLICE = 1 << 26


def read(path: Path) -> bytes:
    """The text of a `.csv` or `.csv.gz`, still as bytes: valid UTF-8, LF line ends, one at the end.

    Raises:
        InputError: if the file is missing, unreadable, damaged, empty or not UTF-8 text.
    """
    content = _unpacked(path, _raw(path))
    content = content.removeprefix(codecs.BOM_UTF8)
    if not content.strip():
        raise InputError(f"{path}: empty file; expected a header and records, copy it again")
    _require_text(path, content)
    return _line_ends(path, content)


def _raw(path: Path) -> bytes:
    try:
        # A pipe would wait for a writer, a device may never end.
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is no regular file; name a .csv or .csv.gz")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; correct source.path or the file's permissions") from None


def _unpacked(path: Path, raw: bytes) -> bytes:
    if not raw.startswith(GZIP):
        if raw and path.suffix.lower() == ".gz" and not _foreign(raw):
            raise InputError(
                f"{path}: not a gzip file in spite of its name; rename it to .csv or copy it again"
            )
        return raw
    try:
        return gzip.decompress(raw)
    except EOFError:
        raise InputError(f"{path}: the gzip file is cut off before its end; copy it again") from None
    except (gzip.BadGzipFile, zlib.error):
        raise InputError(
            f"{path}: the gzip file is damaged; compare its checksum and copy it again"
        ) from None


def _require_text(path: Path, content: bytes) -> None:
    kind = _foreign(content)
    if kind:
        raise InputError(f"{path}: holds {kind}, expected comma-separated UTF-8 text; export it as CSV")
    place = _first_not_utf8(content)
    nul = content.find(b"\0")
    if nul >= 0 and (place is None or nul < place):
        raise InputError(
            f"{path}: line {_line(content, nul)} holds a NUL byte, expected UTF-8 text;"
            " export it as UTF-8 or copy it again"
        )
    if place is not None:
        raise InputError(
            f"{path}: line {_line(content, place)} holds bytes that are not UTF-8; save the file as UTF-8"
        )


def _foreign(content: bytes) -> str | None:
    return next((kind for start, kind in FOREIGN if content.startswith(start)), None)


def _first_not_utf8(content: bytes) -> int | None:
    """Offset of the first byte that breaks UTF-8; slices bound the memory the check takes."""
    if content.isascii():
        return None
    start = 0
    while start < len(content):
        part = content[start : start + SLICE]
        final = start + len(part) == len(content)
        try:
            used = codecs.utf_8_decode(part, "strict", final)[1]
        except UnicodeDecodeError as error:
            return start + error.start
        start += used
    return None


def _line(content: bytes, place: int) -> int:
    """Line of a byte, the header being line 1: what an editor shows."""
    return content.count(b"\n", 0, place) + 1


def _line_ends(path: Path, content: bytes) -> bytes:
    if b"\r" in content:
        if b"\n" not in content:
            raise InputError(
                f"{path}: lines end in CR alone, expected LF or CRLF; save it with Unix line ends"
            )
        content = content.replace(b"\r\n", b"\n")
    if content.endswith(b"\n") and not content.endswith(b"\n\n"):
        return content
    return content.rstrip(b"\n") + b"\n"
