"""Attribute inference: can the rare codes of a training patient be guessed from the frequent ones?

The attacker knows which frequent codes a training patient has, takes the published patient who is
nearest in these, and says that the patient has that one's rare codes. What the same attack finds
among as many held-out patients is knowledge about people, not about this one: only the excess
over it counts.
"""

from typing import Any

import numpy as np

from promptehr.metrics import bootstrap
from promptehr.metrics.incidence import Bools, Floats, Matrix
from promptehr.metrics.neighbours import nearest_row
from promptehr.metrics.records import Records, at_most

FREQUENT = 0.01  # share of the training patients from which on a code counts as known


def attributes(
    synthetic: Records, train: Records, held_out: Records, *, most: int, resamples: int, seed: int
) -> dict[str, Any]:
    """F1 of the guessed rare codes of all attacked patients together, and its excess.

    Attacked are training patients with a frequent code and a rare one, `most` at most; published are
    equally many synthetic and held-out patients. F1 = 2 x right / (guessed + rare codes there are): 0 if no
    guess is right, 1 if all are and none is missing, near 1 for published training records as
    far as the drawn ones are those attacked. Intervals resample the attacked patients.
    """
    generator = np.random.default_rng(seed)
    known = np.asarray(train.ever.mean(axis=0)).ravel() >= FREQUENT
    targets = at_most(most, train.rows(_attackable(train.ever, known)), generator)
    size = min(len(synthetic), len(held_out))
    attacked = {"attacked": len(targets), "published": size}
    if not len(targets) or not size:
        nothing = dict.fromkeys(("synthetic", "held_out", "excess", "interval"))
        return {**attacked, **nothing, "reason": "no patient to attack, or none published"}
    counts = {}
    for name, side in (("synthetic", synthetic), ("held_out", held_out)):
        counts[name] = guesses(targets.ever, at_most(size, side, generator).ever, known)
    excesses = _excess_draws(counts["synthetic"], counts["held_out"], generator, resamples)
    values = {name: float(f1(found.sum(axis=0))) for name, found in counts.items()}
    return {
        **attacked,
        **values,
        "excess": values["synthetic"] - values["held_out"],
        "interval": bootstrap.interval(excesses),
    }


def guesses(targets: Matrix, published: Matrix, known: Bools) -> Floats:
    """[T, 3] of each attacked patient: codes guessed rightly, guessed, and there to be guessed."""
    row = nearest_row(targets[:, known], published[:, known])
    rare, theirs = targets[:, ~known], published[:, ~known][np.maximum(row, 0)]
    guessed = np.where(row < 0, 0.0, _row_sums(theirs))
    right = np.where(row < 0, 0.0, _row_sums(rare.multiply(theirs)))
    return np.column_stack([right, guessed, _row_sums(rare)])


def f1(counts: Floats) -> Floats:
    """[...] from counts [..., 3]: right, guessed, there."""
    return np.asarray(2 * counts[..., 0] / (counts[..., 1] + counts[..., 2]))


def _attackable(ever: Matrix, known: Bools) -> Bools:
    return (_row_sums(ever[:, known]) > 0) & (_row_sums(ever[:, ~known]) > 0)


def _excess_draws(ours: Floats, theirs: Floats, generator: np.random.Generator, resamples: int) -> Floats:
    """[resamples] excess among resampled patients, the same for both sides."""
    excesses = []
    for count in bootstrap.blocks(resamples, "guessed codes"):
        weights = bootstrap.weights(generator, len(ours), count)
        excesses.append(f1(weights @ ours) - f1(weights @ theirs))
    return np.concatenate(excesses)


def _row_sums(matrix: Matrix) -> Floats:
    return np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
