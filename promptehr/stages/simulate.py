"""Draw MIMIC-III-shaped CSVs from the known process.

The files have the names, columns, quoting and value ranges of MIMIC-III v1.4, as far as the
pipeline reads them: shifted times, ages over 89 hidden by a birth 300 years back, ethnicity as
free text per admission. Nothing here is a real patient.
"""

import io
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from promptehr import artifacts, schemas
from promptehr.settings import Settings
from promptehr.simulation import dirt, process, recipe, sampler
from promptehr.simulation.dirt import Tables, rows_of, text
from promptehr.simulation.process import Process
from promptehr.simulation.sampler import DAYS_PER_YEAR, People, Visits
from promptehr.tokens import ETHNICITIES, Ints

logger = logging.getLogger(__name__)

FIRST_DAY, LAST_FIRST_DAY = np.datetime64("2100-01-01"), np.datetime64("2170-12-31")
HIDDEN_AGE_YEARS, HIDDEN_BIRTH_YEARS = 89, 300
SECONDS_PER_DAY = 86_400
OTHER_TEXT_SHARE = 0.06  # later admissions whose ethnicity text is of another group


@dataclass(frozen=True)
class Inputs:
    """Nothing: the process is in the code."""


@dataclass(frozen=True)
class Outputs:
    """The three tables, and the process they were drawn from."""

    patients: Path
    admissions: Path
    diagnoses: Path
    process: Path


def run(inputs: Inputs, outputs: Outputs, settings: Settings) -> None:  # noqa: ARG001  # reads nothing
    """Draw, and publish the CSVs and the process."""
    truth = process.default()
    drawn = draw(truth, settings.simulate.patients, np.random.default_rng(settings.simulate.seed))
    tables, expected = dirt.plant(drawn, settings.simulate.dirt, settings.simulate.seed)
    artifacts.write_bytes(outputs.patients, csv_bytes(tables.patients))
    artifacts.write_bytes(outputs.admissions, csv_bytes(tables.admissions))
    artifacts.write_bytes(outputs.diagnoses, csv_bytes(tables.diagnoses))
    artifacts.write_sealed(
        outputs.process,
        {"parameters": truth.to_document(), "planted": planted(drawn), "expected": expected},
        schemas.PROCESS,
        stage="simulate",
        settings=settings,
        inputs={},
        files=[outputs.patients, outputs.admissions, outputs.diagnoses],
    )
    logger.info("%s patients, %s admissions", tables.patients.num_rows, tables.admissions.num_rows)


