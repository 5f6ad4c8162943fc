"""MIMIC-IV: births by year, codes of two systems, folders, and what records make of them."""

import gzip
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from promptehr import icd10, schemas
from promptehr.errors import InputError
from promptehr.ingestion.ethnicity import GROUPS
from tests import source_builders as mimic3
from tests.mimic4_builders import admission, diagnosis, folder, patient, run_mimic4, ten
from tests.source_builders import FILES, all_records, ledger, rows, run_ingest, run_records

KEEP, MAP, DROP = ('ingest.icd10="keep"', 'ingest.icd10="map"', 'ingest.icd10="drop"')
# Codes that both systems have, each with another meaning.
IN_BOTH = ("E030", "E8020", "V10")


def refusal(source: Path, tmp_path: Path, *assignments: str) -> str:
    """The one line with which the folder is refused; nothing may have been written."""
    with pytest.raises(InputError) as caught:
        run_mimic4(source, tmp_path / "results", *assignments)
    assert not (tmp_path / "results").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def reasons(out: Path) -> list[tuple[str, int, str]]:
    return rows(out / "rejects.parquet", schemas.REJECTS)


def diagnoses(out: Path) -> list[tuple[Any, ...]]:
    return rows(out / "diagnoses.parquet", schemas.DIAGNOSES)


def ages(tmp_path: Path, age: int, year: int, admitted: str) -> list[tuple[float, bool]]:
    """(age, capped) of the record of one patient with one visit."""
    admitted = f"{admitted} 10:00:00"
    source = folder(
        tmp_path / "source", patients=[patient(age=age, year=year)], admissions=[admission(admitted=admitted)]
    )
    out = run_records(run_mimic4(source, tmp_path), tmp_path)
    return [(record["age"], record["age_capped"]) for record in all_records(out)]


# --- tables ------------------------------------------------------------------------------------


def test_one_row_of_each_table_is_typed(tmp_path: Path) -> None:
    out = run_mimic4(folder(tmp_path / "source"), tmp_path, "ingest.max_rejected_share=0.0")
    assert rows(out / "patients.parquet", schemas.PATIENTS) == [(1, "F", datetime(2100, 1, 1), "year")]
    assert rows(out / "admissions.parquet", schemas.ADMISSIONS) == [
        (10, 1, datetime(2150, 1, 1, 10), datetime(2150, 1, 5, 12), "WHITE")
    ]
    assert diagnoses(out) == [(10, 1, "4019", "icd9")]
    assert reasons(out) == []


def test_upper_case_packed_files_in_any_column_order_are_read(tmp_path: Path) -> None:
    source = folder(tmp_path / "source")
    for name in FILES:
        text = (source / f"{name.lower()}.csv").read_text()
        turned = "\n".join(",".join(reversed(line.split(","))) for line in text.splitlines())
        (source / f"{name}.CSV.GZ").write_bytes(gzip.compress(turned.upper().encode()))
    out = run_mimic4(source, tmp_path, suffix=".csv.gz")
    assert [ledger(out)[name]["rows_kept"] for name in ("patients", "admissions", "diagnoses")] == [1, 1, 1]


# --- births ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "year", "admitted", "expected"),
    [
        (50, 2150, "2150-12-31", (50.0, False)),
        (50, 2150, "2151-01-01", (51.0, False)),
        (50, 2150, "2149-06-01", (49.0, False)),
        (0, 2150, "2150-11-01", (0.0, False)),
        (89, 2150, "2150-11-01", (89.0, False)),
        (89, 2150, "2151-01-01", (90.0, True)),
        (91, 2150, "2150-11-01", (90.0, True)),
        (91, 2150, "2148-11-01", (90.0, True)),
        (120, 2150, "2150-11-01", (90.0, True)),
    ],
)
def test_age_is_in_whole_years_and_capped_over_89(
    tmp_path: Path, age: int, year: int, admitted: str, expected: tuple[float, bool]
) -> None:
    assert ages(tmp_path, age, year, admitted) == [expected]


def test_newborns_are_those_of_age_0_where_only_the_year_is_known(tmp_path: Path) -> None:
    source = folder(
        tmp_path / "source",
        patients=[patient(1, age=0), patient(2, age=1)],
        admissions=[admission(10, 1, "2150-11-01"), admission(20, 2)],
        diagnoses=[diagnosis(hadm=10), diagnosis(hadm=20, subject=2)],
    )
    out = run_records(run_mimic4(source, tmp_path), tmp_path, 'records.newborns="drop"')
    assert [record["subject_id"] for record in all_records(out)] == [2]
    assert ledger(out)["patients"]["rejected"] == {"newborn, see records.newborns": 1}


