"""Diagnoses of known admissions, in order, each code once per admission.

Goes through the pieces of the table on several threads. Integers stand for admissions and wordings,
because they sort and compare faster than ids and texts. Knows nothing of what a code means.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from promptehr.ingestion.kind import MERGED, Coding
from promptehr.ingestion.rules import REJECTS, Judged, id_reasons, reject
from promptehr.ingestion.table import RECORD, Ints, Places, SourceTable
from promptehr.ingestion.texts import Numbered, numbered
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

    def __getitem__(self, rows: Ints | Bools | slice) -> "Diagnoses":
        return Diagnoses(self.stay[rows], self.position[rows], self.place[rows], self.record[rows])


def judge_diagnoses(source: SourceTable, coding: Coding, admissions: pl.DataFrame) -> Judged:
    """Well-formed codes of known admissions, each once per admission at its lowest SEQ_NUM."""
    table = coding.table
    hadm, owner = (admissions[name].to_numpy() for name in ("hadm_id", "subject_id"))
    judged = in_threads(
        partial(_judge_piece, odd=source.odd, coding=coding, hadm=hadm, owner=np.append(owner, NOBODY)),
        source.pieces,
    )
    pieces, rejects = zip(*judged, strict=True)
    # A code that is left out where it is repeated is there: the codes that occur are known before.
    occurs = np.zeros(table.height, np.bool_)
    for piece in pieces:
        occurs[piece.place] = True
    texts = {name: numbered(table[name], occurs) for name in ("code", "system")}
    once = in_threads(partial(_once, coding=coding, hadm=hadm, texts=texts), _by_stays(pieces, len(hadm)))
    frames, repeated, facts = zip(*once, strict=True)
    kept = pl.concat(frames)
    noted = dict(zip(coding.facts, np.sum(facts, axis=0).tolist(), strict=True))
    positions = {
        "seq_num missing or unreadable": kept["position"].null_count(),
        "seq_num below 1": int((kept["position"] < 1).sum()),
    }
    return Judged(kept, pl.concat([*rejects, *repeated]), noted | positions)


def _once(
    parts: Sequence[Diagnoses], coding: Coding, hadm: Ints, texts: Mapping[str, Numbered]
) -> tuple[pl.DataFrame, pl.DataFrame, list[int]]:
    """Diagnoses of some stays, each code once, in the columns of `schemas.DIAGNOSES`; the repetitions; and
    how many of those kept each of the coding's facts is true of."""
    rows, repeated = _reject_repeated_codes(_joined(parts), coding.table)
    flags = (coding.table[name].to_numpy() for name in coding.facts.values())
    facts = [int(np.count_nonzero(flag[rows.place])) for flag in flags]
    return _frame(rows, hadm, texts), repeated, facts


def _frame(rows: Diagnoses, hadm: Ints, texts: Mapping[str, Numbered]) -> pl.DataFrame:
    """Rows in the columns of `schemas.DIAGNOSES`, codes and systems as Enums."""
    position = pl.Series(rows.position)
    return pl.DataFrame(
        {
            "hadm_id": hadm[rows.stay],
            "position": position.set(position == NO_POSITION, None),
            **{name: numbers.at(rows.place) for name, numbers in texts.items()},
        }
    )


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


def _by_stays(pieces: Sequence[Diagnoses], stays: int) -> Iterator[list[Diagnoses]]:
    """The rows of all pieces in parts, each with all rows of some stays, in the order of the stays."""
    parts = max(1, sum(len(piece.stay) for piece in pieces) // ROWS_AT_ONCE)
    width = max(1, -(-stays // parts))
    cut = list(in_threads(partial(_cut, width=width, parts=parts), pieces))
    yield from map(list, zip(*cut, strict=True))


def _cut(piece: Diagnoses, width: int, parts: int) -> list[Diagnoses]:
    """A piece's rows in parts of as many stays each, in each as they come."""
    part = (piece.stay // width).astype(np.uint16)
    rows = piece[np.argsort(part, kind="stable")]
    ends = np.cumsum(np.bincount(part, minlength=parts)).tolist()
    return [rows[slice(*bounds)] for bounds in pairwise([0, *ends])]


def _joined(parts: Sequence[Diagnoses]) -> Diagnoses:
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return Diagnoses(*(np.concatenate(arrays) for arrays in columns))


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
    """Whether each row is the first of its stay with its rank."""
    first = np.ones(len(stay), np.bool_)
    size = int(rank.max(initial=0)) + 1
    # Whether anything repeats is told by values alone, whose sort is several times as fast.
    keys = stay.astype(np.int64) * size + rank
    in_order = np.sort(keys)
    again = in_order[1:][in_order[1:] == in_order[:-1]]
    if not len(again):
        return first
    rows = np.flatnonzero(np.isin(stay, again // size))
    order = rows[np.argsort(keys[rows], kind="stable")]
    first[order[1:][keys[order[1:]] == keys[order[:-1]]]] = False
    return first


def _order(*keys: Places) -> Ints:
    """Places of the rows sorted by keys, the first one deciding; equal rows as they come.

    One integer that holds all keys and the row's own place is sorted where 63 bits are enough: no two
    are equal then, and the fastest sort of integers will do.
    """
    rows = len(keys[0])
    packed, bits = np.zeros(rows, np.int64), rows.bit_length()
    for key in keys:
        low = int(key.min(initial=0))
        width = (int(key.max(initial=0)) - low).bit_length()
        bits += width
        if bits > 63:
            return np.lexsort(keys[::-1])
        packed <<= width
        packed += key
        packed -= low
    packed <<= rows.bit_length()
    packed += np.arange(rows)
    packed.sort()
    packed &= (1 << rows.bit_length()) - 1
    return packed
