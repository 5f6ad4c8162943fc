"""Held-out patients under the model, beside simple baselines and, if it is known, the optimum.

The headline is the condition of generation, `prompt`: the encoder sees the demographics only. The
conditions that show the answer are there to expose a model that copies. All distributions are
over the same alphabet and score the same tokens of the test split.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from promptehr import artifacts, baselines, schemas, tokens
from promptehr.errors import ArtifactError
from promptehr.metrics import likelihood
from promptehr.metrics.likelihood import Array, Bools, Classes, Resamples, Scores
from promptehr.model import conditioning, device, load, scoring
from promptehr.model.batches import TokenStore
from promptehr.model.promptbart import PromptBartForConditionalGeneration
from promptehr.settings import EvaluateLikelihood, Runtime, Settings
from promptehr.simulation import likelihood as exact
from promptehr.simulation.process import Process
from promptehr.simulation.scope import changed_process
from promptehr.tokens import GENDERS, Cohort, Vocabulary

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """The model, the shards, and for simulated patients the truth."""

    model: Path
    train_summary: Path
    index: Path
    shards_ledger: Path
    vocabulary: Path
    vocabulary_ledger: Path
    process: Path | None
    test: Path | None
    records_ledger: Path | None


@dataclass(frozen=True)
class Outputs:
    """The numbers."""

    likelihood: Path


@dataclass(frozen=True)
class Known:
    """What the true process says, or why it is not known.

    Attributes:
        scores: Log-probabilities of the test tokens.
        gain: [B] nats per test patient that knowing each feature is worth.
        reason: Why there is nothing.
    """

    scores: Scores | None
    gain: Mapping[str, Array]
    reason: str | None


def run(inputs: Inputs, outputs: Outputs, settings: Settings, runtime: Runtime) -> None:
    """Score the test split and publish."""
    chosen = settings.evaluate_likelihood
    vocabulary = open_inputs(inputs)
    splits = {
        s: Cohort.from_shards(artifacts.read_split(inputs.index, s)) for s in ("train", "valid", "test")
    }
    where = device.decide(runtime)
    trained = load(inputs.model, where)
    model = score_model(trained, splits["test"], vocabulary, where, chosen, runtime)
    logger.info("model scored")
    simple: dict[str, Scores] = {
        name: Scores(fitted.log_probs(splits["test"]), Classes.of(splits["test"], vocabulary).named()["all"])
        for name in baselines.NAMES
        for fitted in [baselines.fit(name, splits["train"], splits["valid"], vocabulary)]
    }
    known = optimum(inputs, splits["test"], vocabulary)
    content = evaluate(model, simple, known, splits["test"], vocabulary, chosen)
    scorer = conditioning.Scorer(trained, vocabulary, log_every_s=runtime.log_every_s)
    content["conditioning"] = heeded(scorer, splits["test"], splits["train"], known, chosen)
    read = {name: path for name, path in vars(inputs).items() if path is not None}
    artifacts.write_sealed(
        outputs.likelihood,
        {"likelihood": content},
        schemas.EVALUATION,
        stage="evaluate_likelihood",
        settings=settings,
        inputs=read,
        files=[],
    )
    headline = content["conditions"]["prompt"]["codes"]["perplexity"]
    logger.info("generation-condition code perplexity on test: %.1f", headline)


def evaluate(
    model: Mapping[str, Scores],
    simple: Mapping[str, Scores],
    known: Known,
    test: Cohort,
    vocabulary: Vocabulary,
    settings: EvaluateLikelihood,
) -> dict[str, Any]:
    """All numbers from the scores of the model by condition, the baselines and the optimum."""
    classes = Classes.of(test, vocabulary)
    resamples = Resamples(len(test), resamples=settings.bootstrap, seed=settings.seed)
    measured = {name: likelihood.measured(s, classes, test, resamples) for name, s in model.items()}
    unknown = int((test.tokens == vocabulary.unknown).sum())

    def gap(name: str, of_class: Bools) -> dict[str, Any]:
        return _gap_closed(model[name], simple["demographic_unigram"], known, of_class, test, resamples)

    return {
        "headline": "prompt",
        "conditions": measured,
        "baselines": {name: likelihood.measured(s, classes, test, resamples) for name, s in simple.items()},
        "optimum": _optimum(known, classes, test, resamples),
        # Codes alone can be had cheaper by a model that ends visits too late, so every token counts too;
        # under `history` only patients with a later visit do, whose records were chosen not to end sooner.
        "gap_closed": {name: gap(name, classes.codes) for name in ("prompt", "history")},
        "gap_closed_all": {"prompt": gap("prompt", classes.named()["all"])},
        "leak": _leak(model["prompt"], known, classes, test),
        "unknown_share": unknown / (unknown + int(classes.codes.sum())),
        "patients": len(test),
    }


# --- model -------------------------------------------------------------------------------------


def open_inputs(inputs: Inputs) -> Vocabulary:
    """The vocabulary, after all inputs were compared with their seals."""
    if not inputs.model.is_dir():
        raise ArtifactError(f"{inputs.model}: no model folder; run train")
    artifacts.open_sealed(inputs.vocabulary_ledger, schemas.LEDGER, "vocabulary", inputs.vocabulary)
    artifacts.open_sealed(inputs.shards_ledger, schemas.LEDGER, "shards", inputs.index)
    files = artifacts.files_of(inputs.model)
    artifacts.open_sealed(inputs.train_summary, schemas.SUMMARY, "train", *files)
    return Vocabulary.from_document(artifacts.read_json(inputs.vocabulary, schemas.VOCABULARY))


def score_model(
    trained: PromptBartForConditionalGeneration,
    cohort: Cohort,
    vocabulary: Vocabulary,
    where: torch.device,
    settings: EvaluateLikelihood,
    runtime: Runtime,
) -> dict[str, Scores]:
    """Scores under every condition."""
    store = TokenStore.from_cohort(cohort, where, vocabulary_size=vocabulary.size)
    return {
        name: scoring.score(
            trained,
            cohort,
            store,
            name,
            seed=settings.seed,
            log_every_s=runtime.log_every_s,
        )
        for name in scoring.CONDITIONS
    }


def heeded(
    scorer: conditioning.Scorer, test: Cohort, train: Cohort, known: Known, settings: EvaluateLikelihood
) -> dict[str, Any]:
    """What the model makes of each feature, nats per patient, on so many patients of the test split.

    `swap`: rise of the NLL under another person's value. `gain`: what the model gains by knowing
    it. `available`: the same under the true process. `captured`: the share of that.
    """
    rows = np.random.default_rng(settings.seed).permutation(len(test))[: settings.conditioning_patients]
    rows.sort()
    patients = test.take(rows)
    resamples = Resamples(len(rows), resamples=settings.bootstrap, seed=settings.seed)
    swapped = conditioning.swaps(scorer, patients, seed=settings.seed)
    gained = conditioning.gains(scorer, patients, train)
    found: dict[str, Any] = {"patients": len(rows)}
    for name in conditioning.FEATURES:
        found[name] = {
            "swap": likelihood.mean(swapped[name], resamples),
            "gain": likelihood.mean(gained[name], resamples),
            "available": {"value": None, "interval": None, "reason": known.reason},
            "captured": {"value": None, "interval": None, "reason": known.reason},
        }
        if known.scores is not None:
            available = known.gain[name][rows]
            found[name]["available"] = likelihood.mean(available, resamples)
            found[name]["captured"] = likelihood.share(gained[name], available, resamples)
    return found


# --- optimum -----------------------------------------------------------------------------------


def optimum(inputs: Inputs, test: Cohort, vocabulary: Vocabulary) -> Known:
    """Exact log-probabilities of the test tokens, where the process and the true codes are known."""
    if inputs.process is None or inputs.test is None or inputs.records_ledger is None:
        return Known(None, {}, "the source is not simulated: no true process is known")
    sealed = artifacts.open_sealed(inputs.records_ledger, schemas.LEDGER, "records", inputs.test)
    shards = artifacts.read_json(inputs.shards_ledger, schemas.LEDGER)
    other = changed_process([*sealed["key"]["settings"], *shards["key"]["settings"]])
    if other:
        return Known(None, {}, f"{other} changes the process, so that its optimum is not known")
    if (test.gender_id >= 2).any():
        return Known(None, {}, "patients of unknown sex are not part of the process")
    process = Process.from_document(artifacts.read_json(inputs.process, schemas.PROCESS)["parameters"])
    visits = artifacts.read_table(inputs.test, schemas.RECORDS, ["subject_id", "visits"])
    histories = true_histories(process, test, vocabulary, visits)
    alphabet = np.isin(process.codes, vocabulary.codes)
    log_prob = np.zeros(len(test.tokens))
    log_prob[test.tokens != tokens.BOS] = exact.log_probs(process, histories, alphabet)
    gain = exact.conditioning_gain(process, histories)
    return Known(Scores(log_prob, Classes.of(test, vocabulary).named()["all"]), gain, None)


def true_histories(
    process: Process, test: Cohort, vocabulary: Vocabulary, records: pa.Table
) -> exact.Histories:
    """The test patients with the codes that stand behind <unk>, truncated as their tokens are."""
    kept = records.filter(pc.is_in(records["subject_id"], pa.array(test.subject_id)))
    kept = kept.sort_by("subject_id")
    starts = np.flatnonzero(test.tokens == tokens.VISIT)
    ends = np.flatnonzero(test.tokens == tokens.VISIT_END)
    visits = np.diff(np.searchsorted(starts, test.offsets))
    lengths = ends - starts - 1
    place = {code: number for number, code in enumerate(process.codes)}
    rows = kept["visits"].to_pylist()
    codes, visit = [], 0
    for record, count in zip(rows, visits, strict=True):
        for truth in record[:count]:
            codes += [place[code] for code in truth[: lengths[visit]]]
            visit += 1
    return exact.Histories(
        band=process.band_of(np.maximum(vocabulary.age(test.age_z), 0)),
        female=(test.gender_id == GENDERS.index("F")).astype(np.int64),
        ethnicity=test.ethnicity_id,
        visits=visits,
        lengths=lengths,
        codes=np.array(codes, dtype=np.int64),
    )


def _optimum(known: Known, classes: Classes, test: Cohort, resamples: Resamples) -> dict[str, Any]:
    if known.scores is None:
        empty = {"nll": None, "perplexity": None, "reason": known.reason}
        return {name: {"codes": empty} for name in ("prompt", "history")}
    later = replace(known.scores, scored=known.scores.scored & likelihood.later_visits(test))
    return {
        "prompt": likelihood.measured(known.scores, classes, test, resamples),
        "history": likelihood.measured(later, classes, test, resamples),
    }


def _gap_closed(
    model: Scores, baseline: Scores, known: Known, tokens_of_class: Bools, test: Cohort, resamples: Resamples
) -> dict[str, Any]:
    inside = tokens_of_class & model.scored
    if known.scores is None or not inside.any():
        reason = known.reason or "no token of this class is scored under this condition"
        return {"value": None, "interval": None, "reason": reason}
    return likelihood.gap_closed(model, baseline, known.scores, inside, test, resamples)


def _leak(prompt: Scores, known: Known, classes: Classes, test: Cohort) -> dict[str, Any]:
    if known.scores is None:
        return {"alarm": None, "reason": known.reason}
    return likelihood.leak_alarm(prompt, known.scores, classes.named()["all"], test)
