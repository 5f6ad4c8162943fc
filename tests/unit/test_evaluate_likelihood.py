"""The likelihood stage: the headline's condition, a planted copier, the optimum, the document."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from promptehr import artifacts, schemas
from promptehr.errors import ArtifactError
from promptehr.metrics.likelihood import Classes, Scores
from promptehr.model import config, evaluation, objective, promptbart, scoring
from promptehr.model.batches import Shown, TokenStore
from promptehr.settings import EvaluateLikelihood, Runtime, parse
from promptehr.simulation.scope import changed_process
from promptehr.stages import evaluate_likelihood, train
from promptehr.stages.evaluate_likelihood import Known
from promptehr.tokens import Vocabulary
from tests.model_builders import CODES, SIZE, cohort, outputs, random_patients, tiny_settings, write_inputs

VOCABULARY = Vocabulary(CODES, age_mean=60.0, age_spread=20.0, demographics=())
NOBODY_KNOWS = Known(None, {}, "no process")


class Copier(torch.nn.Module):
    """A planted model that writes what the encoder sees, token by token, and knows nothing else."""

    def forward(self, input_ids: torch.Tensor, decoder_input_ids: torch.Tensor, **_: Any) -> Any:
        width = decoder_input_ids.shape[1]
        seen = torch.nn.functional.pad(input_ids, (0, width))[:, 1 : width + 1]  # after BOS
        seen = torch.where(seen == 2, 5, seen)  # its EOS stands where END is due
        logits = 20.0 * torch.nn.functional.one_hot(seen, SIZE).float()
        return type("Output", (), {"logits": logits})


def scored_copier(condition: Shown, patients: int = 30) -> tuple[Scores, Classes]:
    people = cohort(*random_patients(patients, seed=1))
    store = TokenStore.from_cohort(people, "cpu", vocabulary_size=SIZE)
    found = scoring.score(Copier(), people, store, condition, seed=1)  # type: ignore[arg-type]
    return found, Classes.of(people, VOCABULARY)


def test_a_copier_is_perfect_where_the_answer_is_shown_and_only_there() -> None:
    shown, classes = scored_copier("copy")
    assert np.exp(shown.log_prob[classes.codes]).min() > 0.99
    hidden, _ = scored_copier("prompt")
    # It knows nothing of the codes: at best uniform over the alphabet of 9.
    assert hidden.log_prob[classes.codes].mean() < np.log(1 / 8)


def test_the_headline_is_a_condition_that_does_not_see_the_answer() -> None:
    people = cohort(*random_patients(30, seed=1))
    store = TokenStore.from_cohort(people, "cpu", vocabulary_size=SIZE)
    model = {
        name: scoring.score(Copier(), people, store, name, seed=1)  # type: ignore[arg-type]
        for name in scoring.CONDITIONS
    }
    uniform = Scores(
        np.full(len(people.tokens), np.log(1 / 9)), Classes.of(people, VOCABULARY).named()["all"]
    )
    simple = dict.fromkeys(("unigram", "demographic_unigram", "bigram"), uniform)
    settings = EvaluateLikelihood(bootstrap=100)
    found = evaluate_likelihood.evaluate(model, simple, NOBODY_KNOWS, people, VOCABULARY, settings)
    headline = found["conditions"][found["headline"]]["codes"]["nll"]
    assert headline > found["baselines"]["unigram"]["codes"]["nll"]
    assert found["conditions"]["copy"]["codes"]["perplexity"] < 1.01


def test_codes_had_cheaper_by_late_ends_of_visits_show_in_the_gap_of_every_token() -> None:
    people = cohort(*random_patients(30, seed=1))
    classes = Classes.of(people, VOCABULARY)
    everything = classes.named()["all"]

    def giving(code: float, structure: float) -> Scores:
        return Scores(np.log(np.where(classes.codes, code, structure)), everything)

    model = dict.fromkeys(scoring.CONDITIONS, giving(code=0.25, structure=0.05))
    simple = dict.fromkeys(("unigram", "demographic_unigram", "bigram"), giving(code=0.125, structure=0.5))
    known = Known(giving(code=0.5, structure=0.5), {}, None)
    settings = EvaluateLikelihood(bootstrap=100)
    found = evaluate_likelihood.evaluate(model, simple, known, people, VOCABULARY, settings)
    assert found["gap_closed"]["prompt"]["value"] == pytest.approx(0.5)
    assert found["gap_closed_all"]["prompt"]["value"] < 0


def test_scores_without_ranks_are_the_same_and_say_how_far_they_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    people = cohort(*random_patients(30, seed=1))
    store = TokenStore.from_cohort(people, "cpu", vocabulary_size=SIZE)
    shape = config.from_settings(tiny_settings().train, SIZE)
    model = promptbart.start(shape, objective.log_unigram(store), seed=1).eval()
    ranked = scoring.score(model, people, store, "history", seed=1)
    with caplog.at_level(logging.INFO):
        alone = scoring.score(model, people, store, "history", seed=1, ranked=False, log_every_s=0.0)
    assert np.allclose(alone.log_prob, ranked.log_prob, atol=1e-5)
    assert (alone.scored == ranked.scored).all()
    assert (alone.top1, alone.top10) == (None, None)
    assert caplog.messages[-1].endswith("batches scored, history")


@pytest.mark.parametrize("condition", ["prompt", "history", "copy"])
def test_batches_change_no_score(condition: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = scored_copier(condition)
    monkeypatch.setitem(evaluation.BATCH_TOKENS, "cpu", 16)
    apart, _ = scored_copier(condition)
    assert np.allclose(apart.log_prob, whole.log_prob, atol=1e-6)
    assert (apart.scored == whole.scored).all()


def test_every_condition_scores_the_tokens_it_says() -> None:
    classes = scored_copier("prompt")[1]
    everything = classes.named()["all"]
    for condition in ("prompt", "denoise", "copy"):
        assert (scored_copier(condition)[0].scored == everything).all()
    later = scored_copier("history")[0].scored
    assert 0 < later.sum() < everything.sum()


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("likelihood")
    inputs = trained_inputs(folder)
    output = evaluate_likelihood.Outputs(folder / "likelihood.json")
    settings = parse({"evaluate_likelihood": {"bootstrap": 100}})
    evaluate_likelihood.run(inputs, output, settings, Runtime(device="cpu", threads=1))
    first = output.likelihood.read_bytes()
    evaluate_likelihood.run(inputs, output, settings, Runtime(device="cpu", threads=1))
    assert output.likelihood.read_bytes() == first
    return artifacts.read_json(output.likelihood, schemas.EVALUATION)


def trained_inputs(folder: Path) -> evaluate_likelihood.Inputs:
    shards = write_inputs(folder, train=random_patients(60, seed=1), valid=random_patients(20, seed=2))
    made = outputs(folder / "train")
    train.run(shards, made, tiny_settings(epochs=1), Runtime(device="cpu", threads=1))
    return evaluate_likelihood.Inputs(
        model=made.model,
        train_summary=made.summary,
        index=shards.index,
        shards_ledger=shards.shards_ledger,
        vocabulary=shards.vocabulary,
        vocabulary_ledger=shards.vocabulary_ledger,
        process=None,
        test=None,
        records_ledger=None,
    )


def test_the_document_has_the_keys_others_rely_on(document: dict[str, Any]) -> None:
    found = document["likelihood"]
    assert set(found["conditions"]) == {"prompt", "history", "denoise", "copy"}
    for condition in found["conditions"].values():
        assert set(condition) == {"all", "codes", "structure"}
        for measured in condition.values():
            assert {"nll", "perplexity", "accuracy", "top10_accuracy", "tokens", "interval"} <= set(measured)
            assert measured["interval"][0] <= measured["nll"] <= measured["interval"][1]
            assert measured["perplexity"] == pytest.approx(np.exp(measured["nll"]))
    assert set(found["baselines"]) == {"unigram", "demographic_unigram", "bigram"}
    assert found["unknown_share"] == 0.0


def test_without_a_process_the_optimum_is_null_with_a_reason(document: dict[str, Any]) -> None:
    found = document["likelihood"]
    gaps = (found["gap_closed"]["prompt"], found["gap_closed_all"]["prompt"])
    for part in (found["optimum"]["prompt"]["codes"], *gaps, found["leak"]):
        assert "not simulated" in part["reason"]
    assert found["optimum"]["prompt"]["codes"]["nll"] is None
    assert found["gap_closed"]["prompt"]["value"] is None
    assert json.dumps(document, allow_nan=False)


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        (["records.seed=3", "records.split.train=0.5", "records.min_age=0.0", "shards.max_tokens=64"], None),
        (["records.min_age=18.0"], "records.min_age=18.0"),
        (['shards.drop="oldest"'], 'shards.drop="oldest"'),
        (["records.granularity=3"], "records.granularity=3"),
    ],
)
def test_cohort_settings_that_change_the_process_are_seen(settings: list[str], changed: str | None) -> None:
    assert changed_process(settings) == changed


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    inputs = evaluate_likelihood.Inputs(*[tmp_path / "absent"] * 6, None, None, None)
    with pytest.raises(ArtifactError, match="no model folder; run train"):
        evaluate_likelihood.open_inputs(inputs)
