"""Defects in the simulator's tables, planted after sampling, and what the ledgers have to say of them.

A defect is an added row that a row rule has to find, or a drawn value that is written otherwise.
Drawn patients keep their records, so that the exact likelihood stays theirs; only
`unknown_gender` takes something away. Knows the words of ingest's reasons, not its rules: a
ledger that agrees with `expected` was found, not copied.
"""

import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from promptehr import icd9
from promptehr.settings import Dirt
from promptehr.simulation import recipe
from promptehr.simulation.defects import ADDED, REWRITTEN, Added, Rewritten
from promptehr.tokens import ETHNICITIES, Ints

GROUPS = {text: group for group, texts in recipe.ETHNICITY_TEXTS.items() for text in texts}
# Births of patients over 89 lie 300 years before an admission of 2100 or later, all others after 1990.
HIDDEN_BEFORE = "1900"


@dataclass(frozen=True)
class Tables:
    """The three CSVs, columns as in MIMIC-III."""

    patients: pa.Table
    admissions: pa.Table
    diagnoses: pa.Table


@dataclass
class Ground:
    """The tables while they get dirty, and what the ledgers will have to say.

    Attributes:
        drawn: The rows that were drawn, rewritten ones among them, by table.
        added: Further rows by table.
        rejected: Rows by reason, by table.
        noted: Rows by fact, by table.
        next_id: Ids from here on are nobody's.
    """

    drawn: dict[str, pa.Table]
    next_id: int
    added: dict[str, list[pa.Table]] = field(default_factory=dict)
    rejected: dict[str, Counter[str]] = field(default_factory=dict)
    noted: dict[str, Counter[str]] = field(default_factory=dict)


def plant(tables: Tables, dirt: Dirt, seed: int) -> tuple[Tables, dict[str, Any]]:
    """The tables with their defects, and what the ledgers have to say of these files.

    Args:
        tables: As drawn; returned unchanged where every share is 0.
        dirt: The shares; a share of n rows plants round(share * n), as far as rows are suited.
        seed: Each defect draws from a generator of its own, made from this and its name.

    Returns:
        `ingest`: {table: rows_in, rows_kept, rejected {reason: rows}, noted {fact: rows}}, all of
        its ledger; `records`: facts and reasons that follow under the default settings.
    """
    ground = Ground(dict(vars(tables)), next_id=_first_free_id(tables))
    for name in ground.drawn:
        ground.added[name], ground.rejected[name], ground.noted[name] = [], Counter(), Counter()
    hidden = pc.sum(pc.less(tables.patients["DOB"], HIDDEN_BEFORE)).as_py()
    ground.noted["patients"]["birth moved by the source, age over 89"] += hidden
    for change in REWRITTEN:
        _rewrite(ground, change, dirt, seed)
    for kind in ADDED:
        _add(ground, kind, dirt, seed)
    kept = {
        "codeless_admissions": _add_codeless(ground, tables, dirt, seed),
        "impossible_ages": _add_impossible(ground, dirt, seed),
    }
    dirty = {name: _mixed_in(ground.drawn[name], ground.added[name], name, seed) for name in ground.drawn}
    return Tables(**dirty), _expected(ground, dirty, kept)


# --- drawn rows, written otherwise -------------------------------------------------------------


def _rewrite(ground: Ground, change: Rewritten, dirt: Dirt, seed: int) -> None:
    table = ground.drawn[change.table]
    rng = _generator(seed, change.setting, change.table)
    suited = _suited(change, ground.drawn)
    count = min(_count(dirt, change.setting, table), len(suited))
    if not count:
        return
    rows = np.sort(rng.choice(suited, size=count, replace=False))
    values = table[change.column].to_numpy(zero_copy_only=False).astype(object)
    values[rows] = _otherwise(change, values[rows], rng)
    ground.drawn[change.table] = _with(table, change.column, values)
    if change.fact:
        ground.noted[change.table][change.fact] += count


def _suited(change: Rewritten, drawn: Mapping[str, pa.Table]) -> Ints:
    """Rows that may lose this value without any effect on a record, and that still have it."""
    table = drawn[change.table]
    owners = {"ETHNICITY": "SUBJECT_ID", "SEQ_NUM": "HADM_ID"}
    if change.column == "DISCHTIME":
        return np.flatnonzero(pc.greater(table["DISCHTIME"], table["ADMITTIME"]))
    if change.column not in owners:
        return np.arange(table.num_rows)
    owner = table[owners[change.column]].to_numpy()
    border = owner[1:] != owner[:-1]
    if change.column == "SEQ_NUM":
        # A missing position comes last, and the last one is where it was.
        return np.flatnonzero(np.append(border, True))
    stated = pc.is_in(table["ETHNICITY"], pa.array(list(GROUPS))).to_numpy()
    return np.flatnonzero(~np.append(True, border) & stated)


