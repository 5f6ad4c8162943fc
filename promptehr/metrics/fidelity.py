"""How like real patients synthetic ones are: prevalence, lengths, pairs, conditioning.

Turns three cohorts (real test patients as the truth, synthetic ones, and a ceiling) into plain
values. The ceiling is a draw of real training patients, as many as there are synthetic ones and
without replacement; where training has fewer, all of them once, since repeating a patient adds
no knowledge. Every number of the synthetic cohort stands beside the ceiling's, against the same
real patients, with a 95 % interval of the difference (`bootstrap.difference_draws`, `bootstrap.centred`).

A *prevalence* is the share of patients who have a code at least once. *Agreement* of the
prevalences r (real) and s (synthetic) of K codes is

    r2        1 - sum (r - s)^2 / sum (r - mean r)^2; 1 for equality, 0 for the mean, may be negative
    pearson   correlation of r and s
    spearman  correlation of their ranks, ties at their mean rank

and null where r does not vary or, for the correlations, s does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from promptehr.metrics import bootstrap
from promptehr.metrics.bootstrap import Sides
from promptehr.metrics.incidence import AGE_BANDS, Bools, Floats, Ints, Matrix, Patients, counted, totals
from promptehr.metrics.pairs import pair_sides
from promptehr.metrics.plausibility import implausible

AGREEMENT = ("r2", "pearson", "spearman")
HEAD, TORSO = 0.01, 0.001  # training prevalence
MIN_GROUP = 20  # patients a sex or age band needs on every side to be compared
LENGTHS = ("visits_per_patient", "codes_per_visit")


@dataclass(frozen=True)
class Draws:
    """How intervals are drawn: a seed, from which every metric starts anew, and a number."""

    seed: int
    resamples: int

    @property
    def generator(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)


@dataclass(frozen=True)
class Cohorts:
    """The three cohorts over one catalogue, and what the training split says about the codes.

    Attributes:
        real: Real test patients.
        synthetic: Synthetic patients.
        ceiling: Real training patients, drawn.
        known: [K] whether the code is in the vocabulary.
        training_prevalence: [K] in all training patients.
    """

    real: Patients
    synthetic: Patients
    ceiling: Patients
    known: Bools
    training_prevalence: Floats

    def ever(self) -> Sides:
        return Sides(self.real.ever(), self.synthetic.ever(), self.ceiling.ever())


def fidelity(cohorts: Cohorts, *, draws: Draws, pair_min_patients: int) -> dict[str, Any]:
    """All fidelity numbers; the module says what they are."""
    ever = cohorts.ever()
    return {
        "patients": _patients(cohorts),
        "prevalence": prevalence(ever, cohorts, draws),
        "conditional_prevalence": conditional_prevalence(ever, cohorts, draws),
        **{name: length(cohorts, name, draws) for name in LENGTHS},
        "pairs": pairs(cohorts, draws, pair_min_patients),
        "distinct_codes": distinct_codes(ever),
        "implausible": implausible(cohorts.real, cohorts.synthetic, cohorts.ceiling),
    }


def fresh(cohorts: Cohorts, *, draws: Draws, pair_min_patients: int) -> dict[str, Any]:
    """What a large reference can tell: prevalence in all strata, by sex and age, and pairs.

    Args:
        cohorts: With new patients of the true process as the real ones.
        draws: As everywhere.
        pair_min_patients: Reference patients a pair needs.
    """
    ever = cohorts.ever()
    agreed = prevalence(ever, cohorts, draws)
    return {
        "patients": _patients(cohorts),
        "prevalence": {name: value for name, value in agreed.items() if name not in ("points", "patients")},
        "conditional_prevalence": conditional_prevalence(ever, cohorts, draws),
        "pairs": pairs(cohorts, draws, pair_min_patients),
    }


def _patients(cohorts: Cohorts) -> dict[str, int]:
    return {
        "real": len(cohorts.real),
        "synthetic": len(cohorts.synthetic),
        "ceiling": len(cohorts.ceiling),
    }


# --- agreement ---------------------------------------------------------------------------------


def agreement(real: Floats, other: Floats) -> Floats:
    """[..., 3] r2, pearson, spearman over the last axis [..., K]; NaN where there is no value."""
    return np.stack(
        [
            r2(real, other),
            correlation(real, other),
            correlation(rankdata(real, axis=-1), rankdata(other, axis=-1)),
        ],
        axis=-1,
    )


def r2(real: Floats, other: Floats) -> Floats:
    """1 - SSE / SST with the real values as truth; NaN where they do not vary."""
    spread = ((real - real.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    error = ((real - other) ** 2).sum(axis=-1)
    return np.asarray(1.0 - _ratio(error, spread))


def correlation(left: Floats, right: Floats) -> Floats:
    """Pearson's correlation over the last axis; NaN where one side does not vary."""
    left = left - left.mean(axis=-1, keepdims=True)
    right = right - right.mean(axis=-1, keepdims=True)
    spread = np.sqrt((left**2).sum(axis=-1) * (right**2).sum(axis=-1))
    return _ratio((left * right).sum(axis=-1), spread)


