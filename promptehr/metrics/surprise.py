"""How probable generated patients are under the process that made the real ones.

Works on log-probabilities of whole patients; knows no process. Too improbable patients are wrong,
too probable ones are all alike: right is what new patients of the process have themselves.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from promptehr.metrics import bootstrap
from promptehr.metrics.incidence import Floats, Ints


@dataclass(frozen=True)
class Scored:
    """B patients.

    Attributes:
        log_prob: [B] natural-log probability of the patient's record given its demographics;
            minus infinity where the process cannot produce it.
        codes: [B] codes of the record.
    """

    log_prob: Floats
    codes: Ints

    @property
    def possible(self) -> "Scored":
        some = np.isfinite(self.log_prob)
        return Scored(self.log_prob[some], self.codes[some])


def surprise(
    synthetic: Scored, new: Scored, *, generator: np.random.Generator, resamples: int
) -> dict[str, Any]:
    """Nats per code of synthetic patients, of new ones of the process, and their difference.

    Nats per code = - sum of log-probabilities / sum of codes, over patients that the process can
    produce; `impossible` is the share of the others, 0 for new patients. The difference is
    synthetic minus new: 0 for the process itself, above it for patients whose codes do not belong
    together, below it for a generator that knows only the commonest kinds. 95 % intervals
    resample patients.
    """
    sides = {"synthetic": synthetic, "new": new}
    if not all(len(side.possible.codes) for side in sides.values()):
        nothing = dict.fromkeys(("synthetic", "new", "difference"))
        return {**nothing, "reason": "the process can produce none of the patients"}
    drawn = {name: _draws(side.possible, generator, resamples) for name, side in sides.items()}
    difference = drawn["synthetic"] - drawn["new"]
    return {
        **{
            name: {**_block(side), "interval": bootstrap.interval(drawn[name])}
            for name, side in sides.items()
        },
        "difference": {
            "value": _per_code(synthetic.possible) - _per_code(new.possible),
            "interval": bootstrap.interval(difference),
        },
    }


def _block(scored: Scored) -> dict[str, Any]:
    return {
        "patients": len(scored.codes),
        "impossible": float(1.0 - np.isfinite(scored.log_prob).mean()),
        "nats_per_code": _per_code(scored.possible),
    }


def _per_code(scored: Scored) -> float:
    return float(-scored.log_prob.sum() / scored.codes.sum())


def _draws(scored: Scored, generator: np.random.Generator, resamples: int) -> Floats:
    """[resamples] nats per code of resampled patients."""
    drawn = []
    for count in bootstrap.blocks(resamples, "nats per code"):
        weights = bootstrap.weights(generator, len(scored.codes), count)
        drawn.append(-(weights @ scored.log_prob) / (weights @ scored.codes))
    return np.concatenate(drawn)
