"""The stage: sealed sets in, fidelity.json out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from promptehr import artifacts, schemas
from promptehr.errors import ArtifactError
from promptehr.settings import EvaluateFidelity, from_assignments
from promptehr.simulation import fresh
from promptehr.stages import evaluate_fidelity
from tests.record_builders import cohort, digest, frame, seal, seal_vocabulary
from tests.simulation_builders import tiny

CODES = [str(code) for code in range(4000, 4060)]
SETTINGS = from_assignments(
    "evaluate_fidelity", ["evaluate_fidelity.bootstrap=100", "evaluate_fidelity.pair_min_patients=2"]
)


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
    found = evaluate_fidelity.cohorts(train, train, train, {"codes": []}, 1)
    np.testing.assert_array_equal(found.ceiling.codes, found.real.codes)


def with_process(folder: Path) -> evaluate_fidelity.Inputs:
    """Patients of the tiny process: 3,000 to train on, 60 held out, 3,000 synthetic ones."""
    truth, sizes = tiny(), (3000, 60, 3000)
    drawn = [fresh.patients(truth, size, np.random.default_rng(seed)) for seed, size in enumerate(sizes)]
    frames = [
        frame(*pl.DataFrame(table).to_dicts(), first_id=first)
        for table, first in zip(drawn, (1, 1000, 2**40), strict=True)
    ]
    path = folder / "process.json"
    artifacts.write_json(path, {"parameters": truth.to_document()}, schemas.PROCESS)
    return evaluate_fidelity.Inputs(
        **seal(folder, *frames), **seal_vocabulary(folder, truth.codes), process=path
    )


def test_patients_of_a_known_process_are_compared_with_new_ones_of_it(tmp_path: Path) -> None:
    found = evaluated(with_process(tmp_path), tmp_path / "fidelity.json")
    assert found["patients"]["real"] == 30
    assert found["fresh"]["patients"] == {"real": 20_000, "synthetic": 3000, "ceiling": 3000}
    # Both are draws of the process itself; the small test split cannot tell as well as 20,000 can.
    assert found["fresh"]["prevalence"]["r2"] > 0.95
    assert found["fresh"]["prevalence"]["ceiling"]["r2"] > 0.95
    assert found["fresh"]["pairs"]["same_visit"]["pairs"] >= 2


def test_new_patients_have_the_codes_ages_and_sexes_of_the_process() -> None:
    truth = tiny()
    new = pl.DataFrame(fresh.patients(truth, 20_000, np.random.default_rng(5)))
    by_band = new.group_by(pl.col("age") >= 40).agg(women=(pl.col("gender") == "F").mean(), n=pl.len())
    (_, young, n_young), (_, old, n_old) = by_band.sort("age").rows()
    assert n_young / 20_000 == pytest.approx(truth.band[0], abs=0.015)
    assert (young, old) == (
        pytest.approx(truth.female[0], abs=0.02),
        pytest.approx(truth.female[1], abs=0.02),
    )
    assert n_young + n_old == new.height
    assert new["visits"].list.len().max() == 2
    one_visit = new["visits"].explode()
    assert one_visit.list.n_unique().equals(one_visit.list.len())
    assert one_visit.list.len().min() >= 1


@pytest.mark.parametrize(
    ("process", "changed", "count", "reason"),
    [
        (False, None, 100, "the source is not simulated: no true process is known"),
        (True, "records.min_visits=2", 100, "records.min_visits=2 changes the process"),
        (True, None, 0, "evaluate_fidelity.fresh_patients is 0"),
        (True, None, 100, None),
    ],
)
def test_without_a_process_there_are_no_new_patients(
    process: bool, changed: str | None, count: int, reason: str | None
) -> None:
    settings = EvaluateFidelity(fresh_patients=count)
    assert evaluate_fidelity.unknown(settings, tiny() if process else None, changed) == reason


def test_files_of_two_runs_are_refused(tmp_path: Path) -> None:
    inputs = files(tmp_path)
    inputs.train.write_bytes(inputs.test.read_bytes())
    with pytest.raises(ArtifactError, match="rerun records, they are not of one run"):
        evaluated(inputs, tmp_path / "fidelity.json")
    assert not (tmp_path / "fidelity.json").exists()
