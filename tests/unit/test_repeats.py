"""No code twice in a visit, and pointing at earlier codes, against the formula written out densely."""

import pytest
import torch
from torch import Tensor

from promptehr.model.kinds import MOST_CODES, MOST_VISITS, Ends
from promptehr.model.repeats import NEVER, Places, Repeats
from promptehr.tokens import BOS, END, EOS, FIRST_CODE, PAD, VISIT, VISIT_END

CODES, SIZE, WIDTH = 6, FIRST_CODE + 6 + 2, 8
MASK, UNKNOWN = SIZE - 2, SIZE - 1
A, B, C, D = range(FIRST_CODE, FIRST_CODE + 4)

# Three patients: one with two visits after nothing, one after a visible visit, one after a masked one.
WRITTEN = torch.tensor(
    [
        [BOS, VISIT, A, B, VISIT_END, VISIT, C, A, VISIT_END],
        [BOS, VISIT, C, UNKNOWN, UNKNOWN, VISIT_END, END, PAD, PAD],
        [BOS, VISIT, A, VISIT_END, VISIT, D, VISIT_END, VISIT, A],
    ]
)
VISIBLE = torch.tensor(
    [
        [BOS, EOS, PAD, PAD, PAD, PAD],
        [BOS, VISIT, B, C, VISIT_END, EOS],
        [BOS, VISIT, MASK, D, D, VISIT_END],
    ]
)


def places(new: int = 9) -> Places:
    return Places.of(WRITTEN, VISIBLE, new, CODES)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def module(width: int = 4, *, kinds: bool = False) -> Repeats:
    made = Repeats(width=width, d_model=WIDTH, kinds=kinds)
    if made.kinds is not None:
        made.kinds.start(
            Ends(torch.linspace(-2.0, 2.0, MOST_CODES + 1), torch.linspace(-1.0, 1.0, MOST_VISITS + 1))
        )
    with torch.no_grad():
        for seed, parameter in enumerate(made.parameters()):
            parameter.copy_(random(*parameter.shape, seed=seed))
    return made


def logits() -> Tensor:
    found = random(3, 9, SIZE, seed=10)
    found[..., [PAD, BOS, EOS, MASK, UNKNOWN]] = NEVER
    return found


def dense(repeats: Repeats, given: Tensor, states: Tensor, at: Places, embeddings: Tensor) -> Tensor:
    """[3, 9, V] probabilities by the docstring's formula, place after place."""
    found, kinds = torch.zeros(3, 9, SIZE), kinds_of(repeats, states, at)
    for row in range(3):
        for step in range(9):
            begun = int((WRITTEN[row, : step + 1] == VISIT).sum())
            visits = (WRITTEN[row] == VISIT).cumsum(0)
            used = {
                int(token)
                for place, token in enumerate(WRITTEN[row])
                if place <= step and visits[place] == begun and FIRST_CODE <= token < MASK
            }
            own = given[row, step].clone()
            own[list(used)] = NEVER
            if kinds is not None:
                own[:FIRST_CODE] = NEVER
            own = own.softmax(-1)
            pointed = torch.zeros(SIZE)
            can = [
                place
                for place in range(at.ids.shape[1])
                if at.earlier[row, step, place] and int(at.ids[row, place]) not in used
            ]
            last = int(WRITTEN[row, step])
            if can and (last == VISIT or last >= FIRST_CODE):
                scores = torch.stack(
                    [
                        repeats.query(states[row, step]) @ repeats.key(embeddings[row, place]) / 2
                        + repeats.recency.weight[0, 0] * at.recent[row, step, place]
                        for place in can
                    ]
                ).softmax(0)
                for place, share in zip(can, scores, strict=True):
                    pointed[at.ids[row, place]] += share
                gate = torch.sigmoid(repeats.gate(states[row, step]))
                found[row, step] = (1 - gate) * own + gate * pointed
            else:
                found[row, step] = own
            if kinds is not None:
                found[row, step] *= kinds[row, step, FIRST_CODE]
                found[row, step, :FIRST_CODE] = kinds[row, step, :FIRST_CODE]
    return found


def kinds_of(repeats: Repeats, states: Tensor, at: Places) -> Tensor | None:
    """[3, 9, FIRST_CODE + 1] what the kinds alone say."""
    if repeats.kinds is None:
        return None
    found: Tensor = repeats.kinds(
        states, last=at.last, codes=at.codes, visits=at.visits, seen=at.seen, full=at.full
    ).exp()
    return found


with_and_without_kinds = pytest.mark.parametrize("kinds", [False, True])


@with_and_without_kinds
def test_the_mixture_is_the_formula(kinds: bool) -> None:
    repeats, at = module(kinds=kinds), places()
    states, embeddings = random(3, 9, WIDTH, seed=11), random(3, 15, WIDTH, seed=12)
    found = repeats(logits(), states, at, embeddings)
    assert torch.allclose(found.exp(), dense(repeats, logits(), states, at, embeddings), atol=1e-6)
    assert torch.allclose(found.exp().sum(-1), torch.ones(3, 9), atol=1e-6)


