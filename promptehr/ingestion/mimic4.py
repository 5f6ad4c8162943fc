"""What is MIMIC-IV's own among source tables: a year of birth, and codes of two systems.

A patient's age is given for one shifted year: born in anchor_year - anchor_age, on a day nobody
knows. Diagnoses are ICD-9 up to September 2015 and ICD-10 after it; a wording is version and text.
"""

from collections.abc import Mapping

import numpy as np
import polars as pl
import polars.selectors as cs

from promptehr import icd10
from promptehr.ingestion import values
from promptehr.ingestion.kind import MERGED, Births, Coding, Kind, places_in
from promptehr.ingestion.table import RECORD, Ints, SourceTable, words
from promptehr.settings import Ingest

COLUMNS = {
    "patients": ("SUBJECT_ID", "GENDER", "ANCHOR_AGE", "ANCHOR_YEAR"),
    "admissions": ("SUBJECT_ID", "HADM_ID", "ADMITTIME", "DISCHTIME", "RACE"),
    "diagnoses": ("SUBJECT_ID", "HADM_ID", "SEQ_NUM", "ICD_CODE", "ICD_VERSION"),
}
MIMIC3 = "this is MIMIC-III's table, expected MIMIC-IV's; set source.kind: mimic3"
# MIMIC-IV writes 91 for every age over 89 in the anchor year (mimic.mit.edu, table patients).
HIDDEN_OVER, OLDEST = 89, 120

LETTERS = NINE, TEN, OTHER, MISSING = "9", "X", "?", "-"
"""First letter of a wording: the version that its row names, another one, or none."""

DROPPED = "ICD-10 code, left out by ingest.icd10"
WITHOUT_MAP = "icd10_without_map"
FACTS = {
    "code normalised (dot, letter case, space)": "changed",
    "code not in the ICD-9-CM list": "unlisted",
    "ICD-10 code, kept": "ten",
    "ICD-10 code not in the ICD-10-CM list": "unlisted_ten",
    "ICD-10 code mapped to ICD-9": "mapped",
}


def births(patients: SourceTable) -> Births:
    """1 January of the year of birth, whose year alone is known; hidden for ages over 89."""
    age, year = pl.col("anchor_age"), pl.col("anchor_year")
    known = age.is_between(0, OLDEST) & year.is_between(1000, 9999)
    birth = pl.when(known).then(pl.datetime(year - age, 1, 1, time_unit="us"))
    hidden = pl.when(age > HIDDEN_OVER).then(pl.lit("hidden")).otherwise(pl.lit("year"))
    return Births(
        patients.rows.select(birth=birth, birth_resolution=hidden),
        {
            **values.number_reasons("anchor_age"),
            **values.number_reasons("anchor_year"),
            "anchor_age outside 0..120 or anchor_year not of four digits": pl.col("birth").is_null(),
        },
    )


