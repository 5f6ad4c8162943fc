"""The stage: sealed sets in, fidelity.json out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptehr.errors import ArtifactError
from promptehr.settings import from_assignments
from promptehr.stages import evaluate_fidelity
from tests.record_builders import cohort, digest, seal, seal_vocabulary

CODES = [str(code) for code in range(4000, 4060)]
SETTINGS = from_assignments("evaluate_fidelity", ["evaluate_fidelity.bootstrap=100"])


def files(folder: Path, synthetic_patients: int = 120) -> evaluate_fidelity.Inputs:
    synthetic = cohort(synthetic_patients, 3, CODES, first_id=2**40)
    paths = seal(folder, cohort(120, 1, CODES), cohort(80, 2, CODES, first_id=1000), synthetic)
    return evaluate_fidelity.Inputs(**paths, **seal_vocabulary(folder, CODES))


def evaluated(inputs: evaluate_fidelity.Inputs, path: Path) -> dict[str, Any]:
    evaluate_fidelity.run(inputs, evaluate_fidelity.Outputs(fidelity=path), SETTINGS)
    return json.loads(path.read_text("utf-8"))["fidelity"]  # type: ignore[no-any-return]


def test_the_document_holds_what_others_rely_on(tmp_path: Path) -> None:
    found = evaluated(files(tmp_path), tmp_path / "fidelity.json")
    assert found["patients"] == {"real": 40, "synthetic": 120, "ceiling": 120}
    assert {"r2", "pearson", "spearman", "ceiling"} <= found["prevalence"].keys()
    assert set(found["implausible"]) == {
        "males_with_pregnancy",
        "females_with_male_only",
        "adults_with_perinatal",
    }


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    inputs = files(tmp_path)
    for name in ("one.json", "two.json"):
        evaluated(inputs, tmp_path / name)
    assert digest(tmp_path / "one.json") == digest(tmp_path / "two.json")


@pytest.mark.parametrize(("synthetic", "ceiling"), [(50, 50), (300, 120)])
def test_the_ceiling_has_as_many_patients_as_training_can_give(
    synthetic: int, ceiling: int, tmp_path: Path
) -> None:
    found = evaluated(files(tmp_path, synthetic), tmp_path / "fidelity.json")
    assert found["patients"] == {"real": 40, "synthetic": synthetic, "ceiling": ceiling}


def test_the_ceiling_repeats_no_patient() -> None:
    train = cohort(40, 1, CODES)
    found = evaluate_fidelity.cohorts(train, train, train, {"codes": []}, np.random.default_rng(1))
    np.testing.assert_array_equal(found.ceiling.codes, found.real.codes)


def test_files_of_two_runs_are_refused(tmp_path: Path) -> None:
    inputs = files(tmp_path)
    inputs.train.write_bytes(inputs.test.read_bytes())
    with pytest.raises(ArtifactError, match="rerun records, they are not of one run"):
        evaluated(inputs, tmp_path / "fidelity.json")
    assert not (tmp_path / "fidelity.json").exists()
