"""PromptBART: size, prompts on both sides, cache, and the transformers library's own interface."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSeq2SeqLM, BartForConditionalGeneration

import promptehr.model
from promptehr import tokens
from promptehr.model import promptbart
from promptehr.model.config import PromptBartConfig, from_settings
from promptehr.model.promptbart import PromptBartForConditionalGeneration
from promptehr.settings import Train
from tests.model_builders import tiny_train

SIZE = 40


def tiny(
    prompt_length: int = 2,
    *,
    spread: float = 0.3,
    pointer_width: int = 4,
    groups: int = 5,
    kinds: bool = True,
) -> PromptBartForConditionalGeneration:
    """A model whose weights are large enough that every input matters."""
    prompt = {"length": prompt_length, "width": 8}
    train = tiny_train(prompt=prompt, dropout=0.0, pointer_width=pointer_width, kinds=kinds)
    shape = from_settings(train, SIZE, code_groups=groups)
    model = promptbart.start(shape, torch.zeros(SIZE), seed=3, groups=torch.arange(SIZE) % (groups + 1))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += spread * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def inputs(count: int = 3) -> dict[str, Tensor]:
    ids = torch.tensor([[1, 3, 7, 8, 4, 2], [1, 2, 0, 0, 0, 0], [1, 3, 9, 4, 2, 0]])[:count]
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "x_num": torch.tensor([[-1.0], [0.5], [2.0]])[:count],
        "x_cat": torch.tensor([[0, 5], [1, 2], [2, 0]])[:count],
    }


def test_bart_base_shape_has_its_known_number_of_parameters() -> None:
    train = Train.model_validate({"prompt": {"length": 0}, "pointer_width": 0, "kinds": False})
    with torch.device("meta"):
        model = PromptBartForConditionalGeneration(from_settings(train, 236))
    assert sum(parameter.numel() for parameter in model.parameters()) == 100_998_144


def test_prompts_add_two_separate_sets_of_vectors() -> None:
    def count(length: int) -> int:
        train = tiny_train(prompt={"length": length, "width": 8})
        with torch.device("meta"):
            model = PromptBartForConditionalGeneration(from_settings(train, SIZE))
        return sum(parameter.numel() for parameter in model.parameters())

    one_side = (1 + 1) * 8 + (3 + 1) * 8 + (6 + 1) * 8 + 2 * 8 * 16
    assert count(1) - count(0) == 2 * one_side


def test_the_start_is_a_function_of_the_seed_and_leaves_the_global_generator() -> None:
    shape, offset = from_settings(tiny_train(), SIZE), torch.arange(SIZE).float()
    before = torch.get_rng_state()
    first, again, other = (promptbart.start(shape, offset, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)
    assert torch.equal(first.final_logits_bias, offset[None])


def test_prompt_vectors_start_as_large_as_token_embeddings() -> None:
    train = tiny_train(shape={"width": 64, "heads": 2}, prompt={"width": 32})
    model = promptbart.start(from_settings(train, 600), torch.zeros(600), seed=1)
    vectors = model.decoder_prompts(torch.ones(1, 1), torch.tensor([[0, 1]])).detach()
    embeddings = model.model.shared.weight[6:].detach()
    assert 0.5 < float(vectors.std() / embeddings.std()) < 2.5


def test_logits_follow_demographics_only_with_prompts() -> None:
    other = inputs() | {"x_num": torch.zeros(3, 1), "x_cat": torch.zeros(3, 2, dtype=torch.int64)}
    decoder = torch.tensor([[1, 3, 7]] * 3)
    for length, equal in ((0, True), (1, False)):
        model = tiny(length)
        found = [model(**given, decoder_input_ids=decoder).logits for given in (inputs(), other)]
        assert found[0].shape == (3, 3, SIZE)
        assert torch.equal(*found) == equal


def test_a_model_with_prompts_needs_demographics() -> None:
    given = {name: inputs()[name] for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match="needs x_num and x_cat"):
        tiny(1)(**given, decoder_input_ids=torch.tensor([[1]] * 3))


def test_without_prompts_pointer_and_kinds_it_is_bart_that_repeats_no_code() -> None:
    model = tiny(0, pointer_width=0, groups=0, kinds=False)
    bart = BartForConditionalGeneration(model.config).eval()
    bart.load_state_dict(model.state_dict())
    given = {name: inputs()[name] for name in ("input_ids", "attention_mask")}
    decoder = torch.tensor([[1, 3, 7, 8], [1, 3, 9, 4], [1, 3, 4, 3]])
    ours = model(**given, decoder_input_ids=decoder).logits
    theirs = bart(**given, decoder_input_ids=decoder).logits
    theirs[:, :, tokens.PAD] = -1e4
    for row, step, code in ((0, 2, 7), (0, 3, 7), (0, 3, 8), (1, 2, 9), (1, 3, 9)):
        theirs[row, step, code] = -1e4
    assert torch.allclose(ours, theirs.log_softmax(-1), atol=1e-5)


def test_padding_of_the_encoder_changes_nothing() -> None:
    model, alone = tiny(), {name: value[1:2] for name, value in inputs().items()}
    short = alone | {name: alone[name][:, :2] for name in ("input_ids", "attention_mask")}
    decoder = torch.tensor([[1, 3, 7]])
    padded, bare = (model(**given, decoder_input_ids=decoder).logits for given in (alone, short))
    assert torch.allclose(padded, bare, atol=1e-5)


def test_the_decoder_sees_no_later_token() -> None:
    model = tiny()
    one, other = torch.tensor([[1, 3, 7, 8]] * 3), torch.tensor([[1, 3, 9, 6]] * 3)
    logits = [model(**inputs(), decoder_input_ids=ids).logits for ids in (one, other)]
    assert torch.equal(logits[0][:, :2], logits[1][:, :2])
    assert not torch.allclose(logits[0][:, 2], logits[1][:, 2])


def test_token_by_token_with_cache_equals_all_at_once() -> None:
    model, decoder = tiny(), torch.tensor([[1, 3, 7, 8], [1, 3, 9, 4], [1, 5, 0, 0]])
    whole = model(**inputs(), decoder_input_ids=decoder).logits
    step = model(**inputs(), decoder_input_ids=decoder[:, :1], use_cache=True)
    stepped = [step.logits]
    encoded = model.get_encoder()(**inputs())
    for place in range(1, 4):
        step = model(
            attention_mask=inputs()["attention_mask"],
            encoder_outputs=encoded,
            decoder_input_ids=decoder[:, place : place + 1],
            written_ids=decoder[:, : place + 1],
            past_key_values=step.past_key_values,
            use_cache=True,
        )
        stepped.append(step.logits)
    assert torch.allclose(torch.cat(stepped, dim=1), whole, atol=1e-5)


def test_a_cache_needs_all_that_is_written() -> None:
    model, decoder = tiny(), torch.tensor([[1, 3, 7]] * 3)
    cache = model(**inputs(), decoder_input_ids=decoder[:, :2], use_cache=True).past_key_values
    with pytest.raises(ValueError, match="a cache needs written_ids"):
        model(**inputs(), decoder_input_ids=decoder[:, 2:], past_key_values=cache)


@pytest.mark.parametrize("prompt_length", [0, 2])
@pytest.mark.parametrize("how", [{"do_sample": False}, {"do_sample": False, "num_beams": 3}])
def test_generates_the_same_with_and_without_cache(prompt_length: int, how: dict[str, Any]) -> None:
    model = tiny(prompt_length)
    given = inputs() if prompt_length else {n: v for n, v in inputs().items() if not n.startswith("x_")}
    ids = [model.generate(**given, **how, max_new_tokens=12, use_cache=cached) for cached in (True, False)]
    assert torch.equal(*ids)
    assert ids[0][:, 0].tolist() == [tokens.BOS] * 3


def test_generation_stops_at_end_and_at_nothing_else() -> None:
    model = tiny(spread=0.0, kinds=False)
    with torch.no_grad():
        model.final_logits_bias[0, tokens.END] = 100.0
    assert (
        model.generate(**inputs(), do_sample=False, max_new_tokens=4).tolist()
        == [[tokens.BOS, tokens.END]] * 3
    )
    with torch.no_grad():
        model.final_logits_bias[0, tokens.EOS] = 200.0
    ids = model.generate(**inputs(), do_sample=False, max_new_tokens=4)
    assert ids.tolist() == [[tokens.BOS, *[tokens.EOS] * 4]] * 3


def test_demographics_are_expanded_for_several_samples() -> None:
    torch.manual_seed(0)
    ids = tiny().generate(**inputs(), do_sample=True, num_return_sequences=4, max_new_tokens=5)
    assert ids.shape == (12, 6)


def test_continues_a_given_prefix() -> None:
    prefix = torch.tensor([[1, 3, 7], [1, 3, 8], [1, 3, 9]])
    ids = tiny().generate(**inputs(), decoder_input_ids=prefix, do_sample=False, max_new_tokens=4)
    assert torch.equal(ids[:, :3], prefix)


def test_a_given_decoder_mask_covers_tokens_not_prompts() -> None:
    model, decoder = tiny(2), torch.tensor([[1, 3, 7]] * 3)
    mask = torch.ones(3, 3, dtype=torch.int64)
    whole = model(**inputs(), decoder_input_ids=decoder).logits
    masked = model(**inputs(), decoder_input_ids=decoder, decoder_attention_mask=mask).logits
    assert torch.allclose(whole, masked, atol=1e-6)


def test_labels_give_the_mean_loss() -> None:
    model, labels = tiny(), torch.tensor([[3, 7, 5], [3, -100, 5], [5, -100, -100]])
    decoder = torch.tensor([[1, 3, 7], [1, 3, 8], [1, 0, 0]])
    out = model(**inputs(), decoder_input_ids=decoder, labels=labels)
    log_p = out.logits.log_softmax(-1)
    scored = [(0, 0, 3), (0, 1, 7), (0, 2, 5), (1, 0, 3), (1, 2, 5), (2, 0, 5)]
    expected = -sum(log_p[place] for place in scored) / len(scored)
    assert torch.allclose(out.loss, expected)


def test_auto_classes_open_a_saved_model(tmp_path: Path) -> None:
    model = tiny()
    model.final_logits_bias.fill_(0.25)
    model.save_pretrained(tmp_path)
    for opened in (AutoModelForSeq2SeqLM.from_pretrained(tmp_path), promptehr.model.load(tmp_path, "cpu")):
        assert type(opened) is PromptBartForConditionalGeneration
        assert opened.lm_head.weight is opened.model.shared.weight
        assert opened.model.encoder.embed_tokens.weight is opened.model.shared.weight
        found, saved = opened.state_dict(), model.state_dict()
        assert found.keys() == saved.keys()
        assert all(torch.equal(found[name], saved[name]) for name in saved)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is PromptBartConfig
    assert (config.prompt_length, config.prompts, config.eos_token_id) == (2, 6, tokens.END)
    assert config.forced_eos_token_id is None


def test_no_gradient_is_missing_or_infinite() -> None:
    model, labels = tiny(), torch.tensor([[3, 7, 5]] * 3)
    model(**inputs(), decoder_input_ids=torch.tensor([[1, 3, 7]] * 3), labels=labels).loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())
