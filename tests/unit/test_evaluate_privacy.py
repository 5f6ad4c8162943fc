"""The stage: sealed sets in, privacy.json out."""

import json
from pathlib import Path
from typing import Any

import pytest

from promptehr.errors import ArtifactError, SettingsError
from promptehr.settings import from_assignments
from promptehr.stages import evaluate_privacy
from tests.record_builders import cohort, digest, seal

CODES = [str(code) for code in range(4000, 4200)]
SETTINGS = from_assignments(
    "evaluate_privacy", ["evaluate_privacy.bootstrap=100", "evaluate_privacy.min_members=50"]
)


def files(folder: Path, seed: int = 3) -> evaluate_privacy.Inputs:
    """Seed 1 makes the synthetic patients those of the training split."""
    synthetic = cohort(400, seed, CODES, first_id=2**40)
    paths = seal(folder, cohort(400, 1, CODES), cohort(200, 2, CODES, first_id=1000), synthetic)
    return evaluate_privacy.Inputs(**paths)


def evaluated(inputs: evaluate_privacy.Inputs, path: Path) -> dict[str, Any]:
    evaluate_privacy.run(inputs, evaluate_privacy.Outputs(privacy=path), SETTINGS)
    return json.loads(path.read_text("utf-8"))["privacy"]  # type: ignore[no-any-return]


def test_held_out_patients_are_those_of_both_other_splits(tmp_path: Path) -> None:
    found = evaluated(files(tmp_path), tmp_path / "privacy.json")
    assert found["patients"] == {"synthetic": 400, "train": 400, "held_out": 200}


def test_published_training_records_are_flagged(tmp_path: Path) -> None:
    found = evaluated(files(tmp_path, seed=1), tmp_path / "privacy.json")
    assert found["gate"]["passed"] is False
    assert found["gate"]["alarms"] == ["copies", "membership"]


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    inputs = files(tmp_path)
    for name in ("one.json", "two.json"):
        evaluated(inputs, tmp_path / name)
    assert digest(tmp_path / "one.json") == digest(tmp_path / "two.json")


def test_no_real_patient_is_named(tmp_path: Path) -> None:
    inputs = files(tmp_path)
    evaluated(inputs, tmp_path / "privacy.json")
    assert "subject_id" not in (tmp_path / "privacy.json").read_text("utf-8")


def test_splits_of_another_run_are_refused(tmp_path: Path) -> None:
    inputs = files(tmp_path)
    inputs.valid.write_bytes(inputs.test.read_bytes())
    with pytest.raises(ArtifactError, match="rerun records, they are not of one run"):
        evaluated(inputs, tmp_path / "privacy.json")


def test_fewer_attacked_patients_than_an_attack_needs_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"attacked_patients must be at least min_members \(300\)"):
        from_assignments("evaluate_privacy", ["evaluate_privacy.attacked_patients=200"])
