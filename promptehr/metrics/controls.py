"""Planted controls: what the privacy attacks say of publishers whose conduct is known.

Turns training and held-out patients into synthetic sets that copy a known share of the training
records, and counts how often the attacks raise an alarm. Never sees the patients under judgement.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from promptehr import progress
from promptehr.metrics.incidence import Bools, Floats, Ints
from promptehr.metrics.membership import p_value
from promptehr.metrics.neighbours import nearest
from promptehr.metrics.records import Records, copies_alarm

SHARES = (0.0, 0.01, 0.02, 0.05, 1.0)
REPEATS = 20
RELABELLINGS = 200
LEVEL = 0.01


@dataclass(frozen=True)
class Alarms:
    """Whether each attack raised the alarm."""

    copies: bool
    membership: bool


def controls(
    train: Records, held_out: Records, held_out_to_train: Floats, generator: np.random.Generator
) -> dict[str, Any]:
    """How many of REPEATS planted publishers of each kind raise an alarm, by attack.

    A publisher releases as many patients as `train` has: a random `share` of the training
    records, and for the rest draws from one random half of the held-out ones. The other half are
    the non-members of its attack, beside an equal draw of members. `share` 0 is the honest
    control, 1 the memoriser.

    Args:
        train: Training patients.
        held_out: Patients of the other splits.
        held_out_to_train: [H] distance of each held-out patient to the nearest training one.
        generator: Source of the draws.
    """
    repeats = progress.steps(range(REPEATS), total=REPEATS, what="repeats of the planted publishers")
    raised = [_publishers(train, held_out, held_out_to_train, generator) for _ in repeats]
    return {
        f"{share:g}": {
            "repeats": REPEATS,
            "flagged": sum(one[place].copies or one[place].membership for one in raised),
            "by_copies": sum(one[place].copies for one in raised),
            "by_membership": sum(one[place].membership for one in raised),
        }
        for place, share in enumerate(SHARES)
    }


def _publishers(
    train: Records, held_out: Records, held_out_to_train: Floats, generator: np.random.Generator
) -> list[Alarms]:
    """One publisher per share; a larger share copies what a smaller one copies, and more."""
    order = generator.permutation(len(held_out))
    released, others = np.split(order, [len(held_out) // 2])
    others = others[held_out.long[others]]
    copied = generator.permutation(len(train))
    members = generator.permutation(np.flatnonzero(train.long))[: len(others)]
    asked = (train.rows(members), held_out.rows(others))
    distances = [nearest(side.ever, held_out.ever[released]) for side in asked]
    known = np.isin(held_out.keys, train.keys) & held_out.long
    alarms, done = [], 0
    for share in SHARES:
        count = round(share * len(train))
        if share < 1.0:
            fresh = train.ever[copied[done:count]]
            distances = [
                np.minimum(old, nearest(side.ever, fresh)) for old, side in zip(distances, asked, strict=True)
            ]
        else:
            distances = [np.zeros(len(members)), np.minimum(distances[1], held_out_to_train[others])]
        done = count
        rest = generator.choice(released, len(train) - count)
        alarms.append(
            Alarms(
                _copies(train, held_out, known, copied[:count], rest),
                p_value(*distances, resamples=RELABELLINGS, generator=generator) <= LEVEL,
            )
        )
    return alarms


def _copies(train: Records, held_out: Records, known: Bools, copied: Ints, rest: Ints) -> bool:
    """Whether exact copies give the publisher away; `known` are long held-out records also in training."""
    found = int(train.long[copied].sum() + known[rest].sum())
    of = int(train.long[copied].sum() + held_out.long[rest].sum())
    return copies_alarm(found, of, int(known.sum()), int(held_out.long.sum()))


def doubt(found: dict[str, Any]) -> str | None:
    """Why the controls prove nothing, or None where they show that the attacks work.

    The honest publisher may be flagged in one repeat of ten, the one that copies 5 % must be in
    nine of ten, the memoriser in all.
    """
    needed: Sequence[tuple[str, float, float, str]] = (
        ("0", 0.0, 0.1, "an honest publisher"),
        ("0.05", 0.9, 1.0, "a publisher that copies 5 % of the training records"),
        ("1", 1.0, 1.0, "a publisher of the training records"),
    )
    for share, least, most, who in needed:
        flagged, repeats = found[share]["flagged"], found[share]["repeats"]
        if not least * repeats <= flagged <= most * repeats:
            return f"the attacks flag {who} in {flagged} of {repeats} repeats"
    return None
