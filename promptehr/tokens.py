"""Records to token ids and back: the only place that knows both codes and ids.

A patient is `BOS <v> codes <\\v> <v> codes <\\v> END`. Works on Arrow columns and flat numpy
arrays with offsets, without a Python loop over patients.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

GENDERS = ("M", "F", "UNKNOWN")
ETHNICITIES = ("WHITE", "BLACK", "HISPANIC", "ASIAN", "OTHER", "UNKNOWN")
AGE_BANDS = (0.0, 1.0, 18.0, 40.0, 55.0, 70.0, 85.0)
"""First year of each band in which patients are counted together."""

PAD, BOS, EOS, VISIT, VISIT_END, END, FIRST_CODE = range(7)
SPECIAL_NAMES = ("PAD", "BOS", "EOS", "<v>", "<\\v>", "END")

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Vocabulary:
    """Codes in id order and the demographics of the training split.

    Attributes:
        codes: Code of id FIRST_CODE + i at place i.
        age_mean: Years.
        age_spread: Standard deviation in years, above 0.
        demographics: Rows of the joint table, as in `schemas.VOCABULARY`.
        groups: Clinical group of each code, in the order of the codes; empty where nobody asks.
    """

    codes: tuple[str, ...]
    age_mean: float
    age_spread: float
    demographics: tuple[Mapping[str, Any], ...]
    groups: tuple[str, ...] = ()

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Vocabulary":
        return cls(
            codes=tuple(entry["code"] for entry in document["codes"]),
            age_mean=document["age"]["mean"],
            age_spread=document["age"]["spread"],
            demographics=tuple(document["demographics"]),
            groups=tuple(entry["group"] for entry in document["codes"]),
        )

    @property
    def mask(self) -> int:
        return FIRST_CODE + len(self.codes)

    @property
    def unknown(self) -> int:
        return self.mask + 1

    @property
    def size(self) -> int:
        """Number of token ids: 6 structural, the codes, <mask> and <unk>."""
        return self.unknown + 1

    @property
    def names(self) -> tuple[str, ...]:
        """The token of every id."""
        return (*SPECIAL_NAMES, *self.codes, "<mask>", "<unk>")

    def age_z(self, age: npt.NDArray[np.floating[Any]]) -> Floats:
        """Ages in years to standard units."""
        return ((age.astype(np.float64) - self.age_mean) / self.age_spread).astype(np.float32)

    def age(self, age_z: npt.NDArray[np.floating[Any]]) -> Floats:
        """Standard units back to years."""
        return (age_z.astype(np.float64) * self.age_spread + self.age_mean).astype(np.float32)


@dataclass(frozen=True)
class Cohort:
    """Patients as arrays, B patients and T tokens in all.

    Attributes:
        subject_id: [B] int64.
        age_z: [B] float32, standard units.
        gender_id: [B] int64, place in GENDERS.
        ethnicity_id: [B] int64, place in ETHNICITIES.
        tokens: [T] int64, all patients one after the other, BOS to END.
        offsets: [B+1] int64; patient i is tokens[offsets[i]:offsets[i+1]].
    """

    subject_id: Ints
    age_z: Floats
    gender_id: Ints
    ethnicity_id: Ints
    tokens: Ints
    offsets: Ints

    def __len__(self) -> int:
        return len(self.subject_id)

    def take(self, rows: Ints) -> "Cohort":
        """The patients at these places, in this order."""
        sizes = np.diff(self.offsets)[rows]
        offsets = offsets_of(sizes)
        place = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], sizes)
        return Cohort(
            subject_id=self.subject_id[rows],
            age_z=self.age_z[rows],
            gender_id=self.gender_id[rows],
            ethnicity_id=self.ethnicity_id[rows],
            tokens=self.tokens[place],
            offsets=offsets,
        )

    @classmethod
    def from_shards(cls, table: pa.Table) -> "Cohort":
        """From a table with the columns of `schemas.SHARD`."""
        tokens = table["tokens"].combine_chunks()
        tokens = tokens if isinstance(tokens, pa.Array) else pa.concat_arrays(tokens.chunks)
        return cls(
            subject_id=table["subject_id"].to_numpy(),
            age_z=table["age_z"].to_numpy(),
            gender_id=table["gender_id"].to_numpy().astype(np.int64),
            ethnicity_id=table["ethnicity_id"].to_numpy().astype(np.int64),
            tokens=pc.list_flatten(tokens).to_numpy(zero_copy_only=False).astype(np.int64),
            offsets=offsets_of(lengths(tokens)),
        )


def encode(visits: pa.ListArray, vocabulary: Vocabulary) -> pa.ListArray:
    """Token ids of each patient, codes outside the vocabulary as <unk>.

    Args:
        visits: [B] list<list<string>>, plain or dictionary, no null and no empty list in it.
        vocabulary: Codes and their ids.

    Returns:
        [B] list<int32>, BOS to END.
    """
    visit_codes = pc.list_flatten(visits)
    codes = pc.list_flatten(visit_codes)
    per_patient = lengths(visits)
    per_visit = lengths(visit_codes)
    visit_of_code = np.repeat(np.arange(len(per_visit)), per_visit)
    patient_of_visit = np.repeat(np.arange(len(per_patient)), per_patient)

    visit_start = offsets_of(per_visit)
    patient_start = offsets_of(per_patient)
    # Before a token stand two tokens per earlier patient (BOS, END) and two per earlier visit.
    place_of_visit = 2 * patient_of_visit + 2 * np.arange(len(per_visit)) + visit_start[:-1] + 1
    place_of_code = np.arange(len(codes)) - visit_start[visit_of_code] + place_of_visit[visit_of_code] + 1
    offsets = 2 * np.arange(len(per_patient) + 1) + 2 * patient_start + visit_start[patient_start]

    flat = np.empty(offsets[-1], dtype=np.int32)
    flat[offsets[:-1]] = BOS
    flat[offsets[1:] - 1] = END
    flat[place_of_visit] = VISIT
    flat[place_of_visit + per_visit + 1] = VISIT_END
    flat[place_of_code] = _code_ids(codes, vocabulary)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat))


def _code_ids(codes: pa.Array, vocabulary: Vocabulary) -> npt.NDArray[np.int32]:
    """The id of each code; a dictionary's texts are looked up once each."""
    if isinstance(codes, pa.DictionaryArray):
        texts = _code_ids(codes.dictionary, vocabulary)
        return np.asarray(texts[codes.indices.to_numpy()])
    found = pc.index_in(codes, value_set=pa.array(vocabulary.codes, pa.string()))
    known = pc.add(found, pa.scalar(FIRST_CODE, pa.int32()))
    return np.asarray(pc.fill_null(known, pa.scalar(vocabulary.unknown, pa.int32())))


