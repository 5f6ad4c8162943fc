"""Small counts of real patients: content in, content that may be shown out.

The data-use agreement of MIMIC-III asks that no count of real patients below 11 is shown, nor a
rate or plot made from one. A masked count becomes "<11"; what it would betray by subtraction is
masked or rounded with it. Counts of synthetic patients are not masked.
"""

from collections.abc import Mapping
from typing import Any

from promptehr.reporting.cells import SMALL
from promptehr.settings import Settings

LEAST = 11
ROUNDED_TO = 10
REASON = "made from fewer than 11 real patients"
REAL_SIDES = ("real", "ceiling", "train", "test", "held_out")

Tree = Mapping[str, Any]


def applies(settings: Settings) -> bool:
    """Whether this report masks: by setting, and on `auto` unless the patients are simulated."""
    choice = settings.report.small_counts
    return choice == "mask" or (choice == "auto" and settings.source.kind != "simulate")


def count(value: int) -> int | str:
    """A count of real patients; 0 stays, for it tells of nobody."""
    return SMALL if is_small(value) else value


def is_small(value: int) -> bool:
    return 0 < value < LEAST


# --- flow of rows ------------------------------------------------------------------------------


def flow(stages: Mapping[str, Tree]) -> dict[str, Any]:
    """Ledger tables by stage with small counts masked.

    Where one is masked, all other counts are rounded to tens: otherwise rows in less rows kept
    would give it away.
    """
    tables = [table for tables in stages.values() for table in tables.values()]
    if not any(is_small(rows) for table in tables for rows in _rows(table)):
        return {stage: dict(found) for stage, found in stages.items()}
    return {
        stage: {unit: _account(table) for unit, table in found.items()} for stage, found in stages.items()
    }


def _rows(table: Tree) -> list[int]:
    return [table["rows_in"], table["rows_kept"], *table["rejected"].values(), *table["noted"].values()]


def _account(table: Tree) -> dict[str, Any]:
    return {
        "rows_in": _rounded(table["rows_in"]),
        "rows_kept": _rounded(table["rows_kept"]),
        "rejected": {reason: _rounded(rows) for reason, rows in table["rejected"].items()},
        "noted": {fact: _rounded(rows) for fact, rows in table["noted"].items()},
    }


def _rounded(rows: int) -> int | str:
    # 11 to 14 would round below the least count that may be shown.
    return count(rows) if rows < LEAST else max(ROUNDED_TO * round(rows / ROUNDED_TO), LEAST)


# --- training ----------------------------------------------------------------------------------


def training(summary: Tree) -> dict[str, Any]:
    """A training summary without what was measured on the validation split."""
    return {**summary, "published": {"epoch": summary["published"]["epoch"]}}


# --- evaluations -------------------------------------------------------------------------------


def documents(found: Mapping[str, Any]) -> dict[str, Any]:
    """An experiment's documents by name; summaries count synthetic patients only."""
    masks = {"fidelity": fidelity, "utility": utility, "privacy": privacy}
    return {
        name: {"reason": REASON} if _is_tiny(document) else masks.get(name, dict)(document)
        for name, document in found.items()
    }


def _is_tiny(document: Tree) -> bool:
    """Whether all of a document is made from too few real patients."""
    patients = document.get("patients")
    if isinstance(patients, int):
        return "conditions" in document and is_small(patients)
    return patients is not None and any(is_small(n) for side, n in patients.items() if side in REAL_SIDES)


def fidelity(document: Tree) -> dict[str, Any]:
    """Points, lengths, groups and implausible patients."""
    prevalence = document["prevalence"]
    points = {**prevalence["points"], "real": [count(number) for number in prevalence["points"]["real"]]}
    conditional = {
        kind: {name: {**group, "patients": _sides(group["patients"])} for name, group in groups.items()}
        for kind, groups in document["conditional_prevalence"].items()
    }
    return {
        **document,
        "patients": _sides(document["patients"]),
        "prevalence": {**prevalence, "points": points, "patients": _sides(prevalence["patients"])},
        "conditional_prevalence": conditional,
        "visits_per_patient": _length(document["visits_per_patient"]),
        "codes_per_visit": _length(document["codes_per_visit"]),
        "implausible": {rule: _implausible(rates) for rule, rates in document["implausible"].items()},
    }


