"""Clinical groups: what codes share when they are read, written and pointed at."""

from pathlib import Path

import torch

from promptehr.model import load, promptbart
from promptehr.model.config import from_settings
from promptehr.model.promptbart import PromptBartForConditionalGeneration
from promptehr.stages import train as train_stage
from promptehr.tokens import FIRST_CODE, Vocabulary
from tests.model_builders import CODES, SIZE, random_patients, store, tiny_train

# Codes 6 and 7 are of group 1, 8 of group 2; the others and all other tokens of none.
OF_TOKEN = torch.tensor([0] * 6 + [1, 1, 2] + [0] * (SIZE - 9))
SHIFT = torch.linspace(-1, 1, 16)


def model() -> PromptBartForConditionalGeneration:
    shape = from_settings(tiny_train(pointer_width=4, dropout=0.0), SIZE, code_groups=2)
    return promptbart.start(shape, torch.zeros(SIZE), seed=1, groups=OF_TOKEN).eval()


def log_p(one: PromptBartForConditionalGeneration, visible: int, written: int) -> torch.Tensor:
    """[V] of the token after the code `written`, which the encoder's code `visible` stands before."""
    given = {
        "input_ids": torch.tensor([[1, 3, visible, 4, 2]]),
        "x_num": torch.zeros(1, 1),
        "x_cat": torch.zeros(1, 2, dtype=torch.int64),
        "decoder_input_ids": torch.tensor([[1, 3, written]]),
    }
    found: torch.Tensor = one(**given).logits[0, 2].detach()
    return found


def test_a_groups_vector_moves_its_codes_together_and_no_other_code() -> None:
    before, moved = model(), model()
    with torch.no_grad():
        moved.model.encoder.groups.vectors.weight[1] += SHIFT
    # What is read and may be pointed at is of no group, so only what is written can differ.
    change = log_p(moved, 10, 10) - log_p(before, 10, 10)
    assert torch.allclose(change[:FIRST_CODE], torch.zeros(FIRST_CODE), atol=1e-6)
    rest = [token for token in range(FIRST_CODE, SIZE) if token not in (6, 7, 10)]
    assert torch.allclose(change[rest], change[rest][0].expand(len(rest)), atol=1e-4)
    assert torch.allclose(change[6], change[7], atol=1e-4)
    assert abs(float(change[6] - change[8])) > 0.01


def test_what_is_read_carries_its_group_on_both_sides() -> None:
    before, moved = model(), model()
    with torch.no_grad():
        moved.model.encoder.groups.vectors.weight[2] += SHIFT
    for visible, written in ((8, 10), (10, 8)):
        assert not torch.allclose(log_p(moved, visible, written), log_p(before, visible, written), atol=1e-3)


def test_tokens_without_a_group_share_nothing() -> None:
    assert not model().model.encoder.groups(torch.tensor([0, 1, 5, 9])).any()


def test_codes_get_the_groups_of_the_vocabulary() -> None:
    names = ("CCS98", "CCS49", "CCS108", "CCS106", "CCS218", "CCS98")
    vocabulary = Vocabulary(CODES, age_mean=60.0, age_spread=20.0, demographics=(), groups=names)
    patients = store(*random_patients(20, seed=1))
    found = train_stage.start(patients, vocabulary, tiny_train()).model.encoder.groups.of_token.tolist()
    assert found[6] == found[11] != 0
    assert len(set(found[6:12])) == 5
    assert found[:6] + found[12:] == [0] * (SIZE - 6)
    assert (
        train_stage.start(patients, vocabulary, tiny_train(group_embeddings=False)).model.encoder.groups
        is None
    )


def test_the_groups_are_published_with_the_weights(tmp_path: Path) -> None:
    trained = model()
    trained.save_pretrained(tmp_path)
    found = load(tmp_path, "cpu")
    assert torch.equal(found.model.encoder.groups.of_token, OF_TOKEN)
    assert torch.equal(log_p(found, 6, 8), log_p(trained, 6, 8))