def draw(truth: Process, count: int, rng: np.random.Generator) -> Tables:
    """The three tables for so many new patients."""
    people = sampler.draw_people(truth, count, rng)
    visits = sampler.draw_visits(truth, people, rng)
    patient, _, lengths = _admissions_of(visits)
    subjects = _identifiers(count, low=2, high=100_000, rng=rng)
    admissions = _identifiers(len(patient), low=100_000, high=200_000, rng=rng)
    admitted, discharged = _times(patient, rng)
    first = np.flatnonzero(np.append(True, patient[1:] != patient[:-1]))
    return Tables(
        patients=rows_of(
            SUBJECT_ID=subjects,
            GENDER=np.where(people.female == 1, "F", "M"),
            DOB=text(_births(people, admitted[first])),
        ),
        admissions=rows_of(
            SUBJECT_ID=subjects[patient],
            HADM_ID=admissions,
            ADMITTIME=text(admitted),
            DISCHTIME=text(discharged),
            ETHNICITY=_ethnicity_texts(people, patient, first, rng),
        ),
        diagnoses=rows_of(
            SUBJECT_ID=subjects[visits.patient],
            HADM_ID=np.repeat(admissions, lengths),
            SEQ_NUM=np.arange(len(visits.code)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + 1,
            ICD9_CODE=np.array(truth.codes)[visits.code],
        ),
    )


def planted(tables: Tables) -> dict[str, int]:
    """What was drawn, before any dirt."""
    return {
        "patients": tables.patients.num_rows,
        "admissions": tables.admissions.num_rows,
        "diagnoses": tables.diagnoses.num_rows,
        "distinct_codes": len(tables.diagnoses["ICD9_CODE"].unique()),
    }


# --- columns -----------------------------------------------------------------------------------


def _admissions_of(visits: Visits) -> tuple[Ints, Ints, Ints]:
    """Patient, visit number and number of codes of each admission."""
    starts = np.flatnonzero(np.append(True, (np.diff(visits.patient) != 0) | (np.diff(visits.visit) != 0)))
    lengths = np.diff(np.append(starts, len(visits.code)))
    return visits.patient[starts], visits.visit[starts], lengths


def _identifiers(count: int, *, low: int, high: int, rng: np.random.Generator) -> Ints:
    """Distinct numbers in random order, of as many digits as MIMIC-III's where these are enough."""
    return rng.choice(max(high - low, 3 * count), size=count, replace=False) + low


def _times(patient: Ints, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Admission and discharge of each admission, in seconds; a patient's follow each other."""
    count = len(patient)
    starts = np.append(True, patient[1:] != patient[:-1])
    span = int((LAST_FIRST_DAY - FIRST_DAY) / np.timedelta64(1, "D"))
    first_day = rng.integers(0, span, size=count)
    clock = rng.integers(0, SECONDS_PER_DAY, size=count)
    stay = np.maximum(rng.lognormal(np.log(6.5), 0.85, size=count), 0.2) * SECONDS_PER_DAY
    gap = np.maximum(rng.lognormal(np.log(150.0), 1.2, size=count), 2.0) * SECONDS_PER_DAY
    # Seconds since the patient's first admission: sums within the patient of stays and gaps.
    step = np.where(starts, 0.0, np.roll(stay, 1) + gap)
    total = np.cumsum(step)
    elapsed = total - total[starts][np.cumsum(starts) - 1]
    begin = (first_day * SECONDS_PER_DAY + clock)[starts][np.cumsum(starts) - 1]
    admitted = begin + elapsed.astype(np.int64)
    origin = FIRST_DAY.astype("datetime64[s]")
    return (
        origin + admitted.astype("timedelta64[s]"),
        origin + (admitted + stay.astype(np.int64)).astype("timedelta64[s]"),
    )


def _births(people: People, first_admitted: np.ndarray) -> np.ndarray:
    """Date of birth at midnight; 300 years before the first admission where the age is over 89."""
    hidden = people.age_days > HIDDEN_AGE_YEARS * DAYS_PER_YEAR + sampler.EDGE_DAYS
    days = np.where(hidden, int(HIDDEN_BIRTH_YEARS * DAYS_PER_YEAR), people.age_days)
    born: np.ndarray = first_admitted.astype("datetime64[D]") - days.astype("timedelta64[D]")
    return born.astype("datetime64[s]")


def _ethnicity_texts(people: People, patient: Ints, first: Ints, rng: np.random.Generator) -> np.ndarray:
    """A text per admission: the patient's own, now and then another one on a later admission."""
    own = _texts_of(people.ethnicity, rng)[patient]
    others = _texts_of(rng.integers(0, len(ETHNICITIES), size=len(patient)), rng)
    strays = rng.random(len(patient)) < OTHER_TEXT_SHARE
    strays[first] = False
    return np.where(strays, others, own)


def _texts_of(groups: Ints, rng: np.random.Generator) -> np.ndarray:
    """A text of each group, by its frequency in MIMIC-III."""
    texts = np.empty(len(groups), dtype=object)
    u = rng.random(len(groups))
    for number, name in enumerate(ETHNICITIES):
        table = recipe.ETHNICITY_TEXTS[name]
        shares = np.cumsum(list(table.values())) / sum(table.values())
        rows = groups == number
        texts[rows] = np.array(list(table), dtype=object)[np.searchsorted(shares, u[rows], side="right")]
    return texts


# --- CSV ---------------------------------------------------------------------------------------


def csv_bytes(table: pa.Table) -> bytes:
    """CSV with texts quoted and numbers bare, as MIMIC-III writes it."""
    sink = io.BytesIO()
    pyarrow.csv.write_csv(table, sink)
    return sink.getvalue()
