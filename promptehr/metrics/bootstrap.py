"""Intervals: patient bootstraps and score intervals of shares.

Works on arrays and matrices whose rows are patients; knows no metric and no record.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from promptehr import progress
from promptehr.metrics.incidence import Floats, Matrix

BLOCK = 50  # resamples that a statistic is computed of at once
COUNTS = 10_000_000  # patients times resamples whose means are formed at once, at the most, or one resample
Z95 = 1.959963984540054

Statistic = Callable[[Floats, Floats], Floats]


@dataclass(frozen=True)
class Sides:
    """The same F things counted per patient in three cohorts; each [patients, F].

    Attributes:
        real: Real test patients, the truth.
        synthetic: Synthetic patients.
        ceiling: Real training patients, as many as synthetic ones where there are enough.
    """

    real: Matrix
    synthetic: Matrix
    ceiling: Matrix

    def columns(self, chosen: Any) -> "Sides":
        return Sides(self.real[:, chosen], self.synthetic[:, chosen], self.ceiling[:, chosen])

    def means(self) -> tuple[Floats, Floats, Floats]:
        """Mean count per patient of each cohort, each [F]."""
        real, synthetic, ceiling = (
            np.asarray(side.mean(axis=0)).ravel() for side in (self.real, self.synthetic, self.ceiling)
        )
        return real, synthetic, ceiling


def weights(generator: np.random.Generator, patients: int, resamples: int) -> Floats:
    """[resamples, patients] how often each patient is drawn when as many as there are are drawn."""
    counts = np.empty((resamples, patients))
    for row in counts:
        row[:] = np.bincount(generator.integers(patients, size=patients), minlength=patients)
    return counts


def resampled_means(generator: np.random.Generator, matrix: Matrix, resamples: int) -> Floats:
    """[resamples, F] mean count per patient of resampled cohorts."""
    patients, transposed = matrix.shape[0], matrix.T
    at_once = max(1, COUNTS // patients)
    drawn = [
        (transposed @ weights(generator, patients, min(at_once, resamples - start)).T).T / patients
        for start in range(0, resamples, at_once)
    ]
    return np.concatenate(drawn)


def difference_draws(
    statistic: Statistic, sides: Sides, *, generator: np.random.Generator, resamples: int
) -> Floats:
    """[resamples, S] bootstrap draws of statistic(real, synthetic) - statistic(real, ceiling).

    Each draw resamples the patients of the three cohorts independently and uses one and the same
    resample of the real ones on both sides of the difference: a resample has more sampling noise
    than its cohort and shifts the statistic; in the difference most of that shift cancels.

    Args:
        statistic: From means per patient [R, F] of real and of other patients to [R, S].
        sides: The three cohorts.
        generator: Source of the draws.
        resamples: Number of draws.
    """
    drawn = []
    patients, columns = sides.synthetic.shape
    for count in blocks(resamples, f"{columns:,} columns of {patients:,} patients"):
        real = resampled_means(generator, sides.real, count)
        synthetic = resampled_means(generator, sides.synthetic, count)
        ceiling = resampled_means(generator, sides.ceiling, count)
        drawn.append(statistic(real, synthetic) - statistic(real, ceiling))
    return np.concatenate(drawn)


def blocks(resamples: int, what: str) -> Iterator[int]:
    """Sizes of at most BLOCK that sum to resamples; the log says how far they are, and of what."""
    sizes = [min(BLOCK, resamples - start) for start in range(0, resamples, BLOCK)]
    return progress.steps(sizes, total=len(sizes), what=f"blocks of resamples, {what}")


def interval(draws: Floats) -> list[float] | None:
    """2.5th and 97.5th percentile of the draws [R]; None if a draw has no value."""
    if np.isnan(draws).any():
        return None
    low, high = np.percentile(draws, [2.5, 97.5])
    return [float(low), float(high)]


def centred(draws: Floats, value: float) -> list[float] | None:
    """`interval` of the draws, moved so that their mean is the value measured.

    What shift remains in the draws says that they resample, not what the cohorts are: a ceiling
    that has every code of the vocabulary loses some in each resample, a synthetic cohort fewer.
    """
    return interval(draws - draws.mean() + value)


def number(value: Any) -> float | None:
    """A float, or None for one that has no value: NaN never leaves a metric."""
    return None if np.isnan(value) else float(value)


def wilson(successes: int, trials: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share; for 0 of n it is [0, z^2 / (n + z^2)]. Needs trials > 0."""
    share, square = successes / trials, z * z
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    spread = z * np.sqrt(share * (1 - share) / trials + square / (4 * trials**2)) / (1 + square / trials)
    return max(0.0, float(centre - spread)), min(1.0, float(centre + spread))


def newcombe(
    successes: int, trials: int, other_successes: int, other_trials: int, z: float = Z95
) -> tuple[float, float]:
    """Newcombe's hybrid score interval of the difference share - other share (1998, method 10)."""
    share, other = successes / trials, other_successes / other_trials
    low, high = wilson(successes, trials, z)
    other_low, other_high = wilson(other_successes, other_trials, z)
    return (
        float(share - other - np.hypot(share - low, other_high - other)),
        float(share - other + np.hypot(high - share, other - other_low)),
    )
