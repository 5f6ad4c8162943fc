"""Diagnoses of known admissions, in order, each code once per admission.

Goes through the pieces of the table on several threads. Integers stand for admissions and wordings,
because they sort and compare faster than ids and texts. Knows nothing of what a code means.
"""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from promptehr.ingestion.kind import MERGED, Coding
from promptehr.ingestion.rules import REJECTS, Judged, id_reasons, reject
from promptehr.ingestion.table import RECORD, Ints, Places, SourceTable
from promptehr.ingestion.texts import picked
from promptehr.ingestion.threads import in_threads

NOBODY = 0  # an id that no patient and no admission has
NO_POSITION = 2**31 - 1  # the largest Int32: no SEQ_NUM is as large
ROWS_AT_ONCE = 1 << 18  # whose sort stays in the processor's cache

Bools = npt.NDArray[np.bool_]
# A table of more rows would fill the memory of any machine.
Records = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Diagnoses:
    """Rows of diagnoses as columns of equal length.

    Attributes:
        stay: Place of the admission among those kept.
        position: SEQ_NUM, NO_POSITION where there is none.
        place: Place of the wording in the coding's table.
        record: In the source file.
    """

    stay: Places
    position: Places
    place: Places
    record: Records

    def __getitem__(self, rows: Ints | Bools) -> "Diagnoses":
        return Diagnoses(self.stay[rows], self.position[rows], self.place[rows], self.record[rows])


def judge_diagnoses(source: SourceTable, coding: Coding, admissions: pl.DataFrame) -> Judged:
    """Well-formed codes of known admissions, each once per admission at its lowest SEQ_NUM."""
    table = coding.table
    hadm, owner = (admissions[name].to_numpy() for name in ("hadm_id", "subject_id"))
    parts = in_threads(
        partial(_judge_piece, odd=source.odd, coding=coding, hadm=hadm, owner=np.append(owner, NOBODY)),
        source.pieces,
    )
    found, rejects = zip(*parts, strict=True)
    columns = zip(*(vars(one).values() for one in found), strict=True)
    rows = Diagnoses(*(np.concatenate(arrays) for arrays in columns))
    rows, repeated = _reject_repeated_codes(rows, table)
    counts = np.bincount(rows.place, minlength=table.height)
    position = pl.Series(rows.position).set(pl.Series(rows.position == NO_POSITION), None)
    noted = {fact: int(table[name].to_numpy() @ counts) for fact, name in coding.facts.items()}
    positions = {
        "seq_num missing or unreadable": position.null_count(),
        "seq_num below 1": int((rows.position < 1).sum()),
    }
    kept = pl.DataFrame(
        {
            "hadm_id": hadm[rows.stay],
            "position": position,
            **{name: picked(table[name], rows.place, counts) for name in ("code", "system")},
        }
    )
    return Judged(kept, pl.concat([*rejects, repeated]), noted | positions)


def _judge_piece(
    piece: pl.DataFrame, odd: pl.DataFrame, coding: Coding, hadm: Ints, owner: Ints
) -> tuple[Diagnoses, pl.DataFrame]:
    """The rows of one piece of the diagnoses that name a known admission and a code, and the others.

    Args:
        piece: Of the source's table.
        odd: Its odd rows.
        coding: Its codes.
        hadm: Known admissions, sorted.
        owner: Their patients; at the end, where -1 points to, nobody.
    """
    codes = coding.table["code"].len() - coding.table["code"].null_count()
    ids, subjects = (piece[name].fill_null(NOBODY).to_numpy() for name in ("hadm_id", "subject_id"))
    stay = _stays(ids, hadm)
    elsewhere = owner[stay] != subjects
    place = coding.places(piece)
    position = piece["seq_num"].cast(pl.Int32, strict=False).fill_null(NO_POSITION)
    rows = Diagnoses(stay, position.to_numpy(), place, piece[RECORD].cast(pl.UInt32).to_numpy())
    suspect = (stay < 0) | elsewhere | (place >= codes)
    if not suspect.any():
        return rows, pl.DataFrame(schema=REJECTS)
    reasons = {
        **id_reasons("hadm_id"),
        **id_reasons("subject_id"),
        "unknown admission": pl.col("stay") < 0,
        "subject_id differs from the admission's": pl.col("elsewhere"),
        **_code_reasons(coding.table),
    }
    judged = piece.select(RECORD, "hadm_id", "subject_id", stay=stay, elsewhere=elsewhere, place=place)
    return rows[~suspect], reject(judged, odd, pl.lit(pl.Series(suspect)), reasons)[1]


