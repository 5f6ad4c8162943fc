"""Synthetic patients with the titles of their codes."""

from collections.abc import Mapping
from typing import Any

from promptehr.reporting.views import Section

SEX = {"M": "Male", "F": "Female", "UNKNOWN": "Sex unknown"}


def section(content: Mapping[str, Any]) -> Section:
    """The first patients of the first trained experiment, not a selection."""
    examples = content["examples"]
    if not examples["patients"]:
        return Section("patients", "Synthetic patients", (f"None are shown: {examples['reason']}.",))
    paragraph = (
        f"The first {len(examples['patients'])} patients of experiment {examples['experiment']}, in the"
        " order in which they were generated and not selected. Codes stand in order of priority, the"
        " principal diagnosis first. Whether they repeat real records is what the privacy section judges."
    )
    return Section(
        "patients",
        "Synthetic patients",
        (paragraph,),
        patients=tuple(_patient(patient) for patient in examples["patients"]),
    )


def _patient(patient: Mapping[str, Any]) -> dict[str, Any]:
    visits = len(patient["visits"])
    heading = (
        f"{SEX[patient['gender']]}, {_age(patient['age'])}, {patient['ethnicity'].lower()},"
        f" {visits} visit{'s' if visits > 1 else ''}"
    )
    return {"heading": heading, "visits": patient["visits"]}


def _age(years: float) -> str:
    return "under one year" if years < 1 else f"{int(years)} years"
