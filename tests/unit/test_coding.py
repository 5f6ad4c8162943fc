"""Granularity, folding of rare codes and ties, on records and in their ledger."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from promptehr.errors import SettingsError
from promptehr.ingestion.coding import folded, mixed
from promptehr.settings import from_assignments
from tests.source_builders import (
    admission,
    all_records,
    diagnosis,
    folder,
    ledger,
    patient,
    run_ingest,
    run_records,
)


def coded(tmp_path: Path, *assignments: str, codes: list[list[str]]) -> tuple[list[Any], dict[str, Any]]:
    """Visits of the one patient, and the ledger's account of codes."""
    source = folder(tmp_path / "source", diagnoses=codes)
    out = run_records(run_ingest(source, tmp_path), tmp_path, *assignments)
    (record,) = all_records(out)
    return record["visits"], ledger(out)["codes"]


CODES = ("25000", "25001", "4019", "585", "2500", "E8859", "0389")


def in_order(*codes: str) -> list[list[str]]:
    return [diagnosis(code, position=place) for place, code in enumerate(codes, start=1)]


def test_categories_keep_the_first_of_each(tmp_path: Path) -> None:
    visits, account = coded(tmp_path, 'records.granularity="category"', codes=in_order(*CODES))
    assert visits == [["250", "401", "585", "E885", "038"]]
    assert account == {
        "rows_in": 7,
        "rows_kept": 5,
        "rejected": {"same category as an earlier code of the visit": 2},
        "noted": {"written as category, repetitions included": 6},
    }


def test_ccs_groups_keep_codes_that_have_none(tmp_path: Path) -> None:
    visits, account = coded(tmp_path, 'records.granularity="ccs"', codes=in_order(*CODES))
    assert visits == [["CCS49", "CCS98", "CCS158", "2500", "CCS2603", "CCS2"]]
    assert account["rejected"] == {"same ccs as an earlier code of the visit": 1}
    assert account["noted"] == {
        "in no CCS group, kept as it is": 1,
        "written as ccs, repetitions included": 6,
    }


def test_rare_codes_are_folded_by_their_training_patients_alone() -> None:
    names = ["0389", "25000", "25001", "25002", "4019"]
    records = pl.DataFrame(
        {
            "subject_id": [1, 2, 3],
            "split": ["train", "train", "test"],
            "visits": [[[4, 1], [1]], [[4, 2, 3]], [[1, 4, 0]]],
        }
    )
    fold = folded(records, names, 2)
    assert [
        (subject, [[fold.names[place] for place in visit] for visit in visits])
        for subject, visits in fold.frame.select("subject_id", "visits").rows()
    ] == [
        (1, [["4019", "250"], ["250"]]),
        (2, [["4019", "250"]]),
        (3, [["250", "4019", "038"]]),
    ]
    assert (dict(fold.rejected), dict(fold.noted)) == (
        {"rare, its category already in the visit": 1},
        {"rarer than 2 training patients, written as its category": 6},
    )


def test_folding_is_in_the_ledger(tmp_path: Path) -> None:
    patients = [[diagnosis("4019", n, n), diagnosis("25000", n, n, 2)] for n in range(1, 30)]
    rare = [diagnosis("25001", 1, 1, 3), diagnosis("0389", 2, 2, 3)]
    source = folder(
        tmp_path / "source",
        patients=[patient(n) for n in range(1, 30)],
        admissions=[admission(n, n) for n in range(1, 30)],
        diagnoses=[*(row for rows in patients for row in rows), *rare],
    )
    out = run_records(run_ingest(source, tmp_path), tmp_path, "records.fold_below=2")
    assert [record["visits"] for record in all_records(out)[:3]] == [
        [["4019", "25000", "250"]],
        [["4019", "25000", "038"]],
        [["4019", "25000"]],
    ]
    assert ledger(out)["codes"]["noted"] == {"rarer than 2 training patients, written as its category": 2}


def test_folding_other_than_full_codes_is_refused() -> None:
    with pytest.raises(SettingsError, match="fold_below needs granularity full"):
        from_assignments("records", ["records.fold_below=5", 'records.granularity="ccs"'])


def test_ties_go_by_code_and_are_counted(tmp_path: Path) -> None:
    codes = [
        diagnosis(code, position=place) for code, place in (("V10", 1), ("4019", 2), ("0389", 2), ("585", ""))
    ]
    visits, account = coded(tmp_path, codes=codes)
    assert visits == [["V10", "0389", "4019", "585"]]
    assert account["noted"] == {"same SEQ_NUM as another, or none: ordered by code": 2}


def test_ties_by_hash_follow_no_alphabet_and_no_file_order(tmp_path: Path) -> None:
    codes = ["0389", "4019", "4280", "5849", "585", "V10", "V5861", "25000"]
    rows = [diagnosis(code, position="") for code in codes]
    first, _ = coded(tmp_path / "a", 'records.tie_break="hash"', codes=[diagnosis("496"), *rows])
    again, _ = coded(tmp_path / "b", 'records.tie_break="hash"', codes=[*rows[::-1], diagnosis("496")])
    other, _ = coded(
        tmp_path / "c", 'records.tie_break="hash"', "records.seed=2", codes=[*rows, diagnosis("496")]
    )
    assert first == again
    assert first[0][0] == "496"
    assert sorted(first[0]) == sorted(other[0])
    assert len({tuple(first[0]), tuple(other[0]), ("496", *sorted(codes))}) == 3


def test_mixing_is_one_to_one() -> None:
    assert len(np.unique(mixed(np.arange(100_000, dtype=np.uint64)))) == 100_000
