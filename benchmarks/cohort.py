"""Cohorts for the benchmarks of the model: the splits, and what is known of the test patients.

Runs the product's own data stages, so that tokens, splits and optimum are the product's.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks import data
from promptehr import artifacts, baselines, schemas
from promptehr.baselines import Baseline
from promptehr.metrics import likelihood
from promptehr.metrics.likelihood import Array, Bools, Classes, Scores
from promptehr.stages import evaluate_likelihood
from promptehr.tokens import BOS, FIRST_CODE, VISIT, Cohort, Vocabulary

STAGES = ("ingest", "records", "vocabulary", "shards")


@dataclass(frozen=True)
class Splits:
    """One cohort.

    Attributes:
        train: What is learned from.
        valid: What chooses.
        test: What is reported.
        vocabulary: The codes of the training split.
        optimum: Of the test tokens under the true process; None where nobody knows it.
        demographic: Of the test tokens under the demographic unigram.
    """

    train: Cohort
    valid: Cohort
    test: Cohort
    vocabulary: Vocabulary
    optimum: Scores | None
    demographic: Scores

    @property
    def codes(self) -> Bools:
        """[T] which tokens of the test split are known codes."""
        return Classes.of(self.test, self.vocabulary).codes

    @property
    def every(self) -> Bools:
        """[T] which tokens of the test split are scored: its known codes and its structure."""
        return self.demographic.scored


def simulated(folder: Path, patients: int, seed: int, *others: str) -> Splits:
    """A cohort of its own for each seed, with that seed's split.

    Args:
        folder: Where the stages write.
        patients: Of all three splits together.
        seed: Of the simulation and of the split.
        *others: Further settings, as `records.split={...}`.
    """
    data.stage("simulate", folder, f"simulate.patients={patients}", f"simulate.seed={seed}")
    splits = _staged(folder, seed, *others)
    files = _files(folder)
    inputs = evaluate_likelihood.Inputs(
        model=folder,  # no file of a model is read for the optimum
        train_summary=folder,
        index=files["index"],
        shards_ledger=folder / "shards/ledger.json",
        vocabulary=files["vocabulary"],
        vocabulary_ledger=files["vocabulary_ledger"],
        process=files["process"],
        test=files["test"],
        records_ledger=files["records_ledger"],
    )
    known = evaluate_likelihood.optimum(inputs, splits.test, splits.vocabulary)
    assert known.scores is not None, known.reason
    return replace(splits, optimum=known.scores)


def real(folder: Path, source: Path, seed: int, *others: str) -> Splits:
    """The patients of a folder with MIMIC-III's three tables, split anew for each seed."""
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "source"
    if not link.exists():
        link.symlink_to(source.absolute(), target_is_directory=True)
    return _staged(folder, seed, *others)


def _staged(folder: Path, seed: int, *others: str) -> Splits:
    """What the data stages make of a folder's source."""
    for stage in STAGES:
        given = (f"records.seed={seed}", *others)
        data.stage(stage, folder, *(text for text in given if text.startswith(f"{stage}.")))
    files = _files(folder)
    vocabulary = Vocabulary.from_document(artifacts.read_json(files["vocabulary"], schemas.VOCABULARY))
    splits = {
        name: Cohort.from_shards(artifacts.read_split(files["index"], name))
        for name in ("train", "valid", "test")
    }
    counted = baselines.fit("demographic_unigram", splits["train"], splits["valid"], vocabulary)
    scored = Classes.of(splits["test"], vocabulary).named()["all"]
    demographic = Scores(counted.log_probs(splits["test"]), scored)
    return Splits(**splits, vocabulary=vocabulary, optimum=None, demographic=demographic)


def _files(folder: Path) -> dict[str, Path]:
    return {name: folder / place for name, place in data.FILES.items()}


def split_of(train: int, valid: int, test: int) -> str:
    """The assignment that splits that many patients in about these parts."""
    patients = train + valid + test
    shares = {"train": train / patients, "valid": valid / patients, "test": test / patients}
    return f"records.split={json.dumps(shares)}"


def without_repeats(baseline: Baseline, cohort: Cohort) -> Array:
    """[T] log-probabilities of a baseline that gives codes of the visit so far no probability.

    The other codes share what is left; when visits and records end stays as it is.
    """
    tokens = cohort.tokens
    is_code = (tokens >= FIRST_CODE) & (tokens < FIRST_CODE + len(baseline.unigram))
    visit = np.cumsum((tokens == VISIT) | (tokens == BOS))
    contexts = baseline.contexts(cohort)
    taken = np.zeros(len(tokens))
    for back in count(1):
        here = np.flatnonzero(is_code[back:] & is_code[:-back] & (visit[back:] == visit[:-back])) + back
        if not len(here):
            break
        taken[here] += np.exp(baseline.code_log_probs(contexts[here], tokens[here - back] - FIRST_CODE))
    found: Array = baseline.log_probs(cohort) - np.where(is_code, np.log1p(-taken), 0.0)
    return found


# --- what is said of a distribution ------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """Test patients of several seeds, one after the other, by their codes or by every token.

    Attributes:
        nats: [B] of each patient's tokens, one distribution.
        tokens: [B] of them.
        gained: [B] nats that it has less than the demographic unigram.
        possible: [B] nats that the optimum has less; NaN where nobody knows it.
        by_seed: NLL per token of each seed.
    """

    nats: Array
    tokens: Array
    gained: Array
    possible: Array
    by_seed: tuple[float, ...]

    @classmethod
    def of(
        cls, scores: Sequence[Array], cohorts: Sequence[Splits], which: Literal["codes", "every"] = "codes"
    ) -> "Judged":
        """From [T] log-probabilities of each cohort's test tokens."""
        columns: list[tuple[Array, ...]] = []
        for log_prob, cohort in zip(scores, cohorts, strict=True):
            best = np.full(len(log_prob), np.nan) if cohort.optimum is None else cohort.optimum.log_prob
            columns.append(
                tuple(
                    likelihood.per_patient(values, getattr(cohort, which), cohort.test)
                    for values in (
                        -log_prob,
                        np.ones(len(log_prob)),
                        log_prob - cohort.demographic.log_prob,
                        best - cohort.demographic.log_prob,
                    )
                )
            )
        nats, tokens, gained, possible = (np.concatenate(column) for column in zip(*columns, strict=True))
        return cls(nats, tokens, gained, possible, tuple(float(c[0].sum() / c[1].sum()) for c in columns))

    @property
    def nll(self) -> float:
        """Nats per token."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def gap_closed(self) -> float:
        """Share of the way from the demographic unigram to the optimum; NaN where nobody knows it."""
        return float(self.gained.sum() / self.possible.sum())

    def above(self, other: "Judged", *, resamples: int = 2_000) -> tuple[float, list[float]]:
        """Nats per token more than another distribution has, and the 95 % paired patient bootstrap."""
        more = self.nats - other.nats
        drawn = likelihood.Resamples(len(more), resamples=resamples, seed=1).ratio(more, self.tokens)
        return float(more.sum() / self.tokens.sum()), likelihood.interval(drawn)


def above(judged: Judged, ours: Judged | None) -> str:
    """Difference with interval, and the difference of each seed, as two cells of a table."""
    if ours is None or judged is ours:
        return " | "
    seeds = (f"{theirs - own:+.3f}" for theirs, own in zip(judged.by_seed, ours.by_seed, strict=True))
    return f"{difference(judged, ours)} | {', '.join(seeds)}"


def difference(judged: Judged, ours: Judged) -> str:
    """Nats per token above, with interval."""
    value, (low, high) = judged.above(ours)
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"
