"""Row rules, dialects and refusals of ingest."""

import gzip
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from promptehr import schemas
from promptehr.errors import InputError
from promptehr.stages import ingest
from promptehr.stages.ingest import judge
from tests.source_builders import (
    DIAGNOSES,
    FILES,
    TABLES,
    admission,
    csv_text,
    diagnosis,
    folder,
    ledger,
    patient,
    rows,
    run_ingest,
)

PLAIN = "ROW_ID,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE\n"


def with_diagnoses(tmp_path: Path, content: bytes, name: str = "DIAGNOSES_ICD.csv") -> Path:
    """A folder whose diagnoses are these bytes."""
    source = folder(tmp_path / "source")
    (source / "DIAGNOSES_ICD.csv").unlink()
    (source / name).write_bytes(content)
    return source


def reasons(out: Path) -> list[tuple[str, int, str]]:
    return rows(out / "rejects.parquet", schemas.REJECTS)


def refusal(source: Path, tmp_path: Path, *assignments: str, suffix: str = ".csv") -> str:
    """The one line with which the folder is refused; nothing may have been written."""
    with pytest.raises(InputError) as caught:
        run_ingest(source, tmp_path / "results", *assignments, suffix=suffix)
    assert not (tmp_path / "results").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- tables ------------------------------------------------------------------------------------


def test_demo_balances_to_100_patients_129_admissions_1761_diagnoses_581_codes(
    mimic3_demo: Path, tmp_path: Path
) -> None:
    out = run_ingest(mimic3_demo, tmp_path, "ingest.max_rejected_share=0.0")
    tables = ledger(out)
    assert {name: (t["rows_in"], t["rows_kept"], t["rejected"]) for name, t in tables.items()} == {
        "patients": (100, 100, {}),
        "admissions": (129, 129, {}),
        "diagnoses": (1761, 1761, {}),
    }
    assert tables["patients"]["noted"] == {"birth moved by the source, age over 89": 8}
    assert len({row[2] for row in rows(out / "diagnoses.parquet", schemas.DIAGNOSES)}) == 581


def test_one_row_of_each_table_is_typed(tmp_path: Path) -> None:
    out = run_ingest(folder(tmp_path / "source"), tmp_path)
    assert rows(out / "patients.parquet", schemas.PATIENTS) == [(1, "F", datetime(2100, 1, 1), "day")]
    assert rows(out / "admissions.parquet", schemas.ADMISSIONS) == [
        (10, 1, datetime(2150, 1, 1, 10), datetime(2150, 1, 5, 12), "WHITE")
    ]
    assert rows(out / "diagnoses.parquet", schemas.DIAGNOSES) == [(10, 1, "4019", "icd9")]
    assert reasons(out) == []


# --- dialects ----------------------------------------------------------------------------------


def two_rows(**dialect: object) -> str:
    return csv_text(DIAGNOSES, [diagnosis("0389"), diagnosis("V5861", position=2)], **dialect)


@pytest.mark.parametrize(
    "content",
    [
        two_rows().encode(),
        two_rows().lower().encode(),
        two_rows(quoting=1).encode(),
        two_rows().rstrip("\n").encode(),
        (two_rows() + "\n\n").encode(),
        two_rows().replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + two_rows().encode(),
        b"\xef\xbb\xbf" + two_rows(quoting=1).replace("\n", "\r\n").encode(),
        b" icd9_code ,extra,SEQ_NUM,HADM_ID,SUBJECT_ID\n0389,\xc3\xa9,1,10,1\nv5861,,2,10,1\n",
        b'NOTE,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE\n"a, ""b""\nc",1,10,1,0389\n"",1,10,2,"V5861"',
        b"SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE,,\n1,10,1,0389,,\n1.0,10.0,2.0, V58.61 ,,\n",
    ],
)
def test_dialects_give_the_same_rows(tmp_path: Path, content: bytes) -> None:
    out = run_ingest(with_diagnoses(tmp_path, content), tmp_path)
    assert rows(out / "diagnoses.parquet", schemas.DIAGNOSES) == [
        (10, 1, "0389", "icd9"),
        (10, 2, "V5861", "icd9"),
    ]
    assert ledger(out)["diagnoses"]["rows_in"] == 2


def test_gzip_of_several_members_is_read_whole(tmp_path: Path) -> None:
    source = folder(tmp_path / "source")
    for name in FILES:
        content = (source / f"{name}.csv").read_bytes()
        (source / f"{name}.csv.gz").write_bytes(gzip.compress(content[:20]) + gzip.compress(content[20:]))
        (source / f"{name}.csv").unlink()
    out = run_ingest(source, tmp_path, suffix=".csv.gz")
    assert [ledger(out)[name]["rows_kept"] for name in TABLES[:3]] == [1, 1, 1]


