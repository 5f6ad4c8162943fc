"""New patients of the known process, seen by nobody: a reference that only a simulated cohort has.

Draws records as `records` would make them of the simulator's CSVs, apart from ids and dates, which
no comparison of cohorts looks at.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from promptehr.simulation.likelihood import Histories
from promptehr.simulation.process import Process
from promptehr.simulation.sampler import DAYS_PER_YEAR, draw_people, draw_visits
from promptehr.tokens import ETHNICITIES, GENDERS, Ints


def patients(process: Process, count: int, rng: np.random.Generator) -> pa.Table:
    """So many patients: `gender`, `ethnicity`, `age` in years at the first visit, and `visits`."""
    people = draw_people(process, count, rng)
    drawn = draw_visits(process, people, rng)
    new_visit = np.append(True, (np.diff(drawn.patient) != 0) | (np.diff(drawn.visit) != 0))
    starts = np.flatnonzero(new_visit)
    codes = pa.DictionaryArray.from_arrays(pa.array(drawn.code), pa.array(process.codes)).dictionary_decode()
    visits = pa.ListArray.from_arrays(pa.array(np.append(starts, len(codes)), pa.int32()), codes)
    first = np.searchsorted(drawn.patient[starts], np.arange(count + 1))
    return pa.table(
        {
            "gender": np.array(GENDERS)[people.female],
            "ethnicity": np.array(ETHNICITIES)[people.ethnicity],
            "age": (people.age_days / DAYS_PER_YEAR).astype(np.float32),
            "visits": pa.ListArray.from_arrays(pa.array(first, pa.int32()), visits),
        }
    )


def histories(process: Process, records: pa.Table) -> Histories:
    """Records with the columns of `patients`, as the process scores them.

    Args:
        process: The truth.
        records: All of sex M or F, all codes of the process.
    """
    visits = records["visits"].combine_chunks()
    codes = pc.list_flatten(visits)
    return Histories(
        band=process.band_of(records["age"].to_numpy()),
        female=np.asarray(pc.equal(records["gender"], "F")).astype(np.int64),
        ethnicity=_places(records["ethnicity"], ETHNICITIES),
        visits=np.asarray(pc.list_value_length(visits)).astype(np.int64),
        lengths=np.asarray(pc.list_value_length(codes)).astype(np.int64),
        codes=_places(pc.list_flatten(codes), process.codes),
    )


def _places(texts: pa.ChunkedArray | pa.Array, names: tuple[str, ...]) -> Ints:
    """The place of each text among the names."""
    found = pc.index_in(texts.cast(pa.string()), value_set=pa.array(names))
    assert not found.null_count, "a text that the process does not know"
    return np.asarray(found).astype(np.int64)
