"""Whole records: who has the same one as somebody else.

Turns frames in the records schema into comparable records; demographics are not compared.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from promptehr.metrics.bootstrap import newcombe
from promptehr.metrics.incidence import Bools, Ints, Matrix, Patients

Z99 = 2.3263478740408408  # one-sided 99 %


@dataclass(frozen=True)
class Records:
    """B records.

    Attributes:
        ever: [B, K] CSR, 1 where the record has the code.
        keys: [B] number equal for equal records: the same visits in the same order, each with the
            same codes in whatever order.
        long: [B] whether the record has codes enough to identify anyone.
    """

    ever: Matrix
    keys: npt.NDArray[np.uint64]
    long: Bools

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def from_frame(cls, frame: pl.DataFrame, catalogue: tuple[str, ...], *, min_codes: int) -> "Records":
        """`long` are records of `min_codes` different codes or more."""
        ever = Patients.from_frame(frame, catalogue).ever()
        visit = pl.element().list.sort().list.join(" ")
        texts = frame.select(pl.col("visits").list.eval(visit).list.join("|")).to_series()
        sizes = np.asarray(ever.sum(axis=1)).ravel()
        return cls(ever, _hashed(texts), sizes >= min_codes)

    def rows(self, chosen: Ints | Bools) -> "Records":
        return Records(self.ever[chosen], self.keys[chosen], self.long[chosen])


def at_most(size: int, records: Records, generator: np.random.Generator) -> Records:
    """All records, or a draw in their order where there are more than `size`."""
    return records.rows(rows_at_most(size, len(records), generator))


def rows_at_most(size: int, count: int, generator: np.random.Generator) -> Ints:
    """The rows 0 to `count`, or a draw in their order where there are more than `size`."""
    if count <= size:
        return np.arange(count)
    return np.sort(generator.permutation(count)[:size])


def copies(synthetic: Records, train: Records, held_out: Records) -> dict[str, Any]:
    """How many long synthetic records equal a training record, beside the held-out ones.

    The share of long held-out records that equal a training one is what chance gives: some
    records are common. `excess` is the synthetic share minus it, with Newcombe's 95 % interval:
    0 if nothing is copied. `alarm`: its one-sided 99 % lower bound is above 0.
    """
    found, of = _copied(synthetic, train), int(synthetic.long.sum())
    usual, usual_of = _copied(held_out, train), int(held_out.long.sum())
    counts = {
        "synthetic": {"records": of, "copies": found, "share": found / of if of else None},
        "held_out": {"records": usual_of, "copies": usual, "share": usual / usual_of if usual_of else None},
    }
    if not of or not usual_of:
        reason = "no record with codes enough among the synthetic or the held-out ones"
        return {**counts, "excess": None, "interval": None, "alarm": None, "reason": reason}
    return {
        **counts,
        "excess": found / of - usual / usual_of,
        "interval": list(newcombe(found, of, usual, usual_of)),
        "alarm": copies_alarm(found, of, usual, usual_of),
    }


def copies_alarm(found: int, of: int, usual: int, usual_of: int) -> bool:
    """Whether found / of exceeds usual / usual_of at one-sided 99 % (Newcombe's lower bound)."""
    if not of or not usual_of:
        return False
    return newcombe(found, of, usual, usual_of, Z99)[0] > 0.0


def _copied(records: Records, train: Records) -> int:
    return int((np.isin(records.keys, train.keys) & records.long).sum())


def _hashed(texts: Iterable[str]) -> npt.NDArray[np.uint64]:
    """[B] 64 bits of a hash: of 100 million records two differing ones share it once in 4,000 runs."""
    digests = b"".join(blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, dtype="<u8")