def test_a_line_end_inside_quotes_counts_no_record(tmp_path: Path) -> None:
    text = 'NOTE,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE\n"a\n\nb",1,10,1,4019\nx,1,10,2,\n'
    out = run_ingest(with_diagnoses(tmp_path, text.encode()), tmp_path)
    assert reasons(out) == [("diagnoses", 2, "code missing")]
    assert ledger(out)["diagnoses"]["rows_in"] == 2


@pytest.mark.parametrize("piece", [1, 2, 7, len(PLAIN), len(PLAIN) + 1, len(two_rows()), len(two_rows()) + 1])
def test_empty_lines_at_the_end_mean_nothing_wherever_a_piece_ends(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("promptehr.ingestion.content.PIECE", piece)
    out = run_ingest(with_diagnoses(tmp_path, (two_rows() + "\n\n\n").encode()), tmp_path)
    assert ledger(out)["diagnoses"]["rows_kept"] == 2


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 4])
def test_of_two_errors_the_first_in_the_file_is_named(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("promptehr.ingestion.content.PIECE", 30)
    monkeypatch.setattr(pl, "thread_pool_size", lambda: threads)
    text = PLAIN + "1,1,10,1,4019\n1,1,10,2\n" + "1,1,10,3,4280\n" * 9
    with pytest.raises(InputError, match="record 2 has 4 fields"):
        run_ingest(with_diagnoses(tmp_path, text.encode() + b"1,1,10,4,\xff\n"), tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (b" \n\n", "empty file"),
        (PLAIN.encode(), "a header and no records"),
        (b"SUBJECT_ID,HADM_ID,SEQ_NUM\n1,10,1\n", "header has no column ICD9_CODE"),
        (b"1,1,10,1,4019\n", "header has no column SUBJECT_ID, HADM_ID, SEQ_NUM, ICD9_CODE"),
        (b"SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE,icd9_code\n1,10,1,4019,4019\n", "column ICD9_CODE more than"),
        (PLAIN.replace(",", ";").encode() + b"1;1;10;1;4019\n", "separated by semicolons"),
        (PLAIN.replace(",", "\t").encode() + b"1\t1\t10\t1\t4019\n", "separated by tabs"),
        (PLAIN.replace(",", "|").encode() + b"1|1|10|1|4019\n", "separated by vertical bars"),
        (PLAIN.encode() + b"1,1,10,1,4019\n1,1,10,\xff,4019\n", "line 3 holds bytes that are not UTF-8"),
        (PLAIN.encode() + b"1,1,10,1,\x00\n", "line 2 holds a NUL byte"),
        (PLAIN.encode("utf-16"), "UTF-16 text"),
        (b"PK\x03\x04 workbook", "Excel workbook"),
        (PLAIN.encode() + b"1,1,10,1,4019\n1,1,10,2\n", "record 2 has 4 fields, the header 5"),
        (PLAIN.encode() + b"1,1,10,1,4019,9\n", "record 1 has 6 fields, the header 5"),
        (PLAIN.encode() + b"1,1,10,1,4019\n\n1,1,10,2,4019\n", "record 2 is an empty line"),
        (PLAIN.encode() + b'1,1,10,1,"4019\n1,1,10,2,4019\n', "record 1 opens a quote that nothing closes"),
        (PLAIN.encode() + b'1,1,10,1,4019\n1,1,10,2,40"19\n', "record 2 has a quote inside a field"),
        (PLAIN.encode() + b'1,1,10,1,4019\n1,1,10,"2"3,4019\n', "record 2 has a quote inside a field"),
        (PLAIN.encode() + b"1,1,10,1,4019\r1,1,10,2,4019\n", "record 1 holds a CR that ends no line"),
        (PLAIN.replace("\n", "\r").encode() + b"1,1,10,1,4019\r", "lines end in CR alone"),
        (b'"ROW_ID,SUBJECT_ID\n', "the header, opens a quote"),
    ],
)
def test_files_that_cannot_be_read_without_guessing_are_refused(
    tmp_path: Path, content: bytes, words: str
) -> None:
    message = refusal(with_diagnoses(tmp_path, content), tmp_path)
    assert words in message
    assert "DIAGNOSES_ICD.csv: " in message


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(two_rows().encode())
    flipped = bytes([*whole[:30], whole[30] ^ 255, *whole[31:]])
    cases = {
        "cut off before its end": whole[:-9],
        "damaged": flipped,
        "not a gzip file": two_rows().encode(),
    }
    for number, (words, content) in enumerate(cases.items()):
        source = folder(tmp_path / str(number))
        for name in FILES:
            packed = gzip.compress((source / f"{name}.csv").read_bytes())
            (source / f"{name}.csv.gz").write_bytes(content if name == "DIAGNOSES_ICD" else packed)
        assert words in refusal(source, tmp_path / str(number), suffix=".csv.gz")


