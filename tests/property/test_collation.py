"""For any patients and any condition: padding, masks, labels and decoder inputs agree."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptehr import tokens
from promptehr.model import objective
from promptehr.model.batches import TokenStore, plan_epoch
from promptehr.model.objective import NOT_SCORED
from promptehr.settings import Corruption, Train
from tests.model_builders import CODES, MASK, UNKNOWN, sequence, store

CODE = st.integers(6, 6 + len(CODES) - 1) | st.just(UNKNOWN)
VISIT = st.lists(CODE, min_size=1, max_size=5)
PATIENT = st.lists(VISIT, min_size=1, max_size=4)
PATIENTS = st.lists(PATIENT, min_size=1, max_size=6)
SHARE = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])


def batches(patients: TokenStore, corruption: Corruption, seed: int) -> list[objective.Batch]:
    """One batch of everybody under each condition."""
    everyone = torch.arange(len(patients))
    noise = torch.Generator().manual_seed(seed)
    split = torch.from_numpy(np.random.default_rng(seed).integers(1, patients.visits + 1))
    return [
        objective.prompt(patients, everyone),
        objective.history(patients, everyone, split),
        objective.denoise(patients, everyone, corruption, noise),
        objective.copy(patients, everyone),
    ]


@settings(max_examples=60, deadline=None)
@given(PATIENTS, SHARE, SHARE, SHARE, st.integers(0, 99))
def test_every_batch_is_well_formed(
    visits: list[list[list[int]]], span: float, delete: float, replace: float, seed: int
) -> None:
    patients = store(*visits)
    corruption = Corruption(span_share=span, delete_share=delete, replace_share=replace)
    for batch in batches(patients, corruption, seed):
        assert_encoder_is_well_formed(batch)
        for row, one in enumerate(visits):
            assert_labels_are_the_record(batch, row, sequence(one))


def assert_encoder_is_well_formed(batch: objective.Batch) -> None:
    """BOS first, EOS last, then PAD alone; the mask says where it begins."""
    length = batch.attention_mask.sum(1)
    place = torch.arange(batch.input_ids.shape[1])
    assert torch.equal(batch.attention_mask.bool(), place < length[:, None])
    assert torch.equal(batch.attention_mask.bool(), batch.input_ids != tokens.PAD)
    assert (batch.input_ids[:, 0] == tokens.BOS).all()
    assert (batch.input_ids.gather(1, length[:, None] - 1) == tokens.EOS).all()
    assert (batch.input_ids == tokens.EOS).sum() == len(length)


def assert_labels_are_the_record(batch: objective.Batch, row: int, record: list[int]) -> None:
    """Decoder input is BOS and the record's end without END; labels are it, but for <unk>."""
    decoder = batch.decoder_input_ids[row]
    decoder = decoder[decoder != tokens.PAD].tolist()
    answer = [*decoder[1:], tokens.END]
    assert decoder[0] == tokens.BOS
    assert answer == record[len(record) - len(answer) :]
    assert MASK not in answer
    labels = batch.labels[row].tolist()
    expected = [NOT_SCORED if token == UNKNOWN else token for token in answer]
    assert labels == expected + [NOT_SCORED] * (len(labels) - len(answer))


@settings(max_examples=60, deadline=None)
@given(PATIENTS, st.integers(1, 4), st.integers(0, 99))
def test_the_widths_of_a_plan_are_those_of_its_batches(
    visits: list[list[list[int]]], size: int, seed: int
) -> None:
    patients, noise = store(*visits), torch.Generator().manual_seed(seed)
    train = Train(batch_patients=size, seed=seed)
    nothing = Corruption(span_share=0.0, delete_share=0.0, replace_share=0.0)
    for step in plan_epoch(patients, train, epoch=0).steps:
        batch = objective.training(patients, step, nothing, noise)
        assert int(batch.attention_mask.sum(1).max()) == step.encoder_width == batch.input_ids.shape[1]
        assert (batch.decoder_input_ids != tokens.PAD).sum(1).max() == step.decoder_width
