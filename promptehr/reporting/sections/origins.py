"""Versions, settings and seeds, as the artifacts themselves record them."""

import json
from collections.abc import Mapping
from typing import Any

from promptehr.reporting.cells import words
from promptehr.reporting.views import Section, Table
from promptehr.settings import Settings

LEFT_OUT = (
    "The bytes of this page and of every artifact repeat on one machine with one set of versions, one device"
    " and one number of threads; elsewhere numbers agree within a tolerance. What does not repeat is not on"
    " this page: durations, memory, hosts and dates stand in the folders logs and benchmarks beside it, and"
    " seconds per epoch in each experiment's checkpoints/timing.jsonl."
)


def section(content: Mapping[str, Any]) -> Section:
    """Tables of versions and seeds, of what experiments change, and of all settings."""
    settings = content["settings"]
    everywhere = settings["all"]
    names = content["order"]
    differing = sorted({key for own in settings["experiments"].values() for key in own}, key=_pipeline_order)
    by_experiment = Table(
        "Settings in which the experiments differ; a blank is a stage that the experiment does not have.",
        ("setting", *names),
        tuple(
            (words(key), *(words(_text(settings["experiments"][name], key)) for name in names))
            for key in differing
        ),
    )
    views = (
        Table(
            "Versions installed when this page was made.",
            ("package", "version"),
            _pairs(dict(sorted(content["versions"].items()))),
        ),
        by_experiment,
        Table(
            "Settings that all experiments share, seeds among them, from the seals of the artifacts.",
            ("setting", "value"),
            _pairs({key: _text(everywhere, key) for key in sorted(everywhere, key=_pipeline_order)}),
        ),
    )
    return Section("origins", "Versions, settings, seeds", (LEFT_OUT,), views)


def _pipeline_order(key: str) -> tuple[int, str]:
    """Sections as in config.yaml, keys by name."""
    return (list(Settings.model_fields).index(key.partition(".")[0]), key)


def _text(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else ""


def _pairs(values: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple((words(key), words(value)) for key, value in values.items())
