"""Builders for tests of the model: cohorts from nested lists, and a train stage's inputs on disk."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import BartConfig, BartForConditionalGeneration

from promptehr import artifacts, schemas, tokens
from promptehr.model.batches import TokenStore
from promptehr.settings import Settings, Train, parse
from promptehr.stages import train as train_stage

Visits = Sequence[Sequence[int]]

CODES = ("4019", "25000", "4280", "42731", "V3000", "0389")
SIZE = 6 + len(CODES) + 2
MASK, UNKNOWN = SIZE - 2, SIZE - 1


def sequence(visits: Visits) -> list[int]:
    """BOS <v> codes <\\v> ... END of one patient given as code ids."""
    inner = [token for visit in visits for token in (tokens.VISIT, *visit, tokens.VISIT_END)]
    return [tokens.BOS, *inner, tokens.END]


def cohort(*patients: Visits) -> tokens.Cohort:
    """Patient i has age_z i/2, gender i mod 2, ethnicity i mod 3."""
    sequences = [sequence(visits) for visits in patients]
    count = np.arange(len(patients))
    return tokens.Cohort(
        subject_id=count + 1,
        age_z=(count / 2).astype(np.float32),
        gender_id=count % 2,
        ethnicity_id=count % 3,
        tokens=np.array([token for one in sequences for token in one], dtype=np.int64),
        offsets=np.cumsum([0, *(len(one) for one in sequences)]),
    )


def visits_of(flat: tokens.Ints, offsets: tokens.Ints) -> list[list[list[int]]]:
    """Records as nested lists, after every rule of the grammar was asserted."""
    records = []
    for start, end in pairwise(offsets):
        record = flat[start:end].tolist()
        assert (record[0], record[-1]) == (tokens.BOS, tokens.END)
        visits: list[list[int]] = []
        for token in record[1:-1]:
            if token == tokens.VISIT:
                visits.append([])
            elif token == tokens.VISIT_END:
                assert visits[-1]
            else:
                visits[-1].append(token)
        assert visits
        assert all(len(set(visit)) == len(visit) for visit in visits)
        records.append(visits)
    return records


def store(*patients: Visits) -> TokenStore:
    return TokenStore.from_cohort(cohort(*patients), "cpu", vocabulary_size=SIZE)


def random_patients(count: int, *, seed: int) -> list[list[list[int]]]:
    """Patients of one to three visits of one to three distinct codes."""
    rng = np.random.default_rng(seed)
    return [
        [
            (6 + rng.permutation(len(CODES))[: rng.integers(1, 4)]).tolist()
            for _ in range(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))
        ]
        for _ in range(count)
    ]


def tiny_train(**changes: Any) -> Train:
    """Train settings of a model with some 5,000 weights, three epochs, dropout on."""
    small = {
        "shape": {
            "width": 16,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "heads": 2,
            "feed_forward": 32,
            "positions": 48,
        },
        "prompt": {"width": 8},
        "epochs": 3,
        "batch_patients": 8,
        "learning_rate": 0.01,
        "warmup_steps": 2,
        "checkpoint_every": 1,
        "precision": "fp32",
    }
    return Train.model_validate({**small, **changes})


def tiny_settings(**changes: Any) -> Settings:
    return parse({"train": tiny_train(**changes).model_dump()})


def bart(folder: Path, kind: Any = BartForConditionalGeneration, **changes: Any) -> Any:
    """A BART with the tiny shape but words and positions of its own, saved as transformers does."""
    shape = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 99}
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (("attention_heads", 2), ("ffn_dim", 32))
    }
    torch.manual_seed(5)
    model = kind(BartConfig(**{**shape, **sides, "max_position_embeddings": 1024, **changes}))
    model.save_pretrained(folder)
    return model


def write_inputs(folder: Path, *, train: Sequence[Visits], valid: Sequence[Visits]) -> train_stage.Inputs:
    """What the vocabulary and shards stages would have written for these patients."""
    settings = Settings()
    vocabulary = folder / "vocabulary" / "vocabulary.json"
    artifacts.write_json(vocabulary, _vocabulary(), schemas.VOCABULARY)
    vocabulary_ledger = vocabulary.with_name("ledger.json")
    artifacts.write_sealed(
        vocabulary_ledger,
        {"tables": {}},
        schemas.LEDGER,
        stage="vocabulary",
        settings=settings,
        inputs={},
        files=[vocabulary],
    )
    index = folder / "shards" / "index.json"
    splits = {
        name: [_shard(index.parent, name, patients)]
        for name, patients in (("train", train), ("valid", valid), ("test", valid))
    }
    content = {"splits": splits, "vocabulary_size": SIZE, "longest": 48}
    artifacts.write_json(index, content, schemas.INDEX)
    shards_ledger = index.with_name("ledger.json")
    artifacts.write_sealed(
        shards_ledger,
        {"tables": {}},
        schemas.LEDGER,
        stage="shards",
        settings=settings,
        inputs={"vocabulary": vocabulary},
        files=[index],
    )
    return train_stage.Inputs(index, shards_ledger, vocabulary, vocabulary_ledger)


def outputs(folder: Path) -> train_stage.Outputs:
    return train_stage.Outputs(folder / "model", folder / "history.jsonl", folder / "summary.json")


def _vocabulary() -> dict[str, Any]:
    names = [*tokens.SPECIAL_NAMES, "<mask>", "<unk>"]
    ids = [*range(6), MASK, UNKNOWN]
    return {
        "special": dict(zip(names, ids, strict=True)),
        "codes": [{"code": c, "group": c, "patients": 1, "occurrences": 1, "title": None} for c in CODES],
        "age": {"mean": 60.0, "spread": 20.0, "patients": 1},
        "demographics": [
            {"gender": "M", "ethnicity": "WHITE", "age_from": 40, "age_to": 60, "patients": 30},
            {"gender": "F", "ethnicity": "ASIAN", "age_from": 0, "age_to": 5, "patients": 10},
        ],
    }


def _shard(folder: Path, split: str, patients: Sequence[Visits]) -> dict[str, Any]:
    made = cohort(*patients)
    table = pa.table(
        {
            "subject_id": made.subject_id,
            "age_z": made.age_z,
            "gender_id": made.gender_id,
            "ethnicity_id": made.ethnicity_id,
            "tokens": pa.array([sequence(visits) for visits in patients], pa.list_(pa.int32())),
            "n_visits": [len(visits) for visits in patients],
        }
    )
    path = folder / split / "00000.parquet"
    artifacts.write_table(path, table, schemas.SHARD)
    return {
        "path": f"{split}/00000.parquet",
        "rows": len(made),
        "tokens": len(made.tokens),
        "longest": int(np.diff(made.offsets).max()),
        "sha256": artifacts.sha256(path),
    }


def rows(*places: int) -> torch.Tensor:
    return torch.tensor(places)
