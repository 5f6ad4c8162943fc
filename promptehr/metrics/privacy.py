"""What synthetic patients give away about the training patients.

Turns three sets of records (synthetic, training, held-out: valid and test) into attacks, planted
controls and a gate. Distances are Jaccard distances of the records' sets of codes; demographics
are never compared. Held-out patients come from the same hospital as the training ones and were
seen by no generator: what an attack finds about them, it finds by chance. Of large cohorts an attack
asks about a draw of patients, and looks for them where it would look for all: power is kept, and
time grows with the patients instead of with their square. Exact copies are looked for among all.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from promptehr.metrics import bootstrap
from promptehr.metrics.attributes import attributes
from promptehr.metrics.controls import LEVEL, controls, doubt
from promptehr.metrics.incidence import Floats, Ints
from promptehr.metrics.membership import attack
from promptehr.metrics.neighbours import nearest
from promptehr.metrics.records import Records, at_most, copies, rows_at_most

QUANTILES = (5, 25, 50, 75, 95)
RULE = (
    "Failed if long synthetic records equal training records more often than held-out records do"
    " (one-sided 99 %), or if the TPR at 1 % FPR of the membership attack is above chance (permutation"
    " p <= 0.01). Null if the membership attack has too few patients and no copies are found, or if the"
    " planted controls do not come out right: of 20 repeats an honest publisher may be flagged in 2, one"
    " that copies 5 % of the training records must be in 18, one that copies them all in 20."
    " Passed otherwise."
)


def privacy(
    synthetic: Records,
    train: Records,
    held_out: Records,
    *,
    min_members: int,
    attacked_patients: int,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """All privacy numbers and the gate.

    Args:
        synthetic: Patients under judgement.
        train: Patients the generator saw.
        held_out: Patients it did not see.
        min_members: Members and non-members that the membership attack needs.
        attacked_patients: Patients of each set, at most, that an attack asks about.
        resamples: Resamples and relabellings behind intervals and p-values.
        seed: Of all draws; every metric starts anew from it.
    """
    copied = copies(synthetic, train, held_out)
    options = {"most": attacked_patients, "resamples": resamples, "seed": seed}
    attacked = membership(synthetic, train, held_out, min_members=min_members, **options)
    if attacked["alarm"] is None:
        planted: dict[str, Any] = {"controls": None, "reason": attacked["reason"]}
    else:
        planted = {"controls": _planted(train, held_out, most=attacked_patients, seed=seed)}
    return {
        "patients": {"synthetic": len(synthetic), "train": len(train), "held_out": len(held_out)},
        "copies": copied,
        "membership": attacked,
        "distances": distances(synthetic, train, held_out, **options),
        "adversarial_accuracy": adversarial_accuracy(synthetic, train, held_out, **options),
        "attributes": attributes(synthetic, train, held_out, **options),
        "planted": planted,
        "gate": gate(copied, attacked, planted),
    }


def gate(copied: dict[str, Any], attacked: dict[str, Any], planted: dict[str, Any]) -> dict[str, Any]:
    """Whether the patients may pass as not copied: RULE says when; null beside the reason."""
    alarms = [name for name, one in (("copies", copied), ("membership", attacked)) if one["alarm"]]
    unknown = next((one["reason"] for one in (copied, attacked) if one["alarm"] is None), None)
    unproven = None if planted["controls"] is None else doubt(planted["controls"])
    judged = {"rule": RULE, "alarms": alarms}
    if unproven or (unknown and not alarms):
        return {**judged, "passed": None, "reason": unproven or unknown}
    return {**judged, "passed": not alarms}


def _planted(train: Records, held_out: Records, *, most: int, seed: int) -> dict[str, Any]:
    """The planted controls; half of the held-out patients are released, the others asked about."""
    generator = np.random.default_rng(seed)
    known = at_most(2 * most, held_out, generator)
    return controls(train, known, nearest(known.ever, train.ever), generator)


def membership(
    synthetic: Records,
    train: Records,
    held_out: Records,
    *,
    min_members: int,
    most: int,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The attack of `metrics.membership` by distance to the nearest synthetic patient.

    Members are a draw from the long training records, non-members one as large from the long
    held-out ones, `most` at most. Records of fewer codes are shared by many patients: they would
    fill the 1 % of false alarms and hide what longer ones give away.
    """
    generator = np.random.default_rng(seed)
    pools = [np.flatnonzero(side.long) for side in (train, held_out)]
    size = min(len(pool) for pool in pools)
    if size < min_members:
        reason = f"{size} members and non-members with codes enough, {min_members} are needed"
        nothing = dict.fromkeys(
            ("auc", "auc_interval", "tpr_at_1_percent_fpr", "tpr_interval", "p_value", "alarm")
        )
        return {"members": size, "non_members": size, **nothing, "reason": reason}
    members, others = (np.sort(generator.permutation(pool)[: min(size, most)]) for pool in pools)
    result = attack(
        nearest(train.ever[members], synthetic.ever),
        nearest(held_out.ever[others], synthetic.ever),
        resamples=resamples,
        seed=seed,
    )
    return {**result, "alarm": result["p_value"] <= LEVEL}


# --- nearest neighbours ------------------------------------------------------------------------


