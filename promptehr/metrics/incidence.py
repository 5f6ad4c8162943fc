"""Records as arrays: who has which code, in which visit.

Turns a frame in the records schema into flat arrays and sparse matrices over one catalogue of
codes, so that every metric is a product of matrices. Knows no metric.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
# scipy ships no types; rows are patients (or visits), columns are codes or other counted things.
Matrix = Any

AGE_BANDS = ("0", "1-17", "18-39", "40-54", "55-69", "70-84", "85+")
AGE_BAND_STARTS = (0.0, 1.0, 18.0, 40.0, 55.0, 70.0, 85.0)


@dataclass(frozen=True)
class Patients:
    """Records of B patients with V visits and C codes in them, over K codes of a catalogue.

    Attributes:
        catalogue: [K] codes, sorted.
        gender: [B] M, F or UNKNOWN.
        age: [B] years at the first visit.
        visits: [B] visits per patient.
        visit_codes: [V] codes per visit, patients in order, visits in time order.
        codes: [C] places in the catalogue, in the order of the records.
    """

    catalogue: tuple[str, ...]
    gender: npt.NDArray[np.str_]
    age: Floats
    visits: Ints
    visit_codes: Ints
    codes: Ints

    def __len__(self) -> int:
        return len(self.visits)

    @classmethod
    def from_frame(cls, frame: pl.DataFrame, catalogue: Sequence[str]) -> "Patients":
        """From a frame with `gender`, `age` and `visits`; every code must be in the catalogue."""
        visits = frame.get_column("visits")
        codes_of_visit = visits.explode()
        codes = codes_of_visit.explode().cast(pl.Enum(list(catalogue)))
        return cls(
            catalogue=tuple(catalogue),
            gender=frame.get_column("gender").to_numpy().astype(np.str_),
            age=frame.get_column("age").cast(pl.Float64).to_numpy(),
            visits=visits.list.len().cast(pl.Int64).to_numpy(),
            visit_codes=codes_of_visit.list.len().cast(pl.Int64).to_numpy(),
            codes=codes.to_physical().cast(pl.Int64).to_numpy(),
        )

    def blocks(self, size: int) -> Iterator["Patients"]:
        """The patients in their order, `size` at a time; one block without a patient if there is none."""
        visit_ends = np.concatenate([[0], np.cumsum(self.visits)])
        code_ends = np.concatenate([[0], np.cumsum(self.visit_codes)])
        for begin in range(0, max(len(self), 1), size):
            rows = slice(begin, begin + size)
            first, last = visit_ends[begin], visit_ends[min(begin + size, len(self))]
            yield Patients(
                catalogue=self.catalogue,
                gender=self.gender[rows],
                age=self.age[rows],
                visits=self.visits[rows],
                visit_codes=self.visit_codes[first:last],
                codes=self.codes[code_ends[first] : code_ends[last]],
            )

    @property
    def patient_of_visit(self) -> Ints:
        return np.repeat(np.arange(len(self)), self.visits)

    @property
    def visit_of_code(self) -> Ints:
        return np.repeat(np.arange(len(self.visit_codes)), self.visit_codes)

    @property
    def patient_of_code(self) -> Ints:
        return self.patient_of_visit[self.visit_of_code]

    @property
    def age_band(self) -> Ints:
        """[B] place in AGE_BANDS."""
        return np.searchsorted(AGE_BAND_STARTS, self.age, side="right") - 1

    def ever(self) -> Matrix:
        """[B, K] CSR, 1 where the patient has the code in any visit."""
        return binary(self.patient_of_code, self.codes, (len(self), len(self.catalogue)))

    def in_first_visit(self) -> Matrix:
        """[B, K] CSR, 1 where the patient has the code in the first visit."""
        first = np.cumsum(self.visits) - self.visits
        chosen = np.isin(self.visit_of_code, first)
        shape = (len(self), len(self.catalogue))
        return binary(self.patient_of_code[chosen], self.codes[chosen], shape)


def catalogue(*frames: pl.DataFrame) -> tuple[str, ...]:
    """The codes of all the frames, sorted."""
    codes = pl.concat([frame.get_column("visits").explode().explode() for frame in frames])
    return tuple(codes.unique().sort())


def binary(rows: Ints, columns: Ints, shape: tuple[int, int]) -> Matrix:
    """CSR matrix with 1.0 at the given places, however often a place is given."""
    matrix = counted(rows, columns, shape)
    matrix.data[:] = 1.0
    return matrix


def counted(rows: Ints, columns: Ints, shape: tuple[int, int]) -> Matrix:
    """CSR matrix that holds how often each place is given."""
    # scikit-learn's liblinear takes 32-bit indices only.
    places = (rows.astype(np.int32), columns.astype(np.int32))
    matrix = sparse.csr_array((np.ones(len(rows)), places), shape=shape)
    matrix.sum_duplicates()
    return matrix


def totals(matrix: Matrix) -> Ints:
    """Column sums of a matrix of counts."""
    return np.asarray(matrix.sum(axis=0)).ravel().astype(np.int64)