@pytest.mark.parametrize(
    "date",
    [
        "01/12/2100",
        "1.12.2100 00:00",
        "31-12-00",
        "2100/12/01",
        "1-Dec-2100",
        "01DEC2100",
        "73050",
        "73050.5",
    ],
)
def test_spreadsheet_dates_are_refused_with_their_record(tmp_path: Path, date: str) -> None:
    source = folder(tmp_path / "source", patients=[patient(), patient(2, born=date)])
    message = refusal(source, tmp_path)
    assert "record 2, column DOB holds a spreadsheet date" in message
    assert date not in message


def test_contradicting_rows_of_one_id_are_refused(tmp_path: Path) -> None:
    source = folder(tmp_path / "a", patients=[patient(), patient(gender="M")])
    assert "record 2 contradicts an earlier record of the same SUBJECT_ID" in refusal(source, tmp_path / "a")
    source = folder(tmp_path / "b", admissions=[admission(), admission(ethnicity="ASIAN")])
    assert "record 2 contradicts an earlier record of the same HADM_ID" in refusal(source, tmp_path / "b")


def test_many_numeric_codes_without_a_leading_zero_are_refused(tmp_path: Path) -> None:
    admissions = [admission(hadm) for hadm in range(1, 1001)]
    diagnoses = [diagnosis("4019", hadm) for hadm in range(1, 1001)]
    message = refusal(folder(tmp_path / "a", admissions=admissions, diagnoses=diagnoses), tmp_path / "a")
    assert "none of 1000 numeric codes in column ICD9_CODE begins with 0" in message
    run_ingest(folder(tmp_path / "b", admissions=admissions, diagnoses=diagnoses[1:]), tmp_path / "b")


def test_codes_that_only_zeros_would_make_known_are_refused_beyond_a_share(tmp_path: Path) -> None:
    lost = [diagnosis("389"), diagnosis("4019", position=2), diagnosis("42", position=3)]
    source = folder(tmp_path / "source", diagnoses=lost)
    assert "2 of 3 numeric codes in column ICD9_CODE" in refusal(source, tmp_path)
    out = run_ingest(source, tmp_path, "ingest.max_zeroless_share=1.0")
    assert reasons(out) == [("diagnoses", 3, "code malformed")]


def test_more_rejected_rows_than_the_limit_stop_the_stage(tmp_path: Path) -> None:
    source = folder(tmp_path / "source", diagnoses=[diagnosis(), diagnosis("", position=2), diagnosis("")])
    message = refusal(source, tmp_path, "ingest.max_rejected_share=0.5")
    assert "2 of 3 records rejected, 2 of them for: code missing (first: record 2)" in message
    assert "above the share of 0.5; repair the file or raise ingest.max_rejected_share" in message


@pytest.mark.parametrize(
    "change",
    [
        Path.unlink,
        lambda path: path.write_text(PLAIN + "1,1,10,1,0389\n"),
        lambda path: path.write_bytes(path.read_bytes() * 2),
    ],
)
def test_a_file_that_changes_while_it_is_read_is_refused(
    change: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "source")

    def judged_late(*given: Any) -> Any:
        change(source / "DIAGNOSES_ICD.csv")
        return judge(*given)

    monkeypatch.setattr(ingest, "judge", judged_late)
    assert "DIAGNOSES_ICD.csv: changed while it was read, expected a file at rest" in refusal(
        source, tmp_path
    )


# --- row rules ---------------------------------------------------------------------------------


def test_every_patient_row_has_one_outcome(tmp_path: Path) -> None:
    patients = [
        patient(1, gender=" m"),
        patient(1, gender="M"),
        patient("", born="x"),
        patient("abc"),
        patient(0),
        patient(2**40),
        patient("9" * 30),
        patient(-5),
        patient(2, born=""),
        patient(3, born="2100-02-30 00:00:00"),
        patient(4, gender="?", born="2100-01-01"),
        patient(2**40 - 1, gender=""),
    ]
    out = run_ingest(folder(tmp_path / "source", patients=patients), tmp_path)
    assert rows(out / "patients.parquet", schemas.PATIENTS) == [
        (1, "M", datetime(2100, 1, 1), "day"),
        (4, "UNKNOWN", datetime(2100, 1, 1), "day"),
        (2**40 - 1, "UNKNOWN", datetime(2100, 1, 1), "day"),
    ]
    assert [(record, reason) for _, record, reason in reasons(out)] == [
        (2, "repeats an earlier record of the same subject_id"),
        (3, "subject_id missing"),
        (4, "subject_id is not a whole number"),
        (5, "subject_id outside 1..2^40-1"),
        (6, "subject_id outside 1..2^40-1"),
        (7, "subject_id outside 1..2^40-1"),
        (8, "subject_id outside 1..2^40-1"),
        (9, "dob missing"),
        (10, "dob unreadable"),
    ]
    assert ledger(out)["patients"]["noted"] == {
        "gender not M or F, kept as UNKNOWN": 2,
        "without a kept admission": 2,
    }


