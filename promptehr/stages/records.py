"""Typed tables to one row per patient, split by a hash of the patient's id.

An admission with at least one code is a visit. Ages are at the first visit; the ethnicity is that
of the first admission. Works on the contract of `ingest`; never sees the source.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from promptehr import artifacts, schemas
from promptehr.ingestion import ethnicity
from promptehr.ingestion.coding import Coded, coded, folded
from promptehr.ingestion.texts import distinct, names_of, picked
from promptehr.ingestion.threads import in_threads
from promptehr.settings import Records, Settings, Split
from promptehr.stage_table import SPLITS

DAYS_PER_YEAR = 365.2425
# HIPAA and MIMIC-III hide ages over 89; nobody is known to have lived beyond 120 without a record.
HIDDEN_OVER_YEARS, OLDEST_YEARS = 89.0, 120.0
NEWBORN_DAYS = 28  # the neonatal period of the WHO
VISITS_AT_ONCE = 1 << 16  # whose codes stay in the processor's cache


@dataclass(frozen=True)
class Inputs:
    patients_table: Path
    admissions_table: Path
    diagnoses_table: Path
    ingest_ledger: Path


@dataclass(frozen=True)
class Outputs:
    train: Path
    valid: Path
    test: Path
    ledger: Path


@dataclass(frozen=True)
class Tables:
    """What ingest wrote, with the columns of `schemas.PATIENTS`, `ADMISSIONS` and `DIAGNOSES`."""

    patients: pl.DataFrame
    admissions: pl.DataFrame
    diagnoses: pl.DataFrame


def run(inputs: Inputs, outputs: Outputs, settings: Settings) -> None:
    """Join what ingest wrote, publish one table per split and the ledger."""
    files = (inputs.patients_table, inputs.admissions_table, inputs.diagnoses_table)
    artifacts.open_sealed(inputs.ingest_ledger, schemas.LEDGER, "ingest", *files)
    patients = pl.DataFrame(artifacts.read_table(files[0], schemas.PATIENTS)).sort("subject_id")
    with ThreadPoolExecutor(1) as pool:
        # One id after the other: the only work here that one thread needs seconds for.
        splits = pool.submit(
            splits_of, patients["subject_id"].to_list(), settings.records.seed, settings.records.split
        )
        tables = Tables(patients, *read(*files[1:]))
        codes = coded(tables.diagnoses, settings.records)
        joined = join(tables.patients, tables.admissions, codes.frame)
    split = pl.Series("split", splits.result(), pl.String)
    candidates = with_reasons(joined.with_columns(split), settings.records)
    kept = Coded(candidates.filter(pl.col("reason").is_null()), codes.names)
    if settings.records.fold_below:
        kept = folded(kept.frame, codes.names, settings.records.fold_below)
    written = (outputs.train, outputs.valid, outputs.test)
    artifacts.write_sealed(
        outputs.ledger,
        ledger(tables, codes, candidates, kept),
        schemas.LEDGER,
        stage="records",
        settings=settings,
        inputs={"patients_table": files[0], "admissions_table": files[1], "diagnoses_table": files[2]},
        tables={
            path: (of_split(kept, name), schemas.RECORDS) for name, path in zip(SPLITS, written, strict=True)
        },
    )


def read(admissions: Path, diagnoses: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Two tables of ingest, codes, systems and ethnicities as Enums."""
    texts = ("code", "system")
    stays = pl.DataFrame(artifacts.read_table(admissions, schemas.ADMISSIONS, dictionaries=["ethnicity"]))
    rows = pl.DataFrame(artifacts.read_table(diagnoses, schemas.DIAGNOSES, dictionaries=texts))
    return stays.with_columns(distinct(stays["ethnicity"])), rows.with_columns(
        distinct(rows[name]) for name in texts
    )


def of_split(kept: Coded, split: str) -> pa.Table:
    """The records of one split, in the columns of `schemas.RECORDS`; codes as a dictionary."""
    rows = kept.frame.filter(split=split)
    visits = rows["visits"].rechunk().to_arrow()
    names = pa.array(kept.names, pa.string())
    codes = pa.DictionaryArray.from_arrays(visits.values.values.cast(pa.int32()), names)
    of_visit = pa.LargeListArray.from_arrays(visits.values.offsets, codes)
    table = rows.drop("visits", "split").to_arrow()
    return table.append_column("visits", pa.LargeListArray.from_arrays(visits.offsets, of_visit))


