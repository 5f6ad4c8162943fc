"""What a trained model makes of age, sex and ethnicity: swaps, and nats that knowing them gains.

Scores the same patients with other demographics. Works on token ids.

Shapes: B patients, F values of a feature.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from promptehr import tokens
from promptehr.metrics.likelihood import Array, Scores, per_patient
from promptehr.model import scoring
from promptehr.model.batches import TokenStore
from promptehr.model.offsets import age_edges
from promptehr.model.promptbart import PromptBartForConditionalGeneration
from promptehr.tokens import Cohort, Ints, Vocabulary

FEATURES = ("gender", "ethnicity", "age")
# Ages that a patient of unknown age is scored with, as likely as each other.
AGES = 12


class Scorer:
    """NLL of patients under the condition `prompt`, in nats per patient.

    Args:
        model: In evaluation mode.
        vocabulary: Of the model.
        log_every_s: Seconds between lines of the log.
    """

    def __init__(
        self,
        model: PromptBartForConditionalGeneration,
        vocabulary: Vocabulary,
        *,
        log_every_s: float = math.inf,
    ):
        self.model = model
        self.vocabulary = vocabulary
        self.log_every_s = log_every_s

    def log_p(self, cohort: Cohort) -> Array:
        """[B] log-probability of each patient's record given the demographics."""
        store = TokenStore.from_cohort(cohort, self.model.device, vocabulary_size=self.vocabulary.size)
        scores: Scores = scoring.score(
            self.model,
            cohort,
            store,
            "prompt",
            seed=0,
            ranked=False,
            log_every_s=self.log_every_s,
        )
        return per_patient(scores.log_prob, scores.scored, cohort)


def swaps(scorer: Scorer, cohort: Cohort, *, seed: int) -> dict[str, Array]:
    """[B] rise of the NLL in nats when one feature is another person's.

    The sex is the other one; age and ethnicity are those of another patient, drawn by a
    permutation. 0 for a model that ignores the feature.
    """
    other = np.random.default_rng(seed).permutation(len(cohort))
    flipped = np.where(cohort.gender_id < 2, 1 - cohort.gender_id, cohort.gender_id)
    changed = {
        "gender": replace(cohort, gender_id=flipped),
        "ethnicity": replace(cohort, ethnicity_id=cohort.ethnicity_id[other]),
        "age": replace(cohort, age_z=cohort.age_z[other]),
    }
    honest = scorer.log_p(cohort)
    return {name: honest - scorer.log_p(strangers) for name, strangers in changed.items()}


def gains(scorer: Scorer, cohort: Cohort, train: Cohort) -> dict[str, Array]:
    """[B] nats per patient that the model gains by knowing a feature.

    log P(record | all) - log P(record | all but the feature), the latter a mixture over the
    feature's values: sexes and ethnicities by their shares among the training patients of the
    patient's age band, ages by their quantiles. To the true process this is what
    `promptehr.simulation.likelihood.conditioning_gain` says. Below 0 for a model that is misled.
    """
    known = scorer.log_p(cohort)
    found = {}
    bands = [_bands(people, scorer.vocabulary) for people in (cohort, train)]
    for name in FEATURES:
        others = _ages(cohort, train) if name == "age" else _categories(name, cohort, train, bands)
        scored = [(scorer.log_p(people), weight) for people, weight in others]
        log_p, weights = (np.stack(column) for column in zip(*scored, strict=True))
        found[name] = known - log_mixture(log_p, weights)
    return found


def _ages(cohort: Cohort, train: Cohort) -> Iterator[tuple[Cohort, Array]]:
    """The cohort at each of some ages, and [B] the age's probability."""
    for age in np.quantile(train.age_z, (np.arange(AGES) + 0.5) / AGES, method="nearest"):
        yield replace(cohort, age_z=np.full_like(cohort.age_z, age)), np.full(len(cohort), 1 / AGES)


def _categories(
    name: str, cohort: Cohort, train: Cohort, bands: Sequence[Ints]
) -> Iterator[tuple[Cohort, Array]]:
    """The cohort with each sex or ethnicity, and [B] its probability given the age band."""
    ids: Ints = getattr(train, f"{name}_id")
    size, overall = int(ids.max()) + 1, np.bincount(ids) / len(ids)
    counts = np.bincount(bands[1] * size + ids, minlength=len(tokens.AGE_BANDS) * size).reshape(-1, size)
    # One patient of everybody's shares in each band, so that none is empty.
    shares = (counts + overall) / (counts.sum(1, keepdims=True) + 1)
    for value in np.flatnonzero(overall):
        changed: dict[str, Any] = {f"{name}_id": np.full_like(ids, value, shape=len(cohort))}
        yield replace(cohort, **changed), shares[bands[0], value]


def _bands(cohort: Cohort, vocabulary: Vocabulary) -> Ints:
    edges = np.asarray(age_edges(vocabulary), dtype=np.float32)
    return np.searchsorted(edges, cohort.age_z, side="right")


def log_mixture(log_p: Array, weights: Array) -> Array:
    """[B] log of the weighted mean of probabilities, from [F, B] logs and weights."""
    peak = log_p.max(0)
    mixed: Array = peak + np.log((weights * np.exp(log_p - peak)).sum(0))
    return mixed
