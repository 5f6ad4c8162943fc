"""Compare synthetic patients with real test patients, beside a ceiling of training patients.

Turns records, the synthetic patients and the vocabulary into `fidelity.json`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from promptehr import artifacts, schemas
from promptehr.metrics.fidelity import Cohorts, Draws, fidelity
from promptehr.metrics.incidence import Patients, catalogue
from promptehr.settings import EvaluateFidelity, Settings

STAGE = "evaluate_fidelity"


@dataclass(frozen=True)
class Inputs:
    synthetic: Path
    generate_summary: Path
    train: Path
    valid: Path
    test: Path
    records_ledger: Path
    vocabulary: Path
    vocabulary_ledger: Path


@dataclass(frozen=True)
class Outputs:
    fidelity: Path


def cohorts(
    synthetic: pl.DataFrame,
    train: pl.DataFrame,
    test: pl.DataFrame,
    vocabulary: Mapping[str, Any],
    generator: np.random.Generator,
) -> Cohorts:
    """The cohorts over one catalogue; the ceiling is drawn as `metrics.fidelity` says."""
    codes = catalogue(train, test, synthetic)
    training = Patients.from_frame(train, codes)
    drawn = np.sort(generator.permutation(len(train))[: len(synthetic)])
    return Cohorts(
        real=Patients.from_frame(test, codes),
        synthetic=Patients.from_frame(synthetic, codes),
        ceiling=Patients.from_frame(train[drawn], codes),
        known=np.isin(codes, [entry["code"] for entry in vocabulary["codes"]]),
        training_prevalence=np.asarray(training.ever().mean(axis=0)).ravel(),
    )


def evaluate(compared: Cohorts, settings: EvaluateFidelity) -> dict[str, Any]:
    """All numbers of `metrics.fidelity` under the settings."""
    draws = Draws(seed=settings.seed, resamples=settings.bootstrap)
    return fidelity(compared, draws=draws, pair_min_patients=settings.pair_min_patients)


def run(inputs: Inputs, outputs: Outputs, settings: Settings) -> None:
    """Read the sealed sets, compare, publish `fidelity.json`."""
    ours = settings.evaluate_fidelity
    artifacts.open_sealed(inputs.generate_summary, schemas.SUMMARY, "generate", inputs.synthetic)
    artifacts.open_sealed(inputs.records_ledger, schemas.LEDGER, "records", inputs.train, inputs.test)
    artifacts.open_sealed(inputs.vocabulary_ledger, schemas.LEDGER, "vocabulary", inputs.vocabulary)
    compared = cohorts(
        pl.DataFrame(artifacts.read_table(inputs.synthetic, schemas.SYNTHETIC)),
        pl.DataFrame(artifacts.read_table(inputs.train, schemas.RECORDS)),
        pl.DataFrame(artifacts.read_table(inputs.test, schemas.RECORDS)),
        artifacts.read_json(inputs.vocabulary, schemas.VOCABULARY),
        np.random.default_rng(ours.seed),
    )
    artifacts.write_sealed(
        outputs.fidelity,
        {"fidelity": evaluate(compared, ours)},
        schemas.EVALUATION,
        stage=STAGE,
        settings=settings,
        inputs=vars(inputs),
        files=[],
    )
