"""What synthetic patients teach: train on synthetic, test on real (TSTR).

Turns first visits into tasks, one per chronic CCS group, and tasks into AUROC and AUPRC of three
logistic regressions, all tested on the same real patients: `synthetic` (trained on synthetic
patients), `real` (the ceiling: on as many real training patients) and `baseline` (on those real
patients' age and sex only). Knows groups of codes, not where they come from.

A task asks whether the first visit has a code of its group, from sex, age and the visit's codes
outside the group's CCS chapter, in which the group lies: otherwise the label were among the
features. The penalty is L2 with C = 1 on 0/1 features and age / 100, and a hundredth of it on
the squared intercept.

    AUROC  chance that a random positive scores above a random negative, ties one half: 0.5 by chance
    AUPRC  average precision, sum over score levels of (gain in recall) x precision: prevalence by chance

Intervals are 95 %, over resamples of the test patients, the same for all tasks and models:
they cover the sampling of the test set, not that of training or generation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from promptehr import progress
from promptehr.icd9 import Group
from promptehr.metrics import bootstrap
from promptehr.metrics.incidence import AGE_BANDS, Bools, Floats, Matrix, Patients

PENALTY_C = 1.0
TRAINED_ON = ("synthetic", "real", "baseline")
MEASURES = ("auroc", "auprc")


@dataclass(frozen=True)
class Visits:
    """First visits of B patients: who they are [B, D] and which codes they have [B, K]."""

    demographics: Matrix
    codes: Matrix

    def __len__(self) -> int:
        return int(self.codes.shape[0])

    @classmethod
    def first(cls, patients: Patients) -> "Visits":
        """Columns of demographics: male, female, one per age band, age / 100."""
        sexes = [patients.gender == "M", patients.gender == "F"]
        bands = [patients.age_band == place for place in range(len(AGE_BANDS))]
        columns = np.column_stack([*sexes, *bands, patients.age / 100.0]).astype(np.float64)
        return cls(sparse.csr_array(columns), patients.in_first_visit())


@dataclass(frozen=True)
class Task:
    """Predict one group: its number and name, its codes and those that may be features, each [K]."""

    ccs: int
    title: str
    parent: str
    label_codes: Bools
    feature_codes: Bools

    def labels(self, visits: Visits) -> Bools:
        return np.asarray(visits.codes[:, self.label_codes].sum(axis=1)).ravel() > 0

    def features(self, visits: Visits) -> Matrix:
        return sparse.hstack([visits.demographics, visits.codes[:, self.feature_codes]], format="csr")


@dataclass(frozen=True)
class Scored:
    """One task's test labels [B] and the scores [B] of each model, or why there are none."""

    task: Task
    positives: Mapping[str, int]
    labels: Bools
    scores: Mapping[str, Floats]
    reason: str | None


def tasks(train: Visits, found: Sequence[Group | None], *, count: int) -> tuple[Task, ...]:
    """The `count` chronic groups that most real training patients have in the first visit.

    Args:
        train: First visits of the real training patients.
        found: [K] group of each column's code, None where it has none. A code is of a chronic
            group when it is chronic itself, so a group's acute codes are neither label nor feature.
        count: Groups wanted; ties go to the lower number.
    """
    chronic = {group.ccs: group for group in found if group is not None and group.chronic}
    candidates = [_task(group, found) for _, group in sorted(chronic.items())]
    frequency = [-int(task.labels(train).sum()) for task in candidates]
    order = np.argsort(frequency, kind="stable")[:count]
    return tuple(candidates[place] for place in order)


def _task(group: Group, found: Sequence[Group | None]) -> Task:
    label = [other is not None and other.ccs == group.ccs and other.chronic for other in found]
    # A code without a group has no known chapter: it may well be a short form of the label (250).
    feature = [other is not None and other.parent != group.parent for other in found]
    return Task(group.ccs, group.label, group.parent, np.array(label), np.array(feature))


def utility(
    synthetic: Visits,
    train: Visits,
    test: Visits,
    chosen: Sequence[Task],
    *,
    min_positives: int,
    train_patients: int,
    generator: np.random.Generator,
    resamples: int,
) -> dict[str, Any]:
    """Every task's numbers and their means; the module says what they are.

    Both classifiers learn from equally many patients: all of the smaller cohort, `train_patients` at
    most, and a draw of as many from the other. A task with fewer than `min_positives` positives or
    negatives in train or test is null with the reason and not in the means. One without positives in
    the synthetic patients stays: their classifier is a constant, with AUROC 0.5.
    """
    size = min(len(synthetic), len(train), train_patients)
    synthetic, train = (_drawn(visits, size, generator) for visits in (synthetic, train))
    in_turn = progress.steps(chosen, total=len(chosen), what="tasks")
    scored = [_score(task, synthetic, train, test, min_positives) for task in in_turn]
    measured = _measured([one for one in scored if one.reason is None], len(test), generator, resamples)
    return {
        "patients": {"synthetic": size, "real": size, "test": len(test)},
        "tasks": {str(one.task.ccs): _report(one, measured.get(one.task.ccs)) for one in scored},
        "macro": _macro(list(measured.values())),
    }


def _drawn(visits: Visits, size: int, generator: np.random.Generator) -> Visits:
    rows = np.sort(generator.permutation(len(visits))[:size])
    return Visits(visits.demographics[rows], visits.codes[rows])