def _stays(ids: Ints, known: Ints) -> Places:
    """The place of each admission id among the known ones, which are sorted; -1 where it is unknown.

    Rows of one admission mostly follow each other: one is looked up for all.
    """
    starts = np.flatnonzero(np.diff(ids, prepend=~ids[0]))
    if not len(known):
        return np.full(len(ids), -1, np.int32)
    at = np.minimum(np.searchsorted(known, ids[starts]), len(known) - 1)
    at = np.where(known[at] == ids[starts], at, -1).astype(np.int32)
    return np.repeat(at, np.diff(starts, append=len(ids)))


def _code_reasons(table: pl.DataFrame) -> dict[str, pl.Expr]:
    """Why a wording gives no code: each has one reason."""
    reasons = table["refused"].drop_nulls().unique().sort()
    return {
        reason: pl.col("place").is_in((table["refused"] == reason).arg_true().to_list()) for reason in reasons
    }


def _reject_repeated_codes(rows: Diagnoses, table: pl.DataFrame) -> tuple[Diagnoses, pl.DataFrame]:
    """Diagnoses in the order of their schema, without the repetitions of a code in an admission."""
    ranks = table["rank"].fill_null(0).cast(pl.Int32).to_numpy()
    # A missing position is last; rows come in the order of their records, which the sort keeps.
    top = np.max(rows.position, where=rows.position < NO_POSITION, initial=0) + 1
    rows = rows[_order(rows.stay, np.minimum(rows.position, top), ranks[rows.place])]
    first = _first(rows.stay, ranks[rows.place])
    if first.all():
        return rows, pl.DataFrame(schema=REJECTS)
    repeated = rows[~first]
    plain = pl.lit("code repeated in its admission")
    mapped = table["mapped"].gather(repeated.place)
    rejects = pl.DataFrame({RECORD: repeated.record, "mapped": mapped}).select(
        pl.col(RECORD).cast(pl.Int64), reason=pl.when("mapped").then(pl.lit(MERGED)).otherwise(plain)
    )
    return rows[first], rejects


def _first(stay: Places, rank: Places) -> Bools:
    """Whether each row, in the order of the stays, is the first of its stay with its rank."""
    edges = np.searchsorted(stay, stay[::ROWS_AT_ONCE])
    bounds = [*np.unique(edges).tolist(), len(stay)]
    parts = in_threads(lambda ends: _first_of_few(stay[slice(*ends)], rank[slice(*ends)]), pairwise(bounds))
    return np.concatenate([np.ones(0, np.bool_), *parts])


def _first_of_few(stay: Places, rank: Places) -> Bools:
    first = np.ones(len(stay), np.bool_)
    size = int(rank.max()) + 1
    # Whether anything repeats is told by values alone, whose sort is several times as fast.
    keys = (stay - stay[0]).astype(np.int64) * size + rank
    in_order = np.sort(keys)
    again = in_order[1:][in_order[1:] == in_order[:-1]]
    if not len(again):
        return first
    rows = np.flatnonzero(np.isin(stay - stay[0], again // size))
    order = rows[np.argsort(keys[rows], kind="stable")]
    first[order[1:][keys[order[1:]] == keys[order[:-1]]]] = False
    return first


def _order(*keys: Places) -> Ints:
    """Places of the rows sorted by keys, the first one deciding; equal rows as they come.

    One integer that holds all keys is sorted where 63 bits are enough: rows come in runs that are
    nearly sorted, which one stable sort of integers uses and a sort by key after key does not.
    """
    packed, bits = np.zeros(len(keys[0]), np.int64), 0
    for key in keys:
        low = int(key.min(initial=0))
        width = (int(key.max(initial=0)) - low).bit_length()
        bits += width
        if bits > 63:
            return np.lexsort(keys[::-1])
        packed <<= width
        packed += key
        packed -= low
    return np.argsort(packed, kind="stable")
