"""Patients drawn from the process, all at once: step by step, vectorised over patients.

A code is drawn from its mixture and drawn again while it is already in the visit, which is
the process's P(code) exactly. Everything random comes from one generator.

Shapes: N patients, A of them with a visit in progress, C codes.
"""

from dataclasses import dataclass

import numpy as np

from promptehr.simulation.process import Array, Process
from promptehr.tokens import Ints

NONE = -1
DAYS_PER_YEAR = 365.2425
EDGE_DAYS = 7  # ages stay this far from band edges, so that rounding never moves a patient
LAST_BAND_END = 105.0


@dataclass(frozen=True)
class People:
    """Demographics.

    Attributes:
        band: [N] age band.
        age_days: [N] age in days at the first visit.
        female: [N] 0 M, 1 F.
        ethnicity: [N] place in tokens.ETHNICITIES.
    """

    band: Ints
    age_days: Ints
    female: Ints
    ethnicity: Ints


@dataclass(frozen=True)
class Visits:
    """Visits as flat arrays, sorted by patient, visit and position.

    Attributes:
        patient: [codes] patient of each code.
        visit: [codes] its visit, from 0.
        code: [codes] its place in Process.codes.
    """

    patient: Ints
    visit: Ints
    code: Ints


def draw_people(process: Process, count: int, rng: np.random.Generator) -> People:
    """Demographics of new patients."""
    band = rng.choice(len(process.band), size=count, p=process.band)
    ends = np.append(process.bands[1:], LAST_BAND_END) * DAYS_PER_YEAR - EDGE_DAYS
    # A newborn is hours old when it is admitted, rarely days.
    starts = np.where(process.bands > 0, process.bands * DAYS_PER_YEAR + EDGE_DAYS, 0)
    age = starts[band] + rng.random(count) * (ends - starts)[band]
    newborn_days = rng.geometric(0.93, size=count) - 1
    # Few adolescents and few centenarians: density falls towards the ends of these bands.
    oldest = process.bands[-1] * DAYS_PER_YEAR + EDGE_DAYS + rng.exponential(4.0 * DAYS_PER_YEAR, count)
    age = np.where(band == len(process.band) - 1, np.minimum(oldest, ends[-1]), age)
    return People(
        band=band,
        age_days=np.where(band == 0, np.minimum(newborn_days, 300), age).astype(np.int64),
        female=(rng.random(count) < process.female[band]).astype(np.int64),
        ethnicity=rng.choice(len(process.ethnicity), size=count, p=process.ethnicity),
    )


def draw_visits(process: Process, people: People, rng: np.random.Generator) -> Visits:
    """All visits of all patients."""
    count = len(people.band)
    previous = np.full((count, process.stop.shape[1]), NONE)
    start = process.start[people.band, people.female, people.ethnicity]
    state = _choose(start, rng)
    active = np.arange(count)
    parts: list[tuple[Ints, Ints, Ints]] = []
    for number in range(process.most_visits):
        codes = _draw_visit(process, people, active, state, previous, rng)
        row, column = np.nonzero(codes != NONE)
        parts.append((active[row], np.full(len(row), number), codes[row, column]))
        previous[active] = codes
        follows = rng.random(len(active)) < process.revisit[people.band[active], number, state[active]]
        active = active[follows]
        if not len(active):
            break
        state[active] = _choose(process.change[state[active]], rng)
    patient, visit, code = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((np.arange(len(code)), visit, patient))
    return Visits(patient[order], visit[order], code[order])


def _draw_visit(
    process: Process, people: People, active: Ints, state: Ints, previous: Ints, rng: np.random.Generator
) -> Ints:
    """[A, 39] codes of one visit of each active patient, NONE after the last."""
    band, female = people.band[active], people.female[active]
    reason = _choose(process.reason[band, female, state[active]], rng)
    codes = np.full((len(active), process.stop.shape[1]), NONE)
    going = np.arange(len(active))
    for position in range(process.stop.shape[1]):
        rows = active[going]
        mixture = mixture_of(process, people, rows, state[rows], reason[going], first=position == 0)
        has_previous = previous[rows, 0] != NONE
        repeat = np.where(has_previous, process.repeat[min(position, 1)], 0.0)
        codes[going, position] = _draw_new(process, mixture, repeat, previous[rows], codes[going], rng)
        ends = rng.random(len(going)) < process.stop[band[going], position]
        going = going[~ends]
        if not len(going):
            break
    return codes


def mixture_of(
    process: Process, people: People, rows: Ints, state: Ints, reason: Ints, *, first: bool
) -> Array:
    """[A, themes] weights: conditions, reasons, general by band, demographic; each row sums to 1."""
    weights = process.first_mixture if first else process.later_mixture
    demographic = process.demographic_share[people.band[rows], people.female[rows], people.ethnicity[rows]]
    rest = 1 - demographic.sum(1, keepdims=True)
    condition = process.condition_weight[state]
    one_hot_reason = np.eye(len(process.reason_theme))[reason]
    general = np.eye(len(process.bands))[people.band[rows]]
    return np.hstack(
        [
            rest * weights[1] * condition[:, :-1],
            rest * weights[0] * one_hot_reason,
            rest * (weights[2] + weights[1] * condition[:, -1:]) * general,
            demographic,
        ]
    )


def _draw_new(
    process: Process, mixture: Array, repeat: Array, previous: Ints, taken: Ints, rng: np.random.Generator
) -> Ints:
    """[A] a code that is not in the visit yet; drawn again until it is none of the taken ones."""
    drawn = np.full(len(mixture), NONE)
    number = (previous != NONE).sum(1)
    waiting = np.arange(len(mixture))
    while len(waiting):
        theme = _choose(mixture[waiting], rng)
        candidate = _by_theme(process, theme, rng.random(len(waiting)))
        again = rng.random(len(waiting)) < repeat[waiting]
        place = (rng.random(len(waiting)) * number[waiting]).astype(np.int64)
        candidate = np.where(again, previous[waiting, place], candidate)
        is_new = (taken[waiting] != candidate[:, None]).all(1)
        drawn[waiting[is_new]] = candidate[is_new]
        waiting = waiting[~is_new]
    return drawn


def _by_theme(process: Process, theme: Ints, u: Array) -> Ints:
    """[A] the code at quantile u of each theme."""
    drawn = np.empty(len(theme), dtype=np.int64)
    order = np.argsort(theme, kind="stable")
    bounds = np.searchsorted(theme[order], np.arange(len(process.themes) + 1))
    for number, (codes, probability) in enumerate(process.inverse_themes):
        rows = order[bounds[number] : bounds[number + 1]]
        drawn[rows] = codes[np.minimum(np.searchsorted(probability, u[rows], side="right"), len(codes) - 1)]
    return drawn


def _choose(probability: Array, rng: np.random.Generator) -> Ints:
    """[A] a column for each row of [A, n] probabilities."""
    u = rng.random(len(probability))[:, None] * probability.sum(1, keepdims=True)
    column: Ints = np.minimum((probability.cumsum(1) <= u).sum(1), probability.shape[1] - 1)
    return column
