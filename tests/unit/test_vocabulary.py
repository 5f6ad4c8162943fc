"""The training split's codes, ages and demographics."""

from pathlib import Path

import polars as pl
import pytest

from promptehr import artifacts, schemas
from promptehr.errors import InputError
from promptehr.settings import Settings, from_assignments
from promptehr.stages import vocabulary
from promptehr.stages.vocabulary import count_codes, demographics, merged
from tests.source_builders import FILES, SPLITS, folder, ledger, run_ingest, run_records


def people(*groups: tuple[int, str, str, float], capped: bool = False) -> pl.DataFrame:
    """So many people of a gender, ethnicity and age each."""
    rows = [(gender, ethnicity, age, capped) for n, gender, ethnicity, age in groups for _ in range(n)]
    return pl.DataFrame(rows, schema=["gender", "ethnicity", "age", "age_capped"], orient="row")


def cells(frame: pl.DataFrame) -> list[tuple[str, str, float, float, int]]:
    return [
        (c["gender"], c["ethnicity"], c["age_from"], c["age_to"], c["patients"]) for c in demographics(frame)
    ]


def run_vocabulary(made: Path, results: Path, *assignments: str) -> Path:
    out = results / "vocabulary"
    vocabulary.run(
        vocabulary.Inputs(made / "train.parquet", made / "ledger.json"),
        vocabulary.Outputs(out / "vocabulary.json", out / "ledger.json"),
        from_assignments("vocabulary", assignments),
    )
    return out


def train_of(folder: Path, *patients: tuple[str, float, list[list[str]]]) -> Path:
    """A sealed records folder whose training split is these patients: gender, age, visits."""
    rows = [
        (i, gender, "WHITE", age, False, visits, [0] * len(visits))
        for i, (gender, age, visits) in enumerate(patients, 1)
    ]
    frame = pl.DataFrame(rows, schema=[c.name for c in schemas.RECORDS.columns], orient="row")
    written = []
    for split in SPLITS:
        part = frame if split == "train" else frame.clear()
        artifacts.write_table(folder / f"{split}.parquet", part.to_arrow(), schemas.RECORDS)
        written.append(folder / f"{split}.parquet")
    artifacts.write_sealed(
        folder / "ledger.json",
        {"tables": {}, "splits": {"train": len(patients), "valid": 0, "test": 0}},
        schemas.LEDGER,
        stage="records",
        settings=Settings(),
        inputs={},
        files=written,
    )
    return folder


def test_codes_are_counted_by_patients_then_occurrences() -> None:
    frame = pl.DataFrame(
        {"subject_id": [1, 2, 3], "visits": [[["B"], ["B", "A"]], [["A", "C"]], [["A"]]]},
        schema_overrides={"visits": pl.List(pl.List(pl.String))},
    )
    assert count_codes(frame).rows() == [("A", 3, 3), ("B", 1, 2), ("C", 1, 1)]


def test_the_document_holds_ids_titles_ages_and_a_ledger_that_balances(tmp_path: Path) -> None:
    made = train_of(tmp_path / "records", ("F", 40.0, [["4019"], ["4019", "585"]]), ("M", 60.0, [["4019"]]))
    out = run_vocabulary(made, tmp_path)
    content = artifacts.read_json(out / "vocabulary.json", schemas.VOCABULARY)
    assert content["codes"] == [
        {
            "code": "4019",
            "group": "CCS98",
            "patients": 2,
            "occurrences": 3,
            "title": "Unspecified essential hypertension",
        },
        {"code": "585", "group": "CCS158", "patients": 1, "occurrences": 1, "title": None},
    ]
    assert content["age"] == {"mean": 50.0, "spread": 10.0, "patients": 2}
    assert content["special"] == {
        "PAD": 0, "BOS": 1, "EOS": 2, "<v>": 3, "<\\v>": 4, "END": 5, "<mask>": 8, "<unk>": 9,
    }  # fmt: skip
    assert set(content) == {"format", "format_version", *(key for key, _ in schemas.VOCABULARY.keys)}
    tables = ledger(out)
    assert (tables["codes"]["rows_in"], tables["codes"]["rows_kept"]) == (4, 4)
    assert tables["distinct codes"]["noted"] == {
        "not listed by CMS, without title": 1,
        "one occurrence only": 1,
    }


