"""The source's CSVs to typed, deduplicated tables, with an account of every row.

Rows are kept as they are or left out for one stated reason; nothing is interpreted here beyond
types, letter case and the dot of codes. Ages, visits and groups are made in `records`.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from promptehr import artifacts, schemas
from promptehr.errors import InputError
from promptehr.ingestion import content, mimic3, mimic4, values
from promptehr.ingestion.diagnoses import judge_diagnoses
from promptehr.ingestion.ethnicity import tidy
from promptehr.ingestion.kind import Births, Coding, Kind
from promptehr.ingestion.rules import Judged, id_reasons, reject, usable_id
from promptehr.ingestion.table import RECORD, SourceTable, read, words
from promptehr.settings import Ingest, Settings

logger = logging.getLogger(__name__)

KINDS = {"simulate": mimic3.KIND, "mimic3": mimic3.KIND, "mimic4": mimic4.KIND}
DAYS_PER_YEAR = 365.2425
# MIMIC-III moves the birth of patients over 89 to 300 years before their first admission.
HIDDEN_AGE_YEARS = (290.0, 320.0)
# So many numeric codes without a single leading zero do not occur: about 4 % begin with one.
MANY_NUMERIC_CODES = 1000
# `ingest.max_rejected_share: auto` is this share, and does not judge tables of fewer rows than these.
USUAL_REJECTED_SHARE, FEW_ROWS = 0.05, 100


@dataclass(frozen=True)
class Inputs:
    patients: Path
    admissions: Path
    diagnoses: Path


@dataclass(frozen=True)
class Outputs:
    patients_table: Path
    admissions_table: Path
    diagnoses_table: Path
    rejects: Path
    ledger: Path


def run(inputs: Inputs, outputs: Outputs, settings: Settings) -> None:
    """Read three CSVs, publish three tables, the rejected rows and the ledger."""
    kind = KINDS[settings.source.kind]
    states = {path: content.state(path) for path in vars(inputs).values()}
    patients, admissions, diagnoses = sources = tuple(
        read(name, path, kind.columns[name], kind.foreign) for name, path in vars(inputs).items()
    )
    judged = judge(kind, patients, admissions, diagnoses, settings.ingest)
    tables = {source.name: account(source, part) for source, part in zip(sources, judged, strict=True)}
    for source, part in zip(sources, judged, strict=True):
        require_within_limit(source, part, settings.ingest.max_rejected_share, kind.by_setting)
    for path, state in states.items():
        content.require_state(path, state)
    written = (outputs.patients_table, outputs.admissions_table, outputs.diagnoses_table)
    contracts = (schemas.PATIENTS, schemas.ADMISSIONS, schemas.DIAGNOSES)
    artifacts.write_sealed(
        outputs.ledger,
        {"tables": tables},
        schemas.LEDGER,
        stage="ingest",
        settings=settings,
        inputs={source.name: source.path for source in sources},
        tables={
            outputs.rejects: (all_rejects(sources, judged).to_arrow(), schemas.REJECTS),
            **{
                path: (part.kept.to_arrow(), contract)
                for path, part, contract in zip(written, judged, contracts, strict=True)
            },
        },
    )


def judge(
    kind: Kind, patients: SourceTable, admissions: SourceTable, diagnoses: SourceTable, settings: Ingest
) -> tuple[Judged, Judged, Judged]:
    """All three tables after their row rules; later ones lean on the rows kept of earlier ones.

    Raises:
        InputError: for rows that contradict each other, spreadsheet dates, lost leading zeros.
    """
    some_patients = judge_patients(patients, kind.births(patients))
    some_admissions = judge_admissions(admissions, some_patients.kept, kind.ethnicity)
    coding = kind.coding(diagnoses, settings)
    refuse_lost_zeros(diagnoses, coding, settings.max_zeroless_share)
    some_diagnoses = judge_diagnoses(diagnoses, coding, some_admissions.kept)
    return with_hidden_births(some_patients, some_admissions.kept), some_admissions, some_diagnoses


def judge_patients(source: SourceTable, births: Births) -> Judged:
    """Patients with a readable id and date of birth; unknown genders are kept as UNKNOWN."""
    genders = words(source.pieces, "gender")
    letters = genders.texts.str.strip_chars().str.to_uppercase()
    sexes = letters.set(~letters.is_in(["M", "F"]).fill_null(value=False), "UNKNOWN")
    rows = source.rows
    rows = rows.with_columns(births.frame, sex=sexes.gather(genders.places(rows["gender"])))
    suspect = ~usable_id("subject_id") | pl.col("birth").is_null()
    rows, rejects = reject(rows, source.odd, suspect, {**id_reasons("subject_id"), **births.reasons})
    rows = rows.select(RECORD, "subject_id", "birth", "birth_resolution", gender="sex")
    rows, repeated = _reject_repeated(source, rows, "subject_id", ("birth", "birth_resolution", "gender"))
    unknown = rows.filter(gender="UNKNOWN").height
    return Judged(rows, pl.concat([rejects, repeated]), {"gender not M or F, kept as UNKNOWN": unknown})


def with_hidden_births(patients: Judged, admissions: pl.DataFrame) -> Judged:
    """Patients whose date of birth is hidden where the source moved it; a year alone it never moves."""
    # Only who was born so long before the last admission of all can be meant.
    latest = admissions.get_column("admitted").max()
    early = patients.kept.filter(
        _years(pl.col("birth"), pl.lit(latest, pl.Datetime("us"))) >= HIDDEN_AGE_YEARS[0]
    )
    moved = (
        admissions.join(early, on="subject_id")
        .group_by("subject_id", "birth", "birth_resolution")
        .agg(first=pl.col("admitted").min())
        .filter(
            _years(pl.col("birth"), pl.col("first")).is_between(*HIDDEN_AGE_YEARS), birth_resolution="day"
        )
    )
    is_moved = pl.col("subject_id").is_in(moved["subject_id"].implode())
    resolution = pl.when(is_moved).then(pl.lit("hidden")).otherwise("birth_resolution")
    kept = patients.kept.with_columns(birth_resolution=resolution).sort("subject_id")
    facts = {
        "birth moved by the source, age over 89": kept.filter(birth_resolution="hidden").height,
        "without a kept admission": kept.height - admissions["subject_id"].n_unique(),
    }
    return Judged(kept, patients.rejects, {**patients.noted, **facts})


def _years(begin: pl.Expr, end: pl.Expr) -> pl.Expr:
    return (end - begin).dt.total_days() / DAYS_PER_YEAR


def judge_admissions(source: SourceTable, patients: pl.DataFrame, ethnicity: str) -> Judged:
    """Admissions of known patients, not before birth, with a readable time of admission."""
    values.refuse_spreadsheet_times(source.odd, source.path, "admittime", "dischtime")
    texts = words(source.pieces, ethnicity)
    # What records takes for the same group of people is the same word here.
    said = texts.texts.to_frame("ethnicity").select(values.stated("ethnicity"))
    said = said.with_columns(word=tidy("ethnicity"))
    rows = source.rows
    rows = rows.with_columns(
        said[texts.places(rows[ethnicity])], admitted="admittime", discharged="dischtime"
    )
    births = patients.select("subject_id", birth="birth")
    rows = rows.join(births, on="subject_id", how="left", maintain_order="left")
    early = pl.col("admitted").dt.date() < pl.col("birth").dt.date()
    ids_usable = usable_id("subject_id") & usable_id("hadm_id")
    suspect = ~ids_usable | pl.col("admitted").is_null() | pl.col("birth").is_null() | early
    reasons = {
        **id_reasons("hadm_id"),
        **id_reasons("subject_id"),
        **values.time_reasons("admittime", "admitted"),
        "unknown patient": pl.col("birth").is_null(),
        "admission before birth": early,
    }
    rows, rejects = reject(rows, source.odd, suspect.fill_null(value=True), reasons)
    blank = source.odd.filter(values.stated(values.text_of("dischtime")).is_null())[RECORD]
    facts = {
        "discharge before admission": pl.col("discharged") < pl.col("admitted"),
        "dischtime unreadable, kept without": pl.col("discharged").is_null()
        & ~pl.col(RECORD).is_in(blank.implode()),
        "ethnicity missing": pl.col("ethnicity").is_null(),
    }
    columns = ("hadm_id", "subject_id", "admitted", "discharged", "ethnicity")
    rows = rows.select(RECORD, *columns, "word", *facts_of(facts))
    told = ("subject_id", "admitted", "discharged", "word")
    rows, repeated = _reject_repeated(source, rows, "hadm_id", told)
    return Judged(
        rows.select(RECORD, *columns).sort("hadm_id"), pl.concat([rejects, repeated]), _count(rows, facts)
    )


def refuse_lost_zeros(source: SourceTable, coding: Coding, max_share: float) -> None:
    """Refuse codes that went through a spreadsheet or a number type: `0389` became `389`, `486` `486.0`.

    Raises:
        InputError: if no code of many begins with 0, or too many are listed only with zeros in front
            or end in `.0`.
    """
    floated = int(coding.table.filter("floated").get_column("rows").sum())
    numeric = coding.table.filter("numeric")
    rows = int(numeric.get_column("rows").sum())
    lost = int(numeric.filter("zeroless").get_column("rows").sum())
    begins = numeric.get_column("zero").any()
    remedy = f"export {coding.column} again as text, never through a number column"
    if rows >= MANY_NUMERIC_CODES and not begins and max_share < 1.0:
        raise InputError(
            f"{source.path}: none of {rows} numeric codes in column {coding.column} begins with 0,"
            f" where about 4 % do: leading zeros were lost; {remedy}, or set ingest.max_zeroless_share to 1.0"
            " if there are none"
        )
    # One such row may be a slip of the pen. Beside 4019.0, 486.0 is no way to write 4860.
    if floated > max(max_share * source.rows_in, 1):
        raise InputError(
            f"{source.path}: {floated} of {source.rows_in} codes in column {coding.column} end in .0 after"
            f" four digits or more, above ingest.max_zeroless_share {max_share}: they are floats, whose"
            f" leading zeros were lost; {remedy}"
        )
    if lost > max(max_share * rows, 1):
        raise InputError(
            f"{source.path}: {lost} of {rows} numeric codes in column {coding.column} are ICD-9-CM codes"
            f" only with zeros in front, above ingest.max_zeroless_share {max_share}: leading zeros were"
            f" lost; {remedy}"
        )


def account(source: SourceTable, judged: Judged) -> dict[str, Any]:
    """A table's entry in the ledger, its rows_in counted on the bytes."""
    reasons = judged.rejects.group_by("reason").len().sort("reason").iter_rows()
    return artifacts.account(
        rows_in=source.rows_in, rows_kept=judged.kept.height, rejected=dict(reasons), noted=judged.noted
    )


