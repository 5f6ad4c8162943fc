"""Held-out likelihood: sums over tokens, patient by patient, and what they say.

Turns per-token natural-log probabilities into NLL, perplexity, accuracy, intervals, the share of
the gap closed and the leak alarm. NLL is the sum of -log P over the scored tokens divided by their
number, in nats; perplexity is exp(NLL): 1 for a model that knows the answer, N for one that is
uniform over N tokens. <unk> is scored by no one. Works on arrays; never sees a model.

Shapes: B patients, T tokens in all (BOS included), R bootstrap resamples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from promptehr.tokens import FIRST_CODE, VISIT, Cohort, Ints, Vocabulary

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

LEAK_Z = -3.0  # standard errors below the optimum that only seeing the answer explains
BLOCK = 250  # resamples drawn at once
MOST_KEPT = 1 << 30  # bytes of them


@dataclass(frozen=True)
class Scores:
    """What a distribution said of each token.

    Attributes:
        log_prob: [T] natural-log probability; any number where `scored` is false.
        scored: [T] whether the token was scored under this condition.
        top1: [T] whether it was the likeliest token; None where nobody ranks.
        top10: [T] whether it was among the ten likeliest.
    """

    log_prob: Array
    scored: Bools
    top1: Bools | None = None
    top10: Bools | None = None


@dataclass(frozen=True)
class Classes:
    """Which tokens are of which class: [T] each; BOS and <unk> are of none."""

    codes: Bools
    structure: Bools

    @classmethod
    def of(cls, cohort: Cohort, vocabulary: Vocabulary) -> "Classes":
        tokens = cohort.tokens
        return cls(
            codes=(tokens >= FIRST_CODE) & (tokens < vocabulary.mask),
            structure=(tokens >= VISIT) & (tokens < FIRST_CODE),
        )

    def named(self) -> dict[str, Bools]:
        return {"all": self.codes | self.structure, "codes": self.codes, "structure": self.structure}


class Resamples:
    """The same patient bootstrap for every number of one evaluation."""

    def __init__(self, patients: int, *, resamples: int, seed: int):
        self.patients = patients
        self.resamples = resamples
        self.seed = seed
        # Drawing takes longer than what is done with it: where there is room it is done once.
        self.kept = list(self.drawn()) if patients * resamples <= MOST_KEPT else None

    def drawn(self) -> Iterator[npt.NDArray[np.uint8]]:
        """[up to 250, B] how often a patient is drawn: once in the mean, so that a byte holds it."""
        rng = np.random.default_rng(self.seed)
        even = np.full(self.patients, 1 / self.patients)
        for start in range(0, self.resamples, BLOCK):
            count = min(BLOCK, self.resamples - start)
            yield rng.multinomial(self.patients, even, size=count).astype(np.uint8)

    def ratio(self, numerator: Array, denominator: Array) -> Array:
        """[R] sum of one [B] column over the sum of another, in each resample that has any."""
        found = []
        for block in self.drawn() if self.kept is None else self.kept:
            weights = block.astype(np.float64)
            below = weights @ denominator
            found.append((weights @ numerator)[below != 0] / below[below != 0])
        return np.concatenate(found)


def measured(scores: Scores, classes: Classes, cohort: Cohort, resamples: Resamples) -> dict[str, Any]:
    """NLL, perplexity, accuracy, tokens and interval of each token class.

    accuracy and top10_accuracy are shares of the scored tokens; the interval is the 95 % patient
    bootstrap of the NLL.
    """
    return {
        name: _measured(scores, inside & scores.scored, cohort, resamples)
        for name, inside in classes.named().items()
    }


def _measured(scores: Scores, inside: Bools, cohort: Cohort, resamples: Resamples) -> dict[str, Any]:
    count = int(inside.sum())
    if not count:
        empty = dict.fromkeys(("nll", "perplexity", "accuracy", "top10_accuracy", "interval"))
        return {**empty, "tokens": 0, "reason": "no token of this class is scored under this condition"}
    cost, number = (
        per_patient(-scores.log_prob, inside, cohort),
        per_patient(np.ones(len(inside)), inside, cohort),
    )
    nll = cost.sum() / number.sum()
    return {
        "nll": nll,
        "perplexity": float(np.exp(nll)),
        "accuracy": None if scores.top1 is None else float(scores.top1[inside].mean()),
        "top10_accuracy": None if scores.top10 is None else float(scores.top10[inside].mean()),
        "interval": interval(resamples.ratio(cost, number)),
        "tokens": count,
    }


def gap_closed(
    model: Scores, baseline: Scores, optimum: Scores, inside: Bools, cohort: Cohort, resamples: Resamples
) -> dict[str, Any]:
    """Share of the way from the demographic unigram to the optimum: 0 at the one, 1 at the other.

    (NLL of the baseline - NLL of the model) / (NLL of the baseline - NLL of the optimum), over the
    same tokens; comparable between cohorts. May be negative. 95 % paired patient bootstrap.
    """
    gained = per_patient(model.log_prob - baseline.log_prob, inside, cohort)
    possible = per_patient(optimum.log_prob - baseline.log_prob, inside, cohort)
    if possible.sum() <= 0:
        return {"value": None, "interval": None, "reason": "the baseline is as good as the optimum"}
    return share(gained, possible, resamples)


def leak_alarm(model: Scores, optimum: Scores, inside: Bools, cohort: Cohort) -> dict[str, Any]:
    """Whether the model is better than what is possible: then it has seen the answer.

    The mean over patients of (NLL of the model - NLL of the optimum) in nats per patient, and the
    same in standard errors; below -3 the alarm is on. An honest model has a positive mean.
    """
    excess = per_patient(optimum.log_prob - model.log_prob, inside, cohort)
    error = float(excess.std(ddof=1) / np.sqrt(len(excess))) if len(excess) > 1 else 0.0
    mean = float(excess.mean())
    if error == 0.0:
        return {"alarm": None, "mean": mean, "reason": "the differences do not vary: no standard error"}
    return {"alarm": mean / error < LEAK_Z, "mean": mean, "standard_errors": mean / error}


def mean(values: Array, resamples: Resamples) -> dict[str, Any]:
    """Mean of a [B] column with its 95 % patient bootstrap."""
    return {
        "value": float(values.mean()),
        "interval": interval(resamples.ratio(values, np.ones(len(values)))),
    }


def share(part: Array, whole: Array, resamples: Resamples) -> dict[str, Any]:
    """Sum of a [B] column as a share of another's, with its 95 % paired patient bootstrap."""
    if whole.sum() <= 0:
        return {"value": None, "interval": None, "reason": "knowing it is worth nothing in this cohort"}
    return {
        "value": float(part.sum() / whole.sum()),
        "interval": interval(resamples.ratio(part, whole)),
    }


def per_patient(values: Array, inside: Bools, cohort: Cohort) -> Array:
    """[B] sum of a [T] column over each patient's tokens that are inside."""
    summed: Array = np.add.reduceat(np.where(inside, values, 0.0), cohort.offsets[:-1])
    return summed


def interval(samples: Array) -> list[float]:
    """The middle 95 % of bootstrap values."""
    low, high = np.quantile(samples, [0.025, 0.975])
    return [float(low), float(high)]


def later_visits(cohort: Cohort) -> Bools:
    """[T] tokens after the first visit of patients with two or more: what `history` scores."""
    visit = cohort.tokens == VISIT
    begin = np.repeat(cohort.offsets[:-1], np.diff(cohort.offsets))
    started = np.cumsum(visit)
    number = started - (started - visit)[begin]
    total: Ints = np.repeat(
        np.add.reduceat(visit.astype(np.int64), cohort.offsets[:-1]), np.diff(cohort.offsets)
    )
    after: Bools = (number >= 2) & (total >= 2)
    return after
