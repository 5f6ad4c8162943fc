"""What the model sees and must write: no condition that is trained shows the answer."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from promptehr import tokens
from promptehr.model import objective
from promptehr.model.batches import CONDITIONS, DENOISE, HISTORY, Plan, TokenStore, plan_epoch
from promptehr.model.objective import NEVER, NOT_SCORED, Batch
from promptehr.settings import Corruption, Train
from tests.model_builders import MASK, SIZE, UNKNOWN, random_patients, rows, sequence, store

NOTHING = Corruption(span_share=0.0, delete_share=0.0, replace_share=0.0)
FOUR_VISITS = [[6, 7, 8, 9], [10, 11], [7], [6, 8, 11, 9, 10, 7]]


def noise(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lists(batch: Batch) -> dict[str, list[list[int]]]:
    names = ("input_ids", "attention_mask", "decoder_input_ids", "labels")
    return {name: getattr(batch, name).tolist() for name in names}


def shown(batch: Batch, row: int) -> list[int]:
    """What the encoder sees of a patient, without padding."""
    found: list[int] = batch.input_ids[row][batch.attention_mask[row].bool()].tolist()
    return found


def written(batch: Batch, row: int) -> list[int]:
    labels = batch.labels[row]
    found: list[int] = labels[labels != NOT_SCORED].tolist()
    return found


# --- conditions --------------------------------------------------------------------------------


def test_prompt_shows_nothing_and_asks_for_the_record() -> None:
    batch = objective.prompt(store([[6, 7], [8]], [[9]]), rows(1, 0))
    assert lists(batch) == {
        "input_ids": [[1, 2], [1, 2]],
        "attention_mask": [[1, 1], [1, 1]],
        "decoder_input_ids": [[1, 3, 9, 4, 0, 0, 0, 0], [1, 3, 6, 7, 4, 3, 8, 4]],
        "labels": [[3, 9, 4, 5, *[NOT_SCORED] * 4], [3, 6, 7, 4, 3, 8, 4, 5]],
    }
    assert batch.x_num.tolist() == [[0.5], [0.0]]
    assert batch.x_cat.tolist() == [[1, 1], [0, 0]]


def test_history_shows_the_visits_before_the_split_and_asks_for_the_others() -> None:
    batch = objective.history(store([[6, 7], [8]], [[9]]), rows(0, 0, 1), torch.tensor([1, 2, 1]))
    assert lists(batch) == {
        "input_ids": [[1, 3, 6, 7, 4, 2, 0, 0, 0], [1, 3, 6, 7, 4, 3, 8, 4, 2], [1, 3, 9, 4, 2, 0, 0, 0, 0]],
        "attention_mask": [[1] * 6 + [0] * 3, [1] * 9, [1] * 5 + [0] * 4],
        "decoder_input_ids": [[1, 3, 8, 4], [1, 0, 0, 0], [1, 0, 0, 0]],
        "labels": [[3, 8, 4, 5], [5, *[NOT_SCORED] * 3], [5, *[NOT_SCORED] * 3]],
    }


def test_copy_shows_the_answer() -> None:
    batch = objective.copy(store([[6, 7], [8]]), rows(0))
    assert shown(batch, 0) == [1, 3, 6, 7, 4, 3, 8, 4, 2]
    assert written(batch, 0) == [3, 6, 7, 4, 3, 8, 4, 5]


def test_unknown_codes_are_shown_and_read_but_not_scored() -> None:
    batch = objective.copy(store([[6, UNKNOWN, 7]]), rows(0))
    assert shown(batch, 0) == [1, 3, 6, UNKNOWN, 7, 4, 2]
    assert batch.decoder_input_ids.tolist() == [[1, 3, 6, UNKNOWN, 7, 4]]
    assert batch.labels.tolist() == [[3, 6, NOT_SCORED, 7, 4, 5]]


def test_without_noise_denoise_is_copy() -> None:
    patients = store(*random_patients(20, seed=3))
    everyone = torch.arange(20)
    assert lists(objective.denoise(patients, everyone, NOTHING, noise())) == lists(
        objective.copy(patients, everyone)
    )


# --- noise -------------------------------------------------------------------------------------


def test_noise_is_a_function_of_the_generator_and_leaves_labels_clean() -> None:
    patients, everyone = store(*random_patients(50, seed=3)), torch.arange(50)
    one, same, other = (
        objective.denoise(patients, everyone, Corruption(), noise(seed)) for seed in (1, 1, 2)
    )
    assert lists(one) == lists(same)
    assert not torch.equal(one.input_ids, other.input_ids)
    clean = objective.copy(patients, everyone)
    for name in ("labels", "decoder_input_ids", "x_num", "x_cat"):
        assert torch.equal(getattr(one, name), getattr(clean, name))


def test_everything_deleted_leaves_the_visits_empty() -> None:
    corruption = Corruption(span_share=0.0, delete_share=1.0, replace_share=0.0)
    batch = objective.denoise(store(FOUR_VISITS, [[6]]), rows(0, 1), corruption, noise())
    assert shown(batch, 0) == [1, *[3, 4] * 4, 2]
    assert shown(batch, 1) == [1, 3, 4, 2]
    assert batch.input_ids[1, 4:].tolist() == [0] * (batch.input_ids.shape[1] - 4)


def test_everything_hidden_leaves_one_mask_per_visit() -> None:
    corruption = Corruption(span_share=1.0, span_mean=20.0, delete_share=0.0, replace_share=0.0)
    batch = objective.denoise(store(FOUR_VISITS), rows(0), corruption, noise())
    assert shown(batch, 0) == [1, *[3, MASK, 4] * 4, 2]


def test_everything_replaced_keeps_places_and_draws_codes() -> None:
    corruption = Corruption(span_share=0.0, delete_share=0.0, replace_share=1.0)
    patients = store(*[FOUR_VISITS] * 300)
    batch = objective.denoise(patients, torch.arange(300), corruption, noise())
    clean = objective.copy(patients, torch.arange(300)).input_ids
    is_code = clean >= tokens.FIRST_CODE
    assert torch.equal(batch.input_ids[~is_code], clean[~is_code])
    counts = np.bincount(batch.input_ids[is_code].numpy(), minlength=SIZE)
    assert counts[: tokens.FIRST_CODE].sum() + counts[MASK:].sum() == 0
    assert counts[tokens.FIRST_CODE : MASK] == pytest.approx(3900 / 6, rel=0.15)


def test_a_span_is_one_mask_inside_one_visit() -> None:
    corruption = Corruption(span_share=0.4, delete_share=0.0, replace_share=0.0)
    patients = store(*[FOUR_VISITS] * 200)
    batch = objective.denoise(patients, torch.arange(200), corruption, noise())
    clean = sequence(FOUR_VISITS)
    for row in range(200):
        ids = shown(batch, row)
        assert all((a, b) != (MASK, MASK) for a, b in itertools.pairwise(ids))
        assert [i for i in ids if i < tokens.FIRST_CODE] == [1, *[3, 4] * 4, 2]
        kept = iter(clean)
        assert all(i in kept for i in ids if i >= tokens.FIRST_CODE and i != MASK)  # in order


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_spans_hide_the_asked_share_of_a_long_visit(share: float) -> None:
    codes = [tokens.FIRST_CODE + i % 6 for i in range(200)]
    corruption = Corruption(span_share=share, delete_share=0.0, replace_share=0.0)
    patients = store(*[[codes]] * 100)
    batch = objective.denoise(patients, torch.arange(100), corruption, noise())
    kept = ((batch.input_ids >= tokens.FIRST_CODE) & (batch.input_ids < MASK)).sum()
    assert 1 - float(kept) / 20_000 == pytest.approx(share, abs=0.02)


def test_only_the_chosen_patients_get_noise() -> None:
    patients, everyone = store(*random_patients(30, seed=3)), torch.arange(30)
    chosen = everyone % 2 == 0
    corruption = Corruption(span_share=0.0, delete_share=1.0, replace_share=0.0)
    clean = objective.copy(patients, everyone)
    batch = objective.corrupted(patients, clean, chosen, corruption, noise())
    assert torch.equal(batch.input_ids[1::2], clean.input_ids[1::2])
    assert not (batch.input_ids[::2] >= tokens.FIRST_CODE).any()


# --- the answer is not shown -------------------------------------------------------------------


def training_batches(patients: TokenStore, train: Train) -> list[tuple[Plan, Batch, Tensor, Tensor]]:
    plan = plan_epoch(patients, train.model_copy(update={"batch_patients": 32}), epoch=0)
    return [
        (plan, objective.training(patients, step, train.corruption, noise(i)), step.condition, step.rows)
        for i, step in enumerate(plan.steps)
    ]


def test_no_trained_condition_shows_the_encoder_what_the_decoder_must_write() -> None:
    """Fails for input = labels: codes are unique here, so a code shown is an answer shown."""
    patients = unique_code_patients(400)
    copied = {name: [0, 0] for name in CONDITIONS}
    for _, batch, conditions, _ in training_batches(patients, Train()):
        for row, condition in enumerate(conditions.tolist()):
            answer = {token for token in written(batch, row) if token >= tokens.FIRST_CODE}
            seen = answer & set(shown(batch, row))
            copied[CONDITIONS[condition]][0] += len(seen)
            copied[CONDITIONS[condition]][1] += len(answer)
    assert copied["prompt"][0] == 0
    assert copied["history"][0] == 0
    shown_share = copied["denoise"][0] / copied["denoise"][1]
    # Of the codes 0.3 are hidden, of the others 0.1 deleted and 0.1 replaced: 0.56 are seen.
    assert shown_share == pytest.approx(0.7 * 0.8, abs=0.04)


def test_prompt_training_shows_nothing_at_all() -> None:
    for _, batch, conditions, _ in training_batches(unique_code_patients(200), Train()):
        for row, condition in enumerate(conditions.tolist()):
            if condition not in (HISTORY, DENOISE):
                assert shown(batch, row) == [tokens.BOS, tokens.EOS]


def test_labels_are_the_clean_record_under_every_condition() -> None:
    patients = unique_code_patients(200)
    for _, batch, _, chosen in training_batches(patients, Train()):
        for row, place in enumerate(chosen.tolist()):
            record = patients.tokens[patients.offsets[place] : patients.offsets[place + 1]].tolist()
            answer = written(batch, row)
            assert answer == record[len(record) - len(answer) :]
            decoder = batch.decoder_input_ids[row, : len(answer)].tolist()
            assert decoder == [tokens.BOS, *answer[:-1]]


def unique_code_patients(count: int) -> TokenStore:
    """Three visits of ten codes that no other place of any patient has."""
    codes = iter(range(tokens.FIRST_CODE, tokens.FIRST_CODE + 30 * count))
    patients = [[[next(codes) for _ in range(10)] for _ in range(3)] for _ in range(count)]
    sequences = [sequence(visits) for visits in patients]
    people = np.zeros(count, dtype=np.int64)
    cohort = tokens.Cohort(
        subject_id=people,
        age_z=people.astype(np.float32),
        gender_id=people,
        ethnicity_id=people,
        tokens=np.concatenate(sequences),
        offsets=np.cumsum([0, *map(len, sequences)]),
    )
    return TokenStore.from_cohort(cohort, "cpu", vocabulary_size=tokens.FIRST_CODE + 30 * count + 2)


# --- costs -------------------------------------------------------------------------------------


def test_token_nll_is_minus_log_probability_where_scored() -> None:
    log_probs = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]]))
    labels = torch.tensor([[1, NOT_SCORED]])
    expected = torch.tensor([[math.log(4), 0.0]])
    assert torch.allclose(objective.token_nll(log_probs, labels), expected)


def test_smoothing_is_the_mean_over_what_can_be_written() -> None:
    probabilities = torch.full((1, 1, 10), 0.0)
    probabilities[0, 0, 3:8] = torch.tensor([0.1, 0.2, 0.3, 0.2, 0.2])
    expected = -sum(math.log(p) for p in (0.1, 0.2, 0.3, 0.2, 0.2)) / 5
    logits = torch.where(probabilities > 0, probabilities.clamp(min=1e-9).log(), NEVER)
    found = objective.smoothing_nll(logits, torch.tensor([[4]]))
    assert found.tolist() == [[pytest.approx(expected)]]
    assert objective.smoothing_nll(logits, torch.tensor([[NOT_SCORED]])).tolist() == [[0.0]]


def test_log_unigram_counts_labels_and_forbids_what_is_never_written() -> None:
    offset = objective.log_unigram(store([[6, 7], [6]], [[6, UNKNOWN]]))
    counts = {3: 3, 4: 3, 5: 2, 6: 3, 7: 1, 8: 0, 9: 0, 10: 0, 11: 0}
    total = sum(counts.values()) + len(counts)
    expected = [NEVER] * SIZE
    for token, count in counts.items():
        expected[token] = math.log((count + 1) / total)
    assert offset.tolist() == pytest.approx(expected)
    assert offset.softmax(0)[[tokens.PAD, tokens.BOS, tokens.EOS, MASK, UNKNOWN]].tolist() == [0.0] * 5