def join(patients: pl.DataFrame, admissions: pl.DataFrame, diagnoses: pl.DataFrame) -> pl.DataFrame:
    """One row per patient, those without a visit among them.

    Lists are made last, from flat columns that are in the patients' order by then: to sort or join
    lists of lists moves every code each time.

    Args:
        patients: Sorted by `subject_id`.
        admissions: Of these patients.
        diagnoses: Sorted by admission.

    Returns:
        Columns of `schemas.RECORDS` (age null without a visit, before any cap; codes as their
        numbers in the Enum) and `n_codes`.
    """
    assert patients["subject_id"].is_sorted()
    stays = admissions.sort("subject_id", "admitted", "hadm_id")
    visits = visits_of(stays, diagnoses)
    days = (pl.col("first_day") - pl.col("birth").dt.date()).dt.total_days()
    # Of a birth known by its year alone, the age in the year of the visit: what MIMIC-IV's own
    # anchor_age counts, and right to the year, where days from 1 January are half a year too many.
    calendar = (pl.col("first_day").dt.year() - pl.col("birth").dt.year()).cast(pl.Float64)
    exact = pl.col("birth_resolution") != "year"
    people = (
        patients.lazy()
        .join(_counted(visits).lazy(), on="subject_id", how="left", maintain_order="left")
        .join(groups_of(stays).lazy(), on="subject_id", how="left", maintain_order="left")
        .with_columns(
            pl.col("ethnicity").fill_null("UNKNOWN"),
            pl.col("n_visits", "n_codes").fill_null(0),
            years=pl.when(exact).then(days / DAYS_PER_YEAR).otherwise(calendar),
        )
        .collect()
    )
    assert people["n_visits"].sum() == visits.height, "a visit of an unknown patient"
    per_patient = people["n_visits"]
    return people.drop("n_visits", "first_day").with_columns(
        visits=_lists(_lists(codes_of(visits, diagnoses), visits["size"]), per_patient),
        visit_days=_lists(visits["days"], per_patient),
    )


def visits_of(stays: pl.DataFrame, diagnoses: pl.DataFrame) -> pl.DataFrame:
    """Admissions with a code, in the order of the stays: by patient, time and admission id.

    Returns:
        `subject_id`, `day`, `days` since the patient's first visit, `start` and `size`: rows of
        the diagnoses, which are sorted by admission.
    """
    runs = diagnoses["hadm_id"].rle().struct.unnest()
    runs = runs.select(hadm_id="value", start=pl.col("len").cum_sum() - pl.col("len"), size="len")
    day = pl.col("admitted").dt.date()
    return (
        stays.lazy()
        .join(runs.lazy(), on="hadm_id", how="inner", maintain_order="left")
        .select(
            "subject_id",
            day=day,
            days=(day - day.first().over("subject_id")).dt.total_days().cast(pl.Int32),
            start=pl.col("start").cast(pl.Int64),
            size=pl.col("size").cast(pl.Int64),
        )
        .collect()
    )


def codes_of(visits: pl.DataFrame, diagnoses: pl.DataFrame) -> pl.Series:
    """Numbers of the codes of all visits, in their order; within a visit in the order of the diagnoses."""
    starts, sizes = (visits[name].to_numpy() for name in ("start", "size"))
    numbers = diagnoses["code"].to_physical().to_numpy()
    before = np.concatenate([[0], np.cumsum(sizes)])
    found = np.empty(before[-1], numbers.dtype)

    def fill(first: int) -> None:
        some = slice(first, first + VISITS_AT_ONCE)
        here = slice(before[first], before[: first + VISITS_AT_ONCE + 1][-1])
        rows = np.repeat(starts[some] - before[:-1][some], sizes[some])
        rows += np.arange(here.start, here.stop)
        found[here] = numbers[rows]

    for _ in in_threads(fill, range(0, len(sizes), VISITS_AT_ONCE)):
        pass
    return pl.Series(found)


def _counted(visits: pl.DataFrame) -> pl.DataFrame:
    """Visits, codes and first day of each patient who has a visit; the visits are in their order."""
    runs = visits["subject_id"].rle().struct.unnest()
    ends = runs["len"].cum_sum().to_numpy()
    codes = np.concatenate([[0], visits["size"].cum_sum().to_numpy()])
    starts = ends - runs["len"].to_numpy()
    return runs.select(
        subject_id="value",
        n_visits=pl.col("len").cast(pl.Int64),
        n_codes=pl.Series(codes[ends] - codes[starts], dtype=pl.Int64),
        first_day=visits["day"].gather(starts),
    )