def coding(diagnoses: SourceTable, settings: Ingest) -> Coding:
    """Each wording is a code of its version, or of the other one by `ingest.icd10`, or none."""
    codes = words(diagnoses.pieces, "icd_code")
    # A wording's number: the place of its code among all texts, and of its version's letter in front.
    size = len(codes.texts)
    without_version = _without_version(diagnoses.odd)

    def numbers(piece: pl.DataFrame) -> Ints:
        return _versions(piece, without_version) * size + codes.places(piece["icd_code"])

    rows = np.zeros(len(LETTERS) * size, np.int64)
    for piece in diagnoses.pieces:
        rows += np.bincount(numbers(piece), minlength=len(rows))
    used = np.flatnonzero(rows)
    texts = codes.texts.fill_null("").to_list()
    wordings = pl.Series("wording", [LETTERS[one // size] + texts[one % size] for one in used.tolist()])
    counts = pl.DataFrame([wordings, pl.Series("rows", rows[used])]).group_by("wording").sum().sort("wording")
    nine = _nine(_texts(counts, NINE))
    ten = _ten(_texts(counts, TEN), settings.icd10, _rows_by_code(nine, counts))
    table = (
        pl.concat([_flags(), nine, ten, _unversioned(counts)], how="diagonal")
        .with_columns(cs.boolean().fill_null(value=False))
        .with_columns(rank=pl.concat_str("system", "code").rank("dense").cast(pl.Int64))
        .sort("rank", "text", nulls_last=True)
        .join(counts, left_on="text", right_on="wording", how="left", maintain_order="left")
    )
    order = np.zeros(len(rows), np.int32)
    order[used] = places_in(table, wordings)
    return Coding(lambda piece: order[numbers(piece)], table, FACTS, "ICD_CODE of version 9")


def _flags() -> pl.DataFrame:
    """No wordings, with the columns that some kinds of wordings lack."""
    names = (*FACTS.values(), "numeric", "zero", "zeroless", "floated")
    return pl.DataFrame(schema=dict.fromkeys(names, pl.Boolean))


def _without_version(odd: pl.DataFrame) -> pl.Series:
    """Records whose version is blank."""
    return odd.filter(values.stated(values.text_of("icd_version")).is_null())[RECORD]


def _versions(piece: pl.DataFrame, without: pl.Series) -> Ints:
    """Per row, the place of its version's letter."""
    version = pl.col("icd_version")
    missing = version.is_null() & pl.col(RECORD).is_in(without.implode())
    place = pl.when(version == 9).then(0).when(version == 10).then(1).when(missing).then(3).otherwise(2)
    return piece.select(place.cast(pl.Int64)).to_series().to_numpy()


def _texts(counts: pl.DataFrame, letter: str) -> pl.Series:
    """The codes' texts of the wordings of one version."""
    wording = pl.col("wording")
    return counts.filter(wording.str.starts_with(letter)).select(text=wording.str.slice(1)).to_series()


def _nine(texts: pl.Series) -> pl.DataFrame:
    return (
        values.codes(texts)
        .drop("rank")
        .with_columns(text=pl.lit(NINE) + pl.col("text"), system=pl.lit("icd9"), mapped=pl.lit(value=False))
    )


def _ten(texts: pl.Series, choice: str, rows: Mapping[str, int]) -> pl.DataFrame:
    """Texts of version 10 after `ingest.icd10`; what is no code is none under each choice."""
    read = values.shaped(texts, icd10.WELL_FORMED, icd10.DOTTED)
    read = read.with_columns(text=pl.lit(TEN) + pl.col("text"), system=pl.lit("icd10"))
    if choice == "map":
        return _mapped(read, rows)
    return _kept(read) if choice == "keep" else _dropped(read)


def _kept(read: pl.DataFrame) -> pl.DataFrame:
    known = pl.col("code").is_not_null()
    unlisted = known & ~pl.col("code").is_in(list(icd10.listed()))
    return read.with_columns(ten=known, unlisted_ten=unlisted)


def _mapped(read: pl.DataFrame, rows: Mapping[str, int]) -> pl.DataFrame:
    codes = [icd10.to_icd9(code, rows) if code else None for code in read["code"]]
    found = pl.Series("found", codes, pl.String)
    lost = pl.col("code").is_not_null() & found.is_null()
    return read.with_columns(
        code=found,
        refused=pl.when(lost).then(pl.lit(WITHOUT_MAP)).otherwise("refused"),
        system=pl.lit("icd9"),
        mapped=found.is_not_null(),
    )


def _dropped(read: pl.DataFrame) -> pl.DataFrame:
    dropped = pl.when(pl.col("code").is_not_null()).then(pl.lit(DROPPED))
    return read.with_columns(refused=dropped.otherwise("refused"), code=pl.lit(None, pl.String))


def _rows_by_code(nine: pl.DataFrame, counts: pl.DataFrame) -> dict[str, int]:
    """Rows of each ICD-9 code that the source itself writes."""
    of_code = nine.join(counts, left_on="text", right_on="wording").group_by("code").agg(pl.col("rows").sum())
    return dict(of_code.drop_nulls("code").select("code", "rows").iter_rows())


def _unversioned(counts: pl.DataFrame) -> pl.DataFrame:
    letter = pl.col("wording").str.slice(0, 1)
    missing = pl.when(letter == MISSING).then(pl.lit("icd_version missing"))
    return counts.filter(letter.is_in([OTHER, MISSING])).select(
        text="wording", refused=missing.otherwise(pl.lit("icd_version is not 9 or 10"))
    )


KIND = Kind(
    columns=COLUMNS,
    foreign={
        "DOB": MIMIC3,
        "ETHNICITY": f"{MIMIC3}, or rename the column to RACE where it is MIMIC-IV before 2.0",
        "ICD9_CODE": MIMIC3,
    },
    ethnicity="race",
    births=births,
    coding=coding,
    by_setting=frozenset({DROPPED, MERGED}),
)
