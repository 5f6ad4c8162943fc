"""What hospitals, spreadsheets and broken copies hand in, through the command line: one case a row.

Every case ends in the right records and counts, or in one line with status 2 that names the file
and holds no patient's value, with nothing written.
"""

import bz2
import gzip
import json
import lzma
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from promptehr import artifacts, cli, schemas
from promptehr.source import find
from tests.source_builders import SPLITS, TABLES, all_records

HEADERS = {
    "PATIENTS": "ROW_ID,SUBJECT_ID,GENDER,DOB\n",
    "ADMISSIONS": "ROW_ID,SUBJECT_ID,HADM_ID,ADMITTIME,DISCHTIME,ETHNICITY\n",
    "DIAGNOSES_ICD": "ROW_ID,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE\n",
}
ROWS = {
    "PATIENTS": "1,7001,F,2100-01-01 00:00:00\n2,7002,M,2090-05-05 00:00:00\n",
    "ADMISSIONS": "1,7001,8001,2150-01-01 10:00:00,2150-01-05 12:00:00,WHITE\n"
    "2,7002,8002,2150-03-01 10:00:00,2150-03-05 12:00:00,ASIAN\n",
    "DIAGNOSES_ICD": "1,7001,8001,1,4019\n2,7001,8001,2,0389\n3,7002,8002,1,V5861\n",
}
VISITS = {7001: [["4019", "0389"]], 7002: [["V5861"]]}
PLAIN = HEADERS["DIAGNOSES_ICD"] + ROWS["DIAGNOSES_ICD"]
FORGIVING = ("ingest.max_rejected_share=1.0", "ingest.max_zeroless_share=1.0")


@dataclass(frozen=True)
class Outcome:
    """What the command line did with a folder.

    Attributes:
        status: Exit status of ingest, or of records after it.
        line: What stood on the terminal.
        tables: Ingest's ledger.
        records: The patients of all splits.
    """

    status: int
    line: str
    tables: dict[str, Any]
    records: list[dict[str, Any]]

    @property
    def visits(self) -> dict[int, list[list[str]]]:
        return {row["subject_id"]: row["visits"] for row in self.records}

    def rejected(self, table: str) -> dict[str, int]:
        return dict(self.tables[table]["rejected"])

    def noted(self, table: str) -> dict[str, int]:
        return dict(self.tables[table]["noted"])


@pytest.fixture(autouse=True)
def _no_handlers_left() -> Iterator[None]:
    yield
    close_log()


def close_log() -> None:
    for handler in cli.logger.handlers:
        handler.close()
    cli.logger.handlers = []


