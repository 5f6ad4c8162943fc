"""The defects that `dirt` can plant, each with the words in which ingest reports it.

The words are written down here, not taken from ingest's code: that both agree is what a ledger shows.
"""

from dataclasses import dataclass

LONG_AGO, BEFORE_ALL = "1753-01-01 00:00:00", "2000-01-01 00:00:00"


@dataclass(frozen=True)
class Added:
    """Copies of drawn rows, put between them, that ingest rejects.

    Attributes:
        setting: Field of `Dirt` with its share of the table's rows.
        table: Where the rows go.
        reason: Why ingest rejects them; the values in `written` add to it.
        fresh: Columns that get an id which nobody has.
        column: Column that is written over.
        written: What is written, in turn, and the reason that goes with it.
    """

    setting: str
    table: str
    reason: str = ""
    fresh: tuple[str, ...] = ()
    column: str = ""
    written: tuple[tuple[str | None, str], ...] = ()


@dataclass(frozen=True)
class Rewritten:
    """Drawn rows of which one value is written otherwise, and which ingest keeps.

    Attributes:
        setting: Field of `Dirt` with its share of the table's rows.
        table: Where the rows are.
        column: The value's column.
        fact: What ingest notes, if anything.
        written: What is written, in turn; empty where it depends on the value.
    """

    setting: str
    table: str
    column: str
    fact: str = ""
    written: tuple[str | None, ...] = ()


def _no_time(column: str) -> tuple[tuple[str | None, str], ...]:
    """A missing time, no time, a day that no calendar has, MySQL's zero, an hour too many."""
    unreadable = ("unknown", "2150-02-30 00:00:00", "0000-00-00 00:00:00", "2150-01-01 25:00:00")
    return ((None, f"{column} missing"), *((text, f"{column} unreadable") for text in unreadable))


def _no_id(column: str) -> tuple[tuple[str | None, str], ...]:
    return (
        (None, f"{column} missing"),
        ("A17", f"{column} is not a whole number"),
        ("0", f"{column} outside 1..2^40-1"),
        ("-7", f"{column} outside 1..2^40-1"),
        (str(2**40), f"{column} outside 1..2^40-1"),
    )


NO_CODES = tuple((text, "code missing") for text in (None, "NULL", " ", "NaN"))
# A letter for a digit, a dot in the wrong place, ICD-10, too long, a word; none of digits alone,
# which would look like lost zeros.
BAD_CODES = (
    *((text, "code malformed") for text in ("4O19", "4.019", "none given")),
    *((text, "code malformed, of ICD-10's shape") for text in ("I10", "V586122")),
)

ADDED = (
    Added("repeated_patients", "patients", "repeats an earlier record of the same subject_id"),
    Added("unreadable_births", "patients", "", ("SUBJECT_ID",), "DOB", _no_time("dob")),
    Added("unusable_ids", "patients", "", (), "SUBJECT_ID", _no_id("subject_id")),
    Added("unusable_ids", "admissions", "", (), "HADM_ID", _no_id("hadm_id")),
    Added("unusable_ids", "diagnoses", "", (), "HADM_ID", _no_id("hadm_id")),
    Added("repeated_admissions", "admissions", "repeats an earlier record of the same hadm_id"),
    Added("orphan_admissions", "admissions", "unknown patient", ("SUBJECT_ID", "HADM_ID")),
    Added(
        "admissions_before_birth",
        "admissions",
        "",
        ("HADM_ID",),
        "ADMITTIME",
        ((LONG_AGO, "admission before birth"),),
    ),
    Added("unreadable_admissions", "admissions", "", ("HADM_ID",), "ADMITTIME", _no_time("admittime")),
    Added("repeated_codes", "diagnoses", "code repeated in its admission"),
    Added("orphan_diagnoses", "diagnoses", "unknown admission", ("HADM_ID",)),
    Added("foreign_diagnoses", "diagnoses", "subject_id differs from the admission's", ("SUBJECT_ID",)),
    Added("null_codes", "diagnoses", "", (), "ICD9_CODE", NO_CODES),
    Added("malformed_codes", "diagnoses", "", (), "ICD9_CODE", BAD_CODES),
)

REWRITTEN = (
    Rewritten(
        "unknown_gender",
        "patients",
        "GENDER",
        "gender not M or F, kept as UNKNOWN",
        (None, "U", "?", "unknown"),
    ),
    Rewritten("reversed_stays", "admissions", "DISCHTIME", "discharge before admission", (BEFORE_ALL,)),
    Rewritten(
        "unreadable_discharges", "admissions", "DISCHTIME", "dischtime unreadable, kept without", ("later",)
    ),
    Rewritten("blank_ethnicity", "admissions", "ETHNICITY", "ethnicity missing", (None, "", "NULL")),
    Rewritten("mixed_ethnicity", "admissions", "ETHNICITY"),
    Rewritten("rewritten_codes", "diagnoses", "ICD9_CODE", "code normalised (dot, letter case, space)"),
    Rewritten("blank_positions", "diagnoses", "SEQ_NUM", "seq_num missing or unreadable", (None,)),
)
