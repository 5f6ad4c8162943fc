"""Planted defects: the ledgers say exactly what was planted, and records are those of the clean cohort."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptehr import artifacts, schemas
from promptehr.settings import Dirt, from_assignments
from promptehr.simulation import dirt, process
from promptehr.stages import evaluate_likelihood, shards, simulate, vocabulary
from promptehr.stages.evaluate_likelihood import Known
from promptehr.tokens import Cohort, Vocabulary
from tests.source_builders import all_records, ledger, run_ingest, run_records

SHARES = dict.fromkeys(Dirt.model_fields, 0.02)
HARMLESS = SHARES | {"unknown_gender": 0.0}


def cohort(folder: Path, shares: dict[str, float], *, patients: int = 600, seed: int = 1) -> Path:
    """What the stage writes."""
    simulate.run(
        simulate.Inputs(),
        simulate.Outputs(
            folder / "PATIENTS.csv",
            folder / "ADMISSIONS.csv",
            folder / "DIAGNOSES_ICD.csv",
            folder / "process.json",
        ),
        from_assignments(
            "simulate",
            [
                f"simulate.patients={patients}",
                f"simulate.seed={seed}",
                *(f"simulate.dirt.{name}={share}" for name, share in shares.items()),
            ],
        ),
    )
    return folder


def document(folder: Path) -> dict[str, Any]:
    return artifacts.read_json(folder / "process.json", schemas.PROCESS)


def found(folder: Path, results: Path) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Ledgers of ingest and records, and the records."""
    ingested = run_ingest(folder, results)
    made = run_records(ingested, results)
    return ledger(ingested), ledger(made), all_records(made)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cohort(tmp_path_factory.mktemp("clean"), {})


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cohort(tmp_path_factory.mktemp("dirty"), SHARES)


def test_without_dirt_the_files_are_the_drawn_tables(clean: Path) -> None:
    drawn = simulate.draw(process.default(), 600, np.random.default_rng(1))
    for name, table in zip(("PATIENTS", "ADMISSIONS", "DIAGNOSES_ICD"), vars(drawn).values(), strict=True):
        assert (clean / f"{name}.csv").read_bytes() == simulate.csv_bytes(table)


def test_same_seed_same_dirt(dirty: Path, tmp_path: Path) -> None:
    again, other = cohort(tmp_path / "again", SHARES), cohort(tmp_path / "other", SHARES, seed=2)
    for path in sorted(dirty.iterdir()):
        assert path.read_bytes() == (again / path.name).read_bytes()
        assert path.read_bytes() != (other / path.name).read_bytes()


def test_the_ledger_of_ingest_says_what_was_planted(dirty: Path, tmp_path: Path) -> None:
    expected = document(dirty)["expected"]
    ingested, made, _ = found(dirty, tmp_path)
    assert ingested == expected["ingest"]
    assert {
        "age impossible": made["patients"]["rejected"]["age impossible"],
        "admission without a code": made["visits"]["rejected"]["admission without a code"],
        "admissions disagree on ethnicity": made["patients"]["noted"]["admissions disagree on ethnicity"],
    } == expected["records"]


def test_every_reason_of_ingest_is_planted(dirty: Path) -> None:
    expected = document(dirty)["expected"]["ingest"]
    assert {name: (set(t["rejected"]), set(t["noted"])) for name, t in expected.items()} == {
        "patients": (
            {
                "repeats an earlier record of the same subject_id",
                "subject_id missing",
                "subject_id is not a whole number",
                "subject_id outside 1..2^40-1",
                "dob missing",
                "dob unreadable",
            },
            {"birth moved by the source, age over 89", "gender not M or F, kept as UNKNOWN"},
        ),
        "admissions": (
            {
                "repeats an earlier record of the same hadm_id",
                "hadm_id missing",
                "hadm_id is not a whole number",
                "hadm_id outside 1..2^40-1",
                "unknown patient",
                "admission before birth",
                "admittime missing",
                "admittime unreadable",
            },
            {"discharge before admission", "dischtime unreadable, kept without", "ethnicity missing"},
        ),
        "diagnoses": (
            {
                "hadm_id missing",
                "hadm_id is not a whole number",
                "hadm_id outside 1..2^40-1",
                "unknown admission",
                "subject_id differs from the admission's",
                "code missing",
                "code malformed",
                "code malformed, of ICD-10's shape",
                "code repeated in its admission",
            },
            {"code normalised (dot, letter case, space)", "seq_num missing or unreadable"},
        ),
    }


def test_harmless_dirt_leaves_the_records_of_the_clean_cohort(clean: Path, tmp_path: Path) -> None:
    soiled = cohort(tmp_path / "source", HARMLESS)
    assert found(soiled, tmp_path / "dirty")[2] == found(clean, tmp_path / "clean")[2]