def source(tmp_path: Path, **tables: bytes | str | None) -> Path:
    """A folder of two patients and three diagnoses; a table may be other bytes, or absent."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name, header in HEADERS.items():
        content = tables.get(name, header + ROWS[name])
        if content is not None:
            (folder / f"{name}.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def taken(folder: Path, results: Path, capsys: pytest.CaptureFixture[str], *assignments: str) -> Outcome:
    """Ingest, and if that works records, as a user types them."""
    log = ["--log", str(results.parent / "log")]
    made, split = results / "ingest", results / "records"
    files = {name: made / f"{name}.parquet" for name in TABLES}
    read = [word for name, path in find(folder, "mimic3").items() for word in (f"--{name}", str(path))]
    tables = [w for name in TABLES[:3] for w in (f"--{name}-table", str(files[name]))]
    ledger = ["--ledger", str(made / "ledger.json")]
    rejects = ["--rejects", str(files["rejects"])]
    status = cli.run(["ingest", *read, *tables, *rejects, *ledger, *log, *assignments])
    found: dict[str, Any] = {}
    if status == 0:
        close_log()
        found = json.loads((made / "ledger.json").read_bytes())["tables"]
        splits = [w for name in SPLITS for w in (f"--{name}", str(split / f"{name}.parquet"))]
        sealed = ["--ingest-ledger", str(made / "ledger.json"), "--ledger", str(split / "ledger.json")]
        status = cli.run(["records", *tables, *splits, *sealed, *log])
    close_log()
    printed = capsys.readouterr()
    assert printed.out == ""
    return Outcome(status, printed.err.rstrip("\n"), found, all_records(split) if found else [])


def written(folder: Path) -> list[Path]:
    """What stands there but the lock of the stage that wrote nothing."""
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


def accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *assignments: str, **tables: bytes | str | None
) -> Outcome:
    found = taken(source(tmp_path, **tables), tmp_path / "results", capsys, *assignments)
    assert (found.status, found.line) == (0, "")
    for table in found.tables.values():
        assert table["rows_in"] == table["rows_kept"] + sum(table["rejected"].values())
    return found


def refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes | str, *assignments: str
) -> str:
    """The one line, after what holds for all of them was checked."""
    found = taken(source(tmp_path, **{name: content}), tmp_path / "results", capsys, *assignments)
    assert found.status == 2, found.tables
    assert found.line.startswith(f"promptehr: {tmp_path}/source/{name}.csv: "), found.line
    assert "\n" not in found.line
    assert written(tmp_path / "results") == []
    text = content if isinstance(content, str) else content.decode("utf-8", "replace")
    said = found.line.replace(str(tmp_path), "")
    for field in set(re.findall(r"[\w.:-]{4,}", text)) - set(re.findall(r"\w+", "".join(HEADERS.values()))):
        assert field not in said
    return found.line


# --- whole files -------------------------------------------------------------------------------


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


THE_SAME = {
    "byte order mark": b"\xef\xbb\xbf" + PLAIN.encode(),
    "CRLF": PLAIN.replace("\n", "\r\n").encode(),
    "CRLF and LF mixed": PLAIN.replace("\n", "\r\n", 2).encode(),
    "no last line end": PLAIN.rstrip("\n").encode(),
    "empty lines at the end": (PLAIN + "\n\n").encode(),
    "an empty CRLF line at the end": (PLAIN + "\r\n").encode(),
    "CRLF that lost its last byte": PLAIN.replace("\n", "\r\n")[:-1].encode(),
    "a byte order mark before each of the needed names": PLAIN.replace(",", ",\ufeff", 4).encode(),
    "space around the header's names": PLAIN.replace("HADM_ID,", " HADM_ID\t,").encode(),
    "no-break space around a name": PLAIN.replace("HADM_ID,", "HADM_ID\u00a0,").encode(),
    "small letters": PLAIN.lower().encode(),
    "all quoted": re.sub(r"[^,\n]+", r'"\g<0>"', PLAIN).encode(),
    "two empty columns at the end": PLAIN.replace("\n", ",,\n").encode(),
    "a column with quotes, commas and line ends": PLAIN.replace("\n", ',"a ""b"",\nc"\n').encode(),
    "space after commas": PLAIN.replace(",", ", ").encode(),
    "ids and positions as floats": re.sub(r"(\d{4},8\d{3}),(\d),", r"\1.0,\2.0,", PLAIN).encode(),
    "signs and zeros before numbers": PLAIN.replace(",8001,", ",+08001,").encode(),
    "dotted codes": PLAIN.replace("4019", "401.9").replace("V5861", "v58.61").encode(),
    "gzip under the name of a CSV": packed(PLAIN.encode()),
    "gzip of two members": packed(PLAIN.encode()[:60]) + packed(PLAIN.encode()[60:]),
    "gzip with an empty member": packed(PLAIN.encode()) + packed(b""),
    "gzip with an empty member first": packed(b"") + packed(PLAIN.encode()),
    "gzip with the file's name inside": packed(PLAIN.encode())[:3]
    + b"\x08"
    + packed(PLAIN.encode())[4:10]
    + b"DIAGNOSES_ICD.csv\0"
    + packed(PLAIN.encode())[10:],
    "gzip padded with zeros, as tapes are": packed(PLAIN.encode()) + bytes(512),
    "gzip of CRLF with a byte order mark": packed(b"\xef\xbb\xbf" + PLAIN.replace("\n", "\r\n").encode()),
}


@pytest.mark.parametrize("content", THE_SAME.values(), ids=THE_SAME)
def test_the_same_records(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = accepted(tmp_path, capsys, DIAGNOSES_ICD=content)
    assert found.visits == VISITS
    assert [found.tables[name]["rows_in"] for name in TABLES[:3]] == [2, 2, 3]
    assert [found.rejected(name) for name in TABLES[:3]] == [{}, {}, {}]


HEAD = HEADERS["DIAGNOSES_ICD"]
REFUSED: dict[str, tuple[bytes | str, str]] = {
    "nothing": (b"", "empty file"),
    "a byte order mark alone": (b"\xef\xbb\xbf", "empty file"),
    "a header alone": (HEAD, "a header and no records"),
    "UTF-16": (PLAIN.encode("utf-16"), "UTF-16 text"),
    "UTF-16 without a mark": (PLAIN.encode("utf-16-le"), "line 1 holds a NUL byte"),
    "UTF-32": (PLAIN.encode("utf-32"), "UTF-32 text"),
    "Latin-1": (PLAIN.replace("V5861", "Ménière").encode("latin-1"), "line 4 holds bytes that are not UTF-8"),
    "NUL padding": (PLAIN.encode() + bytes(100), "line 5 holds a NUL byte"),
    "CR alone": (PLAIN.replace("\n", "\r"), "lines end in CR alone"),
    "a header that ends in CR": (PLAIN.replace("\n", "\r", 1), "the header, holds a CR that ends no line"),
    "a record that ends in CR": (HEAD + "1,7001,8001,1,4019\r2,7001,8001,2,0389\n", "record 1 holds a CR"),
    "CR CR LF": (PLAIN.replace("\n", "\r\r\n"), "holds a CR that ends no line"),
    "semicolons": (PLAIN.replace(",", ";"), "separated by semicolons"),
    "tabs": (PLAIN.replace(",", "\t"), "separated by tabs"),
    "spaces": (PLAIN.replace(",", " "), "separated by spaces"),
    "carets": (PLAIN.replace(",", "^"), "separated by carets"),
    "Ctrl-A, as Hive writes": (PLAIN.replace(",", "\x01"), "separated by control characters (Ctrl-A)"),
    "whole lines in quotes": (re.sub(r"(.+)", r'"\1"', PLAIN), "every record is one field in quotes"),
    "semicolons after a header of commas": (HEAD + "1;7001;8001;1;4019\n", "record 1 has 1 fields"),
    "a line before the header": ("sep=,\n" + PLAIN, "header has no column SUBJECT_ID"),
    "no header": (ROWS["DIAGNOSES_ICD"], "header has no column SUBJECT_ID"),
    "a short record": (PLAIN + "4,7001,8001\n", "record 4 has 3 fields, the header 5"),
    "a long record": (PLAIN + "4,7001,8001,3,4280,\n", "record 4 has 6 fields, the header 5"),
    "a comma after the header only": (PLAIN.replace("\n", ",\n", 1), "record 1 has 5 fields, the header 6"),
    "a decimal comma": (HEAD + "1,7001,8001,1,401,9\n", "record 1 has 6 fields"),
    "an empty line between records": (PLAIN.replace("\n2", "\n\n2"), "record 2 is an empty line; delete it"),
    "an empty first line": ("\n" + PLAIN, "an empty line before the header; delete it"),
    "an empty first line of CRLF": (("\n" + PLAIN).replace("\n", "\r\n"), "an empty line before the header"),
    "blanks in the first line": ("  \n" + PLAIN, "header has no column SUBJECT_ID"),
    "blanks in the last line": (PLAIN + "  \n", "record 4 has 1 fields"),
    "a DOS end of file": (PLAIN + "\x1a", "record 4 has 1 fields"),
    "an open quote": (HEAD + '1,7001,8001,1,"4019\n2,7001,8001,2,0389\n', "record 1 opens a quote"),
    "a quote in a field": (HEAD + '1,7001,8001,1,="0389"\n', "record 1 has a quote inside a field"),
    "a backslash before a quote": (HEAD + '1,7001,8001,1,"40\\"19"\n', "record 1 has a quote inside a field"),
    "a needed column twice": (PLAIN.replace("ROW_ID", "hadm_id"), "names column HADM_ID more than once"),
    "another column twice": (PLAIN.replace("\n", ",X,x\n"), "names column X more than once"),
    "a column of two lines twice": (PLAIN.replace("\n", ',"X\nY","X\nY"\n'), "column X\\nY more than once"),
    "an endless column twice": (
        PLAIN.replace("\n", 2 * f",{'X' * 9000}" + "\n"),
        f" {'X' * 60} more than once",
    ),
    "an open quote in the header of many records": (
        HEAD.replace("HADM_ID", '"HADM_ID') + "1,7001,8001,1,4019\n" * 200_000,
        "the header, opens a quote that nothing closes",
    ),
    "a column missing": (PLAIN.replace("SEQ_NUM", "POSITION"), "header has no column SEQ_NUM"),
    "a page of HTML": ("<!DOCTYPE html><html>log in</html>", "header has no column SUBJECT_ID"),
    "one endless word": ("x" * 200_000, "record 0, the header, is no line of column names"),
    "an empty zip archive": (b"PK\x05\x06" + bytes(18), "an empty zip archive"),
    "a 7z archive": (b"7z\xbc\xaf\x27\x1c\x00\x04", "a 7z archive"),
    "a workbook": (b"PK\x03\x04 and so on", "an Excel workbook"),
    "an xz archive": (lzma.compress(PLAIN.encode()), "an xz archive"),
    "gzip twice": (packed(packed(PLAIN.encode())), "a gzip file packed twice"),
    "gzip cut in its header": (packed(PLAIN.encode())[:7], "cut off before its end"),
    "gzip cut in its data": (packed(PLAIN.encode())[:40], "cut off before its end"),
    "gzip cut in its check": (packed(PLAIN.encode())[:-3], "cut off before its end"),
    "gzip cut in its second member": (packed(PLAIN.encode()) + packed(b"4")[:9], "cut off before its end"),
    "gzip with text behind": (packed(PLAIN.encode()) + b"more", "the gzip file is damaged"),
    "gzip with another check": (packed(PLAIN.encode())[:-8] + bytes(8), "the gzip file is damaged"),
}


@pytest.mark.parametrize(("content", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(
    content: bytes | str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(tmp_path, capsys, "DIAGNOSES_ICD", content, *FORGIVING)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (PLAIN.encode(), "not a gzip file in spite of its name; rename it to .csv"),
        (bz2.compress(PLAIN.encode()), "holds a bzip2 archive"),
        (b"", "empty file"),
        (packed(b""), "empty file"),
    ],
)
def test_what_is_no_gzip_under_its_name_is_refused(
    content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = source(tmp_path, DIAGNOSES_ICD=None)
    (folder / "DIAGNOSES_ICD.csv.gz").write_bytes(content)
    found = taken(folder, tmp_path / "results", capsys)
    assert found.status == 2
    assert words in found.line


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "circle of links"])
def test_what_is_no_file_is_refused_without_waiting(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = source(tmp_path)
    path = folder / "DIAGNOSES_ICD.csv"
    files = [word for name, file in find(folder, "mimic3").items() for word in (f"--{name}", str(file))]
    path.unlink()
    {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "circle of links": lambda: path.symlink_to(path),
    }[kind]()
    out = [w for name in TABLES[:3] for w in (f"--{name}-table", str(tmp_path / "out" / name))]
    last = ["--rejects", str(tmp_path / "out" / "rejects"), "--ledger", str(tmp_path / "out" / "ledger")]
    assert cli.run(["ingest", *files, *out, *last, "--log", str(tmp_path / "log")]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"promptehr: {path}: ")
    assert line.count("\n") == 1
    assert written(tmp_path / "out") == []


def test_a_header_of_100_000_columns_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = "".join(f",c{number}" for number in range(100_000))
    head, *rows = PLAIN.splitlines()
    wide = "\n".join([head + names, *(row + "," * 100_000 for row in rows)])
    assert accepted(tmp_path, capsys, DIAGNOSES_ICD=wide).visits == VISITS


# --- single values -----------------------------------------------------------------------------

BLANK = ["", " ", "NULL", "null", "NaN", "nan", "N/A", "NA", "#N/A", "NaT", "<NA>", "None", "\\N"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *((blank, "hadm_id missing") for blank in BLANK),
        *(
            (text, "hadm_id is not a whole number")
            for text in (
                "1e5",
                "8.001E+3",
                '"8,001"',
                "8 001",
                "8001.5",
                "8001a",
                "0x1F41",
                "'8001",
                "８００１",
            )
        ),
        *((text, "hadm_id outside 1..2^40-1") for text in ("0", "-8001", str(2**40), str(2**63), "9" * 400)),
        (str(2**40 - 1), "unknown admission"),
    ],
)
def test_an_id_of_a_diagnosis_is_rejected(
    text: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = HEAD + f"1,7001,8001,1,4019\n2,7001,{text},2,0389\n3,7002,8002,1,V5861\n"
    found = accepted(tmp_path, capsys, DIAGNOSES_ICD=content)
    assert found.rejected("diagnoses") == {reason: 1}
    assert found.visits == {7001: [["4019"]], 7002: [["V5861"]]}


@pytest.mark.parametrize(
    "text",
    [
        "2150-01-01T10:00:00",
        "2150-01-01 10:00",
        "2150-01-01 10:00:00.0",
        "2150-01-01 10:00:00.123456",
        "2150-01-01 10:00:00.1234567",  # as SQL Server's datetime2 is written
        "2150-01-01 10:00:00.123456789",
        " 2150-01-01 10:00:00 ",
        "2150-01-01",
    ],
)
def test_a_time_is_read(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ROWS["ADMISSIONS"].replace("2150-01-01 10:00:00", text)
    found = accepted(tmp_path, capsys, ADMISSIONS=HEADERS["ADMISSIONS"] + rows)
    assert found.visits == VISITS
    assert found.rejected("admissions") == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *((blank, "admittime missing") for blank in BLANK),
        *(
            (text, "admittime unreadable")
            for text in (
                "2150-01-01T10:00:00Z",
                "2150-01-01 10:00:00+02:00",
                "2150-01-01 24:00:00",
                "2150-01-01 10:00:60",
                "2101-02-30 10:00:00",
                "2100-02-29",
                "2150-13-01",
                "2150-1-1",
                "0000-00-00 00:00:00",
                "0000-01-01 00:00:00",
                "21500101",
                "5680000000",
                "##########",
                "10:00:00",
                "soon",
            )
        ),
        ("1753-01-01 00:00:00", "admission before birth"),
    ],
)
def test_a_time_is_rejected_with_what_hangs_on_it(
    text: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ROWS["ADMISSIONS"].replace("2150-01-01 10:00:00", text)
    found = accepted(tmp_path, capsys, ADMISSIONS=HEADERS["ADMISSIONS"] + rows)
    assert found.rejected("admissions") == {reason: 1}
    assert found.rejected("diagnoses") == {"unknown admission": 2}
    assert found.noted("patients") == {"without a kept admission": 1}
    assert found.visits == {7002: [["V5861"]]}


@pytest.mark.parametrize(
    "text",
    [
        "01/02/2150",
        "01/02/2150 10:00",
        "13.02.2150",
        "1/2/50",
        "01-02-2150",
        "2150/01/01",
        "01JAN2150",
        "1 January 2150",
        '"Jan 1, 2150"',
        "91312",
        "91312.4167",
        '"91312,4167"',
    ],
)
def test_a_date_that_would_have_to_be_guessed_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = HEADERS["ADMISSIONS"] + ROWS["ADMISSIONS"].replace("2150-03-01 10:00:00", text)
    line = refused(tmp_path, capsys, "ADMISSIONS", content, *FORGIVING)
    assert "record 2, column ADMITTIME holds a spreadsheet date" in line


@pytest.mark.parametrize(
    ("text", "code"),
    [("038.9", "0389"), (" 0389 ", "0389"), ("0389\u00a0", "0389"), ("v45.81", "V4581"), ("e885.9", "E8859")],
)
def test_a_code_is_normalised(
    text: str, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = accepted(tmp_path, capsys, DIAGNOSES_ICD=PLAIN.replace("0389", text))
    assert found.visits[7001] == [["4019", code]]
    assert found.noted("diagnoses") == {"code normalised (dot, letter case, space)": 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *((blank, "code missing") for blank in BLANK),
        *((text, "code malformed, of ICD-10's shape") for text in ("I10", "J45.909", "s72.001a", "E88")),
        *(
            (text, "code malformed")
            for text in (
                "38.9",
                "0389.0",
                "03.89",
                "V58.6.1",
                "0 389",
                "'0389",
                '"=""0389"""',
                "4O19",
                "401-9",
                "4.019E+03",
                "999999",
                "V1",
                "0",
                "-",
                "\u200b0389",
                "０３８９",
                "é",
                "A" * 60,
                "4019;0389",
            )
        ),
    ],
)
def test_a_code_is_rejected(
    text: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = accepted(tmp_path, capsys, DIAGNOSES_ICD=PLAIN.replace("0389", text))
    assert found.rejected("diagnoses") == {reason: 1}
    assert found.visits == VISITS | {7001: [["4019"]]}


@pytest.mark.parametrize("text", ["Male", "female", "1", "", "NULL", "M/F", "?"])
def test_a_gender_that_is_neither_m_nor_f_is_unknown(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = HEADERS["PATIENTS"] + ROWS["PATIENTS"].replace(",F,", f",{text},")
    found = accepted(tmp_path, capsys, PATIENTS=content)
    assert found.noted("patients") == {"gender not M or F, kept as UNKNOWN": 1}
    assert [row["gender"] for row in found.records] == ["UNKNOWN", "M"]


@pytest.mark.parametrize(
    ("text", "order", "fact"),
    [
        ("1", ["0389", "4019"], None),
        ("1.0", ["0389", "4019"], None),
        (" 3", ["4019", "0389"], None),
        ("0", ["0389", "4019"], "seq_num below 1"),
        ("-1", ["0389", "4019"], "seq_num below 1"),
        ("", ["4019", "0389"], "seq_num missing or unreadable"),
        ("2.5", ["4019", "0389"], "seq_num missing or unreadable"),
        ("first", ["4019", "0389"], "seq_num missing or unreadable"),
        (str(2**31), ["4019", "0389"], "seq_num missing or unreadable"),
    ],
)
def test_a_position(
    text: str, order: list[str], fact: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = accepted(tmp_path, capsys, DIAGNOSES_ICD=PLAIN.replace(",2,0389", f",{text},0389"))
    assert found.visits[7001] == [order]
    assert found.noted("diagnoses") == ({fact: 1} if fact else {})


@pytest.mark.parametrize(
    ("born", "age"),
    [
        ("1850-01-01", 90.0),
        ("2060-01-01", 90.0),
        ("2150-01-01", 0.0),
        ("1900-01-01", None),
        ("1700-01-01", None),
    ],
)
def test_an_age_is_capped_or_impossible(
    born: str, age: float | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = HEADERS["PATIENTS"] + ROWS["PATIENTS"].replace("2100-01-01", born)
    found = accepted(tmp_path, capsys, PATIENTS=content)
    assert [row["age"] for row in found.records if row["subject_id"] == 7001] == (
        [] if age is None else [age]
    )


# --- rows that contradict or repeat, and shares ------------------------------------------------


@pytest.mark.parametrize(
    ("name", "row", "key"),
    [
        ("PATIENTS", "3,7001.0, f ,2100-01-01\n", "subject_id"),
        ("ADMISSIONS", "3,7001,8001,2150-01-01T10:00,2150-01-05 12:00,WHITE\n", "hadm_id"),
        ("ADMISSIONS", "3,7001,8001,2150-01-01 10:00,2150-01-05 12:00,white\n", "hadm_id"),
    ],
)
def test_a_row_that_says_the_same_in_other_words_is_dropped(
    name: str, row: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = accepted(tmp_path, capsys, **{name: HEADERS[name] + ROWS[name] + row})
    assert found.rejected(name.lower()) == {f"repeats an earlier record of the same {key}": 1}
    assert found.visits == VISITS


@pytest.mark.parametrize("turn", [1, -1])
def test_of_repetitions_the_order_of_the_file_decides_nothing(
    turn: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Spellings of a group of people, and a discharge that is blank or unreadable, are no contradiction."""
    first, second, *_ = ROWS["ADMISSIONS"].splitlines()
    first = first.replace("2150-01-05 12:00:00", "")
    same = [first, first.replace("WHITE", "White "), first.replace(",,WHITE", ",later,white")]
    content = "\n".join([HEADERS["ADMISSIONS"].rstrip(), *same[::turn], second, ""])
    found = accepted(tmp_path, capsys, ADMISSIONS=content)
    assert found.rejected("admissions") == {"repeats an earlier record of the same hadm_id": 2}
    assert found.noted("admissions") == {}
    table = artifacts.read_table(tmp_path / "results/ingest/admissions.parquet", schemas.ADMISSIONS)
    assert table["ethnicity"].to_pylist() == ["WHITE", "ASIAN"]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("PATIENTS", "3,7001,M,2100-01-01\n"),
        ("PATIENTS", "3,7001,F,2100-01-02\n"),
        ("ADMISSIONS", "3,7001,8001,2150-01-01 10:00:00,2150-01-06 12:00:00,WHITE\n"),
        ("ADMISSIONS", "3,7002,8001,2150-01-01 10:00:00,2150-01-05 12:00:00,WHITE\n"),
    ],
)
def test_a_row_that_contradicts_is_refused(
    name: str, row: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(tmp_path, capsys, name, HEADERS[name] + ROWS[name] + row, *FORGIVING)
    assert "record 3 contradicts an earlier record" in line


def test_a_header_inside_the_file_is_a_rejected_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = accepted(tmp_path, capsys, DIAGNOSES_ICD=PLAIN + HEAD)
    assert found.rejected("diagnoses") == {"hadm_id is not a whole number": 1}
    assert found.visits == VISITS


def test_a_table_of_which_nothing_is_kept_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(tmp_path, capsys, "DIAGNOSES_ICD", HEAD + "1,7001,8001,1,bad\n")
    assert "1 of 1 records rejected, 1 of them for: code malformed (first: record 1)" in line


def many(rows: int, bad: int) -> str:
    """So many diagnoses of one admission, each of another code, the first ones of none."""
    codes = ["bad" if row < bad else f"{row:03}" if row < 1000 else f"V{row}" for row in range(rows)]
    return HEAD + "".join(f"1,7001,8001,1,{code}\n" for code in codes)


@pytest.mark.parametrize(("rows", "bad"), [(3, 2), (99, 90), (100, 5), (5000, 250)])
def test_rejected_rows_of_a_small_table_or_within_the_usual_share_are_counted(
    rows: int, bad: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = accepted(tmp_path, capsys, "ingest.max_zeroless_share=1.0", DIAGNOSES_ICD=many(rows, bad))
    assert found.rejected("diagnoses") == {"code malformed": bad}


@pytest.mark.parametrize(("rows", "bad"), [(100, 6), (5000, 251)])
def test_more_of_many_stop_the_stage(
    rows: int, bad: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(tmp_path, capsys, "DIAGNOSES_ICD", many(rows, bad), "ingest.max_zeroless_share=1.0")
    assert f"{bad} of {rows} records rejected" in line
    assert "above the share of 0.05" in line


def test_a_share_that_the_user_gives_holds_for_a_few_rows_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(
        tmp_path, capsys, "DIAGNOSES_ICD", PLAIN.replace("0389", "bad"), "ingest.max_rejected_share=0.3"
    )
    assert "1 of 3 records rejected" in line


def test_one_code_that_lost_its_zeros_is_counted_and_two_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
    found = accepted(tmp_path / "one", capsys, DIAGNOSES_ICD=PLAIN.replace("0389", "389"))
    assert found.noted("diagnoses") == {"code not in the ICD-9-CM list": 1}
    line = refused(
        tmp_path / "two",
        capsys,
        "DIAGNOSES_ICD",
        PLAIN.replace("0389", "389").replace("V5861", "0") + "4,7002,8002,2,412\n5,7002,8002,3,389\n",
    )
    assert "2 of 5 numeric codes in column ICD9_CODE" in line


FLOATS = HEAD + "1,7001,8001,1,4019.0\n2,7001,8001,2,486.0\n3,7002,8002,1,25000.0\n"


def test_codes_that_were_floats_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(tmp_path, capsys, "DIAGNOSES_ICD", FLOATS)
    assert "2 of 3 codes in column ICD9_CODE end in .0 after four digits or more" in line


def test_one_float_among_the_codes_is_malformed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = accepted(tmp_path, capsys, DIAGNOSES_ICD=FLOATS.replace("25000.0", "25000"))
    assert found.rejected("diagnoses") == {"code malformed": 1}


def test_a_line_end_in_a_folders_name_ends_no_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a\nb").mkdir()
    found = taken(source(tmp_path / "a\nb", PATIENTS=""), tmp_path / "results", capsys)
    assert (found.status, found.line.splitlines()) == (2, [found.line])
    assert "/a\\nb/source/PATIENTS.csv: empty file" in found.line


def test_a_million_equal_rows_are_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = accepted(tmp_path, capsys, *FORGIVING, DIAGNOSES_ICD=HEAD + "1,7001,8001,1,4019\n" * 1_000_000)
    assert found.rejected("diagnoses") == {"code repeated in its admission": 999_999}
    assert found.visits == {7001: [["4019"]]}


# --- the files that are named ------------------------------------------------------------------


def ingested(folder: Path, out: Path, **others: str) -> int:
    """Status of ingest, with some of its options in place of the usual ones."""
    files = {name: str(path) for name, path in find(folder, "mimic3").items()}
    files |= {f"{name}-table": str(out / f"{name}.parquet") for name in TABLES[:3]}
    files |= {"rejects": str(out / "rejects.parquet"), "ledger": str(out / "ledger.json"), **others}
    words = (word for name, path in files.items() for word in (f"--{name}", path))
    return cli.run(["ingest", *words, "--log", str(out.parent / "log")])


def test_outputs_may_be_spelt_in_two_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = source(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert ingested(folder, tmp_path / "out", ledger="out/../out/ledger.json") == 0
    sealed = artifacts.read_json(tmp_path / "out/ledger.json", schemas.LEDGER)["files"]
    assert sorted(sealed) == sorted(f"{name}.parquet" for name in TABLES)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"patients-table": "{source}/PATIENTS.csv"}, "--patients-table .*/PATIENTS.csv: is --patients too"),
        ({"patients-table": "{out}/admissions.parquet"}, "--admissions-table .*: is --patients-table too"),
        ({"rejects": "{out}/../rejects.parquet"}, "--rejects .*: expected in the folder of --ledger"),
    ],
)
def test_outputs_that_cannot_be_written_beside_each_other_are_refused(
    others: dict[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = source(tmp_path), tmp_path / "out"
    before = (folder / "PATIENTS.csv").read_bytes()
    given = {name: text.format(source=folder, out=out) for name, text in others.items()}
    assert ingested(folder, out, **given) == 2
    assert re.match(f"promptehr: {message}.*; name (another file|a file there)\n$", capsys.readouterr().err)
    assert (folder / "PATIENTS.csv").read_bytes() == before
    assert written(out) == []


def test_a_table_in_the_place_of_another_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, split = tmp_path / "results/ingest", tmp_path / "results/records"
    accepted(tmp_path, capsys)
    tables = {"patients": "admissions", "admissions": "patients", "diagnoses": "diagnoses"}
    words = [w for name, other in tables.items() for w in (f"--{name}-table", str(made / f"{other}.parquet"))]
    words += [w for name in SPLITS for w in (f"--{name}", str(split / f"{name}.parquet"))]
    words += ["--ingest-ledger", str(made / "ledger.json"), "--ledger", str(split / "ledger.json")]
    assert cli.run(["records", *words, "--log", str(tmp_path / "log")]) == 2
    assert (
        "admissions.parquet: holds schema admissions version 1, expected patients" in capsys.readouterr().err
    )
