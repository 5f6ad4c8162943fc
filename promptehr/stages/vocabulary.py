"""The training split's codes and demographics to the vocabulary.

Sees the training split only: what a model may know of ages, sexes and codes stands here. Codes
are numbered by how many patients have them, most first.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from promptehr import artifacts, icd9, icd10, schemas, tokens
from promptehr.errors import InputError
from promptehr.ingestion import coding
from promptehr.settings import Settings

logger = logging.getLogger(__name__)

BAND_YEARS = 5
SMALLEST_CELL = 11  # patients; a smaller cell of the table would tell of single patients


@dataclass(frozen=True)
class Inputs:
    """The training split."""

    train: Path
    records_ledger: Path


@dataclass(frozen=True)
class Outputs:
    """The vocabulary, and the ledger that seals it."""

    vocabulary: Path
    ledger: Path


def run(inputs: Inputs, outputs: Outputs, settings: Settings) -> None:
    """Count and publish."""
    artifacts.open_sealed(inputs.records_ledger, schemas.LEDGER, "records", inputs.train)
    train = pl.DataFrame(artifacts.read_table(inputs.train, schemas.RECORDS))
    if train.is_empty():
        raise InputError(
            f"{inputs.train}: no patients; {inputs.records_ledger} says why they were left out,"
            " loosen the settings of records or bring more patients"
        )
    counted = count_codes(train)
    kept = counted.filter(pl.col("patients") >= settings.vocabulary.min_patients)
    if kept.is_empty():
        raise InputError(
            f"{inputs.train}: no code has {settings.vocabulary.min_patients} patients;"
            " lower vocabulary.min_patients"
        )
    artifacts.write_json(outputs.vocabulary, document(train, kept), schemas.VOCABULARY)
    artifacts.write_sealed(
        outputs.ledger,
        {"tables": {"distinct codes": entry(counted, kept), "codes": occurrences(counted, kept)}},
        schemas.LEDGER,
        stage="vocabulary",
        settings=settings,
        inputs={"train": inputs.train},
        files=[outputs.vocabulary],
    )
    logger.info("%s codes of %s patients", kept.height, train.height)


def count_codes(train: pl.DataFrame) -> pl.DataFrame:
    """Each code with its patients and occurrences, most patients first, then by code.

    >>> records = pl.DataFrame({"subject_id": [1, 2], "visits": [[["A"], ["A", "B"]], [["B"]]]})
    >>> count_codes(records).rows()
    [('B', 2, 2), ('A', 1, 2)]
    """
    return (
        train.lazy()
        .select("subject_id", code="visits")
        .explode("code")
        .explode("code")
        .group_by("code")
        .agg(patients=pl.col("subject_id").n_unique(), occurrences=pl.len())
        .sort("patients", "code", descending=[True, False])
        .collect()
    )


def document(train: pl.DataFrame, codes: pl.DataFrame) -> dict[str, Any]:
    """The vocabulary by its contract.

    Raises:
        InputError: if all ages are equal, so that age cannot be standardised.
    """
    vocabulary = tokens.Vocabulary(tuple(codes["code"]), 0.0, 1.0, ())
    # numpy sums in one fixed order, whatever the number of threads.
    age = train["age"].cast(pl.Float64).to_numpy()
    if age.std() == 0.0:
        raise InputError(
            "records/train.parquet: all ages are equal; a spread above 0 is needed, add patients"
        )
    return {
        "special": {
            name: place for place, name in enumerate(vocabulary.names) if name in tokens.SPECIAL_NAMES
        }
        | {"<mask>": vocabulary.mask, "<unk>": vocabulary.unknown},
        "codes": [
            row | {"group": group(row["code"]), "title": title(row["code"])}
            for row in codes.iter_rows(named=True)
        ],
        "age": {"mean": float(age.mean()), "spread": float(age.std()), "patients": train.height},
        "demographics": demographics(train),
    }


def demographics(train: pl.DataFrame) -> list[dict[str, Any]]:
    """The joint table of sex, ethnicity and 5-year age band that generation draws from.

    No cell has fewer than 11 patients where there are as many: small groups are pooled, then
    bands are merged with their neighbours. The first band is cut at 1 year: newborns are a sixth
    of MIMIC-III and nothing like children of four. Capped ages are one value, at which the last
    band ends: a cell from 90 to 90 holds that age alone.

    Returns:
        Cells sorted by sex, ethnicity and age: gender, ethnicity, age_from, age_to (years, half
        open), patients.
    """
    cap = train.filter("age_capped")["age"].max()
    bands = (
        pooled(train.select("gender", "ethnicity", "age"))
        .with_columns(band=_band_start("age"))
        .group_by("gender", "ethnicity", "band")
        .agg(patients=pl.len())
        .sort("gender", "ethnicity", "band")
    )
    cells = []
    for (gender, ethnicity), group in bands.group_by("gender", "ethnicity", maintain_order=True):
        for first, last, patients in merged(group.select("band", "patients").rows()):
            age_to = band_end(last) if cap is None else min(band_end(last), float(cap))  # type: ignore[arg-type]
            years = {"age_from": float(first), "age_to": age_to}
            cells.append({"gender": gender, "ethnicity": ethnicity, **years, "patients": patients})
    return cells


def _band_start(age: str) -> pl.Expr:
    years = pl.col(age).floor().cast(pl.Int64)
    return pl.when(years.is_between(1, BAND_YEARS - 1)).then(1).otherwise(years // BAND_YEARS * BAND_YEARS)


def band_end(start: int) -> float:
    """The year at which the band that starts at this year ends.

    >>> [band_end(start) for start in (0, 1, 5, 85)]
    [1.0, 5.0, 10.0, 90.0]
    """
    return float({0: 1, 1: BAND_YEARS}.get(start, start + BAND_YEARS))


def pooled(people: pl.DataFrame) -> pl.DataFrame:
    """People whose group by sex and ethnicity is under 11, moved to a larger one.

    A sex under 11 joins the most frequent sex; an ethnicity under 11 within a sex joins UNKNOWN,
    and the most frequent one where UNKNOWN is still under 11.
    """
    small_sex = pl.len().over("gender") < SMALLEST_CELL
    small = pl.len().over("gender", "ethnicity") < SMALLEST_CELL
    most_frequent = _mode("ethnicity").over("gender")
    return (
        people.with_columns(gender=pl.when(small_sex).then(_mode("gender")).otherwise("gender"))
        .with_columns(ethnicity=pl.when(small).then(pl.lit("UNKNOWN")).otherwise("ethnicity"))
        .with_columns(ethnicity=pl.when(small).then(most_frequent).otherwise("ethnicity"))
    )


def _mode(column: str) -> pl.Expr:
    return pl.col(column).mode().sort().first()


def merged(bands: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Bands with their patients to runs of bands with at least 11: first, last, patients.

    >>> merged([(0, 20), (4, 3), (5, 9), (6, 2)])
    [(0, 0, 20), (4, 6, 14)]
    """
    runs: list[tuple[int, int, int]] = []
    for band, patients in bands:
        if runs and runs[-1][2] < SMALLEST_CELL:
            first, _, so_far = runs.pop()
            runs.append((first, band, so_far + patients))
        else:
            runs.append((band, band, patients))
    if len(runs) > 1 and runs[-1][2] < SMALLEST_CELL:
        _, last, rest = runs.pop()
        first, _, so_far = runs.pop()
        runs.append((first, last, so_far + rest))
    return runs


