"""Attack the synthetic patients: copies, nearest neighbours, membership; judge by planted controls.

Turns records and the synthetic patients into `privacy.json`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from promptehr import artifacts, schemas
from promptehr.metrics.incidence import catalogue
from promptehr.metrics.privacy import privacy
from promptehr.metrics.records import Records
from promptehr.settings import EvaluatePrivacy, Settings

STAGE = "evaluate_privacy"


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
    privacy: Path


def evaluate(
    synthetic: pl.DataFrame, train: pl.DataFrame, held_out: pl.DataFrame, settings: EvaluatePrivacy
) -> dict[str, Any]:
    """All numbers of `metrics.privacy` under the settings."""
    codes = catalogue(synthetic, train, held_out)
    return privacy(
        *(
            Records.from_frame(frame, codes, min_codes=settings.min_codes)
            for frame in (synthetic, train, held_out)
        ),
        min_members=settings.min_members,
        attacked_patients=settings.attacked_patients,
        resamples=settings.bootstrap,
        seed=settings.seed,
    )


def run(inputs: Inputs, outputs: Outputs, settings: Settings) -> None:
    """Read the sealed sets, attack, publish `privacy.json`."""
    splits = (inputs.train, inputs.valid, inputs.test)
    artifacts.open_sealed(inputs.generate_summary, schemas.SUMMARY, "generate", inputs.synthetic)
    artifacts.open_sealed(inputs.records_ledger, schemas.LEDGER, "records", *splits)
    train, valid, test = (pl.DataFrame(artifacts.read_table(path, schemas.RECORDS)) for path in splits)
    measured = evaluate(
        pl.DataFrame(artifacts.read_table(inputs.synthetic, schemas.SYNTHETIC)),
        train,
        pl.concat([valid, test]),
        settings.evaluate_privacy,
    )
    artifacts.write_sealed(
        outputs.privacy,
        {"privacy": measured},
        schemas.EVALUATION,
        stage=STAGE,
        settings=settings,
        inputs=vars(inputs),
        files=[],
    )