def _otherwise(change: Rewritten, values: npt.NDArray[Any], rng: np.random.Generator) -> list[Any]:
    """The values as the defect writes them."""
    if change.written:
        return [change.written[number % len(change.written)] for number in range(len(values))]
    if change.column == "ICD9_CODE":
        return [f"{icd9.display(code).lower()} " for code in values]
    steps = rng.integers(1, len(ETHNICITIES), size=len(values))
    places = np.array([ETHNICITIES.index(GROUPS[words]) for words in values])
    others = (places + steps) % len(ETHNICITIES)
    return [next(iter(recipe.ETHNICITY_TEXTS[ETHNICITIES[place]])) for place in others]


# --- added rows --------------------------------------------------------------------------------


def _add(ground: Ground, kind: Added, dirt: Dirt, seed: int) -> None:
    table = ground.drawn[kind.table]
    count = _count(dirt, kind.setting, table)
    if not count:
        return
    rng = _generator(seed, kind.setting, kind.table)
    rows = table.take(rng.choice(table.num_rows, size=count, replace=False))
    for column in kind.fresh:
        rows = _with(rows, column, _fresh(ground, count))
    reasons = [kind.reason] * count
    if kind.written:
        written = [kind.written[number % len(kind.written)] for number in range(count)]
        rows = _with(rows, kind.column, np.array([value for value, _ in written], dtype=object))
        reasons = [reason for _, reason in written]
    ground.added[kind.table].append(rows)
    ground.rejected[kind.table].update(reasons)


def _add_codeless(ground: Ground, tables: Tables, dirt: Dirt, seed: int) -> int:
    """Admissions after a patient's last one, with one diagnosis that has no code; their number."""
    subjects = tables.admissions["SUBJECT_ID"].to_numpy()
    border = subjects[1:] != subjects[:-1]
    first, last = np.flatnonzero(np.append(True, border)), np.flatnonzero(np.append(border, True))
    count = min(_count(dirt, "codeless_admissions", tables.admissions), len(last))
    if not count:
        return 0
    rng = _generator(seed, "codeless_admissions", "admissions")
    patients = rng.choice(len(last), size=count, replace=False)
    rows = tables.admissions.take(last[patients])
    # The first admission's text, which no defect touches, adds no further group to the patient.
    texts = tables.admissions["ETHNICITY"].take(first[patients])
    rows = _with(rows, "ETHNICITY", texts.to_numpy(zero_copy_only=False))
    left = rows["DISCHTIME"].to_numpy(zero_copy_only=False).astype("datetime64[s]")
    rows = _with(rows, "HADM_ID", _fresh(ground, count))
    for column, days in (("ADMITTIME", 30), ("DISCHTIME", 31)):
        rows = _with(rows, column, text(left + np.timedelta64(days, "D")))
    ground.added["admissions"].append(rows)
    ground.added["diagnoses"].append(_diagnoses_of(rows, None))
    ground.rejected["diagnoses"]["code missing"] += count
    return count


def _add_impossible(ground: Ground, dirt: Dirt, seed: int) -> int:
    """Patients whom ingest keeps and records cannot, for their age of 160 years; their number."""
    table = ground.drawn["patients"]
    count = _count(dirt, "impossible_ages", table)
    if not count:
        return 0
    rng = _generator(seed, "impossible_ages", "patients")
    subjects, admissions = _fresh(ground, count), _fresh(ground, count)
    gender = rng.choice(["F", "M"], size=count)
    born, admitted, left = (
        np.repeat(f"{day} 00:00:00", count) for day in ("1950-01-01", "2110-01-01", "2110-01-03")
    )
    people = rows_of(SUBJECT_ID=subjects, GENDER=gender, DOB=born)
    stays = rows_of(
        SUBJECT_ID=subjects,
        HADM_ID=admissions,
        ADMITTIME=admitted,
        DISCHTIME=left,
        ETHNICITY=np.repeat("WHITE", count),
    )
    ground.added["patients"].append(people)
    ground.added["admissions"].append(stays)
    ground.added["diagnoses"].append(_diagnoses_of(stays, "4019"))
    return count


