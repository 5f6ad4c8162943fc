"""The stage: sealed sets in, utility.json out."""

import json
from pathlib import Path
from typing import Any

import pytest

from promptehr import icd9
from promptehr.errors import ArtifactError
from promptehr.settings import from_assignments
from promptehr.stages import evaluate_utility
from tests.record_builders import cohort, digest, seal

CODES = sorted(code for code, group in icd9.groups().items() if group.ccs in (49, 98, 101, 108, 127, 159))
SETTINGS = from_assignments(
    "evaluate_utility",
    ["evaluate_utility.bootstrap=100", "evaluate_utility.tasks=3", "evaluate_utility.min_positives=5"],
)


def files(folder: Path) -> evaluate_utility.Inputs:
    synthetic = cohort(150, 3, CODES, first_id=2**40)
    paths = seal(folder, cohort(150, 1, CODES), cohort(120, 2, CODES, first_id=1000), synthetic)
    return evaluate_utility.Inputs(**paths)


def evaluated(inputs: evaluate_utility.Inputs, path: Path) -> dict[str, Any]:
    evaluate_utility.run(inputs, evaluate_utility.Outputs(utility=path), SETTINGS)
    return json.loads(path.read_text("utf-8"))["utility"]  # type: ignore[no-any-return]


def test_the_document_holds_as_many_tasks_as_asked_for(tmp_path: Path) -> None:
    found = evaluated(files(tmp_path), tmp_path / "utility.json")
    assert len(found["tasks"]) == 3
    assert found["patients"] == {"synthetic": 150, "real": 150, "test": 60}
    assert set(found["macro"]) == {"n_tasks", "synthetic", "real", "baseline", "difference"}
    assert set(found["codes_left_out"].values()) == {0}


def test_codes_without_a_group_are_counted_by_reason() -> None:
    codes = ["4019", "250", "ICD10:I10", "ICD10:E030", "E030"]
    assert evaluate_utility.left_out(codes, [icd9.group(code) for code in codes]) == {
        "ICD-10-CM, which CCS groups do not cover": 2,
        "in no CCS group": 1,
    }


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    inputs = files(tmp_path)
    for name in ("one.json", "two.json"):
        evaluated(inputs, tmp_path / name)
    assert digest(tmp_path / "one.json") == digest(tmp_path / "two.json")


def test_synthetic_patients_of_another_run_are_refused(tmp_path: Path) -> None:
    inputs = files(tmp_path)
    inputs.synthetic.write_bytes(inputs.test.read_bytes())
    with pytest.raises(ArtifactError, match="rerun generate, they are not of one run"):
        evaluated(inputs, tmp_path / "utility.json")
