"""Classifiers trained on synthetic patients and tested on real ones."""

from collections.abc import Mapping
from typing import Any

from promptehr.reporting import figures
from promptehr.reporting.cells import Cell, count, decimal, with_interval, words
from promptehr.reporting.reading import find, having, reason, withheld
from promptehr.reporting.views import Figure, Section, Table

TRAINED_ON = (
    ("synthetic", "synthetic"),
    ("real", "real"),
    ("difference", "synthetic − real"),
    ("baseline", "real, age and sex only"),
)
WHAT = (
    "For each of the most frequent groups of chronic diagnoses, a logistic regression predicts from age,"
    " sex and the codes outside the group's chapter whether the first visit has a code of the group. It is"
    " trained on synthetic or on as many real patients, and tested on the same real test patients. AUROC"
    " is 0.5 by chance; AUPRC is the share of positives by chance. Intervals, 95 %, cover the sampling of"
    " the test patients, not that of training or generation: for these, run the experiment with further"
    " seeds."
)


def section(content: Mapping[str, Any]) -> Section:
    """Means over the tasks for each experiment, then each task."""
    judged = having(content, "utility")
    if not judged:
        return Section("utility", "Utility", ("No experiment is shown.", *withheld(content, "utility")))
    title = "Utility: do classifiers learn from them?"
    return Section(
        "utility",
        title,
        (WHAT, *withheld(content, "utility")),
        (_means(judged), *_drawn(judged), _tasks(judged)),
    )


def mean(utility: Any, trained_on: str) -> Any:
    """Mean AUROC over the tasks of classifiers trained on `real` or `synthetic` patients."""
    return find(utility, "macro", trained_on, "auroc")


def _means(judged: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            words(name if measure == "auroc" else ""),
            words(measure.upper()),
            *(_score(one, "macro", key, measure=measure) for key, _ in TRAINED_ON),
        )
        for name, one in judged.items()
        for measure in ("auroc", "auprc")
    )
    tasks = ", ".join(f"{name} {count(find(one, 'macro', 'n_tasks')).text}" for name, one in judged.items())
    caption = (
        f"Mean over the tasks (number: {tasks}), by what the classifier was trained on. Good: synthetic"
        " close to real, and well above what age and sex alone give."
    )
    return Table(caption, ("experiment", "measure", *(title for _, title in TRAINED_ON)), rows)


def _tasks(judged: Mapping[str, Any]) -> Table:
    first = next(iter(judged.values()))
    rows = tuple(
        (
            words(_title(judged, group)),
            count(find(first, "tasks", group, "positives", "test")),
            _auroc(first, group, "baseline"),
            _auroc(first, group, "real"),
            *(_auroc(one, group, "synthetic") for one in judged.values()),
        )
        for group in _groups(judged)
    )
    caption = "The same AUROC as numbers; AUPRC and all intervals stand in report.json."
    head = ("group", "positives in test", "age and sex only", "real", *judged)
    return Table(caption, head, rows)


def _auroc(utility: Mapping[str, Any], group: str, trained_on: str) -> Cell:
    keys = ("tasks", group, trained_on)
    return decimal(find(utility, *keys, "auroc"), reason(utility, *keys))


def _drawn(judged: Mapping[str, Any]) -> tuple[Figure, ...]:
    """The tasks as marks with intervals; no figure where none could be computed."""
    groups = [figures.Ranges(_title(judged, group), _marks(judged, group)) for group in _groups(judged)]
    drawn = [group for group in groups if group.marks]
    if not drawn:
        return ()
    source = figures.ranges(drawn, x="AUROC", chance=0.5, plain=("age and sex only", "real"))
    caption = (
        "AUROC of each task with its 95 % interval. In grey what the real training patients of the first"
        " experiment give, in colour what the synthetic patients of each experiment give. Good is a coloured"
        " mark at the grey square; dashed is chance."
    )
    return (Figure(source, "AUROC by task and training set; the numbers follow in a table", caption),)


def _marks(judged: Mapping[str, Any], group: str) -> dict[str, tuple[float, float, float]]:
    """Value and interval by what the classifier was trained on, as far as they were computed."""
    first = next(iter(judged.values()))
    yardsticks = {"age and sex only": (first, "baseline"), "real": (first, "real")}
    series = yardsticks | {name: (one, "synthetic") for name, one in judged.items()}
    found = {name: find(one, "tasks", group, key) for name, (one, key) in series.items()}
    return {
        name: (score["auroc"], *score["auroc_interval"])
        for name, score in found.items()
        if find(score, "auroc") is not None and find(score, "auroc_interval") is not None
    }


def _groups(judged: Mapping[str, Any]) -> list[str]:
    """The tasks of all experiments, those with most positives first."""
    groups = {group for one in judged.values() for group in one["tasks"]}
    return sorted(groups, key=lambda group: (-_positives(judged, group), group))


def _title(judged: Mapping[str, Any], group: str) -> str:
    return next(str(one["tasks"][group]["title"]) for one in judged.values() if group in one["tasks"])


def _positives(judged: Mapping[str, Any], group: str) -> int:
    """Most positives among real test patients; a masked number counts as none."""
    found = [find(one, "tasks", group, "positives", "test") for one in judged.values()]
    return max((number for number in found if isinstance(number, int)), default=0)


def _score(utility: Mapping[str, Any], *keys: str, measure: str = "auroc") -> Cell:
    found, why = find(utility, *keys), reason(utility, *keys)
    return with_interval(find(found, measure), find(found, f"{measure}_interval"), why)