def test_every_admission_row_has_one_outcome(tmp_path: Path) -> None:
    admissions = [
        admission(10),
        admission(10),
        admission(11, subject=9),
        admission(12, admitted="2099-12-31 23:59:59"),
        admission(13, admitted="NULL"),
        admission(14, admitted="soon"),
        admission(15, admitted="2150-03-01T08:30", discharged="2150-02-01 00:00:00", ethnicity=""),
        admission(16, discharged="later"),
        admission("", subject=1),
        admission(17, discharged=""),
    ]
    out = run_ingest(folder(tmp_path / "source", admissions=admissions), tmp_path)
    kept = rows(out / "admissions.parquet", schemas.ADMISSIONS)
    assert [row[0] for row in kept] == [10, 15, 16, 17]
    assert kept[1] == (15, 1, datetime(2150, 3, 1, 8, 30), datetime(2150, 2, 1), None)
    assert [(record, reason) for _, record, reason in reasons(out)] == [
        (2, "repeats an earlier record of the same hadm_id"),
        (3, "unknown patient"),
        (4, "admission before birth"),
        (5, "admittime missing"),
        (6, "admittime unreadable"),
        (9, "hadm_id missing"),
    ]
    assert ledger(out)["admissions"]["noted"] == {
        "discharge before admission": 1,
        "dischtime unreadable, kept without": 1,
        "ethnicity missing": 1,
    }


def test_every_diagnosis_row_has_one_outcome(tmp_path: Path) -> None:
    diagnoses = [
        diagnosis("401.9", position=3),
        diagnosis("4019", position=1),
        diagnosis(" v58.61", position=2),
        diagnosis("NULL"),
        diagnosis(""),
        diagnosis("4.019"),
        diagnosis("I10"),
        diagnosis("٤٠١٩"),
        diagnosis("4019", hadm=99),
        diagnosis("4019", subject=2),
        diagnosis("585", position=""),
        diagnosis("E8859", position="first"),
        diagnosis("0389", hadm="x"),
    ]
    out = run_ingest(
        folder(tmp_path / "source", patients=[patient(), patient(2)], diagnoses=diagnoses), tmp_path
    )
    assert rows(out / "diagnoses.parquet", schemas.DIAGNOSES) == [
        (10, 1, "4019", "icd9"),
        (10, 2, "V5861", "icd9"),
        (10, None, "585", "icd9"),
        (10, None, "E8859", "icd9"),
    ]
    assert [(record, reason) for _, record, reason in reasons(out)] == [
        (1, "code repeated in its admission"),
        (4, "code missing"),
        (5, "code missing"),
        (6, "code malformed"),
        (7, "code malformed, of ICD-10's shape"),
        (8, "code malformed"),
        (9, "unknown admission"),
        (10, "subject_id differs from the admission's"),
        (13, "hadm_id is not a whole number"),
    ]
    assert ledger(out)["diagnoses"]["noted"] == {
        "code normalised (dot, letter case, space)": 1,
        "code not in the ICD-9-CM list": 1,
        "seq_num missing or unreadable": 2,
    }


def test_a_birth_300_years_before_the_first_admission_is_hidden(tmp_path: Path) -> None:
    patients = [patient(1, born="1850-01-01 00:00:00"), patient(2, born="2049-01-01 00:00:00")]
    source = folder(tmp_path / "source", patients=patients, admissions=[admission(10), admission(11, 2)])
    out = run_ingest(source, tmp_path)
    assert [row[3] for row in rows(out / "patients.parquet", schemas.PATIENTS)] == ["hidden", "day"]


def test_the_order_of_rows_changes_no_table(tmp_path: Path, mimic3_demo: Path) -> None:
    turned = tmp_path / "turned"
    turned.mkdir()
    for name in FILES:
        head, *lines = (mimic3_demo / f"{name}.csv").read_text().splitlines()
        (turned / f"{name}.csv").write_text("\n".join([head, *reversed(lines)]))
    straight = run_ingest(mimic3_demo, tmp_path / "a")
    reverse = run_ingest(turned, tmp_path / "b")
    for table in TABLES:
        assert (straight / f"{table}.parquet").read_bytes() == (reverse / f"{table}.parquet").read_bytes()
