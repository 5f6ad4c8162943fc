"""Simple distributions over patients, as likelihoods and as samplers: what a model has to beat.

    unigram              P(code)
    demographic_unigram  P(code | sex, age band)
    bigram               P(code | the code before it in the visit)

All share one structure: P(end of visit | codes so far), P(END | visits so far). Each context's
counts are smoothed with the unigram as a Dirichlet prior whose strength is tuned on the
validation split. Works on token ids; never sees codes.

Shapes: B patients, T tokens, N codes of the alphabet, K contexts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.sparse

from promptehr.errors import ArtifactError
from promptehr.tokens import (
    AGE_BANDS,
    BOS,
    END,
    FIRST_CODE,
    GENDERS,
    VISIT,
    VISIT_END,
    Cohort,
    Ints,
    Vocabulary,
)

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Name = Literal["unigram", "demographic_unigram", "bigram"]
NAMES: tuple[Name, ...] = ("unigram", "demographic_unigram", "bigram")

MOST_VISITS_APART = 8  # visits counted apart in P(END); more behave alike


@dataclass(frozen=True)
class Structure:
    """When visits and records end.

    Attributes:
        stop: [n] probability that a visit ends after 0, 1, ... codes; 0 at 0.
        end: [v] probability that the record ends after 1, 2, ... visits.
    """

    stop: Array
    end: Array


@dataclass(frozen=True)
class Baseline:
    """One distribution over records.

    Attributes:
        name: Which.
        counts: [K, N] training counts of each code in each context.
        unigram: [N] shares of the codes.
        strength: Weight of the unigram beside a context's counts, in codes.
        structure: When visits and records end.
        age_mean: Years, to find the age band of standard units.
        age_spread: Years.
    """

    name: Name
    counts: scipy.sparse.csr_matrix
    unigram: Array
    strength: float
    structure: Structure
    age_mean: float
    age_spread: float

    def log_probs(self, cohort: Cohort) -> Array:
        """[T] natural-log probability of each token; 0 at BOS, at the first <v> and at <unk>."""
        place = _Places.of(cohort)
        scores = np.zeros(len(cohort.tokens))
        stop = self.structure.stop[np.minimum(place.codes_so_far, len(self.structure.stop) - 1)]
        end = self.structure.end[np.clip(place.visits_so_far, 1, len(self.structure.end)) - 1]
        tokens = cohort.tokens
        is_code = (tokens >= FIRST_CODE) & (tokens < FIRST_CODE + len(self.unigram))
        scores[tokens == VISIT_END] = np.log(stop[tokens == VISIT_END])
        scores[tokens == END] = np.log(end[tokens == END])
        another = (tokens == VISIT) & (place.visits_so_far > 0)
        scores[another] = np.log1p(-end[another])
        contexts = self.contexts(cohort)[is_code]
        scores[is_code] = np.log1p(-stop[is_code]) + self.code_log_probs(
            contexts, tokens[is_code] - FIRST_CODE
        )
        return scores

    def contexts(self, cohort: Cohort) -> Ints:
        """[T] the context of each token."""
        return _contexts(self.name, cohort, age_mean=self.age_mean, age_spread=self.age_spread)

    def code_log_probs(self, contexts: Ints, codes: Ints) -> Array:
        """Natural-log probability of each code, from 0 to N-1, in its context, given that a code follows."""
        seen = np.asarray(self.counts[contexts, codes]).ravel()
        total = np.asarray(self.counts.sum(1)).ravel()[contexts]
        smoothed: Array = np.log((seen + self.strength * self.unigram[codes]) / (total + self.strength))
        return smoothed


def fit(name: Name, train: Cohort, valid: Cohort, vocabulary: Vocabulary) -> Baseline:
    """Count on the training split and tune the strength of the prior on the validation split.

    Raises:
        ArtifactError: if the training split has no known code.
    """
    size = len(vocabulary.codes)
    ages = {"age_mean": vocabulary.age_mean, "age_spread": vocabulary.age_spread}
    is_code = (train.tokens >= FIRST_CODE) & (train.tokens < FIRST_CODE + size)
    codes = train.tokens[is_code] - FIRST_CODE
    if not len(codes):
        raise ArtifactError("the training shards hold no code of the vocabulary; rerun vocabulary and shards")
    # Every code of the alphabet gets some probability, also one that truncation took away.
    seen = np.bincount(codes, minlength=size).astype(np.float64) + 1e-3
    unigram: Array = seen / seen.sum()
    contexts = _contexts(name, train, **ages)[is_code]
    shape = (_context_count(name, vocabulary), size)
    counts = scipy.sparse.csr_matrix((np.ones(len(codes)), (contexts, codes)), shape=shape)
    structure = fit_structure(train)

    def at(strength: float) -> Baseline:
        return Baseline(name, counts, unigram, strength, structure, **ages)

    if name == "unigram":
        return at(1.0)
    return at(_tuned(lambda log_strength: -float(at(np.exp(log_strength)).log_probs(valid).sum())))


def fit_structure(train: Cohort) -> Structure:
    """Shares of ends at each place, with half an observation of either outcome added."""
    place = _Places.of(train)
    at_choice = (train.tokens == VISIT_END) | (train.tokens >= FIRST_CODE)
    ended = np.bincount(place.codes_so_far[train.tokens == VISIT_END])
    reached = np.bincount(place.codes_so_far[at_choice], minlength=len(ended))
    stop = (np.pad(ended, (0, len(reached) - len(ended))) + 0.5) / (reached + 1.0)
    stop[0] = 0.0
    visits = np.minimum(place.visits_so_far, MOST_VISITS_APART)
    last = np.bincount(visits[train.tokens == END], minlength=MOST_VISITS_APART + 1)[1:]
    more = np.bincount(visits[train.tokens == VISIT], minlength=MOST_VISITS_APART + 1)[1:]
    return Structure(stop=stop, end=(last + 0.5) / (last + more + 1.0))


def _tuned(cost: Callable[[float], float]) -> float:
    """The strength with the lowest cost between 1 and 100,000 codes."""
    found = scipy.optimize.minimize_scalar(
        cost, bounds=(0.0, np.log(1e5)), method="bounded", options={"xatol": 0.02}
    )
    return float(np.exp(found.x))


# --- contexts ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Places:
    """Where each token stands: [T] codes before it in its visit, visits ended or begun before it."""

    codes_so_far: Ints
    visits_so_far: Ints

    @classmethod
    def of(cls, cohort: Cohort) -> "_Places":
        tokens = cohort.tokens
        place = np.arange(len(tokens))
        begin = np.repeat(cohort.offsets[:-1], np.diff(cohort.offsets))
        visit_begin = np.maximum.accumulate(np.where(tokens == VISIT, place, 0))
        codes = np.where(tokens >= FIRST_CODE, 1, 0)
        before = np.cumsum(codes) - codes
        started = np.cumsum(tokens == VISIT) - (tokens == VISIT)
        in_visit = visit_begin > begin
        return cls(
            codes_so_far=np.where(in_visit, before - before[visit_begin], 0),
            visits_so_far=started - started[begin],
        )


def age_band(years: npt.NDArray[np.floating[Any]]) -> Ints:
    """Place in AGE_BANDS."""
    return np.searchsorted(AGE_BANDS, years.astype(np.float64), side="right") - 1


def _contexts(name: Name, cohort: Cohort, *, age_mean: float, age_spread: float) -> Ints:
    """[T] context of each token: 0, the patient's cell, or the token before it."""
    if name == "bigram":
        return np.concatenate([[BOS], cohort.tokens[:-1]])
    if name == "unigram":
        return np.zeros(len(cohort.tokens), dtype=np.int64)
    years = cohort.age_z.astype(np.float64) * age_spread + age_mean
    # Standard units are rounded: an age of 0 may come back as -1e-6.
    cell = np.maximum(age_band(years + 1e-4), 0) * len(GENDERS) + cohort.gender_id
    return np.repeat(cell, np.diff(cohort.offsets))


