"""Compare synthetic patients with real test patients, beside a ceiling of training patients.

Turns records, the synthetic patients and the vocabulary into `fidelity.json`. Patients of a known
process are compared with many new ones of it too: a test split is too small to tell rare codes apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from promptehr import artifacts, schemas
from promptehr.metrics.fidelity import Cohorts, Draws, fidelity, fresh
from promptehr.metrics.incidence import Patients, catalogue
from promptehr.metrics.surprise import Scored, surprise
from promptehr.settings import EvaluateFidelity, Settings
from promptehr.simulation.fresh import histories as fresh_histories
from promptehr.simulation.fresh import patients as fresh_patients
from promptehr.simulation.likelihood import patient_log_probs
from promptehr.simulation.process import Process
from promptehr.simulation.scope import changed_process

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
    process: Path | None = None


@dataclass(frozen=True)
class Outputs:
    fidelity: Path


@dataclass(frozen=True)
class Frames:
    """The patients compared, in the schema of records."""

    synthetic: pl.DataFrame
    train: pl.DataFrame
    test: pl.DataFrame


def cohorts(
    synthetic: pl.DataFrame,
    train: pl.DataFrame,
    test: pl.DataFrame,
    vocabulary: Mapping[str, Any],
    seed: int,
) -> Cohorts:
    """The cohorts over one catalogue; the ceiling is drawn as `metrics.fidelity` says."""
    codes = catalogue(train, test, synthetic)
    training = Patients.from_frame(train, codes)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(train))[: len(synthetic)])
    return Cohorts(
        real=Patients.from_frame(test, codes),
        synthetic=Patients.from_frame(synthetic, codes),
        ceiling=Patients.from_frame(train[drawn], codes),
        known=np.isin(codes, [entry["code"] for entry in vocabulary["codes"]]),
        training_prevalence=np.asarray(training.ever().mean(axis=0)).ravel(),
    )


def evaluate(frames: Frames, vocabulary: Mapping[str, Any], settings: EvaluateFidelity) -> dict[str, Any]:
    """All numbers of `metrics.fidelity` against the test patients."""
    compared = cohorts(frames.synthetic, frames.train, frames.test, vocabulary, settings.seed)
    draws = Draws(seed=settings.seed, resamples=settings.bootstrap)
    return fidelity(compared, draws=draws, pair_min_patients=settings.pair_min_patients)


def against_process(
    frames: Frames,
    vocabulary: Mapping[str, Any],
    settings: EvaluateFidelity,
    process: Process | None,
    changed: str | None,
) -> dict[str, Any]:
    """The same against new patients of the process, or null with the reason.

    A pair needs the same share of them as of the test patients.
    """
    reason = unknown(settings, process, changed)
    if process is None or reason:
        return {"patients": None, "reason": reason}
    # Not the seed of the cohort: the sequence of a pair of numbers is another one.
    new = pl.DataFrame(
        fresh_patients(process, settings.fresh_patients, np.random.default_rng([settings.seed, 1]))
    )
    compared = cohorts(frames.synthetic, frames.train, new, vocabulary, settings.seed)
    draws = Draws(seed=settings.seed, resamples=settings.bootstrap)
    share = settings.pair_min_patients / max(frames.test.height, 1)
    found = fresh(compared, draws=draws, pair_min_patients=max(1, round(share * new.height)))
    scored = (score(process, side.head(settings.scored_patients)) for side in (frames.synthetic, new))
    found["surprise"] = surprise(*scored, generator=draws.generator, resamples=draws.resamples)
    return found


def score(process: Process, records: pl.DataFrame) -> Scored:
    """The patients of known sex under the process; ids and new patients come in no order of theirs."""
    known = records.filter(pl.col("gender") != "UNKNOWN").select("gender", "ethnicity", "age", "visits")
    histories = fresh_histories(process, known.to_arrow())
    codes = known["visits"].list.eval(pl.element().list.len()).list.sum().to_numpy()
    return Scored(patient_log_probs(process, histories), codes.astype(np.int64))


def unknown(settings: EvaluateFidelity, process: Process | None, changed: str | None) -> str | None:
    """Why no new patients can be drawn; None if they can."""
    if process is None:
        return "the source is not simulated: no true process is known"
    if changed:
        return f"{changed} changes the process"
    return None if settings.fresh_patients else "evaluate_fidelity.fresh_patients is 0"


def run(inputs: Inputs, outputs: Outputs, settings: Settings) -> None:
    """Read the sealed sets, compare, publish `fidelity.json`."""
    ours = settings.evaluate_fidelity
    artifacts.open_sealed(inputs.generate_summary, schemas.SUMMARY, "generate", inputs.synthetic)
    ledger = artifacts.open_sealed(
        inputs.records_ledger, schemas.LEDGER, "records", inputs.train, inputs.test
    )
    artifacts.open_sealed(inputs.vocabulary_ledger, schemas.LEDGER, "vocabulary", inputs.vocabulary)
    frames = Frames(
        pl.DataFrame(artifacts.read_table(inputs.synthetic, schemas.SYNTHETIC)),
        pl.DataFrame(artifacts.read_table(inputs.train, schemas.RECORDS)),
        pl.DataFrame(artifacts.read_table(inputs.test, schemas.RECORDS)),
    )
    vocabulary = artifacts.read_json(inputs.vocabulary, schemas.VOCABULARY)
    truth = inputs.process and Process.from_document(
        artifacts.read_json(inputs.process, schemas.PROCESS)["parameters"]
    )
    changed = changed_process(ledger["key"]["settings"])
    measured = evaluate(frames, vocabulary, ours)
    measured["fresh"] = against_process(frames, vocabulary, ours, truth or None, changed)
    artifacts.write_sealed(
        outputs.fidelity,
        {"fidelity": measured},
        schemas.EVALUATION,
        stage=STAGE,
        settings=settings,
        inputs={name: path for name, path in vars(inputs).items() if path is not None},
        files=[],
    )