def test_codes_of_few_patients_are_folded_and_counted(tmp_path: Path) -> None:
    made = train_of(tmp_path / "records", ("F", 40.0, [["4019"], ["585", "V5861"]]), ("M", 60.0, [["4019"]]))
    out = run_vocabulary(made, tmp_path, "vocabulary.min_patients=2")
    content = artifacts.read_json(out / "vocabulary.json", schemas.VOCABULARY)
    assert [entry["code"] for entry in content["codes"]] == ["4019"]
    reason = "fewer patients than vocabulary.min_patients, <unk>"
    assert ledger(out)["distinct codes"]["rejected"] == {reason: 2}
    assert ledger(out)["codes"]["rejected"] == {reason: 2}


def test_ages_without_spread_are_refused(tmp_path: Path) -> None:
    made = train_of(tmp_path / "records", ("F", 40.0, [["4019"]]), ("M", 40.0, [["4019"]]))
    with pytest.raises(InputError, match="all ages are equal"):
        run_vocabulary(made, tmp_path)
    assert not (tmp_path / "vocabulary").exists()


def test_a_limit_that_leaves_no_code_is_refused(tmp_path: Path) -> None:
    made = train_of(tmp_path / "records", ("F", 40.0, [["4019"]]), ("M", 50.0, [["4019"]]))
    with pytest.raises(InputError, match=r"lower vocabulary\.min_patients"):
        run_vocabulary(made, tmp_path, "vocabulary.min_patients=3")


def test_newborns_have_a_band_of_their_own() -> None:
    frame = people((11, "F", "WHITE", 0.0), (11, "F", "WHITE", 4.9), (11, "F", "WHITE", 5.0))
    assert cells(frame) == [
        ("F", "WHITE", 0.0, 1.0, 11),
        ("F", "WHITE", 1.0, 5.0, 11),
        ("F", "WHITE", 5.0, 10.0, 11),
    ]


def test_the_last_band_ends_at_the_capped_age() -> None:
    assert cells(people((12, "F", "WHITE", 90.0), capped=True)) == [("F", "WHITE", 90.0, 90.0, 12)]


def test_cells_under_11_join_their_neighbours() -> None:
    frame = people(
        (20, "F", "WHITE", 50.0),
        (10, "F", "WHITE", 60.0),
        (10, "F", "BLACK", 50.0),
        (3, "F", "ASIAN", 30.0),
        (2, "M", "WHITE", 50.0),
    )
    found = cells(frame)
    assert found == [("F", "UNKNOWN", 30.0, 55.0, 13), ("F", "WHITE", 50.0, 65.0, 32)]
    assert sum(cell[-1] for cell in found) == frame.height


def test_runs_of_bands_reach_11_and_lose_nobody() -> None:
    assert merged([(0, 5), (5, 5), (10, 30), (20, 10)]) == [(0, 20, 50)]
    assert merged([(0, 11), (5, 11)]) == [(0, 0, 11), (5, 5, 11)]
    assert merged([(0, 3)]) == [(0, 0, 3)]


def test_a_cohort_without_training_patients_is_refused(tmp_path: Path) -> None:
    made = run_records(run_ingest(folder(tmp_path / "source"), tmp_path), tmp_path, "records.min_visits=40")
    with pytest.raises(InputError, match=r"train\.parquet: no patients; .*records/ledger\.json says why"):
        run_vocabulary(made, tmp_path)


def test_row_order_changes_no_byte(mimic3_demo: Path, tmp_path: Path) -> None:
    turned = tmp_path / "turned"
    turned.mkdir()
    for name in FILES:
        head, *lines = (mimic3_demo / f"{name}.csv").read_text().splitlines()
        (turned / f"{name}.csv").write_text("\n".join([head, *reversed(lines)]))
    found = []
    for source, results in ((mimic3_demo, tmp_path / "a"), (turned, tmp_path / "b")):
        out = run_vocabulary(run_records(run_ingest(source, results), results), results)
        found.append((out / "vocabulary.json").read_bytes())
    assert found[0] == found[1]
