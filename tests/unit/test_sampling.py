"""Sampling from the model: grammar, cache, seeds, truncation of the distribution."""

import numpy as np
import pytest
import torch

from promptehr.model import config, objective, promptbart, sampling
from promptehr.model.batches import TokenStore
from promptehr.model.promptbart import PromptBartForConditionalGeneration
from promptehr.settings import Generate
from promptehr.tokens import BOS, END, EOS, FIRST_CODE, PAD, VISIT, VISIT_END, Ints
from tests.model_builders import (
    CODES,
    MASK,
    SIZE,
    UNKNOWN,
    random_patients,
    sequence,
    store,
    tiny_train,
    visits_of,
)


def model(seed: int = 1, positions: int = 48) -> PromptBartForConditionalGeneration:
    train = tiny_train()
    shape = train.shape.model_copy(update={"positions": positions})
    settings = config.from_settings(train.model_copy(update={"shape": shape}), SIZE)
    flat = torch.zeros(SIZE)
    return promptbart.start(settings, flat, seed=seed).eval()


def empty_people(count: int) -> TokenStore:
    return store(*[[]] * count)


def generate(count: int, *, positions: int = 48, **settings: float) -> tuple[Ints, Ints, int]:
    """Tokens, offsets, and records closed at the limit."""
    numbers = range(-(-count // sampling.BLOCK))
    people = empty_people(count)
    writer = model(positions=positions)
    blocks = list(sampling.blocks(writer, people, Generate(**settings), numbers, continues=False))
    tokens, offsets = sampling.joined([record for block in blocks for record in block.tokens])
    return tokens, offsets, sum(block.closed for block in blocks)


def test_records_obey_the_grammar() -> None:
    tokens, offsets, _ = generate(300)
    assert len(visits_of(tokens, offsets)) == 300
    forbidden = {PAD, EOS, MASK, UNKNOWN}
    assert not forbidden & set(tokens.tolist())


def test_records_are_closed_within_the_positions() -> None:
    tokens, offsets, closed = generate(100, positions=14, temperature=5.0)
    room = 14 - 3
    assert np.diff(offsets).max() <= room
    assert closed > 0
    assert len(visits_of(tokens, offsets)) == 100


def test_the_same_seed_writes_the_same_records_and_another_one_others() -> None:
    assert generate(40)[0].tolist() == generate(40)[0].tolist()
    assert generate(40)[0].tolist() != generate(40, seed=2)[0].tolist()


def test_a_block_does_not_depend_on_how_many_follow() -> None:
    few, many = generate(256)[0], generate(300)[0]
    assert many[: len(few)].tolist() == few.tolist()


def test_cached_steps_score_what_one_pass_scores() -> None:
    trained, people = model(), store(*random_patients(8, seed=1))
    batch = objective.prompt(people, torch.arange(8))
    with torch.inference_mode():
        whole = trained(**batch.inputs, use_cache=False).logits
        cache, steps = None, []
        for place in range(batch.decoder_input_ids.shape[1]):
            inputs = batch.inputs | {
                "decoder_input_ids": batch.decoder_input_ids[:, place : place + 1],
                "written_ids": batch.decoder_input_ids[:, : place + 1],
            }
            output = trained(**inputs, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            steps.append(output.logits)
    scored = batch.labels != objective.NOT_SCORED
    torch.testing.assert_close(torch.cat(steps, 1)[scored], whole[scored], atol=1e-5, rtol=1e-5)


def test_first_codes_have_the_probabilities_of_the_model() -> None:
    trained = model()
    people = empty_people(1)
    batch = objective.prompt(people, torch.zeros(4000, dtype=torch.int64))
    with torch.inference_mode():
        one = batch.inputs | {"decoder_input_ids": torch.tensor([[BOS, VISIT]] * 4000)}
        logits = trained(**one, use_cache=False).logits[0, -1, FIRST_CODE : FIRST_CODE + len(CODES)]
    written = sampling.write(
        trained, batch, Generate(), torch.Generator().manual_seed(1), may_end_at_once=False
    )
    first = np.array([record[1] - FIRST_CODE for record in written.tokens])
    share = np.bincount(first, minlength=len(CODES)) / len(first)
    np.testing.assert_allclose(share, logits.softmax(0).numpy(), atol=0.03)


def test_a_history_is_continued_with_visits_or_ends_at_once() -> None:
    patients = [[[6, 7], [8]], [[9]]] * 30
    people = store(*patients)
    blocks = list(sampling.blocks(model(), people, Generate(), range(1), continues=True))
    histories = [np.array(sequence(visits)) for visits in patients]
    tokens, offsets = sampling.joined([r for block in blocks for r in block.tokens], histories)
    records = visits_of(tokens, offsets)
    assert all(record[: len(given)] == given for record, given in zip(records, patients, strict=True))
    longer = [len(record) > len(given) for record, given in zip(records, patients, strict=True)]
    assert any(longer)
    assert not all(longer)


LOGITS = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(4, 1)


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        ({}, [0, 1, 2, 3]),
        ({"top_k": 2}, [0, 0, 1, 1]),
        ({"top_p": 0.6}, [0, 0, 1, 1]),
        ({"top_p": 0.4}, [0, 0, 0, 0]),
        ({"temperature": 0.01}, [0, 0, 0, 0]),
    ],
)
def test_a_token_is_chosen_by_its_quantile(settings: dict[str, float], chosen: list[int]) -> None:
    quantiles = torch.tensor([0.1, 0.6, 0.9, 0.99], dtype=torch.float64)
    assert sampling.pick(LOGITS, quantiles, Generate(**settings)).tolist() == chosen


def test_what_is_forbidden_is_never_chosen() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf], [-torch.inf, 0.0, -torch.inf]])
    extremes = torch.tensor([0.0, 1 - 1e-16], dtype=torch.float64)
    assert sampling.pick(logits, extremes, Generate()).tolist() == [1, 1]


def test_the_grammar_allows_exactly_what_may_follow() -> None:
    grammar = sampling.Grammar(1, SIZE, room=40, device=torch.device("cpu"), may_end_at_once=False)
    row = torch.tensor([0])

    def allowed() -> set[int]:
        return set(grammar.restrict(torch.zeros(1, SIZE), row)[0].isfinite().nonzero()[:, 0].tolist())

    codes = set(range(FIRST_CODE, FIRST_CODE + len(CODES)))
    expected = [{VISIT}, codes, codes - {6} | {VISIT_END}, {VISIT, END}, codes]
    for token, follows in zip([VISIT, 6, VISIT_END, VISIT, None], expected, strict=True):
        assert allowed() == follows
        if token is not None:
            grammar.advance(torch.tensor([token]), row)
