"""Builders of records frames and of sealed stage inputs, for the tests of the evaluations."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from promptehr import artifacts, schemas
from promptehr.settings import Settings

Visits = Sequence[Sequence[str]]


def patient(*visits: Sequence[str], gender: str = "M", age: float = 50.0) -> dict[str, Any]:
    return {"gender": gender, "age": age, "visits": [list(visit) for visit in visits]}


def frame(*patients: dict[str, Any], first_id: int = 1) -> pl.DataFrame:
    """In the records schema; ids count from first_id."""
    return pl.DataFrame(
        [
            {
                "subject_id": first_id + place,
                "gender": one["gender"],
                "ethnicity": "WHITE",
                "age": one["age"],
                "age_capped": False,
                "visits": one["visits"],
                "visit_days": list(range(len(one["visits"]))),
            }
            for place, one in enumerate(patients)
        ],
        schema={
            "subject_id": pl.Int64,
            "gender": pl.String,
            "ethnicity": pl.String,
            "age": pl.Float32,
            "age_capped": pl.Boolean,
            "visits": pl.List(pl.List(pl.String)),
            "visit_days": pl.List(pl.Int32),
        },
    )


def cohort(patients: int, seed: int, codes: Sequence[str], first_id: int = 1) -> pl.DataFrame:
    """Patients of one or two visits of 6 to 12 codes; earlier codes are more frequent."""
    generator = np.random.default_rng(seed)
    chance = 1.0 / np.arange(1, len(codes) + 1)
    chance /= chance.sum()
    return frame(
        *(
            patient(
                *(
                    generator.choice(codes, generator.integers(6, 13), replace=False, p=chance).tolist()
                    for _ in range(generator.integers(1, 3))
                ),
                gender=("M", "F")[generator.integers(2)],
                age=float(generator.integers(18, 90)),
            )
            for _ in range(patients)
        ),
        first_id=first_id,
    )


def seal(folder: Path, train: pl.DataFrame, rest: pl.DataFrame, synthetic: pl.DataFrame) -> dict[str, Path]:
    """What the evaluations read, as the stages before them publish it; `rest` is cut in two splits."""
    half = len(rest) // 2
    splits = {"train": train, "valid": rest[:half], "test": rest[half:]}
    paths = {name: folder / "records" / f"{name}.parquet" for name in splits}
    for name, split in splits.items():
        artifacts.write_table(paths[name], split.to_arrow(), schemas.RECORDS)
    paths["records_ledger"] = _sealed(folder / "records/ledger.json", "records", schemas.LEDGER, paths)
    made = {"synthetic": folder / "base/synthetic.parquet"}
    synthetic = synthetic.with_columns(pl.lit(None, pl.List(pl.Int32)).alias("visit_days"))
    artifacts.write_table(made["synthetic"], synthetic.to_arrow(), schemas.SYNTHETIC)
    paths["generate_summary"] = _sealed(folder / "base/summary.json", "generate", schemas.SUMMARY, made)
    return {**paths, **made}


def seal_vocabulary(folder: Path, codes: Sequence[str]) -> dict[str, Path]:
    path = folder / "vocabulary/vocabulary.json"
    artifacts.write_json(path, {"codes": [{"code": code} for code in codes]}, schemas.VOCABULARY)
    ledger = _sealed(folder / "vocabulary/ledger.json", "vocabulary", schemas.LEDGER, {"vocabulary": path})
    return {"vocabulary": path, "vocabulary_ledger": ledger}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sealed(path: Path, stage: str, document: schemas.Document, files: dict[str, Path]) -> Path:
    artifacts.write_sealed(
        path, {}, document, stage=stage, settings=Settings(), inputs={}, files=list(files.values())
    )
    return path
