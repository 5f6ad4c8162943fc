"""What is MIMIC-III's own among source tables: a date of birth, and ICD-9 codes alone."""

import numpy as np
import polars as pl

from promptehr.ingestion import values
from promptehr.ingestion.kind import Births, Coding, Kind, places_in
from promptehr.ingestion.table import SourceTable, words
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
    values.refuse_spreadsheet_times(patients.odd, patients.path, "dob")
    return Births(
        patients.rows.select(birth="dob", birth_resolution=pl.lit("day")),
        values.time_reasons("dob", "birth"),
    )


def coding(diagnoses: SourceTable, _: Ingest) -> Coding:
    """Each text is a code of ICD-9-CM or none."""
    written = words(diagnoses.pieces, "icd9_code")
    table = values.codes(written.texts).with_columns(system=pl.lit("icd9"), mapped=pl.lit(value=False))
    order = places_in(table, written.texts)
    rows = np.zeros(table.height, np.int64)
    rows[order] = written.rows
    return Coding(
        lambda piece: order[written.places(piece["icd9_code"])],
        table.with_columns(rows=rows),
        FACTS,
        "ICD9_CODE",
    )


KIND = Kind(
    columns=COLUMNS,
    foreign={"ANCHOR_AGE": MIMIC4, "RACE": MIMIC4, "ICD_VERSION": MIMIC4},
    ethnicity="ethnicity",
    births=births,
    coding=coding,
)