def _diagnoses_of(admissions: pa.Table, code: str | None) -> pa.Table:
    """One diagnosis of each admission."""
    codes = np.full(admissions.num_rows, code, dtype=object)
    return rows_of(
        SUBJECT_ID=admissions["SUBJECT_ID"].to_numpy(),
        HADM_ID=admissions["HADM_ID"].to_numpy(),
        SEQ_NUM=np.ones(admissions.num_rows, dtype=np.int64),
        ICD9_CODE=pa.array(codes, pa.string()),
    )


def _mixed_in(drawn: pa.Table, added: list[pa.Table], name: str, seed: int) -> pa.Table:
    """Drawn rows in their order with the added ones anywhere between them; rows are numbered anew."""
    if not added:
        return drawn
    parts = [drawn, *added]
    columns = {column: _joined([part[column] for part in parts]) for column in drawn.column_names[1:]}
    extra = sum(part.num_rows for part in added)
    places = _generator(seed, "places", name).uniform(0, drawn.num_rows, size=extra)
    order = np.argsort(np.append(np.arange(drawn.num_rows, dtype=np.float64), places), kind="stable")
    return rows_of(**{column: values.take(order) for column, values in columns.items()})


# --- what the ledgers have to say --------------------------------------------------------------


def _expected(ground: Ground, dirty: Mapping[str, pa.Table], kept: Mapping[str, int]) -> dict[str, Any]:
    ingest = {}
    for name, table in dirty.items():
        rejected, noted = (
            {words: rows for words, rows in sorted(counts[name].items()) if rows}
            for counts in (ground.rejected, ground.noted)
        )
        ingest[name] = {
            "rows_in": table.num_rows,
            "rows_kept": table.num_rows - sum(rejected.values()),
            "rejected": rejected,
            "noted": noted,
        }
    records = {
        "age impossible": kept["impossible_ages"],
        "admission without a code": kept["codeless_admissions"],
        "admissions disagree on ethnicity": _disagreeing(ground),
    }
    return {"ingest": ingest, "records": records}


def _disagreeing(ground: Ground) -> int:
    """Drawn patients whose admissions name several groups; no text at all counts as UNKNOWN."""
    admissions = ground.drawn["admissions"]
    groups = np.array([GROUPS.get(words, "UNKNOWN") for words in admissions["ETHNICITY"].to_pylist()])
    pairs = np.unique(np.stack([admissions["SUBJECT_ID"].to_numpy().astype(str), groups]), axis=1)
    return int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())


# --- columns -----------------------------------------------------------------------------------


def rows_of(**columns: Any) -> pa.Table:
    """The columns as a table whose rows are numbered from 1."""
    rows = len(next(iter(columns.values())))
    return pa.table({"ROW_ID": np.arange(1, rows + 1), **columns})


def text(times: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`YYYY-MM-DD HH:MM:SS`."""
    return np.char.replace(np.datetime_as_string(times, unit="s"), "T", " ")


def _with(table: pa.Table, column: str, values: npt.NDArray[Any]) -> pa.Table:
    """The table with other values in one column: null for None, texts where any is one."""
    return table.set_column(table.column_names.index(column), column, pa.array(values, from_pandas=False))


def _joined(parts: list[pa.ChunkedArray]) -> pa.Array:
    """The values of all parts; as texts where they are of several types."""
    types = {part.type for part in parts if not pa.types.is_null(part.type)}
    kind = types.pop() if len(types) == 1 else pa.string()
    return pa.concat_arrays([chunk.cast(kind) for part in parts for chunk in part.chunks])


def _count(dirt: Dirt, setting: str, table: pa.Table) -> int:
    share: float = getattr(dirt, setting)
    return round(share * len(table["ROW_ID"]))


def _generator(seed: int, setting: str, table: str) -> np.random.Generator:
    """A defect's own generator, so that another one's share moves none of its rows."""
    return np.random.default_rng([seed, zlib.crc32(f"{setting} {table}".encode())])


def _first_free_id(tables: Tables) -> int:
    columns = (tables.patients["SUBJECT_ID"], tables.admissions["HADM_ID"])
    return 1 + max(int(pc.max(column).as_py()) for column in columns)


def _fresh(ground: Ground, count: int) -> Ints:
    """Ids of no drawn patient or admission, each given out once."""
    ids = np.arange(ground.next_id, ground.next_id + count)
    ground.next_id += count
    return ids