def _context_count(name: Name, vocabulary: Vocabulary) -> int:
    counts = {
        "unigram": 1,
        "demographic_unigram": len(AGE_BANDS) * len(GENDERS),
        "bigram": vocabulary.size,
    }
    return counts[name]


# --- sampling ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """Sampled records.

    Attributes:
        tokens: [T] BOS to END, patient after patient.
        offsets: [B+1].
        closed: Patients whose record was ended because it reached the limit.
    """

    tokens: Ints
    offsets: Ints
    closed: int


def sample(baseline: Baseline, people: Cohort, *, most_tokens: int, rng: np.random.Generator) -> Drawn:
    """A record for each person, within the grammar: no visit is empty, no code twice in a visit.

    Args:
        baseline: The distribution.
        people: Demographics; its tokens are not read.
        most_tokens: Tokens a record may have, BOS and END included; visits beyond are left out.
        rng: Source of all randomness.
    """
    empty = Cohort(
        people.subject_id,
        people.age_z,
        people.gender_id,
        people.ethnicity_id,
        np.full(len(people), BOS),
        np.arange(len(people) + 1),
    )
    own = baseline.contexts(empty)
    draw = _CodeSampler(baseline)
    active = np.arange(len(people))
    parts: list[tuple[Ints, Ints, Ints]] = []
    for number in range(most_tokens):
        codes = _sample_visit(baseline, draw, own[active], most_tokens - 4, rng)
        row, column = np.nonzero(codes >= 0)
        parts.append((active[row], np.full(len(row), number), codes[row, column]))
        end = baseline.structure.end[min(number, len(baseline.structure.end) - 1)]
        active = active[rng.random(len(active)) >= end]
        if not len(active):
            break
    patient, visit, code = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((np.arange(len(code)), visit, patient))
    return to_tokens(len(people), patient[order], visit[order], code[order] + FIRST_CODE, most_tokens)


def to_tokens(patients: int, patient: Ints, visit: Ints, token: Ints, most_tokens: int) -> Drawn:
    """Flat codes, sorted by patient, visit and position, as records within the limit of tokens."""
    begins = np.append(True, (np.diff(patient) != 0) | (np.diff(visit) != 0))
    number = np.cumsum(begins) - 1
    owner = patient[begins]
    cost = np.bincount(number) + 2
    total = np.cumsum(cost)
    first = np.searchsorted(owner, np.arange(patients))
    until = total - np.concatenate([[0], total])[first][owner] + 2
    kept = until <= most_tokens
    inside = kept[number]
    per_visit = cost[kept]
    visits = np.bincount(owner[kept], minlength=patients)
    lengths = np.bincount(owner[kept], weights=per_visit, minlength=patients).astype(np.int64) + 2
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.empty(offsets[-1], dtype=np.int64)
    flat[offsets[:-1]], flat[offsets[1:] - 1] = BOS, END
    start = 2 * owner[kept] + 1 + np.cumsum(per_visit) - per_visit
    flat[start], flat[start + per_visit - 1] = VISIT, VISIT_END
    renumbered = (np.cumsum(kept) - 1)[number[inside]]
    within = np.arange(len(number)) - np.flatnonzero(begins)[number]
    flat[start[renumbered] + 1 + within[inside]] = token[inside]
    return Drawn(flat, offsets, closed=int((visits < np.bincount(owner, minlength=patients)).sum()))


def _sample_visit(
    baseline: Baseline, draw: "_CodeSampler", own: Ints, most_codes: int, rng: np.random.Generator
) -> Ints:
    """[A, codes] places of the codes of one visit of each patient, -1 after the last."""
    stop = baseline.structure.stop
    # After as many codes as were ever seen, a visit ends.
    most = min(len(stop) - 1, len(baseline.unigram) - 1, most_codes) or 1
    codes = np.full((len(own), most), -1)
    going = np.arange(len(own))
    for position in range(most):
        before = np.full(len(going), VISIT) if position == 0 else codes[going, position - 1] + FIRST_CODE
        contexts = before if baseline.name == "bigram" else own[going]
        codes[going, position] = draw(contexts, codes[going], rng)
        going = going[rng.random(len(going)) >= stop[position + 1]]
        if not len(going):
            break
    return codes


class _CodeSampler:
    """Draws codes given contexts: from the context's counts or, as often as smoothed, the unigram."""

    def __init__(self, baseline: Baseline):
        self.baseline = baseline
        self.cumulative = np.cumsum(baseline.counts.data)
        self.total = np.asarray(baseline.counts.sum(1)).ravel()
        self.unigram = np.cumsum(baseline.unigram)

    def __call__(self, contexts: Ints, taken: Ints, rng: np.random.Generator) -> Ints:
        """[A] a code for each context that is not among the taken ones; drawn again where it is."""
        drawn = np.full(len(contexts), -1)
        waiting = np.arange(len(contexts))
        while len(waiting):
            candidate = self._draw(contexts[waiting], rng)
            is_new: Bools = (taken[waiting] != candidate[:, None]).all(1)
            drawn[waiting[is_new]] = candidate[is_new]
            waiting = waiting[~is_new]
        return drawn

    def _draw(self, contexts: Ints, rng: np.random.Generator) -> Ints:
        total, indptr = self.total[contexts], self.baseline.counts.indptr
        before = np.concatenate([[0.0], self.cumulative])[indptr[contexts]]
        counted = np.searchsorted(self.cumulative, before + rng.random(len(contexts)) * total, side="right")
        last = np.maximum(indptr[contexts + 1] - 1, 0)
        counted = self.baseline.counts.indices[np.minimum(counted, last)]
        any_code = np.searchsorted(self.unigram, rng.random(len(contexts)) * self.unigram[-1], side="right")
        smooth = rng.random(len(contexts)) * (total + self.baseline.strength) >= total
        drawn: Ints = np.where(smooth, np.minimum(any_code, len(self.unigram) - 1), counted)
        return drawn
