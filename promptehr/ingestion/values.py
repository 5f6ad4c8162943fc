"""Text fields to typed values, as polars expressions; what cannot be read becomes null, never a guess.

Knows the shapes of ids, times and codes; which rows go is decided in `stages/ingest`.
"""

from pathlib import Path

import polars as pl

from promptehr import icd9, icd10
from promptehr.errors import InputError

MAX_ID = 2**40 - 1
"""Largest id of a real patient or admission; synthetic ones start above it."""

# How databases and spreadsheets write "nothing".
BLANKS = ("", "NULL", "NA", "N/A", "#N/A", "NAN", "NAT", "<NA>", "NONE", "\\N")

# Year 0000, which MySQL writes for no date, is none: Python's calendar begins with year 1.
ISO_TIME = (
    r"(?-u)^(?:[1-9]\d{3}|0[1-9]\d\d|00[1-9]\d|000[1-9])-\d{2}-\d{2}"
    r"(?:[ T](?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d{1,9})?)?)?$"
)
TIME_FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f")
# 03/11/2150, 3.11.50, 11-MAR-2150, 2150/03/11, and the day numbers spreadsheets count from 1900.
SPREADSHEET_TIME = (
    r"(?i-u)^(?:\d{1,2}[/.\-]\d{1,2}[/.\-]\d{2,4}|\d{1,2}[\- ]?[a-z]{3,9}[\- ,]*\d{2,4}"
    r"|[a-z]{3,9} \d{1,2},? \d{2,4}|\d{4}[/.]\d{1,2}[/.]\d{1,2}|\d{4,6}(?:[.,]\d+)?$)"
)

DOTTED = r"^(?:(?:\d{3}|V\d{2})\.\d{0,2}|E\d{3}\.\d?)$"
"""A code as printed in books; a dot anywhere else is not formatting and makes it malformed."""


MALFORMED = "code malformed"
ICD10 = f"{icd10.WELL_FORMED}|{icd10.DOTTED}"


def text_of(column: str) -> str:
    """The name under which a column's texts stand in the table of odd rows."""
    return f"{column}_text"


def stated(column: str) -> pl.Expr:
    """The text without surrounding space, null where it says nothing."""
    text = pl.col(column).str.strip_chars()
    return pl.when(~text.str.to_uppercase().is_in(BLANKS)).then(text).alias(column)


def missing(column: str) -> pl.Expr:
    """Whether a number or time is null because its text says nothing; for odd rows."""
    return pl.col(column).is_null() & stated(text_of(column)).is_null()


def number_reasons(column: str) -> dict[str, pl.Expr]:
    """Why a number is null that is not too large to be read; for odd rows, the first one holds."""
    return {
        f"{column} missing": missing(column),
        f"{column} is not a whole number": pl.col(column).is_null() & ~looks_whole(text_of(column)),
    }


def time_reasons(column: str, time: str) -> dict[str, pl.Expr]:
    """Why a time made of a column is null; for odd rows, the first one holds."""
    return {f"{column} missing": missing(column), f"{column} unreadable": pl.col(time).is_null()}


def numbers(texts: pl.Series) -> pl.Series:
    """Whole numbers, null where the text is none; `5.0`, as pandas writes columns with gaps, is one."""
    plain = texts.cast(pl.Int64, strict=False)
    if plain.null_count() == texts.null_count():
        return plain
    return texts.str.strip_chars().str.strip_suffix(".0").cast(pl.Int64, strict=False)


def looks_whole(column: str) -> pl.Expr:
    """Whether the text is a whole number of any size."""
    return pl.col(column).str.contains(r"(?-u)^\s*[+-]?\d+(?:\.0)?\s*$")


def times(texts: pl.Series) -> pl.Series:
    """Times written year first, cut to the microsecond; a date alone is its midnight, anything else null."""
    texts = texts.str.strip_chars()
    texts = pl.select(pl.when(texts.str.contains(ISO_TIME)).then(texts)).to_series()
    found = texts.str.to_datetime(TIME_FORMATS[0], time_unit="us", strict=False)
    if found.null_count() == texts.null_count():
        return found
    texts = texts.str.replace("T", " ", literal=True)
    date_alone = texts.str.len_bytes() == len("2150-11-03")
    texts = pl.select(pl.when(date_alone).then(texts + " 00:00").otherwise(texts)).to_series()
    return pl.select(
        pl.coalesce(texts.str.to_datetime(form, time_unit="us", strict=False) for form in TIME_FORMATS)
    ).to_series()