def decode(tokens: pa.ListArray, vocabulary: Vocabulary) -> pa.ListArray:
    """Visits of each patient; the inverse of `encode` where no code is unknown.

    Args:
        tokens: [B] list<int32>, BOS to END, at least one visit each, `<v>` and `<\\v>` paired.
        vocabulary: Codes and their ids.

    Returns:
        [B] list<list<string>>.
    """
    flat = pc.list_flatten(tokens).to_numpy(zero_copy_only=False)
    is_code = flat >= FIRST_CODE
    starts = np.flatnonzero(flat == VISIT)
    codes_before = np.concatenate([[0], np.cumsum(is_code)])
    visit_offsets = np.append(codes_before[starts], codes_before[-1])
    patient_offsets = np.searchsorted(starts, offsets_of(lengths(tokens)))
    names = pa.array(vocabulary.names, pa.string())
    codes = names.take(pa.array(flat[is_code], pa.int32()))
    per_visit = pa.ListArray.from_arrays(pa.array(visit_offsets, pa.int32()), codes)
    return pa.ListArray.from_arrays(pa.array(patient_offsets, pa.int32()), per_visit)


def ids(values: pa.ChunkedArray, names: tuple[str, ...]) -> pa.ChunkedArray:
    """Place of each value among the names, int8; for gender and ethnicity."""
    return pc.index_in(values, value_set=pa.array(names, pa.string())).cast(pa.int8())


def lengths(lists: pa.ListArray) -> Ints:
    """Number of values in each list."""
    return np.asarray(pc.list_value_length(lists), dtype=np.int64)


def offsets_of(sizes: Ints) -> Ints:
    """Where each of several consecutive runs begins, and where the last one ends: [B+1]."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
