"""Starting from a local BART checkpoint: what is taken, what is refused and by which name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import BartForConditionalGeneration, BartModel

from promptehr.errors import ArtifactError, SettingsError
from promptehr.model import config, objective, pretrained, promptbart
from tests.model_builders import bart, random_patients, store, tiny_train


def fresh() -> promptbart.PromptBartForConditionalGeneration:
    patients = store(*random_patients(9, seed=1))
    shape = config.from_settings(tiny_train(), patients.vocabulary_size)
    return promptbart.start(shape, objective.log_unigram(patients), seed=1)


@pytest.mark.parametrize("kind", [BartForConditionalGeneration, BartModel])
def test_takes_the_layers_and_norms_and_nothing_else(tmp_path: Path, kind: Any) -> None:
    given = dict(bart(tmp_path, kind).named_parameters())
    before, model = dict(fresh().named_parameters()), fresh()
    copied = pretrained.start_from(tmp_path, model)
    prefix = "" if kind is BartModel else "model."
    changed = []
    for name, tensor in model.named_parameters():
        inner = name.removeprefix("model.")
        if ".layers." in name or "layernorm_embedding" in name:
            torch.testing.assert_close(tensor, given[prefix + inner], rtol=0, atol=0)
            changed.append(name)
        else:
            torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert copied == len(changed) == 16 + 26 + 4


def test_starts_from_a_published_model_of_its_own(tmp_path: Path) -> None:
    fresh().save_pretrained(tmp_path)
    model = fresh()
    with torch.no_grad():
        model.model.encoder.layers[0].fc1.weight.zero_()
    pretrained.start_from(tmp_path, model)
    torch.testing.assert_close(model.state_dict(), fresh().state_dict(), rtol=0, atol=0)


def test_half_precision_is_widened(tmp_path: Path) -> None:
    given = bart(tmp_path).half()
    given.save_pretrained(tmp_path)
    model = fresh()
    pretrained.start_from(tmp_path, model)
    found = model.model.decoder.layers[0].fc2.weight
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, given.model.decoder.layers[0].fc2.weight.float(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 32}, "d_model is 32 in .*, here 16; set train.shape.width to 32"),
        ({"decoder_layers": 2}, "decoder_layers is 2 in .*, here 1; set train.shape.decoder_layers to 2"),
        ({"encoder_ffn_dim": 64}, "encoder_ffn_dim is 64 in .*; set train.shape.feed_forward to 64"),
        ({"decoder_attention_heads": 4}, "decoder_attention_heads is 4 in .*; set train.shape.heads to 4"),
        ({"activation_function": "relu"}, "activation_function is 'relu' in .*'gelu'; use another"),
        ({"normalize_before": True}, "normalize_before is true in .*, which BART has not; use another"),
    ],
)
def test_another_shape_is_refused_by_the_name_of_its_value(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    bart(tmp_path, **changes)
    with pytest.raises(SettingsError, match=f"train.init_from: {message}"):
        pretrained.start_from(tmp_path, fresh())


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    bart(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**content, "model_type": "gpt2"}), "utf-8")
    with pytest.raises(SettingsError, match=r"model_type is 'gpt2' in .*, expected bart"):
        pretrained.start_from(tmp_path, fresh())


NAME = "model.encoder.layers.0.fc1.weight"


def without(tensors: dict[str, Tensor]) -> None:
    del tensors[NAME]


def cut(tensors: dict[str, Tensor]) -> None:
    tensors[NAME] = tensors[NAME][:-1].contiguous()


def one_more(tensors: dict[str, Tensor]) -> None:
    tensors["model.decoder.layers.7.fc1.weight"] = tensors[NAME].clone()


def poisoned(tensors: dict[str, Tensor]) -> None:
    tensors[NAME][0, 0] = float("nan")


def whole_numbers(tensors: dict[str, Tensor]) -> None:
    tensors[NAME] = tensors[NAME].to(torch.int32)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (whole_numbers, r"tensor encoder.layers.0.fc1.weight in .* holds torch.int32, expected floats"),
        (without, r"tensor encoder.layers.0.fc1.weight is missing from"),
        (cut, r"tensor encoder.layers.0.fc1.weight is \[31, 16\] in .*, \[32, 16\] in the model"),
        (one_more, r"tensor decoder.layers.7.fc1.weight is too many in"),
        (poisoned, r"tensor encoder.layers.0.fc1.weight in .* not finite"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_by_its_name(
    tmp_path: Path, damage: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    bart(tmp_path)
    tensors = dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    damage(tensors)
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match=message):
        pretrained.start_from(tmp_path, fresh())


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    bart(tmp_path)
    (tmp_path / name).write_bytes(b"\x00")
    with pytest.raises(ArtifactError, match=f"train.init_from: .*{name} is not"):
        pretrained.start_from(tmp_path, fresh())
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match=f"train.init_from: .*{name} is missing"):
        pretrained.start_from(tmp_path, fresh())