def test_every_patient_row_has_one_outcome(tmp_path: Path) -> None:
    unreadable = "anchor_age outside 0..120 or anchor_year not of four digits"
    patients = [
        patient(1, gender="x", age="91.0"),
        patient(2, age=""),
        patient(3, age="old"),
        patient(4, year="NULL"),
        patient(5, year="2150-01-01"),
        patient(6, age=-1),
        patient(7, age=121),
        patient(8, year=50),
        patient("", age=""),
        patient(1, gender="?", age=90, year=2149),
    ]
    out = run_mimic4(folder(tmp_path / "source", patients=patients), tmp_path)
    assert rows(out / "patients.parquet", schemas.PATIENTS) == [
        (1, "UNKNOWN", datetime(2059, 1, 1), "hidden")
    ]
    assert [(record, reason) for _, record, reason in reasons(out)] == [
        (2, "anchor_age missing"),
        (3, "anchor_age is not a whole number"),
        (4, "anchor_year missing"),
        (5, "anchor_year is not a whole number"),
        (6, unreadable),
        (7, unreadable),
        (8, unreadable),
        (9, "subject_id missing"),
        (10, "repeats an earlier record of the same subject_id"),
    ]
    assert ledger(out)["patients"]["noted"] == {
        "birth moved by the source, age over 89": 1,
        "gender not M or F, kept as UNKNOWN": 1,
    }


def test_an_admission_before_the_year_of_birth_is_rejected(tmp_path: Path) -> None:
    admissions = [admission(10, admitted="2100-01-01"), admission(11, admitted="2099-12-31 23:00:00")]
    out = run_mimic4(folder(tmp_path / "source", admissions=admissions), tmp_path)
    assert reasons(out) == [("admissions", 2, "admission before birth")]


# --- codes -------------------------------------------------------------------------------------


def test_every_diagnosis_row_has_one_outcome(tmp_path: Path) -> None:
    given = [
        ten("I10  ", position=2),
        ten("e11.22", position=3),
        ten("I10", position=4),
        ten("C4A", position=5),
        ten("I1.0"),
        ten("4019"),
        ten("I10ABCDE"),
        ten(""),
        diagnosis("I10"),
        diagnosis("401.9", position=1),
        diagnosis("NULL"),
        diagnosis("4019", version=""),
        diagnosis("4019", version="11"),
        diagnosis("4019", version="ICD9"),
        diagnosis("", version=""),
        diagnosis("0389", version="9.0", position=6),
        ten("I10", hadm=99),
        ten("I10", subject=2),
        ten("Z9989", position=""),
        ten("O9X", position=7),
    ]
    source = folder(tmp_path / "source", patients=[patient(), patient(2)], diagnoses=given)
    out = run_mimic4(source, tmp_path)
    assert diagnoses(out) == [
        (10, 1, "4019", "icd9"),
        (10, 2, "I10", "icd10"),
        (10, 3, "E1122", "icd10"),
        (10, 5, "C4A", "icd10"),
        (10, 6, "0389", "icd9"),
        (10, None, "Z9989", "icd10"),
    ]
    assert [(record, reason) for _, record, reason in reasons(out)] == [
        (3, "code repeated in its admission"),
        (5, "code malformed"),
        (6, "code malformed"),
        (7, "code malformed"),
        (8, "code missing"),
        (9, "code malformed, of ICD-10's shape"),
        (11, "code missing"),
        (12, "icd_version missing"),
        (13, "icd_version is not 9 or 10"),
        (14, "icd_version is not 9 or 10"),
        (15, "icd_version missing"),
        (17, "unknown admission"),
        (18, "subject_id differs from the admission's"),
        (20, "code malformed"),
    ]
    assert ledger(out)["diagnoses"]["noted"] == {
        "ICD-10 code not in the ICD-10-CM list": 1,
        "ICD-10 code, kept": 4,
        "code normalised (dot, letter case, space)": 3,
        "seq_num missing or unreadable": 1,
    }


