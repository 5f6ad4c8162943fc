"""New patients of the known process, seen by nobody: a reference that only a simulated cohort has.

Draws records as `records` would make them of the simulator's CSVs, apart from ids and dates, which
no comparison of cohorts looks at.
"""

import numpy as np
import pyarrow as pa

from promptehr.simulation.process import Process
from promptehr.simulation.sampler import DAYS_PER_YEAR, draw_people, draw_visits
from promptehr.tokens import GENDERS


def patients(process: Process, count: int, rng: np.random.Generator) -> pa.Table:
    """So many patients: `gender`, `age` in years at the first visit, and `visits`, lists of code lists."""
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
            "age": (people.age_days / DAYS_PER_YEAR).astype(np.float32),
            "visits": pa.ListArray.from_arrays(pa.array(first, pa.int32()), visits),
        }
    )