def distances(
    synthetic: Records, train: Records, held_out: Records, *, most: int, resamples: int, seed: int
) -> dict[str, Any]:
    """Distance to the nearest neighbour among equally many training and held-out patients.

    Of synthetic patients, and for comparison of held-out ones, `most` at most.

    `closer_to_train` is the share of synthetic patients nearer to a training than to a held-out
    patient, ties one half, with a 95 % interval over synthetic patients: 0.5 if nothing leaks,
    1 for copies of the drawn training patients, between
    them for copies of others too. `held_out_to_train` is what distances between real patients are.
    """
    generator = np.random.default_rng(seed)
    size = min(len(train), len(held_out))
    ours, theirs = (at_most(size, side, generator) for side in (train, held_out))
    asked, others = (at_most(most, side, generator) for side in (synthetic, theirs))
    to_train, to_held_out = nearest(asked.ever, ours.ever), nearest(asked.ever, theirs.ever)
    nearer = (to_train < to_held_out) + 0.5 * (to_train == to_held_out)
    means = _resampled_mean(nearer, generator, resamples)
    return {
        "synthetic": len(asked),
        "neighbours": size,
        "synthetic_to_train": _spread(to_train),
        "synthetic_to_held_out": _spread(to_held_out),
        "held_out_to_train": _spread(nearest(others.ever, ours.ever)),
        "closer_to_train": {"value": float(nearer.mean()), "interval": bootstrap.interval(means)},
    }


def adversarial_accuracy(
    synthetic: Records, train: Records, held_out: Records, *, most: int, resamples: int, seed: int
) -> dict[str, Any]:
    """Nearest-neighbour adversarial accuracy (Yale et al. 2020), among equally many of each.

    Asked are all of them, or a draw of `most`.

    Against a set R: half the share of patients of R whose nearest synthetic patient is farther
    than their nearest other patient of R, plus half the same with the roles changed; ties one
    half. 0.5 if the two cannot be told apart, 0 if each has its copy in the other, 1 if they lie
    apart. `privacy_loss` is held-out minus training: 0 if nothing leaks, up to 0.5 for
    copies, less as the drawn synthetic patients copy others than the drawn training ones.
    Intervals resample patients with their distances as they are.
    """
    generator = np.random.default_rng(seed)
    size = min(len(synthetic), len(train), len(held_out))
    if size < 2:
        nothing = dict.fromkeys(("train", "held_out", "privacy_loss"))
        return {"patients": size, "asked": 0, **nothing, "reason": "fewer than two patients in one set"}
    fake, ours, theirs = (at_most(size, side, generator) for side in (synthetic, train, held_out))
    asked = rows_at_most(most, size, generator)
    apart = nearest(fake.ever[asked], fake.ever, own=asked)
    sides = {
        name: _told_apart(fake, real, apart, asked) for name, real in (("train", ours), ("held_out", theirs))
    }
    resampled = _resampled_accuracies(sides, len(asked), generator, resamples)
    value = {name: float((of_real.mean() + of_fake.mean()) / 2) for name, (of_real, of_fake) in sides.items()}
    value["privacy_loss"] = value["held_out"] - value["train"]
    resampled["privacy_loss"] = resampled["held_out"] - resampled["train"]
    return {
        "patients": size,
        "asked": len(asked),
        **{
            name: {"value": value[name], "interval": bootstrap.interval(resampled[name])}
            for name in resampled
        },
    }


def _told_apart(fake: Records, real: Records, fake_apart: Floats, asked: Ints) -> tuple[Floats, Floats]:
    """[n] of the asked rows, real and synthetic: 1 farther from the other set, one half for ties."""
    real_apart = nearest(real.ever[asked], real.ever, own=asked)
    across_real = nearest(real.ever[asked], fake.ever)
    across_fake = nearest(fake.ever[asked], real.ever)
    return (
        (across_real > real_apart) + 0.5 * (across_real == real_apart),
        (across_fake > fake_apart) + 0.5 * (across_fake == fake_apart),
    )


def _resampled_accuracies(
    sides: Mapping[str, tuple[Floats, Floats]], asked: int, generator: np.random.Generator, resamples: int
) -> dict[str, Floats]:
    """[resamples] accuracy against each set.

    One resample of the synthetic patients serves both sets, so that it cancels in the loss.
    """
    accuracies = []
    for count in bootstrap.blocks(resamples, "adversarial accuracy"):
        weights = bootstrap.weights(generator, asked, count) / asked
        fresh = {name: bootstrap.weights(generator, asked, count) / asked for name in sides}
        accuracies.append(
            [(fresh[name] @ of_real + weights @ of_fake) / 2 for name, (of_real, of_fake) in sides.items()]
        )
    return dict(zip(sides, np.concatenate(accuracies, axis=1), strict=True))


def _resampled_mean(values: Floats, generator: np.random.Generator, resamples: int) -> Floats:
    """[resamples] mean of resampled values, each drawn as often as it occurs."""
    levels, counts = np.unique(values, return_counts=True)
    sums: Floats = generator.multinomial(len(values), counts / len(values), size=resamples) @ levels
    return sums / len(values)


def _spread(distance: Floats) -> dict[str, Any]:
    """Mean, quantiles and the share that is 0."""
    quantiles = np.percentile(distance, QUANTILES)
    return {
        "mean": float(distance.mean()),
        "quantiles": {str(at): float(value) for at, value in zip(QUANTILES, quantiles, strict=True)},
        "zero": float((distance == 0.0).mean()),
    }
