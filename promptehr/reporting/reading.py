"""How sections read the content: nested keys, reasons, and orders that sorted JSON does not keep."""

from collections.abc import Mapping
from typing import Any

from promptehr.stage_table import STAGES

UNITS = ("patients", "admissions", "visits", "diagnoses", "codes")
CONDITIONS = ("prompt", "history", "denoise", "copy")


def find(document: Any, *keys: str) -> Any:
    """The value under nested keys; None where a key is absent or a level is not a mapping."""
    for key in keys:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document


def reason(document: Any, *keys: str) -> str:
    """Why the value under nested keys is absent: the `reason` nearest to it on the way there."""
    if document is None:
        return "not evaluated for this experiment"
    levels = [find(document, *keys[:depth]) for depth in range(len(keys) + 1)]
    given = [find(level, "reason") for level in levels]
    return next((text for text in reversed(given) if text), "not among the evaluation's numbers")


def experiments(content: Mapping[str, Any]) -> dict[str, Any]:
    """The experiments by name, in the order of the settings."""
    return {name: content["experiments"][name] for name in content["order"]}


def having(content: Mapping[str, Any], document: str) -> dict[str, Any]:
    """One document of every experiment that has it and may show it, by the experiment's name."""
    found = {name: one[document] for name, one in experiments(content).items() if one.get(document)}
    return {name: numbers for name, numbers in found.items() if "reason" not in numbers}


def withheld(content: Mapping[str, Any], document: str) -> tuple[str, ...]:
    """A sentence for each experiment whose whole document is replaced by a reason."""
    found = {name: find(one, document, "reason") for name, one in experiments(content).items()}
    return tuple(f"{name}: not shown, {why}." for name, why in found.items() if why)


def flow(content: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """Stage, unit and account, in pipeline order and from patients down to codes."""
    return [
        (stage.name, unit, content["flow"][stage.name][unit])
        for stage in STAGES
        for unit in sorted(content["flow"].get(stage.name, {}), key=_from_patients_down)
    ]


def _from_patients_down(unit: str) -> tuple[int, str]:
    return (UNITS.index(unit) if unit in UNITS else len(UNITS), unit)
