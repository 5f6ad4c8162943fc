"""Train classifiers on synthetic patients, test them on real ones.

Turns records and the synthetic patients into `utility.json`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from promptehr import artifacts, icd9, icd10, schemas
from promptehr.metrics.incidence import Patients, catalogue
from promptehr.metrics.utility import Visits, tasks, utility
from promptehr.settings import EvaluateUtility, Settings

STAGE = "evaluate_utility"


@dataclass(frozen=True)
class Inputs:
    synthetic: Path
    generate_summary: Path
    train: Path
    valid: Path
    test: Path
    records_ledger: Path


@dataclass(frozen=True)
class Outputs:
    utility: Path


def evaluate(
    synthetic: pl.DataFrame,
    train: pl.DataFrame,
    test: pl.DataFrame,
    settings: EvaluateUtility,
) -> dict[str, Any]:
    """All numbers of `metrics.utility` under the settings, and the codes that are in no task, by reason."""
    codes = catalogue(train, test, synthetic)
    seen, real, held_out = (
        Visits.first(Patients.from_frame(frame, codes)) for frame in (synthetic, train, test)
    )
    groups = [icd9.group(code) for code in codes]
    measured = utility(
        seen,
        real,
        held_out,
        tasks(real, groups, count=settings.tasks),
        min_positives=settings.min_positives,
        train_patients=settings.train_patients,
        generator=np.random.default_rng(settings.seed),
        resamples=settings.bootstrap,
    )
    return {**measured, "codes_left_out": left_out(codes, groups)}


def left_out(codes: Sequence[str], groups: Sequence[icd9.Group | None]) -> dict[str, int]:
    """Distinct codes that are neither label nor feature of any task, by reason."""
    without = [code for code, group in zip(codes, groups, strict=True) if group is None]
    ten = sum(code.startswith(icd10.PREFIX) for code in without)
    return {"ICD-10-CM, which CCS groups do not cover": ten, "in no CCS group": len(without) - ten}


def run(inputs: Inputs, outputs: Outputs, settings: Settings) -> None:
    """Read the sealed sets, train and test, publish `utility.json`."""
    artifacts.open_sealed(inputs.generate_summary, schemas.SUMMARY, "generate", inputs.synthetic)
    artifacts.open_sealed(inputs.records_ledger, schemas.LEDGER, "records", inputs.train, inputs.test)
    measured = evaluate(
        pl.DataFrame(artifacts.read_table(inputs.synthetic, schemas.SYNTHETIC)),
        pl.DataFrame(artifacts.read_table(inputs.train, schemas.RECORDS)),
        pl.DataFrame(artifacts.read_table(inputs.test, schemas.RECORDS)),
        settings.evaluate_utility,
    )
    artifacts.write_sealed(
        outputs.utility,
        {"utility": measured},
        schemas.EVALUATION,
        stage=STAGE,
        settings=settings,
        inputs=vars(inputs),
        files=[],
    )
