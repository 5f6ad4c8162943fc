"""ICD-9-CM codes: shape, titles, categories, groups."""

import csv
import doctest
from pathlib import Path

from promptehr import icd9
from promptehr.icd9 import Group


def test_examples_in_docstrings() -> None:
    assert doctest.testmod(icd9).failed == 0


def test_every_listed_code_is_well_formed_and_has_a_group() -> None:
    assert len(icd9.listed()) == 14_567
    assert all(icd9.is_well_formed(code) for code in icd9.listed())
    assert icd9.listed() <= icd9.groups().keys()


def test_titles_keep_leading_zeros_apart() -> None:
    assert icd9.titles()["0389"] == "Unspecified septicemia"
    assert "389" not in icd9.titles()


def test_groups_of_known_codes() -> None:
    assert icd9.groups()["4019"] == Group(
        ccs=98, label="Essential hypertension", parent="Diseases of the circulatory system", chronic=True
    )
    assert icd9.groups()["E8859"] == Group(
        ccs=2603, label="E Codes: Fall", parent="External causes", chronic=False
    )
    assert icd9.groups()["29620"].parent == "Mental illness"


def test_twenty_codes_of_the_mimic_demo_are_not_listed(mimic3_demo: Path) -> None:
    with (mimic3_demo / "DIAGNOSES_ICD.csv").open() as file:
        codes = {row["icd9_code"] for row in csv.DictReader(file)}
    unlisted = codes - icd9.listed()
    assert (len(codes), len(unlisted)) == (581, 20)
    assert {"585", "2765", "7806", "5185"} <= unlisted
    assert all(icd9.is_well_formed(code) for code in codes)


def test_a_header_has_a_group_only_if_all_below_it_share_one() -> None:
    assert icd9.group("585") == Group(
        ccs=158, label="Chronic kidney disease", parent="Diseases of the genitourinary system", chronic=True
    )
    assert icd9.group("250") is None
    assert icd9.group("99999") is None


def test_a_ccs_text_has_its_groups_name_and_chapter() -> None:
    assert (icd9.title("CCS98"), icd9.group("CCS98")) == ("Essential hypertension", icd9.groups()["4019"])
    assert icd9.title("CCS999999") is None