def require_within_limit(
    source: SourceTable, judged: Judged, max_share: float | Literal["auto"], by_setting: Collection[str]
) -> None:
    """Stop where so many rows are rejected that the table is probably not what it should be.

    Rows that a setting leaves out say nothing of the table.

    Raises:
        InputError: naming the commonest reason and its first record.
    """
    rows = (source.rows_in, judged.kept.height, judged.rejects.height)
    logger.info("%s: %d rows in, %d kept, %d rejected", source.name, *rows)
    rejects = judged.rejects.filter(~pl.col("reason").is_in(sorted(by_setting)))
    rejected = rejects.height
    if max_share == "auto":
        # Of a few rows a share says nothing; but nothing can be made of a table that keeps none.
        is_small = source.rows_in < FEW_ROWS and judged.kept.height
        max_share = 1.0 if is_small else USUAL_REJECTED_SHARE
    if rejected <= max_share * source.rows_in:
        return
    by_reason = rejects.group_by("reason").agg(pl.len(), pl.col(RECORD).min())
    reason, of_it, record = by_reason.sort("len", "reason", descending=[True, False]).row(0)
    raise InputError(
        f"{source.path}: {rejected} of {source.rows_in} records rejected, {of_it} of them for: {reason}"
        f" (first: record {record}), above the share of {max_share}; repair the file or raise"
        " ingest.max_rejected_share"
    )


