"""Records to token ids: one Parquet file per split and hash bucket, and their index.

Histories longer than the limit lose whole visits, counted. Everything is done on flat columns;
no Python loop over patients. Knows how long sequences may be; `tokens` knows the ids.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from promptehr import artifacts, schemas, tokens
from promptehr.settings import Settings, Shards
from promptehr.tokens import Vocabulary

logger = logging.getLogger(__name__)

AROUND_PATIENT, AROUND_VISIT = 2, 2  # BOS and END; <v> and <\v>
DAYS_PER_YEAR = 365.2425


@dataclass(frozen=True)
class Inputs:
    """The splits and the vocabulary."""

    train: Path
    valid: Path
    test: Path
    records_ledger: Path
    vocabulary: Path
    vocabulary_ledger: Path


@dataclass(frozen=True)
class Outputs:
    """The index, beside whose folder the shards lie, and the ledger that seals all."""

    index: Path
    ledger: Path


def run(inputs: Inputs, outputs: Outputs, settings: Settings) -> None:
    """Truncate, encode and publish each split."""
    splits = {"train": inputs.train, "valid": inputs.valid, "test": inputs.test}
    artifacts.open_sealed(inputs.records_ledger, schemas.LEDGER, "records", *splits.values())
    artifacts.open_sealed(inputs.vocabulary_ledger, schemas.LEDGER, "vocabulary", inputs.vocabulary)
    vocabulary = Vocabulary.from_document(artifacts.read_json(inputs.vocabulary, schemas.VOCABULARY))

    index: dict[str, list[dict[str, Any]]] = {}
    flows = []
    for name, path in splits.items():
        records = truncated(pl.DataFrame(artifacts.read_table(path, schemas.RECORDS)), settings.shards)
        encoded = shard(records, vocabulary)
        index[name] = publish(outputs.index.parent, name, encoded, settings.shards.count)
        flows.append(flow(records, encoded, vocabulary))
        logger.info("%s: %s patients in %s shards", name, encoded.num_rows, len(index[name]))
    entries = [entry for shards in index.values() for entry in shards]
    document = {
        "splits": index,
        "vocabulary_size": vocabulary.size,
        "longest": max(entry["longest"] for entry in entries),
    }
    artifacts.write_json(outputs.index, document, schemas.INDEX)
    artifacts.write_sealed(
        outputs.ledger,
        {"tables": ledger(flows)},
        schemas.LEDGER,
        stage="shards",
        settings=settings,
        inputs={**splits, "vocabulary": inputs.vocabulary},
        files=[outputs.index, *(outputs.index.parent / entry["path"] for entry in entries)],
    )


# --- truncation --------------------------------------------------------------------------------


def truncated(records: pl.DataFrame, settings: Shards) -> pl.DataFrame:
    """Records whose sequences fit into `max_tokens`: whole visits are dropped.

    Of the visits from the kept end (the oldest where the newest are dropped) as many stay as
    fit. A visit that is too long even alone keeps its first codes, those of highest priority, so
    that no patient is lost. Where the oldest visits go, the age moves on to the first one kept.

    Returns:
        The records with `visits_in` and `codes_in`, what they had, and `codes_cut`, the codes that
        a visit too long by itself lost.
    """
    counted = records.with_columns(
        visits_in=visit_count(), codes_in=code_count(), codes_cut=pl.lit(0, dtype=pl.Int64)
    )
    length = AROUND_PATIENT + AROUND_VISIT * pl.col("visits_in") + pl.col("codes_in")
    fits = length <= settings.max_tokens
    shortened = _shortened(counted.filter(~fits), settings)
    return pl.concat([counted.filter(fits), shortened]).sort("subject_id")


def _shortened(records: pl.DataFrame, settings: Shards) -> pl.DataFrame:
    """Records of which none fits, after what does not fit is dropped; same columns."""
    room = settings.max_tokens - AROUND_PATIENT
    most_codes = room - AROUND_VISIT
    codes = pl.col("codes").list.len().cast(pl.Int64)
    fitting = (
        records.select("subject_id", codes="visits")
        .explode("codes")
        .with_row_index("order")
        .sort("order", descending=settings.drop == "oldest")
        .with_columns(
            until=(codes + AROUND_VISIT).cum_sum().over("subject_id"),
            rank=pl.int_range(pl.len()).over("subject_id"),
        )
        .filter((pl.col("until") <= room) | (pl.col("rank") == 0))
        .sort("order")
        .group_by("subject_id", maintain_order=True)
        .agg(visits=pl.col("codes").list.head(most_codes), cut=(codes - most_codes).clip(0).sum())
    )
    joined = records.drop("visits", "codes_cut").join(fitting, on="subject_id", how="inner")
    if settings.drop == "oldest":
        joined = joined.with_columns(age=_age_at_first_kept())
    return joined.rename({"cut": "codes_cut"}).select(records.columns)


def _age_at_first_kept() -> pl.Expr:
    """Age after the days of the dropped oldest visits; a capped age stays at its cap."""
    days = pl.col("visit_days").list.get(pl.col("visits_in") - visit_count())
    moved = (pl.col("age") + days / DAYS_PER_YEAR).cast(pl.Float32)
    return pl.when(pl.col("age_capped")).then("age").otherwise(moved)


# --- account -----------------------------------------------------------------------------------


def flow(records: pl.DataFrame, encoded: pa.Table, vocabulary: Vocabulary) -> dict[str, int]:
    """What truncation took from a split and what the vocabulary does not know, as counts.

    What is kept is counted in the tokens themselves.
    """
    ids = pc.list_flatten(encoded["tokens"]).to_numpy()
    sums = records.select(pl.sum("visits_in", "codes_in", "codes_cut")).row(0, named=True)
    return {
        "patients": records.height,
        **{name: int(total) for name, total in sums.items()},
        "visits": int((ids == tokens.VISIT).sum()),
        "codes": int((ids >= tokens.FIRST_CODE).sum()),
        "unknown": int((ids == vocabulary.unknown).sum()),
        "shortened": records.filter(pl.col("visits_in") > visit_count()).height,
        "cut": records.filter(pl.col("codes_cut") > 0).height,
    }


def ledger(flows: Sequence[Mapping[str, int]]) -> dict[str, Any]:
    """The flow of all splits in patients, visits and codes."""
    total = {name: sum(one[name] for one in flows) for name in flows[0]}
    dropped = total["codes_in"] - total["codes"] - total["codes_cut"]
    return {
        "patients": artifacts.account(
            rows_in=total["patients"],
            rows_kept=total["patients"],
            rejected={},
            noted={
                "longer than shards.max_tokens, visits dropped": total["shortened"],
                "a visit longer than shards.max_tokens, codes cut": total["cut"],
            },
        ),
        "visits": artifacts.account(
            rows_in=total["visits_in"],
            rows_kept=total["visits"],
            rejected={"beyond shards.max_tokens": total["visits_in"] - total["visits"]},
        ),
        "codes": artifacts.account(
            rows_in=total["codes_in"],
            rows_kept=total["codes"],
            rejected={
                "in a visit beyond shards.max_tokens": dropped,
                "cut from a visit longer than shards.max_tokens": total["codes_cut"],
            },
            noted={"not in the vocabulary, <unk>": total["unknown"]},
        ),
    }


def visit_count() -> pl.Expr:
    """Visits of each patient."""
    return pl.col("visits").list.len().cast(pl.Int64)


def code_count() -> pl.Expr:
    """Codes of each patient."""
    return pl.col("visits").list.eval(pl.element().list.len().cast(pl.Int64)).list.sum()


# --- encoding ----------------------------------------------------------------------------------


def shard(records: pl.DataFrame, vocabulary: Vocabulary) -> pa.Table:
    """Records in the schema of shards, in their order."""
    table = records.to_arrow()
    visits = table["visits"].cast(pa.list_(pa.list_(pa.string()))).combine_chunks()
    visits = visits if isinstance(visits, pa.Array) else pa.concat_arrays(visits.chunks)
    return pa.table(
        {
            "subject_id": table["subject_id"],
            "age_z": vocabulary.age_z(table["age"].to_numpy()),
            "gender_id": tokens.ids(table["gender"].cast(pa.string()), tokens.GENDERS),
            "ethnicity_id": tokens.ids(table["ethnicity"].cast(pa.string()), tokens.ETHNICITIES),
            "tokens": tokens.encode(visits, vocabulary),
            "n_visits": pc.list_value_length(visits),
        }
    )


def publish(folder: Path, split: str, encoded: pa.Table, count: int) -> list[dict[str, Any]]:
    """Write a split's shards and return their entries of the index."""
    bucket = buckets(encoded["subject_id"].to_pylist(), count)
    entries = []
    for number in range(count):
        part = encoded.filter(pa.array(bucket == number, pa.bool_()))
        path = folder / split / f"{number:05}.parquet"
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


def buckets(subject_ids: Sequence[int], count: int) -> npt.NDArray[np.int64]:
    """The shard of each patient, by a hash of its id alone: it stays when others come or go.

    First 8 bytes of BLAKE2b(`shard:subject_id`), big-endian, modulo the number of shards.
    """
    if count == 1:
        return np.zeros(len(subject_ids), np.int64)
    hashes = b"".join(hashlib.blake2b(f"shard:{patient}".encode()).digest()[:8] for patient in subject_ids)
    return (np.frombuffer(hashes, ">u8") % np.uint64(count)).astype(np.int64)