def refuse_spreadsheet_times(odd: pl.DataFrame, path: Path, *columns: str) -> None:
    """Refuse dates whose order of day and month, or century, would have to be guessed.

    Args:
        odd: Texts of the rows in which some field cannot be read.
        path: Named in errors.
        columns: Those of times.

    Raises:
        InputError: naming the first such record.
    """
    for column in columns:
        stripped = pl.col(text_of(column)).str.strip_chars()
        found = odd.filter(stripped.str.contains(SPREADSHEET_TIME))
        if found.height:
            raise InputError(
                f"{path}: record {found.item(0, 'record')}, column {column.upper()} holds a spreadsheet date"
                f" ({found.height} in all), expected YYYY-MM-DD HH:MM:SS; export it as text like that"
            )


def codes(texts: pl.Series) -> pl.DataFrame:
    """What each distinct text is as an ICD-9-CM code.

    Args:
        texts: Distinct texts, null among them or not.

    Returns:
        The columns of `shaped`, sorted by code, nulls last; `rank` of the code, dense from 1;
        `numeric` (digits, perhaps a dot); `zero` (numeric, first digit 0); `unlisted` (well-formed, not
        in the CMS list); `zeroless` (all digits and unlisted, but listed with one or two zeros in front);
        `floated` (four or five digits and `.0`, which no dotted code has: 4019 as a float).
    """
    listed = list(icd9.listed())
    digits = pl.col("text").str.strip_chars().str.replace(".", "", literal=True)
    frame = shaped(texts, icd9.WELL_FORMED, DOTTED).with_columns(digits=digits)
    like_ten = pl.col("text").str.strip_chars().str.to_uppercase().str.contains(f"(?-u){ICD10}")
    zeros = [pl.concat_str(pl.lit(zeros), "digits").is_in(listed) for zeros in ("0", "00")]
    known = pl.col("code").is_in(listed).fill_null(value=False)
    numeric = pl.col("digits").str.contains(r"(?-u)^\d{1,5}$").fill_null(value=False)
    return frame.sort("code", "text", nulls_last=True).select(
        *("text", "code", "changed"),
        refused=pl.when((pl.col("refused") == MALFORMED) & like_ten)
        .then(pl.lit(f"{MALFORMED}, of ICD-10's shape"))
        .otherwise("refused"),
        numeric=numeric,
        zero=numeric & pl.col("digits").str.starts_with("0"),
        rank=pl.col("code").rank("dense").cast(pl.Int64),
        unlisted=pl.col("code").is_not_null() & ~known,
        zeroless=numeric & ~known & pl.any_horizontal(zeros).fill_null(value=False),
        floated=pl.col("text").str.contains(r"(?-u)^\s*\d{4,5}\.0\s*$").fill_null(value=False),
    )


def shaped(texts: pl.Series, well_formed: str, dotted: str) -> pl.DataFrame:
    """What each distinct text is as a code of these shapes, without and with a dot.

    Returns:
        `text`; `code` without dot, upper case, null where blank or malformed; `refused`, the
        reason of those; `changed` (by dot, letter case or space).
    """
    tidy = pl.col("text").str.strip_chars().str.to_uppercase()
    frame = pl.DataFrame({"text": texts.cast(pl.String)}).with_columns(tidy=tidy)
    bare = pl.when(pl.col("tidy").str.contains(f"(?-u){dotted}")).then(
        pl.col("tidy").str.replace(".", "", literal=True)
    )
    frame = frame.with_columns(
        blank=pl.col("tidy").is_null() | pl.col("tidy").is_in(BLANKS), bare=bare.otherwise("tidy")
    )
    formed = pl.col("bare").str.contains(f"(?-u){well_formed}") & ~pl.col("blank")
    refused = pl.when("blank").then(pl.lit("code missing")).when(~formed).then(pl.lit(MALFORMED))
    return frame.select(
        "text",
        code=pl.when(formed).then("bare"),
        refused=refused,
        changed=formed.fill_null(value=False) & (pl.col("bare") != pl.col("text")),
    )