def _lists(values: pl.Series, sizes: pl.Series) -> pl.Series:
    """Consecutive values as lists of these sizes, null for size 0."""
    offsets = np.concatenate([[0], sizes.cum_sum().to_numpy()])
    flat = values.to_arrow(compat_level=pl.CompatLevel.newest())
    return pl.Series(pa.LargeListArray.from_arrays(offsets, flat, mask=pa.array(sizes.to_numpy() == 0)))


def groups_of(stays: pl.DataFrame) -> pl.DataFrame:
    """Ethnicity group of each patient, which the first of the stays decides.

    Returns:
        `subject_id`, `ethnicity`, and `conflict`: the groups a patient's admissions name, joined
        by a vertical bar where there are several, else null.
    """
    texts = stays["ethnicity"]
    tidy = pl.Series("text", names_of(texts), pl.String).to_frame().select(ethnicity.tidy("text")).to_series()
    groups = tidy.replace_strict(ethnicity.GROUPS, default="UNKNOWN", return_dtype=pl.String)
    groups = pl.concat([groups, pl.Series(["UNKNOWN"])])  # where nothing is stated
    places = texts.to_physical().cast(pl.Int64).fill_null(len(tidy)).to_numpy()
    named = stays.select("subject_id", group=picked(groups, places))
    # The stays of a patient follow each other: who has a conflict has one between two neighbours.
    same_patient = pl.col("subject_id") == pl.col("subject_id").shift(1)
    changed = named.filter(same_patient & (pl.col("group") != pl.col("group").shift(1)))
    conflicts = (
        named.filter(pl.col("subject_id").is_in(changed["subject_id"].implode()))
        .unique()
        .sort("subject_id", "group")
        .group_by("subject_id")
        .agg(conflict=pl.col("group").cast(pl.String).str.join("|"))
    )
    first = named.filter(pl.col("subject_id") != pl.col("subject_id").shift(1, fill_value=0))
    first = first.select("subject_id", ethnicity=pl.col("group").cast(pl.String))
    return first.join(conflicts, on="subject_id", how="left")


def with_reasons(patients: pl.DataFrame, settings: Records) -> pl.DataFrame:
    """The patients with their final age and `reason`: why one is left out, null for those kept."""
    hidden = (pl.col("birth_resolution") == "hidden") | pl.col("years").is_between(
        HIDDEN_OVER_YEARS, OLDEST_YEARS, closed="right"
    )
    patients = patients.with_columns(
        age_capped=hidden.fill_null(value=False),
        age=pl.when(hidden).then(pl.lit(settings.age_cap)).otherwise("years").cast(pl.Float32),
    )
    reasons = {
        "no admission with a code": pl.col("visits").is_null(),
        "date of birth unknown": pl.col("age").is_null(),
        "age impossible": ~pl.col("age").is_between(0.0, OLDEST_YEARS),
        "younger than records.min_age": pl.col("age") < settings.min_age,
        "newborn, see records.newborns": (pl.col("years") * DAYS_PER_YEAR < NEWBORN_DAYS)
        & (settings.newborns == "drop"),
        "fewer visits than records.min_visits": pl.col("visits").list.len() < settings.min_visits,
    }
    first = pl.coalesce(pl.when(applies).then(pl.lit(reason)) for reason, applies in reasons.items())
    judged = patients.with_columns(reason=first)
    return judged if settings.patients is None else with_sample(judged, settings.patients, settings.seed)


def with_sample(patients: pl.DataFrame, size: int, seed: int) -> pl.DataFrame:
    """The patients, of whom no more than `size` stay: those first in the order of their hashes.

    The hash is not that of the split, which would leave training patients only.
    """
    staying = patients.filter(pl.col("reason").is_null())["subject_id"].to_numpy()
    order = np.argsort(places(f"sample:{seed}", staying.tolist()), kind="stable")
    outside = pl.col("subject_id").is_in(staying[order[size:]].tolist())
    reason = pl.when(outside).then(pl.lit("beyond records.patients")).otherwise("reason")
    return patients.with_columns(reason=reason)


