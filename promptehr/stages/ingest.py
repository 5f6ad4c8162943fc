"""The source's CSVs to typed, deduplicated tables, with an account of every row.

Rows are kept as they are or left out for one stated reason; nothing is interpreted here beyond
types, letter case and the dot of codes. Ages, visits and groups are made in `records`.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from promptehr import artifacts, schemas
from promptehr.errors import InputError
from promptehr.ingestion import mimic3, mimic4, values
from promptehr.ingestion.kind import MERGED, Births, Coding, Kind
from promptehr.ingestion.table import RECORD, SourceTable, read
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

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


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


@dataclass(frozen=True)
class Judged:
    """One table after its row rules.

    Attributes:
        kept: Rows with the columns of the table's schema, sorted as it says.
        rejects: `record` and `reason` of every other row.
        noted: Kept rows by remarkable fact.
    """

    kept: pl.DataFrame
    rejects: pl.DataFrame
    noted: Mapping[str, int]


def run(inputs: Inputs, outputs: Outputs, settings: Settings) -> None:
    """Read three CSVs, publish three tables, the rejected rows and the ledger."""
    kind = KINDS[settings.source.kind]
    patients, admissions, diagnoses = sources = tuple(
        read(name, path, kind.columns[name], kind.foreign) for name, path in vars(inputs).items()
    )
    judged = judge(kind, patients, admissions, diagnoses, settings.ingest)
    tables = {source.name: account(source, part) for source, part in zip(sources, judged, strict=True)}
    for source, part in zip(sources, judged, strict=True):
        require_within_limit(source, part, settings.ingest.max_rejected_share, kind.by_setting)
    written = (outputs.patients_table, outputs.admissions_table, outputs.diagnoses_table)
    for path, part, schema in zip(
        written, judged, (schemas.PATIENTS, schemas.ADMISSIONS, schemas.DIAGNOSES), strict=True
    ):
        artifacts.write_table(path, part.kept.to_arrow(), schema)
    artifacts.write_table(outputs.rejects, all_rejects(sources, judged).to_arrow(), schemas.REJECTS)
    artifacts.write_sealed(
        outputs.ledger,
        {"tables": tables},
        schemas.LEDGER,
        stage="ingest",
        settings=settings,
        inputs={source.name: source.path for source in sources},
        files=[*written, outputs.rejects],
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
    letter = pl.col("gender").str.strip_chars().str.to_uppercase()
    rows = source.text.with_columns(
        births.frame,
        subject=values.numbers(source.text["subject_id"]),
        sex=pl.when(letter.is_in(["M", "F"])).then(letter).otherwise(pl.lit("UNKNOWN")),
    )
    suspect = ~_usable_id("subject") | pl.col("birth").is_null()
    reasons = {**_id_reasons("subject_id", "subject"), **births.reasons}
    rows, rejects = _reject(rows, suspect, reasons)
    rows = rows.select(RECORD, "birth", "birth_resolution", subject_id="subject", gender="sex")
    rows, repeated = _reject_repeated(source, rows, "subject_id")
    unknown = rows.filter(gender="UNKNOWN").height
    return Judged(rows, pl.concat([rejects, repeated]), {"gender not M or F, kept as UNKNOWN": unknown})


def with_hidden_births(patients: Judged, admissions: pl.DataFrame) -> Judged:
    """Patients whose date of birth is hidden where the source moved it; a year alone it never moves."""
    first = admissions.group_by("subject_id").agg(first=pl.col("admitted").min())
    years = (pl.col("first") - pl.col("birth")).dt.total_days() / DAYS_PER_YEAR
    moved = years.is_between(*HIDDEN_AGE_YEARS) & (pl.col("birth_resolution") == "day")
    kept = (
        patients.kept.join(first, on="subject_id", how="left", maintain_order="left")
        .with_columns(birth_resolution=pl.when(moved).then(pl.lit("hidden")).otherwise("birth_resolution"))
        .sort("subject_id")
    )
    facts = {
        "birth moved by the source, age over 89": kept.filter(birth_resolution="hidden").height,
        "without a kept admission": kept.get_column("first").null_count(),
    }
    return Judged(kept, patients.rejects, {**patients.noted, **facts})


def judge_admissions(source: SourceTable, patients: pl.DataFrame, ethnicity: str) -> Judged:
    """Admissions of known patients, not before birth, with a readable time of admission."""
    values.refuse_spreadsheet_times(source.text, source.path, "admittime", "dischtime")
    rows = source.text.with_columns(
        values.stated(ethnicity).alias("ethnicity"),
        subject=values.numbers(source.text["subject_id"]),
        hadm=values.numbers(source.text["hadm_id"]),
        admitted=values.times(source.text["admittime"]),
        discharged=values.times(source.text["dischtime"]),
    )
    births = patients.select(subject="subject_id", birth="birth")
    rows = rows.join(births, on="subject", how="left", maintain_order="left")
    early = pl.col("admitted").dt.date() < pl.col("birth").dt.date()
    ids_usable = _usable_id("subject") & _usable_id("hadm")
    suspect = ~ids_usable | pl.col("admitted").is_null() | pl.col("birth").is_null() | early
    reasons = {
        **_id_reasons("hadm_id", "hadm"),
        **_id_reasons("subject_id", "subject"),
        **_time_reasons("admittime", "admitted"),
        "unknown patient": pl.col("birth").is_null(),
        "admission before birth": early,
    }
    rows, rejects = _reject(rows, suspect.fill_null(value=True), reasons)
    unreadable = pl.col("discharged").is_null() & values.stated("dischtime").is_not_null()
    facts = {
        "discharge before admission": pl.col("discharged") < pl.col("admitted"),
        "dischtime unreadable, kept without": unreadable,
        "ethnicity missing": pl.col("ethnicity").is_null(),
    }
    rows = rows.select(
        RECORD, *facts_of(facts), "admitted", "discharged", "ethnicity", hadm_id="hadm", subject_id="subject"
    )
    rows, repeated = _reject_repeated(source, rows, "hadm_id")
    return Judged(rows.sort("hadm_id"), pl.concat([rejects, repeated]), _count(rows, facts))


def judge_diagnoses(source: SourceTable, coding: Coding, admissions: pl.DataFrame) -> Judged:
    """Well-formed codes of known admissions, each once per admission at its lowest SEQ_NUM."""
    table = coding.table
    owners = admissions.select(hadm="hadm_id", owner="subject_id")
    rows = source.text.with_columns(
        subject=values.numbers(source.text["subject_id"]),
        hadm=values.numbers(source.text["hadm_id"]),
        position=values.numbers(source.text["seq_num"]).cast(pl.Int32, strict=False),
        # The place among the distinct wordings: integers join, sort and compare faster than texts.
        place=coding.wordings.replace_strict(table["text"], range(table.height), return_dtype=pl.Int64),
    ).join(owners, on="hadm", how="left", maintain_order="left")
    elsewhere = pl.col("owner").ne_missing(pl.col("subject"))
    no_code = pl.col("place") >= table["code"].len() - table["code"].null_count()
    reasons = {
        **_id_reasons("hadm_id", "hadm"),
        **_id_reasons("subject_id", "subject"),
        "unknown admission": pl.col("owner").is_null(),
        "subject_id differs from the admission's": elsewhere,
        **_code_reasons(table),
    }
    rows, rejects = _reject(rows, elsewhere | pl.col("owner").is_null() | no_code, reasons)
    rows, repeated = _reject_repeated_codes(
        rows.with_columns(
            rank=table["rank"].gather(rows["place"]), mapped=table["mapped"].gather(rows["place"])
        )
    )
    kept = rows.select(
        "hadm_id", "position", *(table[name].gather(rows["place"]) for name in ("code", "system"))
    )
    noted = {fact: int(table[name].gather(rows["place"]).sum()) for fact, name in coding.facts.items()}
    positions = {
        "seq_num missing or unreadable": rows["position"].null_count(),
        "seq_num below 1": int((rows["position"] < 1).sum()),
    }
    return Judged(kept, pl.concat([rejects, repeated]), noted | positions)


def _code_reasons(table: pl.DataFrame) -> dict[str, pl.Expr]:
    """Why a wording gives no code: each has one reason."""
    reasons = table["refused"].drop_nulls().unique().sort()
    return {
        reason: pl.col("place").is_in((table["refused"] == reason).arg_true().to_list()) for reason in reasons
    }


def refuse_lost_zeros(source: SourceTable, coding: Coding, max_share: float) -> None:
    """Refuse codes that went through a spreadsheet or a number type: `0389` became `389`.

    Raises:
        InputError: if no code of many begins with 0, or too many are listed only with zeros in front.
    """
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
    # One such row may be a slip of the pen.
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


def _usable_id(number: str) -> pl.Expr:
    return pl.col(number).is_between(1, values.MAX_ID).fill_null(value=False)


def _id_reasons(column: str, number: str) -> dict[str, pl.Expr]:
    """Why an id is not usable, in the order in which the reasons apply."""
    return {
        f"{column} missing": values.stated(column).is_null(),
        f"{column} is not a whole number": ~values.looks_whole(column),
        f"{column} outside 1..2^40-1": ~_usable_id(number),
    }


def _time_reasons(column: str, time: str = "birth") -> dict[str, pl.Expr]:
    return {
        f"{column} missing": values.stated(column).is_null(),
        f"{column} unreadable": pl.col(time).is_null(),
    }


def _reject(
    rows: pl.DataFrame, suspect: pl.Expr, reasons: Mapping[str, pl.Expr]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows that are not suspect, and record and first reason of those that are."""
    first = pl.coalesce(pl.when(applies).then(pl.lit(reason)) for reason, applies in reasons.items())
    rejects = rows.filter(suspect).select(RECORD, reason=first)
    assert not rejects.get_column("reason").null_count(), "a suspect row without a reason"
    return rows.filter(~suspect), rejects