@pytest.mark.parametrize("code", IN_BOTH[:2])
def test_a_code_of_both_systems_stays_two(tmp_path: Path, code: str) -> None:
    source = folder(tmp_path / "source", diagnoses=[diagnosis(code), ten(code, position=2)])
    ingested = run_mimic4(source, tmp_path)
    assert diagnoses(ingested) == [(10, 1, code, "icd9"), (10, 2, code, "icd10")]
    (record,) = all_records(run_records(ingested, tmp_path))
    assert record["visits"] == [[code, f"ICD10:{code}"]]


def test_codes_of_one_seq_num_are_in_the_order_of_the_schema(tmp_path: Path) -> None:
    given = [diagnosis("V10"), ten("Z00"), diagnosis("0389"), ten("A00")]
    out = run_mimic4(folder(tmp_path / "source", diagnoses=given), tmp_path)
    assert [(row[3], row[2]) for row in diagnoses(out)] == [
        ("icd10", "A00"),
        ("icd10", "Z00"),
        ("icd9", "0389"),
        ("icd9", "V10"),
    ]


def test_mapped_codes_are_icd9_and_their_repetitions_are_counted(tmp_path: Path) -> None:
    given = [
        ten("E119", position=1),
        ten("E11.9", position=2),
        ten("N179", position=3),
        ten("A0101", position=4),
        ten("A0102", position=5),
        ten("U071", position=6),
        ten("R402130", position=7),
        ten("nonsense"),
        diagnosis("5849", position=8),
        diagnosis("5849", position=9),
    ]
    out = run_mimic4(folder(tmp_path / "source", diagnoses=given), tmp_path, MAP)
    assert diagnoses(out) == [
        (10, 1, "25000", "icd9"),
        (10, 3, "5849", "icd9"),
        (10, 4, "0020", "icd9"),
    ]
    merged = "code mapped to one that its admission has"
    assert [(record, reason) for _, record, reason in reasons(out)] == [
        (2, merged),
        (5, merged),
        (6, "icd10_without_map"),
        (7, "icd10_without_map"),
        (8, "code malformed"),
        (9, "code repeated in its admission"),
        (10, "code repeated in its admission"),
    ]
    assert ledger(out)["diagnoses"]["noted"] == {"ICD-10 code mapped to ICD-9": 3}


def test_of_several_icd9_codes_the_sources_own_use_decides(tmp_path: Path) -> None:
    given = [diagnosis("41401", 10), ten("I2510", 11)]
    admissions = [admission(10), admission(11)]
    source = folder(tmp_path / "a", admissions=admissions, diagnoses=given)
    assert diagnoses(run_mimic4(source, tmp_path / "a", MAP))[1] == (11, 1, "41401", "icd9")
    source = folder(tmp_path / "b", admissions=admissions, diagnoses=given[1:])
    assert diagnoses(run_mimic4(source, tmp_path / "b", MAP)) == [(11, 1, "4292", "icd9")]


def test_dropped_codes_are_counted_and_no_sign_of_damage(tmp_path: Path) -> None:
    given = [diagnosis(), ten("I10"), ten("E119"), ten("?")]
    source = folder(tmp_path / "source", diagnoses=given)
    out = run_mimic4(source, tmp_path, DROP, "ingest.max_rejected_share=0.25")
    assert diagnoses(out) == [(10, 1, "4019", "icd9")]
    assert ledger(out)["diagnoses"] == {
        "rows_in": 4,
        "rows_kept": 1,
        "rejected": {"ICD-10 code, left out by ingest.icd10": 2, "code malformed": 1},
        "noted": {},
    }
    message = refusal(source, tmp_path / "b", DROP, "ingest.max_rejected_share=0.2")
    assert "1 of 4 records rejected, 1 of them for: code malformed (first: record 4)" in message


def test_lost_zeros_are_looked_for_among_icd9_codes_alone(tmp_path: Path) -> None:
    lost = [diagnosis("389"), diagnosis("4019", position=2), diagnosis("42", position=3), ten("I10")]
    message = refusal(folder(tmp_path / "a", diagnoses=lost), tmp_path / "a")
    assert (
        "2 of 3 numeric codes in column ICD_CODE of version 9 are ICD-9-CM codes only with zeros" in message
    )
    many = [admission(hadm) for hadm in range(1, 1001)]
    codes = [diagnosis("4019", hadm) for hadm in range(1, 1001)]
    source = folder(tmp_path / "b", admissions=many, diagnoses=codes)
    assert "none of 1000 numeric codes in column ICD_CODE of version 9 begins with 0" in refusal(
        source, tmp_path
    )
    source = folder(tmp_path / "c", admissions=many, diagnoses=[*codes[1:], ten("I10")])
    assert ledger(run_mimic4(source, tmp_path / "c"))["diagnoses"]["rows_kept"] == 1000


