"""A small MIMIC-IV release, given by its parent folder, through the workflow to shards."""

import json
from pathlib import Path
from typing import Any

import pytest

from promptehr import artifacts, schemas
from tests.mimic4_builders import admission, diagnosis, folder, patient, ten
from tests.workflow.checkout import Checkout

PATIENTS = range(1, 61)


def release(path: Path) -> Path:
    """60 patients with an ICD-9 and an ICD-10 visit; E03.0 and E030 are codes of every other one."""
    folder(
        path / "hosp",
        patients=[patient(n, gender="MF"[n % 2], age=30 + n) for n in PATIENTS],
        admissions=[
            row for n in PATIENTS for row in (admission(2 * n, n), admission(2 * n + 1, n, "2152-01-01"))
        ],
        diagnoses=[
            row
            for n in PATIENTS
            for row in (
                diagnosis("4019", 2 * n, n),
                diagnosis("E030", 2 * n, n, 2),
                ten("I10", 2 * n + 1, n),
                ten("E030", 2 * n + 1, n, 2),
            )
        ],
    )
    return path


def document(checkout: Checkout, name: str, schema: schemas.Document) -> dict[str, Any]:
    return artifacts.read_json(checkout.folder / "results" / "small" / name, schema)


@pytest.mark.parametrize(
    ("choice", "codes", "tokens"),
    [
        ("keep", {"4019", "E030", "ICD10:I10", "ICD10:E030"}, 10),
        ("map", {"4019", "E030", "243"}, 10),
        ("drop", {"4019", "E030"}, 6),
    ],
)
def test_a_release_ends_in_shards(
    checkout: Checkout, tmp_path: Path, choice: str, codes: set[str], tokens: int
) -> None:
    source = {"kind": "mimic4", "path": str(release(tmp_path / "mimic-iv-3.1"))}
    given = {"results_dir": "results/small", "source": source, "ingest": {"icd10": choice}}
    done = checkout.with_settings(json.dumps(given)).snakemake(
        "--cores", "1", "results/small/shards/index.json"
    )
    assert done.returncode == 0, done.stdout[-4000:]
    vocabulary = document(checkout, "vocabulary/vocabulary.json", schemas.VOCABULARY)
    titles = {entry["code"]: entry["title"] for entry in vocabulary["codes"]}
    assert titles.keys() == codes
    assert len(set(titles.values())) == len(codes)
    assert None not in titles.values()
    index = document(checkout, "shards/index.json", schemas.INDEX)
    assert index["longest"] == tokens
    assert sum(shard["rows"] for shards in index["splits"].values() for shard in shards) == len(PATIENTS)
