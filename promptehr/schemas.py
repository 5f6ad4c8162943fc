"""The contract of every artifact: columns, types, order, uniqueness, and the keys of each JSON.

A stranger can write a compatible producer from this file only. It holds no logic; `artifacts`
writes and checks. Every table is Parquet, zstd-compressed, with page checksums, and carries its
schema's name, version and column meanings in the file's metadata.
"""

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One column: its name, Arrow type, meaning, and whether it may be null."""

    name: str
    type: pa.DataType
    meaning: str
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """One Parquet table.

    Attributes:
        name: Written to the file's metadata as `promptehr.schema`.
        version: Raised with every incompatible change.
        meaning: What one row is.
        columns: In file order.
        sorted_by: Columns that rows are sorted by, ascending.
        unique: Columns that identify a row.
    """

    name: str
    version: int
    meaning: str
    columns: tuple[Column, ...]
    sorted_by: tuple[str, ...]
    unique: tuple[str, ...]

    @property
    def arrow(self) -> pa.Schema:
        return pa.schema([pa.field(c.name, c.type, c.nullable) for c in self.columns])


@dataclass(frozen=True)
class Document:
    """One JSON document: `format` is its name, and its keys besides those of every document.

    Every document has `format`, `format_version`; a sealing one has also `stage`, `key`
    (settings as `section.key=<JSON>`, code as module: fingerprint), `inputs` (name: sha256 of
    what was read) and `files` (path relative to the document: sha256 of what was written).
    """

    name: str
    version: int
    meaning: str
    keys: tuple[tuple[str, str], ...]


PATIENTS = Table(
    name="patients",
    version=1,
    meaning="one patient of the source",
    columns=(
        Column("subject_id", pa.int64(), "patient, 1 to 2^40 - 1"),
        Column("gender", pa.string(), "M, F or UNKNOWN"),
        Column("birth", pa.timestamp("us"), "date of birth, shifted as in the source", nullable=True),
        Column(
            "birth_resolution",
            pa.string(),
            "day, year (only the year is known) or hidden (moved by the source: age over 89)",
        ),
    ),
    sorted_by=("subject_id",),
    unique=("subject_id",),
)

ADMISSIONS = Table(
    name="admissions",
    version=1,
    meaning="one hospital admission",
    columns=(
        Column("hadm_id", pa.int64(), "admission, 1 to 2^40 - 1"),
        Column("subject_id", pa.int64(), "its patient"),
        Column("admitted", pa.timestamp("us"), "time of admission, shifted as in the source"),
        Column("discharged", pa.timestamp("us"), "time of discharge", nullable=True),
        Column("ethnicity", pa.string(), "the source's own text", nullable=True),
    ),
    sorted_by=("hadm_id",),
    unique=("hadm_id",),
)

DIAGNOSES = Table(
    name="diagnoses",
    version=1,
    meaning="one diagnosis code of one admission",
    columns=(
        Column("hadm_id", pa.int64(), "its admission"),
        Column("position", pa.int32(), "SEQ_NUM, 1 = principal diagnosis", nullable=True),
        Column("code", pa.string(), "code of its system without dot, upper case, leading zeros kept"),
        Column("system", pa.string(), "icd9 or icd10"),
    ),
    sorted_by=("hadm_id", "position", "system", "code"),  # null positions last
    unique=("hadm_id", "system", "code"),
)

REJECTS = Table(
    name="rejects",
    version=1,
    meaning="one source row that was left out; private, though it holds no field's value",
    columns=(
        Column("table", pa.string(), "patients, admissions or diagnoses"),
        Column("record", pa.int64(), "record number in the source file; the header is 0"),
        Column("reason", pa.string(), "why, in the words of the ledger"),
    ),
    sorted_by=("table", "record"),
    unique=("table", "record"),
)


def _record_columns(*, visit_days_nullable: bool) -> tuple[Column, ...]:
    return (
        Column("subject_id", pa.int64(), "patient; synthetic ones start at 2^40"),
        Column("gender", pa.string(), "M, F or UNKNOWN"),
        Column("ethnicity", pa.string(), "WHITE, BLACK, HISPANIC, ASIAN, OTHER or UNKNOWN"),
        Column(
            "age",
            pa.float32(),
            "years at the first kept visit; where only the year of birth is known, whole calendar years",
        ),
        Column("age_capped", pa.bool_(), "whether the source hid an age over 89"),
        Column(
            "visits",
            pa.list_(pa.list_(pa.string())),
            "codes of each visit: visits in time order, codes in SEQ_NUM order, none twice, none empty;"
            " an ICD-10-CM code is written ICD10:I10, any other text is of ICD-9-CM or a CCS group",
        ),
        Column(
            "visit_days",
            pa.list_(pa.int32()),
            "days from the first kept visit to each visit",
            nullable=visit_days_nullable,
        ),
    )


RECORDS = Table(
    name="records",
    version=1,
    meaning="one patient",
    columns=_record_columns(visit_days_nullable=False),
    sorted_by=("subject_id",),
    unique=("subject_id",),
)

SYNTHETIC = Table(
    name="synthetic",
    version=1,
    meaning="one synthetic patient: a record whose visit_days is null",
    columns=_record_columns(visit_days_nullable=True),
    sorted_by=("subject_id",),
    unique=("subject_id",),
)

SHARD = Table(
    name="shard",
    version=1,
    meaning="one patient as token ids",
    columns=(
        Column("subject_id", pa.int64(), "patient"),
        Column("age_z", pa.float32(), "(age - mean) / spread of the training split"),
        Column("gender_id", pa.int8(), "0 M, 1 F, 2 UNKNOWN"),
        Column("ethnicity_id", pa.int8(), "0 WHITE, 1 BLACK, 2 HISPANIC, 3 ASIAN, 4 OTHER, 5 UNKNOWN"),
        Column("tokens", pa.list_(pa.int32()), "BOS <v> codes <\\v> ... END, ids of the vocabulary"),
        Column("n_visits", pa.int32(), "visits in tokens"),
    ),
    sorted_by=("subject_id",),
    unique=("subject_id",),
)

LEDGER = Document(
    name="ledger",
    version=1,
    meaning="what became of every row; seals the files of its stage",
    keys=(
        (
            "tables",
            "unit (patients, admissions, diagnoses, visits, codes): rows_in = rows_kept + sum(rejected);"
            " rejected {reason: rows}; noted {fact: rows kept all the same}",
        ),
        ("splits", "of records: patients of train, valid and test"),
        (
            "ethnicity",
            "of records: unmapped {text: admissions}, conflicts {groups named by one patient: patients}",
        ),
    ),
)

PROCESS = Document(
    name="process",
    version=1,
    meaning="the random process behind simulated patients, and what was planted",
    keys=(
        ("parameters", "all that its exact likelihood needs"),
        ("planted", "counts of drawn rows by kind"),
        (
            "expected",
            "what the ledgers of ingest (all of a table's counts) and, under default settings, of records"
            " (some) have to say",
        ),
    ),
)

VOCABULARY = Document(
    name="vocabulary",
    version=2,
    meaning="tokens and demographics of the training split; seen by nobody: the other splits",
    keys=(
        ("special", "token: id of PAD BOS EOS <v> <\\v> END <mask> <unk>"),
        (
            "codes",
            "list in id order from 6: code, group (CCS, without one the code's category), patients (with"
            " it), occurrences, title (null: in no list)",
        ),
        ("age", "mean and spread in years, patients"),
        (
            "demographics",
            "joint table for sampling: gender, ethnicity, age_from, age_to (years, half open; where equal,"
            " that age alone), patients",
        ),
    ),
)

INDEX = Document(
    name="index",
    version=1,
    meaning="the shards of each split",
    keys=(
        (
            "splits",
            "train, valid, test: list of {path (relative), rows, tokens, longest (tokens), sha256}",
        ),
        ("vocabulary_size", "number of token ids"),
        ("longest", "tokens of the longest sequence of any split"),
    ),
)

SUMMARY = Document(
    name="summary",
    version=1,
    meaning="what a training, a generation or a part did; seals its files",
    keys=(
        ("counts", "of parts: patients, visits and codes, and what became of them"),
        ("splits", "of shards_part: as in the index, the part's shards alone"),
        ("vocabulary_size", "of shards_part: number of token ids"),
    ),
)

EVALUATION = Document(
    name="evaluation",
    version=1,
    meaning="measured numbers beside baseline, ceiling and interval; null beside a reason",
    keys=(),
)

REPORT = Document(name="report", version=1, meaning="every number of the page", keys=())

TABLES = (PATIENTS, ADMISSIONS, DIAGNOSES, REJECTS, RECORDS, SYNTHETIC, SHARD)
DOCUMENTS = (LEDGER, PROCESS, VOCABULARY, INDEX, SUMMARY, EVALUATION, REPORT)
