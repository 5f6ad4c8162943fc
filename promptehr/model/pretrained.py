"""A local BART checkpoint to the start of a PromptBART: its transformer, not its embeddings.

Reads `config.json` and `model.safetensors` of a folder as transformers writes them, and nothing
outside it. Token, group and position embeddings, prompts and the output offset keep their own start:
the checkpoint's words are not codes, and prompts take its first positions.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from promptehr import artifacts
from promptehr.errors import ArtifactError, SettingsError
from promptehr.model.promptbart import PromptBartForConditionalGeneration

FILES = ("config.json", "model.safetensors")

# Value of the checkpoint's configuration and the setting that must equal it; None where no setting
# chooses it and the model's own value is what it must be.
COMPARED = {
    "d_model": "train.shape.width",
    "encoder_layers": "train.shape.encoder_layers",
    "decoder_layers": "train.shape.decoder_layers",
    "encoder_attention_heads": "train.shape.heads",
    "decoder_attention_heads": "train.shape.heads",
    "encoder_ffn_dim": "train.shape.feed_forward",
    "decoder_ffn_dim": "train.shape.feed_forward",
    "activation_function": None,
    "scale_embedding": None,
}
# Of BART's relatives, which say so by these keys: norms before the layers, or at the end of a stack.
FOREIGN = ("normalize_before", "add_final_layer_norm")


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of the files that are read, by `init_from/<name>`.

    Raises:
        ArtifactError: naming the one that is missing.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise ArtifactError(
                f"train.init_from: {folder / name} is missing; give the folder of a BART checkpoint with"
                f" {' and '.join(FILES)}"
            )
    return {f"init_from/{name}": artifacts.sha256(folder / name) for name in FILES}


@torch.no_grad()
def start_from(folder: Path, model: PromptBartForConditionalGeneration) -> int:
    """Copy the checkpoint's transformer into the model; returns how many tensors that were.

    Raises:
        SettingsError: naming the first configuration value that differs from the model's.
        ArtifactError: naming the first tensor that is missing, too many, of another shape or not
            finite, or the file that cannot be read.
    """
    hashes(folder)
    _compare(folder / FILES[0], model)
    path = folder / FILES[1]
    found = _transformer(_read(path))
    own = _transformer(dict(model.named_parameters()))
    if differing := sorted(own.keys() ^ found.keys()):
        side = "missing from" if differing[0] in own else "too many in"
        raise ArtifactError(f"train.init_from: tensor {differing[0]} is {side} {path}")
    for name, tensor in sorted(found.items()):
        if tensor.shape != own[name].shape:
            raise ArtifactError(
                f"train.init_from: tensor {name} is {list(tensor.shape)} in {path}, {list(own[name].shape)}"
                " in the model; change train.shape"
            )
        if not tensor.is_floating_point():
            raise ArtifactError(
                f"train.init_from: tensor {name} in {path} holds {tensor.dtype}, expected floats"
            )
        if not bool(tensor.isfinite().all()):
            raise ArtifactError(f"train.init_from: tensor {name} in {path} holds numbers that are not finite")
        own[name].copy_(tensor)
    return len(found)


def _compare(path: Path, model: PromptBartForConditionalGeneration) -> None:
    try:
        given = json.loads(path.read_bytes())
        kind = given.get("model_type")
    except (ValueError, AttributeError) as error:
        raise ArtifactError(f"train.init_from: {path} is not a configuration in JSON") from error
    if kind not in ("bart", "prompt_bart"):
        raise SettingsError(f"train.init_from: model_type is {kind!r} in {path}, expected bart")
    if others := [name for name in FOREIGN if given.get(name)]:
        raise SettingsError(
            f"train.init_from: {others[0]} is true in {path}, which BART has not; use another"
        )
    defaults: Mapping[str, Any] = type(model.config)().to_dict()
    for name, setting in COMPARED.items():
        seen, own = given.get(name, defaults[name]), getattr(model.config, name)
        if seen != own:
            remedy = f"set {setting} to {seen}" if setting else "use another checkpoint"
            raise SettingsError(f"train.init_from: {name} is {seen!r} in {path}, here {own!r}; {remedy}")


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return dict(safetensors.torch.load_file(path))
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"train.init_from: {path} is not a whole safetensors file") from error


def _transformer(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Layers and norms by the name they have inside BART, whichever of its classes saved them."""
    named = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    kept = (".embed_", ".prompts.", ".groups.")
    return {
        name: tensor
        for name, tensor in named.items()
        if name.startswith(("encoder.", "decoder.")) and not any(part in name for part in kept)
    }
