"""Membership attack: can one tell who was in the training set from distances to a published set?

Works on distances [M] of members and of as many non-members; a smaller one says "member".
"""

from typing import Any

import numpy as np

from promptehr.metrics import bootstrap
from promptehr.metrics.incidence import Floats

FPR = 0.01


def attack(members: Floats, others: Floats, *, resamples: int, seed: int) -> dict[str, Any]:
    """AUC and TPR at 1 % FPR with 95 % bootstrap intervals, and the p-value of the TPR.

    AUC is the chance that a member is nearer than a non-member, ties one half: 0.5 if nothing
    leaks. TPR at 1 % FPR is the share of members caught by the threshold that accuses 1 % of
    the non-members, read off the ROC curve joined by straight lines (which is ties one half):
    0.01 if nothing leaks, 1 for a published training set. The p-value is the share of `resamples`
    random relabellings (one more for the truth) with a TPR as high: exact if members and
    non-members are alike.
    """
    generator = np.random.default_rng(seed)
    measured = rates(members, others)
    drawn = np.array(
        [
            rates(generator.choice(members, len(members)), generator.choice(others, len(others)))
            for _ in range(resamples)
        ]
    )
    return {
        "members": len(members),
        "non_members": len(others),
        "auc": measured[0],
        "auc_interval": bootstrap.interval(drawn[:, 0]),
        "tpr_at_1_percent_fpr": measured[1],
        "tpr_interval": bootstrap.interval(drawn[:, 1]),
        "p_value": p_value(members, others, resamples=resamples, generator=generator),
    }


def p_value(members: Floats, others: Floats, *, resamples: int, generator: np.random.Generator) -> float:
    """Permutation p-value of the TPR at 1 % FPR."""
    measured = rates(members, others)[1]
    levels, place = np.unique(np.concatenate([members, others]), return_inverse=True)
    as_high = 1
    for _ in range(resamples):
        shuffled = generator.permutation(place)
        caught = np.bincount(shuffled[: len(members)], minlength=len(levels))
        accused = np.bincount(shuffled[len(members) :], minlength=len(levels))
        as_high += _rates(caught, accused)[1] >= measured
    return as_high / (resamples + 1)


def rates(members: Floats, others: Floats) -> tuple[float, float]:
    """AUC and TPR at 1 % FPR."""
    levels, place = np.unique(np.concatenate([members, others]), return_inverse=True)
    caught = np.bincount(place[: len(members)], minlength=len(levels))
    accused = np.bincount(place[len(members) :], minlength=len(levels))
    return _rates(caught, accused)


def _rates(caught: Any, accused: Any) -> tuple[float, float]:
    """From numbers of members and of non-members at each distance, nearest first."""
    true_rate = np.concatenate([[0.0], np.cumsum(caught) / caught.sum()])
    false_rate = np.concatenate([[0.0], np.cumsum(accused) / accused.sum()])
    area = np.sum(np.diff(false_rate) * (true_rate[1:] + true_rate[:-1]) / 2)
    # Where the curve rises straight up, the highest point at that false rate counts.
    at = int(np.searchsorted(false_rate, FPR, side="right")) - 1
    step = (FPR - false_rate[at]) / (false_rate[at + 1] - false_rate[at])
    return float(area), float(true_rate[at] + step * (true_rate[at + 1] - true_rate[at]))