def test_what_can_be_pointed_at_ends_no_visit_later() -> None:
    repeats, at = module(kinds=True), places()
    states, embeddings = random(3, 9, WIDTH, seed=11), random(3, 15, WIDTH, seed=12)
    closed = repeats(logits(), states, at, embeddings)[..., VISIT_END]
    with torch.no_grad():
        repeats.gate.bias.fill_(5.0)
    ends = repeats(logits(), states, at, embeddings)[..., VISIT_END]
    assert torch.equal(ends, closed)
    kinds = kinds_of(repeats, states, at)
    assert kinds is not None
    assert torch.allclose(ends.exp(), kinds[..., VISIT_END])


@with_and_without_kinds
def test_probabilities_sum_to_one_in_bfloat16_too(kinds: bool) -> None:
    states, embeddings = random(3, 9, WIDTH, seed=11), random(3, 15, WIDTH, seed=12)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(kinds=kinds)(logits(), states, places(), embeddings)
    assert torch.allclose(found.exp().sum(-1), torch.ones(3, 9), atol=1e-6)


@with_and_without_kinds
def test_gradients_are_those_of_the_formula(kinds: bool) -> None:
    repeats, at = module(kinds=kinds), places()
    states, embeddings = random(3, 9, WIDTH, seed=11), random(3, 15, WIDTH, seed=12)
    # D may be written everywhere but in the third patient's second visit.
    answer = torch.full((3, 9, 1), D)
    parameters = list(repeats.parameters())
    kept = at.open[..., None].clone() if kinds else torch.ones(3, 9, 1, dtype=torch.bool)
    kept[2, 5:7] = False
    ours = repeats(logits(), states, at, embeddings).gather(2, answer)[kept].sum()
    theirs = dense(repeats, logits(), states, at, embeddings).gather(2, answer)[kept].log().sum()
    found, expected = torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


@with_and_without_kinds
def test_answers_alone_cost_what_they_cost_among_all(kinds: bool) -> None:
    states, embeddings = random(3, 9, WIDTH, seed=11), random(3, 15, WIDTH, seed=12)
    for width in (4, 0):
        repeats = module(width, kinds=kinds)
        whole = repeats(logits(), states, places(), embeddings)
        for token in range(SIZE):
            answers = torch.full((3, 9), token)
            alone = repeats.of_answers(logits(), states, places(), embeddings, answers)
            assert torch.allclose(alone.exp(), whole[..., token].exp(), atol=1e-6)
            possible = whole[..., token] > NEVER / 2
            assert torch.equal(possible, alone > NEVER / 2)
            assert torch.allclose(alone[possible], whole[..., token][possible], atol=1e-5)


@with_and_without_kinds
def test_answers_alone_have_the_same_gradients(kinds: bool) -> None:
    repeats = module(kinds=kinds)
    parameters = list(repeats.parameters())
    states, embeddings = random(3, 9, WIDTH, seed=11), random(3, 15, WIDTH, seed=12)
    answers = torch.full((3, 9), D)
    answers[2, 5:7] = B
    given = logits().requires_grad_()
    whole = repeats(given, states, places(), embeddings).gather(2, answers[..., None]).sum()
    alone = repeats.of_answers(given, states, places(), embeddings, answers).sum()
    expected, found = (torch.autograd.grad(total, [given, *parameters]) for total in (whole, alone))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def test_a_code_of_the_visit_is_ruled_out_until_the_visit_ends() -> None:
    found = Repeats(width=0, d_model=WIDTH, kinds=False)(
        logits(), torch.zeros(3, 9, WIDTH), places(), None
    ).exp()
    ruled_out = [[step for step in range(9) if float(found[0, step, code]) == 0.0] for code in (A, B, C)]
    # After <\v> a new visit may repeat them; C is written at step 6, A again at 7.
    assert ruled_out == [[2, 3, 4, 7, 8], [3, 4], [6, 7, 8]]


def test_what_may_be_pointed_at() -> None:
    at = places()

    def pointed(row: int, step: int) -> list[int]:
        return at.ids[row, at.earlier[row, step]].tolist()

    assert [pointed(0, step) for step in (3, 6)] == [[], [A, B]]
    assert pointed(1, 2) == [B, C]  # what the encoder sees; never <unk>
    assert pointed(2, 8) == [D, D, A, D]  # never <mask>
    assert at.ids[2, at.recent[2, 8]].tolist() == [D]
    assert at.ids[1, at.recent[1, 2]].tolist() == [B, C]  # to the first visit written, the last one seen
    assert at.open[0].tolist() == [False, True, True, True, False, True, True, True, False]


@with_and_without_kinds
def test_the_last_tokens_alone_give_the_same_as_all_at_once(kinds: bool) -> None:
    repeats = module(kinds=kinds)
    states, embeddings = random(3, 9, WIDTH, seed=11), random(3, 15, WIDTH, seed=12)
    whole = repeats(logits(), states, places(), embeddings)
    last = repeats(logits()[:, -2:], states[:, -2:], places(2), embeddings)
    assert torch.allclose(whole[:, -2:], last, atol=1e-6)
