"""What comes next, before which code: the table of the grammar, its counted start, and who starts there."""

import math

import pytest
import torch
from torch import Tensor

from promptehr.model import kinds, objective
from promptehr.model.kinds import MOST_CODES, MOST_VISITS, NEVER, PRIOR, Ends, Kinds
from promptehr.model.repeats import Places, Repeats
from promptehr.stages import train as train_stage
from promptehr.tokens import BOS, END, EOS, FIRST_CODE, PAD, VISIT, VISIT_END, Vocabulary
from tests.model_builders import CODES, SIZE, random_patients, store, tiny_train

WIDTH = 4
A, B, C = range(FIRST_CODE, FIRST_CODE + 3)
WRITTEN = torch.tensor([[BOS, VISIT, A, B, VISIT_END, VISIT, A, VISIT_END, END, PAD]])
UNSEEN, SEEN = torch.tensor([[BOS, EOS]]), torch.tensor([[BOS, VISIT, C, VISIT_END, EOS]])


def module() -> Kinds:
    made = Kinds(WIDTH)
    made.start(Ends(torch.linspace(-2.0, 2.0, MOST_CODES + 1), torch.linspace(-1.0, 1.0, MOST_VISITS + 1)))
    return made


def said(made: Kinds, visible: Tensor = UNSEEN, codes: int = len(CODES)) -> Tensor:
    """[10, FIRST_CODE + 1] probabilities after each written token."""
    at = Places.of(WRITTEN, visible, WRITTEN.shape[1], codes)
    states = torch.ones(*WRITTEN.shape, WIDTH)
    found: Tensor = (
        made(states, last=at.last, codes=at.codes, visits=at.visits, seen=at.seen, full=at.full)[0]
        .exp()
        .detach()
    )
    return found


def test_each_place_has_the_kinds_that_may_follow_and_they_sum_to_one() -> None:
    found = said(module())
    assert torch.allclose(found.sum(-1), torch.ones(10), atol=1e-6)
    may = [[VISIT], [FIRST_CODE], [VISIT_END, FIRST_CODE], [VISIT_END, FIRST_CODE], [VISIT, END]]
    assert [row.nonzero()[:, 0].tolist() for row in found[:5]] == may


def test_a_visit_ends_by_the_number_of_its_codes_and_a_record_by_that_of_its_visits() -> None:
    made, found = module(), said(module())
    assert found[[2, 3, 6], VISIT_END].tolist() == pytest.approx(made.visits[[1, 2, 1]].sigmoid().tolist())
    assert found[[4, 7], END].tolist() == pytest.approx(made.records[[1, 2]].sigmoid().tolist())


def test_visits_that_the_encoder_sees_count_and_nothing_may_follow_them() -> None:
    made, found = module(), said(module(), SEEN)
    assert found[[0, 4, 7], END].tolist() == pytest.approx(made.records[[1, 2, 3]].sigmoid().tolist())
    assert found[0, VISIT] == pytest.approx(1 - found[0, END])


def test_a_visit_with_all_codes_ends() -> None:
    found = said(module(), codes=2)
    assert found[3, [VISIT_END, FIRST_CODE]].tolist() == [1.0, 0.0]
    assert found[2, FIRST_CODE] > 0


def test_the_state_moves_the_odds() -> None:
    made = module()
    with torch.no_grad():
        made.ends.bias.copy_(torch.tensor([1.5, -0.5, 0.0, 2.0]))
    found, after = said(made), said(made, SEEN)
    assert found[2, VISIT_END] == pytest.approx(float((made.visits[1] + 1.5).sigmoid()))
    assert found[4, END] == pytest.approx(float((made.records[1] - 0.5).sigmoid()))
    assert after[2, VISIT_END] == pytest.approx(float(made.visits[1].sigmoid()))
    assert after[4, END] == pytest.approx(float((made.records[2] + 2.0).sigmoid()))