def _ratio(above: Floats, below: Floats) -> Floats:
    ratio: Floats = np.full(np.shape(above), np.nan)
    # Sums of squares of shares: what is below this is rounding of zero.
    np.divide(above, below, out=ratio, where=below > 1e-18)
    return ratio


def _agreement_block(sides: Sides, draws: Draws, names: Sequence[str] = AGREEMENT) -> dict[str, Any]:
    if sides.real.shape[1] < 2:
        return _nothing(names, "fewer than two codes")
    return compared(names, agreement, sides, draws)


def compared(
    names: Sequence[str], statistic: bootstrap.Statistic, sides: Sides, draws: Draws
) -> dict[str, Any]:
    """The named statistics of synthetic and ceiling against real, and the interval of their difference.

    Returns:
        {name: value, "ceiling": {name: value}, "difference": {name: {value, interval}}}: the
        difference is synthetic minus ceiling. With a `reason` if anything in it is null.
    """
    real, synthetic, ceiling = sides.means()
    values, best = statistic(real, synthetic), statistic(real, ceiling)
    drawn = bootstrap.difference_draws(statistic, sides, generator=draws.generator, resamples=draws.resamples)
    difference = {
        name: {
            "value": bootstrap.number(values[place] - best[place]),
            "interval": bootstrap.centred(drawn[:, place], values[place] - best[place]),
        }
        for place, name in enumerate(names)
    }
    block: dict[str, Any] = {
        **{name: bootstrap.number(values[place]) for place, name in enumerate(names)},
        "ceiling": {name: bootstrap.number(best[place]) for place, name in enumerate(names)},
        "difference": difference,
    }
    if np.isnan(values).any() or np.isnan(best).any() or np.isnan(drawn).any():
        block["reason"] = "the counts of one cohort, or of a resample of it, do not vary"
    return block


def _nothing(names: Sequence[str], reason: str) -> dict[str, Any]:
    return {
        **dict.fromkeys(names),
        "ceiling": dict.fromkeys(names),
        "difference": dict.fromkeys(names),
        "reason": reason,
    }


# --- prevalence --------------------------------------------------------------------------------


def prevalence(ever: Sides, cohorts: Cohorts, draws: Draws) -> dict[str, Any]:
    """Agreement over the vocabulary's codes, the same by stratum, and the points of the scatter.

    Strata by training prevalence: head from 1 %, torso from 0.1 %, tail below. `points` lists
    the codes that anyone has, by code, with the *number* of real and of synthetic patients, so
    that a page can hide counts below 11; divided by `patients` they are the prevalences.
    """
    known = ever.columns(cohorts.known)
    levels = cohorts.training_prevalence[cohorts.known]
    masks = {
        "head": levels >= HEAD,
        "torso": (levels >= TORSO) & (levels < HEAD),
        "tail": levels < TORSO,
    }
    return {
        "n_codes": int(cohorts.known.sum()),
        **_agreement_block(known, draws),
        "strata": {
            name: {"n_codes": int(mask.sum()), **_agreement_block(known.columns(mask), draws)}
            for name, mask in masks.items()
        },
        "points": _points(known, np.array(cohorts.real.catalogue)[cohorts.known]),
        "patients": _patients(cohorts),
    }


def _points(known: Sides, codes: Any) -> dict[str, list[Any]]:
    real, synthetic = totals(known.real), totals(known.synthetic)
    seen = (real + synthetic) > 0
    return {
        "code": codes[seen].tolist(),
        "real": real[seen].tolist(),
        "synthetic": synthetic[seen].tolist(),
    }


def conditional_prevalence(ever: Sides, cohorts: Cohorts, draws: Draws) -> dict[str, Any]:
    """Agreement over the head codes among patients of one sex or one age band at first visit."""
    head = ever.columns(cohorts.known & (cohorts.training_prevalence >= HEAD))
    everyone = (cohorts.real, cohorts.synthetic, cohorts.ceiling)
    sexes = {name: [side.gender == name for side in everyone] for name in ("M", "F")}
    bands = {name: [side.age_band == place for side in everyone] for place, name in enumerate(AGE_BANDS)}
    return {
        "sex": {name: _group(head, rows, draws) for name, rows in sexes.items()},
        "age_band": {name: _group(head, rows, draws) for name, rows in bands.items()},
    }


