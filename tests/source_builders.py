"""Builders of MIMIC-III folders: rows in, CSV files and ingested tables out."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from promptehr import artifacts, schemas
from promptehr.settings import from_assignments
from promptehr.stages import ingest, records

PATIENTS = ("ROW_ID", "SUBJECT_ID", "GENDER", "DOB")
ADMISSIONS = ("ROW_ID", "SUBJECT_ID", "HADM_ID", "ADMITTIME", "DISCHTIME", "ETHNICITY")
DIAGNOSES = ("ROW_ID", "SUBJECT_ID", "HADM_ID", "SEQ_NUM", "ICD9_CODE")

BORN, ADMITTED, DISCHARGED = "2100-01-01 00:00:00", "2150-01-01 10:00:00", "2150-01-05 12:00:00"


def patient(subject: Any = 1, gender: str = "F", born: str = BORN) -> list[str]:
    return ["1", str(subject), gender, born]


def admission(
    hadm: Any = 10,
    subject: Any = 1,
    admitted: str = ADMITTED,
    discharged: str = DISCHARGED,
    ethnicity: str = "WHITE",
) -> list[str]:
    return ["1", str(subject), str(hadm), admitted, discharged, ethnicity]


def diagnosis(code: str = "4019", hadm: Any = 10, subject: Any = 1, position: Any = 1) -> list[str]:
    return ["1", str(subject), str(hadm), str(position), code]


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[str]], **dialect: Any) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n", **dialect)
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()


def folder(
    path: Path,
    *,
    patients: Iterable[Sequence[str]] = (patient(),),
    admissions: Iterable[Sequence[str]] = (admission(),),
    diagnoses: Iterable[Sequence[str]] = (diagnosis(),),
) -> Path:
    """A folder with the three files; by default one patient with one visit of one code."""
    path.mkdir(parents=True, exist_ok=True)
    for name, columns, rows in (
        ("PATIENTS", PATIENTS, patients),
        ("ADMISSIONS", ADMISSIONS, admissions),
        ("DIAGNOSES_ICD", DIAGNOSES, diagnoses),
    ):
        (path / f"{name}.csv").write_bytes(csv_text(columns, rows).encode())
    return path


def run_ingest(source: Path, results: Path, *assignments: str, suffix: str = ".csv") -> Path:
    """Ingest a folder; returns results/ingest. All rows may be rejected unless told otherwise."""
    out = results / "ingest"
    names = [next(p for p in source.iterdir() if p.name.upper() == f"{n}{suffix}".upper()) for n in FILES]
    ingest.run(
        ingest.Inputs(*names),
        ingest.Outputs(*(out / f"{n}.parquet" for n in TABLES), out / "ledger.json"),
        from_assignments("ingest", ["ingest.max_rejected_share=1.0", *assignments]),
    )
    return out


def run_records(ingested: Path, results: Path, *assignments: str) -> Path:
    """Records of an ingested folder; returns results/records."""
    out = results / "records"
    records.run(
        records.Inputs(*(ingested / f"{n}.parquet" for n in TABLES[:3]), ingested / "ledger.json"),
        records.Outputs(*(out / f"{n}.parquet" for n in SPLITS), out / "ledger.json"),
        from_assignments("records", assignments),
    )
    return out


def ledger(folder: Path) -> dict[str, Any]:
    return artifacts.read_json(folder / "ledger.json", schemas.LEDGER)["tables"]  # type: ignore[no-any-return]


def rows(path: Path, schema: schemas.Table) -> list[tuple[Any, ...]]:
    return pl.DataFrame(artifacts.read_table(path, schema)).rows()


def all_records(folder: Path) -> list[dict[str, Any]]:
    """Records of the three splits, sorted by patient."""
    tables = [pl.DataFrame(artifacts.read_table(folder / f"{n}.parquet", schemas.RECORDS)) for n in SPLITS]
    return pl.concat(tables).sort("subject_id").to_dicts()


FILES = ("PATIENTS", "ADMISSIONS", "DIAGNOSES_ICD")
TABLES = ("patients", "admissions", "diagnoses", "rejects")
SPLITS = ("train", "valid", "test")
