"""Records to token ids: one Parquet file per split and hash bucket, and their index.

Histories longer than the limit lose whole visits, counted. Everything is done on flat columns;
no Python loop over patients. A bucket depends on no other, so each may be a job of its own,
`shards_part`. Knows how long sequences may be; `tokens` knows the ids.
"""

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from promptehr import artifacts, locks, schemas, tokens
from promptehr.errors import ArtifactError, SettingsError
from promptehr.settings import Settings, Shards
from promptehr.stage_table import SPLITS
from promptehr.tokens import Floats, Ints, Vocabulary

logger = logging.getLogger(__name__)

Bools = npt.NDArray[np.bool_]
Drop = Literal["oldest", "newest"]

AROUND_PATIENT, AROUND_VISIT = 2, 2  # BOS and END; <v> and <\v>
DAYS_PER_YEAR = 365.2425
# A few thousand codes are written a million times: as a dictionary each is read once.
TEXTS = ("gender", "ethnicity", "visits.list.element.list.element")


@dataclass(frozen=True)
class Inputs:
    """The splits and the vocabulary, and what seals the shards that are there already."""

    train: Path
    valid: Path
    test: Path
    records_ledger: Path
    vocabulary: Path
    vocabulary_ledger: Path
    part_summaries: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Outputs:
    """The index, beside whose folder the shards lie, and the ledger that seals all."""

    index: Path
    ledger: Path


@dataclass(frozen=True)
class Part:
    """Some shards of every split.

    Attributes:
        splits: Split to the shards' entries of the index.
        counts: What became of the patients in them, as `flow` counts.
        vocabulary_size: Number of token ids.
    """

    splits: Mapping[str, Sequence[Mapping[str, Any]]]
    counts: Mapping[str, int]
    vocabulary_size: int


def run(inputs: Inputs, outputs: Outputs, settings: Settings) -> None:
    """Write every shard, or list what parts wrote, and publish their index."""
    parts = (
        listed(inputs, outputs.index.parent, settings)
        if inputs.part_summaries
        else [write(inputs, outputs.index.parent, settings.shards, range(settings.shards.count))]
    )
    patients = sum(artifacts.read_json(inputs.records_ledger, schemas.LEDGER)["splits"].values())
    index = {name: [entry for part in parts for entry in part.splits[name]] for name in SPLITS}
    entries = [entry for shards in index.values() for entry in shards]
    document = {
        "splits": index,
        "vocabulary_size": parts[0].vocabulary_size,
        "longest": max(entry["longest"] for entry in entries),
    }
    tables = ledger(total([part.counts for part in parts]), patients=patients)
    artifacts.write_json(outputs.index, document, schemas.INDEX)
    artifacts.write_sealed(
        outputs.ledger,
        {"tables": tables},
        schemas.LEDGER,
        stage="shards",
        settings=settings,
        inputs=read_files(inputs),
        files=[outputs.index, *(outputs.index.parent / entry["path"] for entry in entries)],
    )


def read_files(inputs: Inputs) -> dict[str, Path]:
    """What the shards depend on, by option: parts are on the way and no matter of their own."""
    return {name: getattr(inputs, name) for name in (*SPLITS, "vocabulary")}


# --- parts -------------------------------------------------------------------------------------


def write(inputs: Inputs, folder: Path, settings: Shards, numbers: range) -> Part:
    """Truncate, encode and publish the shards of these numbers, of each split."""
    splits = {name: getattr(inputs, name) for name in SPLITS}
    artifacts.open_sealed(inputs.records_ledger, schemas.LEDGER, "records", *splits.values())
    artifacts.open_sealed(inputs.vocabulary_ledger, schemas.LEDGER, "vocabulary", inputs.vocabulary)
    vocabulary = Vocabulary.from_document(artifacts.read_json(inputs.vocabulary, schemas.VOCABULARY))

    one = partial(split, folder=folder, numbers=numbers, vocabulary=vocabulary, settings=settings)
    with ThreadPoolExecutor(pa.cpu_count()) as pool:
        done = dict(zip(splits, pool.map(one, *zip(*splits.items(), strict=True)), strict=True))
    return Part(
        splits={name: entries for name, (entries, _) in done.items()},
        counts=total([counts for _, counts in done.values()]),
        vocabulary_size=vocabulary.size,
    )


def listed(inputs: Inputs, folder: Path, settings: Settings) -> list[Part]:
    """What each part wrote into the folder, in the order of their numbers.

    Raises:
        ArtifactError: if a part is missing, or was made from other settings or inputs.
    """
    summaries = sorted(inputs.part_summaries)
    if summaries != [folder / f"{number:05}.json" for number in range(settings.shards.count)]:
        raise ArtifactError(f"{folder}: not every part is there once; rerun shards_part")
    read = {name: artifacts.sha256(path) for name, path in read_files(inputs).items()}
    parts = []
    for path in summaries:
        files = [folder / name / f"{path.stem}.parquet" for name in SPLITS]
        found = artifacts.open_part(path, "shards_part", read, settings, *files)
        parts.append(Part(found["splits"], found["counts"], found["vocabulary_size"]))
    return parts