def utility(document: Tree) -> dict[str, Any]:
    """Positives of each task, and what is measured on too few of them."""
    tasks = {group: _task(task) for group, task in document["tasks"].items()}
    return {**document, "patients": _sides(document["patients"]), "tasks": tasks}


def privacy(document: Tree) -> dict[str, Any]:
    """Cohort sizes, copies among the held-out, and held-out patients with a twin in training."""
    attack = document["membership"]
    sizes = {name: count(attack[name]) for name in ("members", "non_members")}
    if is_small(attack["members"]):
        document = _without_size(document)
        attack = document["membership"]
    return {
        **document,
        "patients": _sides(document["patients"]),
        "copies": _copies(document["copies"]),
        "membership": {**attack, **sizes},
        "distances": _distances(document["distances"]),
        "attributes": _attributes(document["attributes"]),
    }


def _attributes(attributes: Tree) -> dict[str, Any]:
    if not is_small(attributes["attacked"]):
        return dict(attributes)
    hidden = dict.fromkeys(("synthetic", "held_out", "excess", "interval"))
    return {**attributes, **hidden, "attacked": count(attributes["attacked"]), "reason": REASON}


def _without_size(document: Tree) -> dict[str, Any]:
    """Without the number of members, which the reasons name."""
    reason = "fewer members and non-members than the attack needs"
    told = document["membership"]["reason"]
    blocks = {name: document[name] for name in ("membership", "planted", "gate")}
    return {
        **document,
        **{
            name: {**block, "reason": reason} if block.get("reason") == told else block
            for name, block in blocks.items()
        },
    }


def _copies(copies: Tree) -> dict[str, Any]:
    usual = copies["held_out"]
    if not is_small(usual["copies"]) and not is_small(usual["records"]):
        return dict(copies)
    hidden = {"records": count(usual["records"]), "copies": SMALL, "share": None}
    # The synthetic share less the excess is the held-out share.
    return {**copies, "held_out": hidden, "excess": None, "interval": None, "reason": REASON}


def _distances(distances: Tree) -> dict[str, Any]:
    between = distances["held_out_to_train"]
    twins = round(between["zero"] * distances["neighbours"])
    shown = {**between, "zero": None, "reason": REASON} if is_small(twins) else between
    return {**distances, "neighbours": count(distances["neighbours"]), "held_out_to_train": shown}


def _sides(counts: Mapping[str, int]) -> dict[str, int | str]:
    """Numbers by cohort: the real ones masked."""
    return {name: count(number) if name in REAL_SIDES else number for name, number in counts.items()}


def _length(block: Tree) -> dict[str, Any]:
    histograms = {
        side: histogram(lengths) if side in REAL_SIDES else lengths
        for side, lengths in block["histogram"].items()
    }
    # With all digits, the mean would tell what a masked length holds.
    means = {side: round(mean, 1) if side in REAL_SIDES else mean for side, mean in block["mean"].items()}
    return {**block, "histogram": histograms, "mean": means}


def histogram(counts: Mapping[str, int]) -> dict[str, int | str]:
    """Counts by length; a single masked one takes the next smallest with it, for the sum is known."""
    masked = [length for length, number in counts.items() if is_small(number)]
    if len(masked) == 1 and len(counts) > 1:
        others = [length for length in counts if length not in masked]
        masked.append(min(others, key=lambda length: (counts[length], int(length))))
    return {length: SMALL if length in masked else number for length, number in counts.items()}


def _implausible(rates: Tree) -> dict[str, Any]:
    sides = {
        side: _rate(rate) if side in REAL_SIDES else rate for side, rate in rates.items() if side != "excess"
    }
    # The synthetic share less the excess is the ceiling's share.
    hidden = sides["ceiling"]["share"] is None
    excess = {"value": None, "interval": None, "reason": REASON} if hidden else rates["excess"]
    return {**sides, "excess": excess}


def _rate(rate: Tree) -> dict[str, Any]:
    shown = {**rate, "patients": count(rate["patients"]), "affected": count(rate["affected"])}
    if SMALL not in (shown["patients"], shown["affected"]):
        return shown
    return {**shown, "share": None, "interval": None, "reason": REASON}


def _task(task: Tree) -> dict[str, Any]:
    shown = {**task, "positives": _sides(task["positives"])}
    if not any(is_small(task["positives"][side]) for side in ("real", "test")):
        return shown
    return {**shown, **dict.fromkeys(("synthetic", "real", "baseline", "difference")), "reason": REASON}
