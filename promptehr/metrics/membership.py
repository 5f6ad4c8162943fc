"""Membership attack: can one tell who was in the training set from distances to a published set?

Works on distances [M] of members and of as many non-members; a smaller one says "member".
"""

from typing import Any

import numpy as np

from promptehr.metrics import bootstrap
from promptehr.metrics.incidence import Floats, Ints

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
    caught, accused = _at_each_distance(members, others)
    auc, tpr = _rates(caught, accused)
    drawn = [
        _rates(*(generator.multinomial(side.sum(), side / side.sum(), count) for side in (caught, accused)))
        for count in bootstrap.blocks(resamples, "membership")
    ]
    aucs, tprs = np.concatenate(drawn, axis=1)
    return {
        "members": len(members),
        "non_members": len(others),
        "auc": float(auc),
        "auc_interval": bootstrap.interval(aucs),
        "tpr_at_1_percent_fpr": float(tpr),
        "tpr_interval": bootstrap.interval(tprs),
        "p_value": p_value(members, others, resamples=resamples, generator=generator),
    }


def p_value(members: Floats, others: Floats, *, resamples: int, generator: np.random.Generator) -> float:
    """Permutation p-value of the TPR at 1 % FPR."""
    caught, accused = _at_each_distance(members, others)
    measured = _rates(caught, accused)[1]
    # The last place of each distance in the order of all distances.
    ends = np.cumsum(caught + accused) - 1
    is_member = np.arange(len(members) + len(others)) < len(members)
    as_high = 0
    for count in bootstrap.blocks(resamples, "membership, relabelled"):
        shuffled = generator.permuted(np.tile(is_member, (count, 1)), axis=1)
        so_far = np.cumsum(shuffled, axis=1)[:, ends]
        relabelled = np.diff(so_far, axis=1, prepend=0)
        as_high += int((_rates(relabelled, caught + accused - relabelled)[1] >= measured).sum())
    return (as_high + 1) / (resamples + 1)


def rates(members: Floats, others: Floats) -> tuple[float, float]:
    """AUC and TPR at 1 % FPR."""
    auc, tpr = _rates(*_at_each_distance(members, others))
    return float(auc), float(tpr)


def _at_each_distance(members: Floats, others: Floats) -> tuple[Ints, Ints]:
    """[D] numbers of members and of non-members at each distance, nearest first."""
    levels, place = np.unique(np.concatenate([members, others]), return_inverse=True)
    caught, accused = np.split(place, [len(members)])
    return np.bincount(caught, minlength=len(levels)), np.bincount(accused, minlength=len(levels))


def _rates(caught: Ints, accused: Ints) -> tuple[Floats, Floats]:
    """AUC and TPR at 1 % FPR from numbers [..., D] at each distance, nearest first."""
    true_rate, false_rate = _rising(caught), _rising(accused)
    area = (np.diff(false_rate) * (true_rate[..., 1:] + true_rate[..., :-1]) / 2).sum(axis=-1)
    # Where the curve rises straight up, the highest point at that false rate counts.
    at = (false_rate <= FPR).sum(axis=-1, keepdims=True) - 1
    low, high = (np.take_along_axis(false_rate, place, axis=-1) for place in (at, at + 1))
    below, above = (np.take_along_axis(true_rate, place, axis=-1) for place in (at, at + 1))
    return area, (below + (FPR - low) / (high - low) * (above - below))[..., 0]


def _rising(counts: Ints) -> Floats:
    """[..., D + 1] share of the counts up to each distance, from 0 to 1."""
    so_far = np.cumsum(counts, axis=-1) / counts.sum(axis=-1, keepdims=True)
    return np.concatenate([np.zeros_like(so_far[..., :1]), so_far], axis=-1)