def test_an_unknown_gender_changes_nothing_but_the_gender(clean: Path, dirty: Path, tmp_path: Path) -> None:
    before, after = found(clean, tmp_path / "clean")[2], found(dirty, tmp_path / "dirty")[2]
    lost = [number for number, row in enumerate(after) if row["gender"] == "UNKNOWN"]
    assert len(lost) == 12
    for number in lost:
        after[number] = after[number] | {"gender": before[number]["gender"]}
    assert after == before


@pytest.mark.parametrize("name", Dirt.model_fields)
def test_one_defect_alone_is_found_as_planted(name: str, tmp_path: Path) -> None:
    source = cohort(tmp_path / "source", {name: 0.1}, patients=100)
    ingested, made, _ = found(source, tmp_path)
    expected = document(source)["expected"]
    assert ingested == expected["ingest"]
    conflicts = made["patients"]["noted"].get("admissions disagree on ethnicity", 0)
    assert conflicts == expected["records"]["admissions disagree on ethnicity"]


def test_a_share_of_one_soils_every_row_that_is_suited(tmp_path: Path) -> None:
    source = cohort(tmp_path / "source", dict.fromkeys(SHARES, 1.0), patients=100)
    assert found(source, tmp_path)[0] == document(source)["expected"]["ingest"]


def test_another_defects_share_moves_no_row_of_this_one() -> None:
    def rewritten(shares: Dirt) -> set[int]:
        tables = simulate.draw(process.default(), 50, np.random.default_rng(1))
        table = dirt.plant(tables, shares, 1)[0].diagnoses
        return {row["HADM_ID"] for row in table.to_pylist() if row["ICD9_CODE"].endswith(" ")}

    assert rewritten(Dirt(rewritten_codes=0.1)) == rewritten(Dirt(rewritten_codes=0.1, unknown_gender=0.5))


def test_numbers_stay_bare_where_no_defect_makes_them_text(tmp_path: Path) -> None:
    source = cohort(tmp_path / "source", {"null_codes": 0.05, "blank_positions": 0.05}, patients=50)
    lines = (source / "DIAGNOSES_ICD.csv").read_text().splitlines()[1:]
    assert all(line.split(",")[1].isdigit() for line in lines)
    assert any(line.split(",")[3] == "" for line in lines)
    assert any(line.endswith(",") for line in lines)


def known(source: Path, results: Path) -> Known:
    """The optimum of the test split, as evaluate_likelihood finds it after the data stages."""
    made = run_records(run_ingest(source, results), results)
    words, index = results / "vocabulary", results / "shards"
    vocabulary.run(
        vocabulary.Inputs(made / "train.parquet", made / "ledger.json"),
        vocabulary.Outputs(words / "vocabulary.json", words / "ledger.json"),
        from_assignments("vocabulary", []),
    )
    splits = [made / f"{name}.parquet" for name in ("train", "valid", "test")]
    shards.run(
        shards.Inputs(*splits, made / "ledger.json", words / "vocabulary.json", words / "ledger.json"),
        shards.Outputs(index / "index.json", index / "ledger.json"),
        from_assignments("shards", []),
    )
    inputs = evaluate_likelihood.Inputs(
        model=results,
        train_summary=results,
        index=index / "index.json",
        shards_ledger=index / "ledger.json",
        vocabulary=words / "vocabulary.json",
        vocabulary_ledger=words / "ledger.json",
        process=source / "process.json",
        test=splits[2],
        records_ledger=made / "ledger.json",
    )
    test = Cohort.from_shards(artifacts.read_split(index / "index.json", "test"))
    words_known = Vocabulary.from_document(artifacts.read_json(inputs.vocabulary, schemas.VOCABULARY))
    return evaluate_likelihood.optimum(inputs, test, words_known)


def test_the_optimum_of_a_dirty_cohort_is_that_of_the_clean_one(clean: Path, tmp_path: Path) -> None:
    soiled = known(cohort(tmp_path / "source", HARMLESS), tmp_path / "dirty")
    untouched = known(clean, tmp_path / "clean")
    assert soiled.scores is not None
    assert untouched.scores is not None
    assert (soiled.scores.log_prob == untouched.scores.log_prob).all()
    assert all((soiled.gain[name] == gain).all() for name, gain in untouched.gain.items())


def test_patients_without_a_sex_leave_no_optimum(tmp_path: Path) -> None:
    source = cohort(tmp_path / "source", {"unknown_gender": 0.3}, patients=200)
    found = known(source, tmp_path)
    assert (found.scores, found.gain) == (None, {})
    assert found.reason == "patients of unknown sex are not part of the process"