def all_rejects(sources: tuple[SourceTable, ...], judged: tuple[Judged, ...]) -> pl.DataFrame:
    """The rejected rows of all tables, in the columns and order of `schemas.REJECTS`."""
    parts = [
        part.rejects.select(pl.lit(source.name).alias("table"), RECORD, "reason")
        for source, part in zip(sources, judged, strict=True)
    ]
    return pl.concat(parts).sort("table", RECORD)


def facts_of(facts: Mapping[str, pl.Expr]) -> list[pl.Expr]:
    """Each fact as a column of its name, false where it cannot be told."""
    return [fact.fill_null(value=False).alias(name) for name, fact in facts.items()]


def _count(rows: pl.DataFrame, facts: Mapping[str, pl.Expr]) -> dict[str, int]:
    return {name: int(rows.get_column(name).sum()) for name in facts}


def _reject_repeated(
    source: SourceTable, rows: pl.DataFrame, key: str, told: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows once each; repetitions are rejected.

    Args:
        source: Named in errors.
        rows: With `record`.
        key: The id.
        told: What rows of one id must agree on. Of rows that do, the first by all other columns stays, so
            that the order of the file decides nothing.

    Raises:
        InputError: if two rows of one id say different things, because either may be wrong.
    """
    twice = rows.filter(pl.col(key).is_duplicated())
    versions = twice.group_by(key, *told).agg(pl.col(RECORD).min()).sort(RECORD)
    contradicting = versions.filter(~pl.col(key).is_first_distinct())
    if contradicting.height:
        raise InputError(
            f"{source.path}: record {contradicting.item(0, RECORD)} contradicts an earlier record of the same"
            f" {key.upper()} ({contradicting.height} in all); keep the true one"
        )
    others = [name for name in rows.columns if name not in (RECORD, key, *told)]
    once = twice.sort(*others, RECORD).unique(key, keep="first", maintain_order=True)
    repeated = twice.join(once, on=RECORD, how="anti")
    reason = pl.lit(f"repeats an earlier record of the same {key}")
    return rows.filter(~pl.col(RECORD).is_in(repeated[RECORD].implode())), repeated.select(
        RECORD, reason=reason
    )