def _group(head: Sides, rows: Sequence[Bools], draws: Draws) -> dict[str, Any]:
    sizes = [int(chosen.sum()) for chosen in rows]
    patients = dict(zip(("real", "synthetic", "ceiling"), sizes, strict=True))
    if min(sizes) < MIN_GROUP:
        return {"patients": patients, **_nothing(AGREEMENT, f"fewer than {MIN_GROUP} patients on one side")}
    sides = Sides(head.real[rows[0]], head.synthetic[rows[1]], head.ceiling[rows[2]])
    return {"patients": patients, **_agreement_block(sides, draws)}


def distinct_codes(ever: Sides) -> dict[str, Any]:
    """Number of different codes that each cohort has; it grows with the number of patients."""
    real, synthetic, ceiling = (
        int((totals(side) > 0).sum()) for side in (ever.real, ever.synthetic, ever.ceiling)
    )
    return {
        "real": real,
        "synthetic": synthetic,
        "ceiling": ceiling,
        "interval": None,
        "reason": "a resample of patients never holds a code that they do not have",
    }


# --- lengths -----------------------------------------------------------------------------------


def length(cohorts: Cohorts, name: str, draws: Draws) -> dict[str, Any]:
    """Distribution of visits per patient or of codes per visit.

    `total_variation` is half the sum over lengths of |share in real - share in the other|: 0 for
    equal distributions, 1 for disjoint ones. Shares are of patients, or of visits. `histogram`
    has their numbers by length.
    """
    most = max(int(_lengths(side, name).max()) for side in (cohorts.real, cohorts.synthetic, cohorts.ceiling))
    sides = Sides(*(_length_counts(side, name, most) for side in _each(cohorts)))
    block = compared(("total_variation",), total_variation, sides, draws)
    counts = {
        "real": totals(sides.real),
        "synthetic": totals(sides.synthetic),
        "ceiling": totals(sides.ceiling),
    }
    return {
        **block,
        "mean": {side: float(many @ np.arange(most + 1) / many.sum()) for side, many in counts.items()},
        "histogram": {side: _histogram(many) for side, many in counts.items()},
    }


def _histogram(counts: Ints) -> dict[str, int]:
    """Patients or visits by length, lengths that occur."""
    return {str(at): int(counts[at]) for at in np.flatnonzero(counts)}


def total_variation(real: Floats, other: Floats) -> Floats:
    """[..., 1] half the absolute difference of the shares behind the counts [..., L]."""
    shares = [counts / counts.sum(axis=-1, keepdims=True) for counts in (real, other)]
    return np.asarray(0.5 * np.abs(shares[0] - shares[1]).sum(axis=-1, keepdims=True))


def _each(cohorts: Cohorts) -> tuple[Patients, Patients, Patients]:
    return cohorts.real, cohorts.synthetic, cohorts.ceiling


def _lengths(patients: Patients, name: str) -> Ints:
    return patients.visits if name == "visits_per_patient" else patients.visit_codes


def _length_counts(patients: Patients, name: str, most: int) -> Matrix:
    """[B, most + 1] how many things of each length the patient has: one, or one per visit."""
    lengths = _lengths(patients, name)
    rows = np.arange(len(patients)) if name == "visits_per_patient" else patients.patient_of_visit
    return counted(rows, lengths, (len(patients), most + 1))


# --- pairs -------------------------------------------------------------------------------------


def pairs(cohorts: Cohorts, draws: Draws, pair_min_patients: int) -> dict[str, Any]:
    """Agreement of the shares of patients with two codes in one visit, and with one code in a
    visit and another (or the same) in the next, over the pairs that at least
    `pair_min_patients` real patients have.
    """
    blocks = {}
    for name in ("same_visit", "next_visit"):
        sides = pair_sides(*_each(cohorts), name=name, min_patients=pair_min_patients)
        count = int(sides.real.shape[1])
        if count < 2:
            reason = f"fewer than two pairs in {pair_min_patients} real patients or more"
            blocks[name] = {"pairs": count, **_nothing(AGREEMENT, reason)}
        else:
            blocks[name] = {"pairs": count, **compared(AGREEMENT, agreement, sides, draws)}
    return blocks
