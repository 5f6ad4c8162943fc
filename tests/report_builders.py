"""A results folder for the report: small random cohorts, judged by the real metrics."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from promptehr import artifacts, schemas
from promptehr.settings import Settings, from_assignments
from promptehr.stages import evaluate_fidelity, evaluate_privacy, evaluate_utility, report

CODES = ("4019", "25000", "4280", "41401", "42731", "5849", "2724", "53081", "5990", "486", "64881", "585")
EXPERIMENTS = ("base", "memoriser")


def settings(*assignments: str) -> Settings:
    """The report's settings for the two experiments."""
    return from_assignments("report", [f"experiments={json.dumps(EXPERIMENTS)}", *assignments])


def patients(number: int, *, seed: int, first: int = 1) -> pa.Table:
    """Patients with one or two visits of codes whose frequency falls along CODES."""
    generator = np.random.default_rng(seed)
    visits = [_visits(generator) for _ in range(number)]
    return pa.table(
        {
            "subject_id": list(range(first, first + number)),
            "gender": generator.choice(["F", "M"], number).tolist(),
            "ethnicity": ["WHITE"] * number,
            "age": generator.uniform(1, 90, number).astype(np.float32),
            "age_capped": [False] * number,
            "visits": visits,
            "visit_days": [None] * number,
        },
        schema=schemas.SYNTHETIC.arrow,
    )


def _visits(generator: np.random.Generator) -> list[list[str]]:
    chances = 0.7 / (1 + np.arange(len(CODES)))
    drawn = [
        np.array(CODES)[generator.random(len(CODES)) < chances] for _ in range(1 + generator.integers(2))
    ]
    return [codes.tolist() or [CODES[0]] for codes in drawn]


def account(rows_in: int, **rejected: int) -> dict[str, Any]:
    kept = rows_in - sum(rejected.values())
    return artifacts.account(rows_in=rows_in, rows_kept=kept, rejected=rejected, noted={"age capped": 70})


def vocabulary(train: pa.Table) -> dict[str, Any]:
    seen = pl.DataFrame(train).get_column("visits").explode().explode().value_counts()
    counts = dict(seen.iter_rows())
    return {
        "special": {"PAD": 0},
        "codes": [
            {
                "code": code,
                "title": None if code == "585" else f"Title of {code}",
                "patients": 20,
                "occurrences": counts.get(code, 0),
            }
            for code in CODES
        ],
        "age": {"mean": 45.0, "spread": 25.0, "patients": len(train)},
        "demographics": [],
    }


def scored(perplexity: float) -> dict[str, Any]:
    nll = math.log(perplexity)
    numbers = {"nll": nll, "perplexity": perplexity, "accuracy": 0.05, "top10_accuracy": 0.25, "tokens": 5400}
    return {**numbers, "interval": [nll - 0.02, nll + 0.02]}


def heeded(unknown: Mapping[str, Any]) -> dict[str, Any]:
    """A feature that the model heeds, whose worth nobody knows."""
    some = {"value": 0.1, "interval": [0.05, 0.15]}
    return {"swap": some, "gain": some, "available": unknown, "captured": unknown}


def likelihood(unknown: str = "the source is not simulated") -> dict[str, Any]:
    """A likelihood without an optimum, as on real patients."""
    conditions = (("prompt", 140.0), ("history", 120.0), ("denoise", 20.0), ("copy", 18.0))
    baselines = (("unigram", 260.0), ("demographic_unigram", 230.0), ("bigram", 190.0))
    nothing = {"nll": None, "perplexity": None, "reason": unknown}
    gap = {"value": None, "interval": None, "reason": unknown}
    return {
        "headline": "prompt",
        "conditions": {name: classes(perplexity) for name, perplexity in conditions},
        "baselines": {name: classes(perplexity) for name, perplexity in baselines},
        "optimum": {"prompt": {"codes": nothing}, "history": {"codes": nothing}},
        "gap_closed": {"prompt": gap, "history": gap},
        "gap_closed_all": {"prompt": gap},
        "leak": {"alarm": None, "reason": unknown},
        "conditioning": {name: heeded(gap) for name in ("gender", "age", "ethnicity")},
        "unknown_share": 0.012,
        "patients": 75,
    }


def classes(perplexity: float) -> dict[str, Any]:
    return {"all": scored(perplexity / 2), "codes": scored(perplexity), "structure": scored(1.5)}


def epoch(number: int) -> dict[str, Any]:
    heights = (("prompt", 300), ("history", 200), ("denoise", 40))
    valid = {name: {"codes": scored(height / number + height / 3)} for name, height in heights}
    return {"epoch": number, "step": 100 * number, "learning_rate": 1e-4, "valid": valid, "best": True}