def test_the_order_of_rows_changes_no_table(tmp_path: Path) -> None:
    given = [ten(c, position=n) for n, c in enumerate(("I10", "I2510", "E119", "E030", "x", "I10"))]
    given += [diagnosis(c, position=n, hadm=11) for n, c in enumerate(("4019", "E030", "", "0389", "4019"))]
    written = []
    for name, table in (("a", given), ("b", given[::-1])):
        source = folder(tmp_path / name, admissions=[admission(10), admission(11)], diagnoses=table)
        for choice in (KEEP, MAP, DROP):
            out = run_mimic4(source, tmp_path / name, choice)
            written.append([(out / f"{table}.parquet").read_bytes() for table in ("diagnoses", "patients")])
    assert written[:3] == written[3:]


# --- folders of the other version --------------------------------------------------------------


def test_a_mimic3_folder_is_recognised(tmp_path: Path) -> None:
    message = refusal(mimic3.folder(tmp_path / "source"), tmp_path)
    assert message.endswith(
        "PATIENTS.csv: has column DOB, no ANCHOR_AGE: this is MIMIC-III's table, expected MIMIC-IV's;"
        " set source.kind: mimic3"
    )


def test_a_mimic4_folder_given_as_mimic3_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        run_ingest(folder(tmp_path / "source"), tmp_path)
    assert str(caught.value).endswith(
        "patients.csv: has column ANCHOR_AGE, no DOB: this is MIMIC-IV's table, expected MIMIC-III's;"
        " set source.kind: mimic4"
    )


def test_admissions_that_name_ethnicity_are_explained(tmp_path: Path) -> None:
    source = folder(tmp_path / "source")
    path = source / "admissions.csv"
    path.write_text(path.read_text().replace("race", "ethnicity"))
    assert refusal(source, tmp_path).endswith(
        "set source.kind: mimic3, or rename the column to RACE where it is MIMIC-IV before 2.0"
    )


# --- records -----------------------------------------------------------------------------------


def test_categories_keep_the_systems_apart_and_ccs_leaves_icd10_alone(tmp_path: Path) -> None:
    given = [ten("I5022"), ten("I5023", position=2), diagnosis("E8859", position=3), ten("E8859", position=4)]
    ingested = run_mimic4(folder(tmp_path / "source", diagnoses=given), tmp_path)
    out = run_records(ingested, tmp_path / "category", 'records.granularity="category"')
    assert all_records(out)[0]["visits"] == [["ICD10:I50", "E885", "ICD10:E88"]]
    out = run_records(ingested, tmp_path / "ccs", 'records.granularity="ccs"')
    assert all_records(out)[0]["visits"] == [["ICD10:I5022", "ICD10:I5023", "CCS2603", "ICD10:E8859"]]
    assert ledger(out)["codes"]["noted"]["in no CCS group, kept as it is"] == 3


def test_the_texts_of_race_have_a_group() -> None:
    assert len(GROUPS) == 48
    assert [GROUPS[text] for text in ("PORTUGUESE", "SOUTH AMERICAN", "CARIBBEAN ISLAND")] == ["OTHER"] * 3
    assert GROUPS["BLACK/CARIBBEAN ISLAND"] == "BLACK"
    assert GROUPS["MULTIPLE RACE/ETHNICITY"] == "OTHER"
    assert {GROUPS[text] for text in GROUPS if text.startswith("HISPANIC")} == {"HISPANIC"}
    assert {GROUPS[text] for text in GROUPS if text.startswith("ASIAN")} == {"ASIAN"}
    assert {GROUPS[text] for text in GROUPS if text.startswith("WHITE")} == {"WHITE"}
    assert {GROUPS[text] for text in GROUPS if text.startswith("BLACK")} == {"BLACK"}


def test_the_listed_codes_of_both_systems_are_in_both_lists() -> None:
    assert set(IN_BOTH[:2]) <= icd10.listed()
