"""Training curves: perplexity on the validation split after each epoch, per condition."""

from collections.abc import Mapping
from typing import Any

from promptehr.reporting import figures
from promptehr.reporting.cells import Cell, count, decimal, perplexity, words
from promptehr.reporting.reading import CONDITIONS, experiments, find
from promptehr.reporting.views import Figure, Section, Table


def section(content: Mapping[str, Any]) -> Section:
    """One panel per trained experiment and a line with the published epoch."""
    trained = {name: one for name, one in experiments(content).items() if one["history"]}
    if not trained:
        hidden = any(one.get("train") for one in content["experiments"].values())
        why = (
            "Not shown, measured on fewer than 11 real patients."
            if hidden
            else "No experiment trains a model."
        )
        return Section("training", "Training", (why,))
    rows = tuple(_row(name, one) for name, one in trained.items())
    caption = (
        "The published weights. The best epoch has the lowest code NLL on the validation split under the"
        " prompt condition, the one that generation uses."
    )
    head = ("experiment", "epochs", "published epoch", "prompt code NLL, valid", "perplexity", "parameters")
    return Section("training", "Training", (), (_curves(trained), Table(caption, head, rows)))


def best(history: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The line with the lowest validation code NLL under the prompt condition."""
    scored = [line for line in history if _nll(line, "prompt") is not None]
    return min(scored, key=lambda line: _nll(line, "prompt"), default=None)


def _nll(line: Mapping[str, Any], condition: str) -> Any:
    return find(line, "valid", condition, "codes", "nll")


def _curves(trained: Mapping[str, Any]) -> Figure:
    panels = [_panel(name, one["history"]) for name, one in trained.items()]
    ends = "; ".join(_ends(panel) for panel in panels)
    return Figure(
        source=figures.curves(panels, y="code perplexity, valid"),
        alt=f"Validation code perplexity by epoch. {ends}",
        caption=(
            "Code perplexity on the validation split after each epoch, by condition; the ring marks the best"
            " epoch of the prompt condition. Good: prompt and history fall and level off. Prompt rising again"
            " is overfitting, which the choice of the best epoch guards against."
        ),
    )


def _panel(name: str, history: list[Mapping[str, Any]]) -> figures.Lines:
    lines = {
        condition: [
            (line["epoch"], find(line, "valid", condition, "codes", "perplexity"))
            for line in history
            if find(line, "valid", condition, "codes", "perplexity") is not None
        ]
        for condition in CONDITIONS
    }
    chosen = best(history)
    ringed = find(chosen, "valid", "prompt", "codes", "perplexity")
    marked = None if chosen is None else (chosen["epoch"], ringed)
    return figures.Lines(name, {condition: line for condition, line in lines.items() if line}, marked)


def _ends(panel: figures.Lines) -> str:
    return f"{panel.title}: " + ", ".join(
        f"{name} from {perplexity(points[0][1]).text} to {perplexity(points[-1][1]).text}"
        for name, points in panel.lines.items()
    )


def _row(name: str, one: Mapping[str, Any]) -> tuple[Cell, ...]:
    chosen = best(one["history"])
    published = find(one.get("train"), "published", "epoch")
    return (
        words(name),
        count(len(one["history"])),
        count(published),
        decimal(chosen and _nll(chosen, "prompt")),
        perplexity(find(chosen, "valid", "prompt", "codes", "perplexity")),
        count(find(one.get("train"), "parameters")),
    )