def splits_of(subject_ids: list[int], seed: int, split: Split) -> list[str]:
    """The split of each patient: its place under the hash against the cumulated shares.

    >>> splits_of([1, 2, 3, 4], 1, Split(train=0.5, valid=0.25, test=0.25))
    ['valid', 'train', 'test', 'test']
    """
    # 1 - test rather than train + valid, which may round to less than 1 where test is 0.
    bounds = np.array([split.train, max(split.train, 1.0 - split.test)])
    chosen = np.searchsorted(bounds, places(seed, subject_ids), side="right")
    return [SPLITS[i] for i in chosen]


def places(seed: int | str, subject_ids: Iterable[int]) -> npt.NDArray[np.float64]:
    """Each patient's place in [0, 1): first 8 bytes of BLAKE2b(`seed:subject_id`), big-endian, / 2^64.

    The lowest 11 of the 64 bits are dropped, so that every place is an exact double below 1.
    """
    # The digest is cut, not made with digest_size 8: BLAKE2b mixes the size into the hash.
    start = f"{seed}:".encode()
    hashes = b"".join([blake2b(start + b"%d" % patient).digest()[:8] for patient in subject_ids])
    return (np.frombuffer(hashes, ">u8") >> np.uint64(11)).astype(np.float64) / 2.0**53


def ledger(tables: Tables, codes: Coded, candidates: pl.DataFrame, kept: Coded) -> dict[str, Any]:
    """Patients, visits and codes from ingest's tables to the records, and the sizes of the splits."""
    records = kept.frame
    lost = (
        candidates.filter(pl.col("reason").is_not_null())
        .group_by("reason")
        .agg(patients=pl.len(), visits=pl.col("visits").list.len().sum(), codes=pl.col("n_codes").sum())
        .sort("reason")
    )
    codeless = tables.admissions.height - tables.diagnoses["hadm_id"].rle().len()
    return {
        "tables": {
            "patients": artifacts.account(
                rows_in=tables.patients.height,
                rows_kept=records.height,
                rejected=_by_reason(lost, "patients"),
                noted=facts(records),
            ),
            "visits": artifacts.account(
                rows_in=tables.admissions.height,
                rows_kept=int(records.get_column("visits").list.len().sum()),
                rejected={"admission without a code": codeless, **_by_reason(lost, "visits", "patient: ")},
            ),
            "codes": artifacts.account(
                rows_in=tables.diagnoses.height,
                rows_kept=_codes_in(records),
                rejected={**codes.rejected, **kept.rejected, **_by_reason(lost, "codes", "patient: ")},
                noted={**codes.noted, **kept.noted},
            ),
        },
        "splits": {name: int((records["split"] == name).sum()) for name in SPLITS},
        "ethnicity": ethnicity_facts(tables.admissions, candidates),
    }


def facts(kept: pl.DataFrame) -> dict[str, int]:
    """Records by remarkable fact."""
    return {
        "age over 89, capped": int(kept["age_capped"].sum()),
        "gender UNKNOWN": int((kept["gender"] == "UNKNOWN").sum()),
        "ethnicity UNKNOWN": int((kept["ethnicity"] == "UNKNOWN").sum()),
        "admissions disagree on ethnicity": kept.height - kept["conflict"].null_count(),
    }


def ethnicity_facts(admissions: pl.DataFrame, candidates: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Admissions by text that is in no group, and patients by groups their admissions disagree on."""
    counts = admissions.group_by("ethnicity").len().drop_nulls().cast({"ethnicity": pl.String})
    counts = counts.with_columns(ethnicity.tidy("ethnicity"))
    unmapped = counts.filter(~pl.col("ethnicity").is_in(list(ethnicity.GROUPS)))
    conflicts = candidates["conflict"].drop_nulls().value_counts()
    return {
        "unmapped": _sorted(unmapped.group_by("ethnicity").agg(pl.col("len").sum())),
        "conflicts": _sorted(conflicts),
    }


def _codes_in(records: pl.DataFrame) -> int:
    """Codes counted in the records themselves, apart from the counts carried beside them."""
    return int(records.select(pl.col("visits").explode().list.len().sum()).item())


def _by_reason(lost: pl.DataFrame, unit: str, prefix: str = "") -> dict[str, int]:
    return {f"{prefix}{row['reason']}": row[unit] for row in lost.iter_rows(named=True)}


def _sorted(counts: pl.DataFrame) -> dict[str, int]:
    """Rows of text and count, by text."""
    return dict(sorted((str(text), int(rows)) for text, rows in counts.iter_rows()))
