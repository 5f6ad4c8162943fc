"""What tests share: where the MIMIC-III demo lies."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def mimic3_demo() -> Path:
    """The folder of the MIMIC-III demo: PROMPTEHR_MIMIC3_DEMO, else beside the checkout, else a skip."""
    named = os.environ.get("PROMPTEHR_MIMIC3_DEMO")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data" / "mimic3-demo"
    if not (folder / "PATIENTS.csv").is_file():
        pytest.skip("MIMIC-III demo not found: set PROMPTEHR_MIMIC3_DEMO to the folder with PATIENTS.csv")
    return folder
