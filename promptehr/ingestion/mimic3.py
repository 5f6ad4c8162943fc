"""What is MIMIC-III's own among source tables: a date of birth, and ICD-9 codes alone."""

import polars as pl

from promptehr.ingestion import values
from promptehr.ingestion.kind import Births, Coding, Kind
from promptehr.ingestion.table import SourceTable
from promptehr.settings import Ingest

COLUMNS = {
    "patients": ("SUBJECT_ID", "GENDER", "DOB"),
    "admissions": ("SUBJECT_ID", "HADM_ID", "ADMITTIME", "DISCHTIME", "ETHNICITY"),
    "diagnoses": ("SUBJECT_ID", "HADM_ID", "SEQ_NUM", "ICD9_CODE"),
}
MIMIC4 = "this is MIMIC-IV's table, expected MIMIC-III's; set source.kind: mimic4"
FACTS = {
    "code normalised (dot, letter case, space)": "changed",
    "code not in the ICD-9-CM list": "unlisted",
}


def births(patients: SourceTable) -> Births:
    """DOB, to the day."""
    values.refuse_spreadsheet_times(patients.text, patients.path, "dob")
    frame = pl.DataFrame({"birth": values.times(patients.text["dob"])})
    return Births(
        frame.with_columns(birth_resolution=pl.lit("day")),
        {"dob missing": values.stated("dob").is_null(), "dob unreadable": pl.col("birth").is_null()},
    )


def coding(diagnoses: SourceTable, _: Ingest) -> Coding:
    """Each text is a code of ICD-9-CM or none."""
    wordings = diagnoses.text["icd9_code"]
    counts = wordings.value_counts(name="rows").rename({"icd9_code": "text"})
    table = (
        values.codes(counts["text"])
        .with_columns(system=pl.lit("icd9"), mapped=pl.lit(value=False))
        .join(counts, on="text", how="left", maintain_order="left", nulls_equal=True)
    )
    return Coding(wordings, table, FACTS, "ICD9_CODE")


KIND = Kind(
    columns=COLUMNS,
    foreign={"ANCHOR_AGE": MIMIC4, "RACE": MIMIC4, "ICD_VERSION": MIMIC4},
    ethnicity="ethnicity",
    births=births,
    coding=coding,
)
