"""Builders of MIMIC-IV folders: rows in, CSV files and ingested tables out."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.source_builders import ADMITTED, DISCHARGED, csv_text, run_ingest

PATIENTS = ("subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod")
ADMISSIONS = ("subject_id", "hadm_id", "admittime", "dischtime", "admission_type", "race")
DIAGNOSES = ("subject_id", "hadm_id", "seq_num", "icd_code", "icd_version")


def patient(subject: Any = 1, gender: str = "F", age: Any = 50, year: Any = 2150) -> list[str]:
    return [str(subject), gender, str(age), str(year), "2011 - 2013", ""]


def admission(
    hadm: Any = 10,
    subject: Any = 1,
    admitted: str = ADMITTED,
    discharged: str = DISCHARGED,
    race: str = "WHITE",
) -> list[str]:
    return [str(subject), str(hadm), admitted, discharged, "URGENT", race]


def diagnosis(
    code: str = "4019", hadm: Any = 10, subject: Any = 1, position: Any = 1, version: Any = 9
) -> list[str]:
    return [str(subject), str(hadm), str(position), code, str(version)]


def ten(code: str, hadm: Any = 10, subject: Any = 1, position: Any = 1) -> list[str]:
    """A diagnosis of ICD-10."""
    return diagnosis(code, hadm, subject, position, version=10)


def folder(
    path: Path,
    *,
    patients: Iterable[Sequence[str]] = (patient(),),
    admissions: Iterable[Sequence[str]] = (admission(),),
    diagnoses: Iterable[Sequence[str]] = (diagnosis(),),
) -> Path:
    """A folder with the three files; by default one patient with one visit of one ICD-9 code."""
    path.mkdir(parents=True, exist_ok=True)
    for name, columns, rows in (
        ("patients", PATIENTS, patients),
        ("admissions", ADMISSIONS, admissions),
        ("diagnoses_icd", DIAGNOSES, diagnoses),
    ):
        (path / f"{name}.csv").write_bytes(csv_text(columns, rows).encode())
    return path


def run_mimic4(source: Path, results: Path, *assignments: str, suffix: str = ".csv") -> Path:
    """Ingest a folder; returns results/ingest. All rows may be rejected unless told otherwise."""
    kind = ('source.kind="mimic4"', 'source.path="given"')
    return run_ingest(source, results, *kind, *assignments, suffix=suffix)