def test_a_token_is_its_kind_and_then_the_code() -> None:
    """P(code) is P(a code) times its share of the codes that the visit does not have."""
    repeats = Repeats(width=0, d_model=WIDTH, kinds=True)
    repeats.kinds = module()
    logits = torch.randn(1, 10, SIZE, generator=torch.Generator().manual_seed(1))
    logits[..., SIZE - 2 :] = NEVER
    places, states = Places.of(WRITTEN, UNSEEN, 10, len(CODES)), torch.ones(1, 10, WIDTH)
    found, kind = repeats(logits, states, places, None)[0].exp(), said(repeats.kinds)
    left = logits[0, 3].clone()
    left[[*range(FIRST_CODE), A, B]] = NEVER  # after A and B
    assert torch.allclose(
        found[3, FIRST_CODE:], kind[3, FIRST_CODE] * left.softmax(0)[FIRST_CODE:], atol=1e-6
    )
    assert torch.allclose(found[:, :FIRST_CODE], kind[:, :FIRST_CODE], atol=1e-6)
    for token in range(VISIT, SIZE - 2):
        alone = repeats.of_answers(logits, states, places, None, torch.full((1, 10), token))
        assert torch.allclose(alone[0].exp(), found[:, token], atol=1e-6)


def test_counted_odds_by_hand() -> None:
    """Visits of 2, 1 and 3 codes; a record of two visits and one of one."""
    found = kinds.counted(store([[6, 7], [6]], [[8, 6, 7]]))
    average = (3 + 1) / (3 + 3 + 2)  # three visits ended, three times one went on
    expected = [(1 + PRIOR * average) / (2 + PRIOR * (1 - average)), 1.0, (1 + 5) / (0 + 5)]
    expected[1] = (1 + PRIOR * average) / (1 + PRIOR * (1 - average))
    assert found.visits[1:4].exp().tolist() == pytest.approx(expected)
    assert found.visits[4:].tolist() == pytest.approx([0.0] * (MOST_CODES - 3))
    average = (2 + 1) / (2 + 1 + 2)
    by_visits = [(1 + PRIOR * average) / (1 + PRIOR * (1 - average)), (1 + 6) / (0 + 4)]
    assert found.records[1:3].exp().tolist() == pytest.approx(by_visits)


def test_a_place_beyond_the_last_counts_as_the_last() -> None:
    """As many as were there at the most, the others went on."""
    (at,) = kinds.log_odds(torch.tensor([9, 3]).numpy(), torch.tensor([2, 7, 7]).numpy(), 2)[2:].tolist()
    average = (2 + 1) / (2 + 3 + 2)
    assert at == pytest.approx(math.log((2 + PRIOR * average) / (3 + PRIOR * (1 - average))))


def test_training_starts_at_the_counted_odds_of_its_patients() -> None:
    patients = store(*random_patients(60, seed=1))
    vocabulary = Vocabulary(CODES, age_mean=60.0, age_spread=20.0, demographics=(), groups=CODES)
    model = train_stage.start(patients, vocabulary, tiny_train()).eval()
    found = model(**objective.prompt(patients, torch.arange(3)).inputs).logits.exp()
    counted = kinds.counted(patients)
    # In a first visit nothing can be pointed at.
    assert found[:, 2, VISIT_END].tolist() == pytest.approx([float(counted.visits[1].sigmoid())] * 3)


def test_without_kinds_the_end_of_a_visit_competes_with_the_codes() -> None:
    patients = store(*random_patients(60, seed=1))
    vocabulary = Vocabulary(CODES, age_mean=60.0, age_spread=20.0, demographics=(), groups=CODES)
    model = train_stage.start(patients, vocabulary, tiny_train(kinds=False))
    assert model.repeats.kinds is None
    first = model(**objective.prompt(patients, torch.arange(3)).inputs).logits[:, 0].exp()
    assert (first[:, VISIT:] > 0).sum() > 3
