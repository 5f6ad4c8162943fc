"""The generate stage: methods, demographics, files, ids, bytes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptehr import artifacts, schemas
from promptehr.errors import ArtifactError, InputError, PromptEHRError, SettingsError
from promptehr.settings import Runtime, parse
from promptehr.stages import generate, train
from promptehr.tokens import Vocabulary
from tests.model_builders import CODES, UNKNOWN, cohort, outputs, random_patients, tiny_settings, write_inputs

CELLS = (
    {"gender": "M", "ethnicity": "WHITE", "age_from": 40, "age_to": 60, "patients": 30},
    {"gender": "F", "ethnicity": "ASIAN", "age_from": 0, "age_to": 5, "patients": 10},
)
VOCABULARY = Vocabulary(CODES, age_mean=60.0, age_spread=20.0, demographics=CELLS)
Made = tuple[pa.Table, dict[str, Any]]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> generate.Inputs:
    """Shards of forty patients and a model trained on them for one epoch."""
    folder = tmp_path_factory.mktemp("generate")
    shards = write_inputs(folder, train=random_patients(40, seed=1), valid=random_patients(15, seed=2))
    made = outputs(folder / "train")
    train.run(shards, made, tiny_settings(epochs=1), Runtime(device="cpu", threads=1))
    return generate.Inputs(
        model=made.model,
        train_summary=made.summary,
        index=shards.index,
        shards_ledger=shards.shards_ledger,
        vocabulary=shards.vocabulary,
        vocabulary_ledger=shards.vocabulary_ledger,
        demographics=None,
        histories=None,
    )


def made(inputs: generate.Inputs, folder: Path, **settings: Any) -> Made:
    files = generate.Outputs(folder / "synthetic.parquet", folder / "summary.json")
    generate.run(inputs, files, parse({"generate": settings}), Runtime(device="cpu", threads=1))
    summary = artifacts.open_sealed(files.summary, schemas.SUMMARY, "generate", files.synthetic)
    return artifacts.read_table(files.synthetic, schemas.SYNTHETIC), summary


@pytest.mark.parametrize("method", ["model", "unigram", "bigram", "copy"])
def test_every_method_writes_records_under_synthetic_ids(
    inputs: generate.Inputs, tmp_path: Path, method: str
) -> None:
    table, summary = made(inputs, tmp_path, method=method)
    rows = table.to_pylist()
    assert [row["subject_id"] for row in rows] == [2**40 + place for place in range(40)]
    assert {code for row in rows for visit in row["visits"] for code in visit} <= set(CODES)
    assert all(visit and len(set(visit)) == len(visit) for row in rows for visit in row["visits"])
    assert all(row["visits"] and row["visit_days"] is None for row in rows)
    codes = sum(len(visit) for row in rows for visit in row["visits"])
    assert (summary["method"], summary["patients"], summary["codes"]) == (method, 40, codes)


@pytest.mark.parametrize("method", ["model", "bigram"])
def test_the_same_seed_gives_the_same_bytes(inputs: generate.Inputs, tmp_path: Path, method: str) -> None:
    bytes_of = []
    for name, seed in (("one", 1), ("two", 1), ("other", 2)):
        made(inputs, tmp_path / name, method=method, seed=seed)
        bytes_of.append((tmp_path / name / "synthetic.parquet").read_bytes())
    assert bytes_of[0] == bytes_of[1]
    assert bytes_of[0] != bytes_of[2]


def test_copies_are_the_training_records(inputs: generate.Inputs, tmp_path: Path) -> None:
    copies, summary = made(inputs, tmp_path, method="copy")
    train_records = random_patients(40, seed=1)
    wanted = sorted([[CODES[code - 6] for code in visit] for visit in visits] for visits in train_records)
    assert sorted(copies["visits"].to_pylist()) == wanted
    assert summary["copied_from_train"] == 40


def test_a_share_of_copies_takes_the_rest_from_held_out_records(
    inputs: generate.Inputs, tmp_path: Path
) -> None:
    _, summary = made(inputs, tmp_path, method="copy", patients=20, copy={"share": 0.25})
    assert summary["copied_from_train"] == 5


def test_more_copies_than_there_are_records_are_refused(inputs: generate.Inputs, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="need 41 training records; there are 40"):
        made(inputs, tmp_path, method="copy", patients=41)
    assert list(tmp_path.iterdir()) == []


def test_codes_outside_the_vocabulary_leave_no_empty_visit() -> None:
    found = generate.without_unknown(cohort([[6, UNKNOWN], [UNKNOWN]], [[UNKNOWN]], [[7]]), VOCABULARY)
    assert found.tokens.tolist() == [1, 3, 6, 4, 5, 1, 3, 7, 4, 5]
    assert found.subject_id.tolist() == [1, 3]


def test_demographics_follow_the_joint_table() -> None:
    gender, ethnicity, age = generate.draw_demographics(VOCABULARY, 4000, np.random.default_rng(1))
    men = gender == 0
    assert men.mean() == pytest.approx(0.75, abs=0.03)
    assert set(ethnicity[men]) == {0}
    assert set(ethnicity[~men]) == {3}
    assert (age[men].min() >= 40, age[men].max() < 60, age[~men].max() < 5) == (True, True, True)
    assert age[men].mean() == pytest.approx(50, abs=0.5)


def test_given_demographics_are_taken_row_by_row(inputs: generate.Inputs, tmp_path: Path) -> None:
    people = {"gender": ["F", "UNKNOWN"], "ethnicity": ["BLACK", "OTHER"], "age": [30, 71.5]}
    pq.write_table(pa.table(people), tmp_path / "people.parquet")
    table, _ = made(replace(inputs, demographics=tmp_path / "people.parquet"), tmp_path / "out")
    assert table["gender"].to_pylist() == people["gender"]
    assert table["ethnicity"].to_pylist() == people["ethnicity"]
    assert table["age"].to_pylist() == pytest.approx(people["age"], abs=1e-4)


@pytest.mark.parametrize(
    ("people", "message"),
    [
        ({"gender": ["F"], "age": [3]}, "no column ethnicity"),
        ({"gender": ["F", "f"], "ethnicity": ["ASIAN"] * 2, "age": [3, 3]}, "row 2, column gender"),
        ({"gender": ["F"], "ethnicity": ["ASIAN"], "age": [-1]}, "row 1, column age: outside 0 to 120"),
        ({"gender": ["F"], "ethnicity": ["ASIAN"], "age": ["old"]}, "column age is not a number"),
        ({"gender": pa.array([], "string"), "ethnicity": pa.array([], "string"), "age": []}, "no rows"),
    ],
)
def test_wrong_demographics_are_one_line(
    inputs: generate.Inputs, tmp_path: Path, people: dict[str, Any], message: str
) -> None:
    pq.write_table(pa.table(people), tmp_path / "people.parquet")
    with pytest.raises(InputError, match=message) as error:
        made(replace(inputs, demographics=tmp_path / "people.parquet"), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_histories_are_kept_and_continued(inputs: generate.Inputs, tmp_path: Path) -> None:
    given = [[["4019", "25000"]], [["0389"], ["4280"]]] * 20
    record = {
        "subject_id": list(range(1, 41)),
        "gender": ["M"] * 40,
        "ethnicity": ["WHITE"] * 40,
        "age": pa.array([50.0] * 40, pa.float32()),
        "age_capped": [False] * 40,
        "visits": given,
        "visit_days": pa.array([[0] * len(visits) for visits in given], pa.list_(pa.int32())),
    }
    artifacts.write_table(tmp_path / "records.parquet", pa.table(record), schemas.RECORDS)
    table, _ = made(replace(inputs, histories=tmp_path / "records.parquet"), tmp_path / "out")
    found = table["visits"].to_pylist()
    assert all(visits[: len(before)] == before for visits, before in zip(found, given, strict=True))
    assert sum(map(len, found)) > sum(map(len, given))


@pytest.mark.parametrize("change", [{"model": None}, {"model": Path("absent")}])
def test_a_missing_model_is_one_line(inputs: generate.Inputs, tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(PromptEHRError) as error:
        made(replace(inputs, **change), tmp_path)
    assert "\n" not in str(error.value)


def test_a_damaged_model_is_refused(inputs: generate.Inputs, tmp_path: Path) -> None:
    assert inputs.model
    weights = inputs.model / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        with pytest.raises(ArtifactError, match=r"model\.safetensors: does not match"):
            made(inputs, tmp_path)
    finally:
        weights.write_bytes(content)


def test_what_a_killed_trainer_left_in_the_models_folder_is_no_part_of_it(
    inputs: generate.Inputs, tmp_path: Path
) -> None:
    assert inputs.model is not None
    left = inputs.model / ".model.safetensors.abcd1234"
    left.touch()
    try:
        assert made(inputs, tmp_path, patients=3)[0].num_rows == 3
    finally:
        left.unlink()