# --- classifiers -------------------------------------------------------------------------------


def _score(task: Task, synthetic: Visits, train: Visits, test: Visits, min_positives: int) -> Scored:
    sides = {"synthetic": synthetic, "real": train, "test": test}
    labels = {name: task.labels(visits) for name, visits in sides.items()}
    positives = {name: int(values.sum()) for name, values in labels.items()}
    fewest = min(min(labels[name].sum(), (~labels[name]).sum()) for name in ("real", "test"))
    if fewest < min_positives:
        reason = f"fewer than {min_positives} positives or negatives in real train or test"
        return Scored(task, positives, labels["test"], {}, reason)
    features = {name: task.features(visits) for name, visits in sides.items()}
    scores = {
        "synthetic": _predicted(features["synthetic"], labels["synthetic"], features["test"]),
        "real": _predicted(features["real"], labels["real"], features["test"]),
        "baseline": _predicted(train.demographics, labels["real"], test.demographics),
    }
    return Scored(task, positives, labels["test"], scores, None)


def _predicted(features: Matrix, labels: Bools, test: Matrix) -> Floats:
    """Log-odds of the test patients; 0 for all where the training labels are all alike."""
    if labels.all() or not labels.any():
        return np.zeros(test.shape[0])
    model = LogisticRegression(C=PENALTY_C, solver="liblinear", max_iter=1000, intercept_scaling=10.0)
    scores: Floats = model.fit(features, labels).decision_function(test)
    return scores


# --- measures ----------------------------------------------------------------------------------


def areas(labels: Bools, scores: Floats, weights: Floats) -> Floats:
    """[R, 2] AUROC and AUPRC of patients weighted [R, B]; NaN where a weighted class is empty."""
    levels, place = np.unique(-scores, return_inverse=True)
    starts = np.searchsorted(place[np.argsort(place, kind="stable")], np.arange(len(levels)))
    order = np.argsort(place, kind="stable")
    weighted, positive = weights[:, order], labels[order]
    hits = np.add.reduceat(weighted * positive, starts, axis=1)
    misses = np.add.reduceat(weighted * ~positive, starts, axis=1)
    hits_so_far = hits.cumsum(axis=1)
    positives, negatives = hits_so_far[:, -1], misses.sum(axis=1)
    drawn = hits_so_far + misses.cumsum(axis=1)
    precision = np.divide(hits_so_far, drawn, out=np.zeros_like(drawn), where=drawn > 0)
    wins = (misses * (hits_so_far - hits / 2)).sum(axis=1)
    return np.column_stack(
        [_share(wins, positives * negatives), _share((hits * precision).sum(axis=1), positives)]
    )


def _share(above: Floats, below: Floats) -> Floats:
    share: Floats = np.full(len(above), np.nan)
    np.divide(above, below, out=share, where=below > 0)
    return share


def _measured(
    scored: Sequence[Scored], patients: int, generator: np.random.Generator, resamples: int
) -> dict[int, Floats]:
    """[1 + R, 3, 2] areas of each model, by task: of the test patients themselves, then of each resample.

    One resample serves all tasks, so that their mean has an interval; few are held at once.
    """
    found: dict[int, list[Floats]] = {one.task.ccs: [] for one in scored}
    blocks = bootstrap.blocks(resamples, f"{len(scored)} tasks")
    drawn = (bootstrap.weights(generator, patients, count) for count in blocks)
    for weights in chain([np.ones((1, patients))], drawn):
        for one in scored:
            sides = [areas(one.labels, one.scores[name], weights) for name in TRAINED_ON]
            found[one.task.ccs].append(np.stack(sides, axis=1))
    return {ccs: np.concatenate(parts) for ccs, parts in found.items()}


def _report(one: Scored, measured: Floats | None) -> dict[str, Any]:
    shown = {
        "title": one.task.title,
        "parent": one.task.parent,
        "positives": dict(one.positives),
        "excluded_codes": int((~one.task.feature_codes).sum()),
    }
    if measured is None:
        return {**shown, **dict.fromkeys((*TRAINED_ON, "difference")), "reason": one.reason}
    return {**shown, **_numbers(measured)}


def _macro(measured: Sequence[Floats]) -> dict[str, Any]:
    """Mean over the tasks, of the test patients and of each resample."""
    if not measured:
        reason = "no task has enough positives"
        return {"n_tasks": 0, **dict.fromkeys((*TRAINED_ON, "difference")), "reason": reason}
    return {"n_tasks": len(measured), **_numbers(np.mean(measured, axis=0))}


def _numbers(measured: Floats) -> dict[str, Any]:
    """By model and for the difference synthetic - real: each measure and its interval."""
    sides = {name: measured[:, place] for place, name in enumerate(TRAINED_ON)}
    sides["difference"] = sides["synthetic"] - sides["real"]
    numbers: dict[str, Any] = {name: _areas(drawn) for name, drawn in sides.items()}
    if np.isnan(measured).any():
        numbers["reason"] = "a resample of the test patients has no positive"
    return numbers


def _areas(drawn: Floats) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for place, name in enumerate(MEASURES):
        values[name] = bootstrap.number(drawn[0, place])
        values[f"{name}_interval"] = bootstrap.interval(drawn[1:, place])
    return values
