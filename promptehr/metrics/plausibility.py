"""Patients whose codes contradict their sex or age.

Turns three cohorts into rates of implausible patients. ICD-9-CM ranges by category: pregnancy
and delivery 630-679, V22-V24, V27; male organs only 185-187, 222, 233.4, 600-608, V10.46;
perinatal 760-779, V30-V39. Of ICD-10-CM codes, which begin with `ICD10:`: O00-O9A, Z33, Z34, Z37,
Z39, Z3A; C60-C63, D07.5, D29, N40-N53, Z85.46; P00-P96, Z38. Where records hold CCS groups in
place of codes: 177-196; 29-31, 164-166; 218-224.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from promptehr.metrics.bootstrap import newcombe, wilson
from promptehr.metrics.incidence import Bools, Patients

ADULT = 18.0


@dataclass(frozen=True)
class Rule:
    """Patients of a group should have no code that the pattern matches at its start."""

    name: str
    pattern: str


RULES = (
    Rule(
        "males_with_pregnancy",
        r"6[3-7]\d|V2[234]|V27|ICD10:(O|Z3[3479A])|CCS(17[7-9]|18\d|19[0-6])$",
    ),
    Rule(
        "females_with_male_only",
        r"18[567]|222|2334|60[0-8]|V1046|ICD10:(C6[0-3]|D075|D29|N4\d|N5[0-3]|Z8546)|CCS(29|3[01]|16[456])$",
    ),
    Rule(
        "adults_with_perinatal",
        r"7[67]\d|V3\d|ICD10:(P|Z38)|CCS(21[89]|22[0-4])$",
    ),
)


def implausible(real: Patients, synthetic: Patients, ceiling: Patients) -> dict[str, Any]:
    """By rule and cohort: patients of the group, those with such a code, share, interval.

    The group is males, females, or patients of 18 years and more at the first visit. Affected are
    those with at least one such code in any visit: a share of 0 is ideal, and real records are not
    always 0; Wilson's 95 % interval. `excess` is the synthetic share minus the ceiling's (real
    training patients), with Newcombe's 95 % interval.
    """
    cohorts = {"real": real, "synthetic": synthetic, "ceiling": ceiling}
    blocks: dict[str, Any] = {}
    for rule in RULES:
        rates = {name: _rate(patients, rule) for name, patients in cohorts.items()}
        blocks[rule.name] = {**rates, "excess": _excess(rates["synthetic"], rates["ceiling"])}
    return blocks


def _rate(patients: Patients, rule: Rule) -> dict[str, Any]:
    group = _group(patients, rule)
    with_code = np.zeros(len(patients), dtype=np.bool_)
    with_code[patients.patient_of_code[_matching(patients, rule)[patients.codes]]] = True
    size, found = int(group.sum()), int((group & with_code).sum())
    counts = {"patients": size, "affected": found}
    if not size:
        return {**counts, "share": None, "interval": None, "reason": "no patient of the group"}
    return {**counts, "share": found / size, "interval": list(wilson(found, size))}


def _excess(synthetic: dict[str, Any], ceiling: dict[str, Any]) -> dict[str, Any]:
    if synthetic["share"] is None or ceiling["share"] is None:
        return {"value": None, "interval": None, "reason": "no patient of the group on one side"}
    return {
        "value": synthetic["share"] - ceiling["share"],
        "interval": list(
            newcombe(synthetic["affected"], synthetic["patients"], ceiling["affected"], ceiling["patients"])
        ),
    }


def _matching(patients: Patients, rule: Rule) -> Bools:
    pattern = re.compile(rule.pattern)
    return np.array([pattern.match(code) is not None for code in patients.catalogue], dtype=np.bool_)


def _group(patients: Patients, rule: Rule) -> Bools:
    groups = {
        "males_with_pregnancy": patients.gender == "M",
        "females_with_male_only": patients.gender == "F",
        "adults_with_perinatal": patients.age >= ADULT,
    }
    return np.asarray(groups[rule.name], dtype=np.bool_)