def _reject_repeated(source: SourceTable, rows: pl.DataFrame, key: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows once each; identical repetitions are rejected.

    Raises:
        InputError: if two rows of one id say different things, because either may be wrong.
    """
    content = [name for name in rows.columns if name != RECORD]
    once = rows.unique(content, keep="first", maintain_order=True)
    contradicting = once.filter(~pl.col(key).is_first_distinct())
    if contradicting.height:
        record = contradicting.item(0, RECORD)
        raise InputError(
            f"{source.path}: record {record} contradicts an earlier record of the same {key.upper()}"
            f" ({contradicting.height} such records); keep the true one"
        )
    repeated = rows.join(once, on=RECORD, how="anti")
    return once, repeated.select(RECORD, reason=pl.lit(f"repeats an earlier record of the same {key}"))


def _reject_repeated_codes(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Diagnoses in the order of their schema, without the repetitions of a code in an admission."""
    # A missing position is last; rows come in the order of their records, which both sorts keep.
    stated = pl.col("position").cast(pl.Int64)
    position = rows.select(stated.fill_null(stated.max().fill_null(0) + 1)).to_series()
    order = _order(rows["hadm"].to_numpy(), position.to_numpy(), rows["rank"].to_numpy())
    ordered = rows.select("hadm", "position", "rank", RECORD, "place", "mapped")[order]
    first = pl.Series(_first(ordered["hadm"].to_numpy(), ordered["rank"].to_numpy()))
    plain = pl.lit("code repeated in its admission")
    reason = pl.when("mapped").then(pl.lit(MERGED)).otherwise(plain)
    repeated = ordered.filter(~first).select(RECORD, reason=reason)
    return ordered.filter(first).rename({"hadm": "hadm_id"}), repeated


def _first(*keys: Ints) -> Bools:
    """Whether each row is the first with its keys."""
    order = _order(*keys)
    repeats = np.ones(max(len(order) - 1, 0), np.bool_)
    for key in keys:
        repeats &= key[order[1:]] == key[order[:-1]]
    first = np.ones(len(order), np.bool_)
    first[order[1:][repeats]] = False
    return first


def _order(*keys: Ints) -> Ints:
    """Places of the rows sorted by keys, the first one deciding; equal rows as they come.

    One integer that holds all keys is sorted where 63 bits are enough: rows come in runs that are
    nearly sorted, which one stable sort of integers uses and a sort by key after key does not.
    """
    packed, bits = np.zeros(len(keys[0]), np.int64), 0
    for key in reversed(keys):
        low = key.min(initial=0)
        width = int(key.max(initial=0) - low).bit_length()
        if bits + width > 63:
            return np.lexsort(keys[::-1])
        packed |= (key - low) << bits
        bits += width
    return np.argsort(packed, kind="stable")