def title(code: str) -> str | None:
    """Title of a code of either system, or of a CCS group."""
    return icd10.title(code) or icd9.title(code)


def group(code: str) -> str:
    """The CCS group of an ICD-9 code, the category of others: codes that share evidence.

    >>> [group(code) for code in ("4019", "ICD10:E119", "V999")]
    ['CCS98', 'ICD10:E11', 'V99']
    """
    return icd9.ccs_text(code) or coding.category(code)


def entry(counted: pl.DataFrame, kept: pl.DataFrame) -> dict[str, Any]:
    """What became of the distinct codes."""
    untitled = [code for code in kept["code"] if title(code) is None]
    return artifacts.account(
        rows_in=counted.height,
        rows_kept=kept.height,
        rejected={"fewer patients than vocabulary.min_patients, <unk>": counted.height - kept.height},
        noted={
            "not listed by CMS, without title": len(untitled),
            "one occurrence only": int((kept["occurrences"] == 1).sum()),
        },
    )


def occurrences(counted: pl.DataFrame, kept: pl.DataFrame) -> dict[str, Any]:
    """What became of the codes of the training split, each time one is written."""
    of_kept, of_all = int(kept["occurrences"].sum()), int(counted["occurrences"].sum())
    return artifacts.account(
        rows_in=of_all,
        rows_kept=of_kept,
        rejected={"fewer patients than vocabulary.min_patients, <unk>": of_all - of_kept},
    )
