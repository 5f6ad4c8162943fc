"""Documents of all stages to the content of the report: one plain mapping with every number.

The page is drawn from this mapping alone, so `report.json` holds whatever the page shows. Small
counts of real patients are masked here, before anything is drawn.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptehr.reporting import masking
from promptehr.reporting.reading import find
from promptehr.settings import Settings

Document = Mapping[str, Any]

SEAL = frozenset({"format", "format_version", "stage", "key", "inputs", "files"})


@dataclass(frozen=True)
class Experiment:
    """What one experiment left behind.

    Attributes:
        name: As in the settings.
        documents: Stage name to its document: summaries and evaluations.
        history: Lines of the training history, in order of epochs; empty without training.
        examples: First synthetic patients: gender, ethnicity, age, visits.
    """

    name: str
    documents: Mapping[str, Document]
    history: tuple[Document, ...] = ()
    examples: tuple[Document, ...] = ()


@dataclass(frozen=True)
class Material:
    """All that the report is made from.

    Attributes:
        ledgers: Stage name to its sealing document, in pipeline order.
        vocabulary: The vocabulary document.
        experiments: In the order of the settings.
    """

    ledgers: Mapping[str, Document]
    vocabulary: Document
    experiments: tuple[Experiment, ...]


def assemble(material: Material, settings: Settings, versions: Mapping[str, str]) -> dict[str, Any]:
    """The report's content, as `report.json` holds it and the page shows it.

    Args:
        material: The documents.
        settings: `report` and `source` are used.
        versions: Package to version, shown as they are.
    """
    masked = masking.applies(settings)
    flow = {stage: document["tables"] for stage, document in material.ledgers.items() if "tables" in document}
    valid = find(material.ledgers.get("records"), "splits", "valid")
    # Curves are rates of the validation split.
    curves = not (masked and valid is not None and masking.is_small(valid))
    experiments = {one.name: _experiment(one, masked=masked, curves=curves) for one in material.experiments}
    return {
        "title": settings.report.title,
        "source": settings.source.kind,
        "small_counts": "masked" if masked else "shown",
        "flow": masking.flow(flow) if masked else flow,
        "planted": find(material.ledgers.get("simulate"), "planted"),
        "vocabulary": _vocabulary(material.vocabulary),
        "order": [one.name for one in material.experiments],
        "experiments": experiments,
        "examples": _examples(material, masked),
        "settings": _settings(material),
        "versions": dict(versions),
    }


def short(stage: str) -> str:
    """The word under which a stage's document stands in the content."""
    return stage.removeprefix("evaluate_")


def _experiment(experiment: Experiment, *, masked: bool, curves: bool) -> dict[str, Any]:
    documents = {short(stage): _own(stage, document) for stage, document in experiment.documents.items()}
    if "train" in documents and not curves:
        documents["train"] = masking.training(documents["train"])
    return {
        "method": _method(experiment),
        "history": list(experiment.history) if curves else [],
        **(masking.documents(documents) if masked else documents),
    }


def _own(stage: str, document: Document) -> Any:
    """What a document says besides its seal; an evaluation's numbers stand under its name."""
    if stage.startswith("evaluate_"):
        return document[short(stage)]
    return {key: value for key, value in document.items() if key not in SEAL}


def _vocabulary(document: Document) -> dict[str, Any]:
    codes = document["codes"]
    return {
        "codes": len(codes),
        "unlisted": sum(entry["title"] is None for entry in codes),
        "patients": document["age"]["patients"],
        "age_mean": document["age"]["mean"],
        "age_spread": document["age"]["spread"],
    }


def _examples(material: Material, masked: bool) -> dict[str, Any]:
    """Synthetic patients of the first trained model; never those of a copier, which are real."""
    titles = {entry["code"]: entry["title"] for entry in material.vocabulary["codes"]}
    shown = next((one for one in material.experiments if _method(one) == "model"), None)
    if shown is None:
        return {"experiment": None, "patients": [], "reason": "no experiment generates from a trained model"}
    alarms = find(shown.documents.get("evaluate_privacy"), "privacy", "gate", "alarms")
    if masked and alarms:
        reason = f"withheld, for these patients resemble real ones: alarm by {' and '.join(alarms)}"
        return {"experiment": shown.name, "patients": [], "reason": reason}
    patients = [_titled(patient, titles) for patient in shown.examples]
    return {"experiment": shown.name, "patients": patients, "reason": None}


def _titled(patient: Document, titles: Mapping[str, str | None]) -> dict[str, Any]:
    visits = [[{"code": code, "title": titles.get(code)} for code in visit] for visit in patient["visits"]]
    return {**{key: patient[key] for key in ("gender", "ethnicity", "age")}, "visits": visits}


# --- settings ----------------------------------------------------------------------------------


def _settings(material: Material) -> dict[str, Any]:
    """Settings as the seals record them: those of all experiments, and where each one differs."""
    shared: dict[str, Any] = {}
    for document in material.ledgers.values():
        shared.update(_assigned(document))
    own = {one.name: _of_experiment(one) for one in material.experiments}
    first = next(iter(own.values()), {})
    alike = {
        key: value
        for key, value in first.items()
        if all(other.get(key, value) == value for other in own.values())
    }
    different = {
        name: {key: value for key, value in values.items() if key not in alike}
        for name, values in own.items()
    }
    return {"all": {**shared, **alike}, "experiments": different}


def _of_experiment(experiment: Experiment) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for document in experiment.documents.values():
        values.update(_assigned(document))
    return values


def _assigned(document: Document) -> dict[str, Any]:
    """The settings in a seal's key, `section.key=<JSON>` each, by name."""
    texts: Sequence[str] = find(document, "key", "settings") or []
    return {name: json.loads(value) for name, _, value in (text.partition("=") for text in texts)}


def _method(experiment: Experiment) -> Any:
    return _assigned(experiment.documents.get("generate", {})).get("generate.method")