def write_results(folder: Path, ours: Settings, *, real: int = 160) -> report.Inputs:
    """Ledgers, a vocabulary, one trained experiment and one of copies, all sealed."""
    test, train = patients(real // 4, seed=1), patients(real, seed=2, first=10_000)
    words = folder / "vocabulary" / "vocabulary.json"
    artifacts.write_json(words, vocabulary(train), schemas.VOCABULARY)
    tables = {
        "ingest": {"patients": account(5000, unreadable=7), "diagnoses": account(61000)},
        "records": {"patients": account(4993)},
    }
    ledgers = [
        _seal(folder / stage / "ledger.json", {"tables": units}, stage, ours)
        for stage, units in tables.items()
    ]
    units = {"codes": account(900)}
    ledgers.append(_seal(words.parent / "ledger.json", {"tables": units}, "vocabulary", ours, words))
    planted = {"parameters": {}, "planted": {"patients": 5000, "diagnoses": 61000}}
    ledgers.append(_seal(folder / "simulate" / "process.json", planted, "simulate", ours))
    history = folder / "train" / "base" / "history.jsonl"
    artifacts.write_bytes(history, "".join(json.dumps(epoch(n)) + "\n" for n in range(1, 6)).encode())
    trained = {"published": epoch(5), "parameters": 1_200_000, "epochs": 5}
    summaries = [_seal(folder / "train" / "base" / "summary.json", trained, "train", ours, history)]
    evaluations = [_evaluation(folder, "base", "likelihood", likelihood(), ours)]
    synthetics = []
    for name, synthetic in zip(EXPERIMENTS, (patients(real, seed=3), train), strict=True):
        synthetics.append(folder / "generate" / name / "synthetic.parquet")
        artifacts.write_table(synthetics[-1], synthetic, schemas.SYNTHETIC)
        method = "model" if name == "base" else "copy"
        generated = ours.model_copy(update={"generate": ours.generate.model_copy(update={"method": method})})
        path = folder / "generate" / name / "summary.json"
        summaries.append(_seal(path, {"patients": real}, "generate", generated, synthetics[-1]))
        measured = measure(synthetic, train, test, vocabulary(train))
        evaluations += [_evaluation(folder, name, what, numbers, ours) for what, numbers in measured.items()]
    return report.Inputs(
        tuple(ledgers), words, (history,), tuple(summaries), tuple(evaluations), tuple(synthetics)
    )


def measure(synthetic: pa.Table, train: pa.Table, test: pa.Table, words: Mapping[str, Any]) -> dict[str, Any]:
    """The evaluations of one experiment."""
    ours = from_assignments("evaluate_fidelity", ["evaluate_fidelity.bootstrap=100"])
    frames = [pl.DataFrame(table) for table in (synthetic, train, test)]
    fidelity = evaluate_fidelity.evaluate(evaluate_fidelity.Frames(*frames), words, ours.evaluate_fidelity)
    tasks = from_assignments(
        "evaluate_utility",
        [f"evaluate_utility.{text}" for text in ("bootstrap=100", "tasks=3", "min_positives=5")],
    )
    attacks = from_assignments(
        "evaluate_privacy",
        [f"evaluate_privacy.{name}" for name in ("bootstrap=100", "min_codes=3")],
    )
    return {
        "privacy": evaluate_privacy.evaluate(*frames, attacks.evaluate_privacy),
        "fidelity": {**fidelity, "fresh": {"patients": None, "reason": "no true process is known"}},
        "utility": evaluate_utility.evaluate(*frames, tasks.evaluate_utility),
    }


def _evaluation(folder: Path, name: str, what: str, numbers: Mapping[str, Any], ours: Settings) -> Path:
    return _seal(folder / "evaluate" / name / f"{what}.json", {what: numbers}, f"evaluate_{what}", ours)


def _seal(path: Path, content: Mapping[str, Any], stage: str, ours: Settings, *files: Path) -> Path:
    kinds = {"ledger": schemas.LEDGER, "process": schemas.PROCESS, "summary": schemas.SUMMARY}
    kind = kinds.get(path.stem, schemas.EVALUATION)
    artifacts.write_sealed(path, content, kind, stage=stage, settings=ours, inputs={}, files=files)
    return path


def flagged() -> dict[str, Any]:
    """Privacy numbers of a publisher of copies; three held-out records equal a training one."""
    return {
        "patients": {"synthetic": 200, "train": 200, "held_out": 100},
        "copies": {
            "synthetic": {"records": 200, "copies": 90, "share": 0.45},
            "held_out": {"records": 100, "copies": 3, "share": 0.03},
            "excess": 0.42,
            "interval": [0.34, 0.49],
            "alarm": True,
        },
        "membership": {"members": 100, "non_members": 100, "alarm": None, "reason": "too few"},
        "distances": {
            "neighbours": 100,
            "held_out_to_train": {"mean": 0.6, "quantiles": {"50": 0.6}, "zero": 0.03},
        },
        "attributes": {
            "attacked": 9,
            "published": 100,
            "synthetic": 0.9,
            "held_out": 0.1,
            "excess": 0.8,
            "interval": [0.7, 0.9],
        },
        "gate": {"rule": "none", "alarms": ["copies"], "passed": False},
    }