def number_of(summary: Path, settings: Shards) -> int:
    """2 of `00002.json`: the third part.

    Raises:
        SettingsError: for another name, or a number that there is no shard of.
    """
    if re.fullmatch(r"\d{5}\.json", summary.name) and int(summary.stem) < settings.count:
        return int(summary.stem)
    raise SettingsError(
        f"--part-summary {summary}: expected a name from 00000.json to {settings.count - 1:05}.json,"
        " which of shards.count parts it is"
    )


def split(
    name: str, path: Path, folder: Path, numbers: range, vocabulary: Vocabulary, settings: Shards
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Publish the shards of one split: their entries of the index, and the flow into them."""
    keep = partial(of_shards, numbers=numbers, count=settings.count)
    records = artifacts.read_table(path, schemas.RECORDS, dictionaries=TEXTS, keep=keep)
    visits = _whole(records["visits"])
    fitting = truncated(visits, settings)
    encoded = shard(records, fitting, vocabulary, settings.drop)
    entries = publish(folder, name, encoded, numbers, settings.count)
    logger.info("%s: %s patients in %s shards", name, encoded.num_rows, len(entries))
    return entries, flow(visits, fitting, encoded, vocabulary)


# --- truncation --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitting:
    """Histories whose sequences fit, B patients.

    Attributes:
        visits: [B] list<list<string>>.
        dropped: [B] visits that each patient lost.
        cut: [B] codes that each patient's only visit lost because it is too long by itself.
    """

    visits: pa.ListArray
    dropped: Ints
    cut: Ints


def truncated(visits: pa.ListArray, settings: Shards) -> Fitting:
    """Histories whose sequences fit into `max_tokens`: whole visits are dropped.

    Of the visits from the kept end (the oldest where the newest are dropped) as many stay as
    fit. A visit that is too long even alone keeps its first codes, those of highest priority, so
    that no patient is lost.

    >>> history = pa.array([[["A", "B"], ["C"]], [["A"] * 5]])
    >>> truncated(history, Shards(max_tokens=8)).visits.to_pylist()
    [[['A', 'B']], [['A', 'A', 'A', 'A']]]
    """
    room = settings.max_tokens - AROUND_PATIENT
    most_codes = room - AROUND_VISIT
    codes = pc.list_flatten(visits)
    per_patient, per_visit = tokens.lengths(visits), tokens.lengths(codes)
    kept = _fits(per_patient, per_visit + AROUND_VISIT, room, settings.drop)
    left = np.where(kept, np.minimum(per_visit, most_codes), 0)
    kept_visits = _sums(kept.astype(np.int64), per_patient)
    return Fitting(
        visits=_picked(codes, kept_visits, kept, left),
        dropped=per_patient - kept_visits,
        cut=_sums(np.where(kept, per_visit - left, 0), per_patient),
    )


def _fits(per_patient: Ints, sizes: Ints, room: int, drop: Drop) -> Bools:
    """Whether each visit, of so many tokens, stays: it is at the kept end, or all up to it have room."""
    before = tokens.offsets_of(sizes)
    bounds = tokens.offsets_of(per_patient)
    first, end = np.repeat(bounds[:-1], per_patient), np.repeat(bounds[1:], per_patient)
    visit = np.arange(len(sizes))
    if drop == "newest":
        at_end, taken = visit == first, before[1:] - before[first]
    else:
        at_end, taken = visit == end - 1, before[end] - before[:-1]
    return np.asarray(at_end | (taken <= room))


def _picked(codes: pa.ListArray, per_patient: Ints, kept: Bools, left: Ints) -> pa.ListArray:
    """Patients of so many visits each, made of the kept visits' first codes, `left` of each."""
    per_visit = tokens.lengths(codes)
    rank = np.arange(per_visit.sum()) - np.repeat(tokens.offsets_of(per_visit)[:-1], per_visit)
    first_codes = pc.list_flatten(codes).filter(pa.array(rank < np.repeat(left, per_visit)))
    of_visits = pa.ListArray.from_arrays(pa.array(tokens.offsets_of(left[kept]), pa.int32()), first_codes)
    return pa.ListArray.from_arrays(pa.array(tokens.offsets_of(per_patient), pa.int32()), of_visits)


def _sums(values: Ints, per_patient: Ints) -> Ints:
    """Sum of each patient's values, one or more each, given visit by visit."""
    totals = tokens.offsets_of(values)[tokens.offsets_of(per_patient)]
    return totals[1:] - totals[:-1]


# --- account -----------------------------------------------------------------------------------


def flow(visits: pa.ListArray, fitting: Fitting, encoded: pa.Table, vocabulary: Vocabulary) -> dict[str, int]:
    """What truncation took from a split and what the vocabulary does not know, as counts.

    What is kept is counted in the tokens themselves.
    """
    ids = pc.list_flatten(encoded["tokens"]).to_numpy()
    codes = pc.list_flatten(visits)
    return {
        "patients": len(visits),
        "visits_in": len(codes),
        "codes_in": len(pc.list_flatten(codes)),
        "codes_cut": int(fitting.cut.sum()),
        "visits": int((ids == tokens.VISIT).sum()),
        "codes": int((ids >= tokens.FIRST_CODE).sum()),
        "unknown": int((ids == vocabulary.unknown).sum()),
        "shortened": int((fitting.dropped > 0).sum()),
        "cut": int((fitting.cut > 0).sum()),
    }


def total(flows: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The flow of all splits or parts together."""
    return {name: sum(one[name] for one in flows) for name in flows[0]}


def ledger(found: Mapping[str, int], *, patients: int) -> dict[str, Any]:
    """The flow of all parts in patients, visits and codes; `patients` as many as records has."""
    dropped = found["codes_in"] - found["codes"] - found["codes_cut"]
    return {
        "patients": artifacts.account(
            rows_in=patients,
            rows_kept=found["patients"],
            rejected={},
            noted={
                "longer than shards.max_tokens, visits dropped": found["shortened"],
                "a visit longer than shards.max_tokens, codes cut": found["cut"],
            },
        ),
        "visits": artifacts.account(
            rows_in=found["visits_in"],
            rows_kept=found["visits"],
            rejected={"beyond shards.max_tokens": found["visits_in"] - found["visits"]},
        ),
        "codes": artifacts.account(
            rows_in=found["codes_in"],
            rows_kept=found["codes"],
            rejected={
                "in a visit beyond shards.max_tokens": dropped,
                "cut from a visit longer than shards.max_tokens": found["codes_cut"],
            },
            noted={"not in the vocabulary, <unk>": found["unknown"]},
        ),
    }


# --- encoding ----------------------------------------------------------------------------------


def shard(records: pa.Table, fitting: Fitting, vocabulary: Vocabulary, drop: Drop) -> pa.Table:
    """Records in the schema of shards, in their order, with their fitting visits.

    Where the oldest visits go, the age moves on to the first one kept.
    """
    age = records["age"].to_numpy()
    if drop == "oldest":
        age = age_at_first_kept(age, records, fitting.dropped)
    return pa.table(
        {
            "subject_id": records["subject_id"],
            "age_z": vocabulary.age_z(age),
            "gender_id": tokens.ids(records["gender"].cast(pa.string()), tokens.GENDERS),
            "ethnicity_id": tokens.ids(records["ethnicity"].cast(pa.string()), tokens.ETHNICITIES),
            "tokens": tokens.encode(fitting.visits, vocabulary),
            "n_visits": pc.list_value_length(fitting.visits),
        }
    )


def age_at_first_kept(age: Floats, records: pa.Table, dropped: Ints) -> Floats:
    """Ages after the days of the dropped oldest visits; a capped age stays at its cap."""
    days_of_visits = _whole(records["visit_days"])
    first_kept = tokens.offsets_of(tokens.lengths(days_of_visits))[:-1] + dropped
    days = pc.list_flatten(days_of_visits).to_numpy()[first_kept]
    moved = (age.astype(np.float64) + days / DAYS_PER_YEAR).astype(np.float32)
    return np.where(records["age_capped"].to_numpy() | (dropped == 0), age, moved)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    joined = column.combine_chunks()
    return joined if isinstance(joined, pa.Array) else pa.concat_arrays(joined.chunks)


def publish(folder: Path, split: str, encoded: pa.Table, numbers: range, count: int) -> list[dict[str, Any]]:
    """Write a split's shards and return their entries of the index."""
    bucket = buckets(encoded["subject_id"].to_pylist(), count)
    entries = []
    for number in numbers:
        part = encoded.filter(pa.array(bucket == number, pa.bool_()))
        path = folder / split / f"{number:05}.parquet"
        locks.drop_temporaries(path)
        artifacts.write_table(path, part, schemas.SHARD)
        entries.append({"path": f"{split}/{path.name}", **measures(part), "sha256": artifacts.sha256(path)})
    return entries


def measures(part: pa.Table) -> Mapping[str, int]:
    """Patients, tokens and the longest sequence of a shard."""
    lengths = pc.list_value_length(part["tokens"])
    return {
        "rows": part.num_rows,
        "tokens": pc.sum(lengths).as_py() or 0,
        "longest": pc.max(lengths).as_py() or 0,
    }


def of_shards(records: pa.Table, numbers: range, count: int) -> pa.Table:
    """The records of these of `count` shards, in their order."""
    if len(numbers) == count:
        return records
    bucket = buckets(records["subject_id"].to_pylist(), count)
    return records.filter(pa.array(np.isin(bucket, numbers), pa.bool_()))


def buckets(subject_ids: Sequence[int], count: int) -> npt.NDArray[np.int64]:
    """The shard of each patient, by a hash of its id alone: it stays when others come or go.

    First 8 bytes of BLAKE2b(`shard:subject_id`), big-endian, modulo the number of shards.
    """
    if count == 1:
        return np.zeros(len(subject_ids), np.int64)
    hashes = b"".join(hashlib.blake2b(f"shard:{patient}".encode()).digest()[:8] for patient in subject_ids)
    return (np.frombuffer(hashes, ">u8") % np.uint64(count)).astype(np.int64)
