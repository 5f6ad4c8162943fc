"""The shape of a PromptBART as transformers' configuration: BART's fields and the prompts'.

Knows token ids and sizes; never sees codes or patients.
"""

from collections.abc import Sequence
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import BartConfig

from promptehr import tokens
from promptehr.settings import Train


@strict
class PromptBartConfig(BartConfig):  # type: ignore[misc]  # transformers is not typed
    """BART's configuration with prompts for numeric and categorical features.

    Attributes:
        prompt_length: Prompt vectors per feature; 0 leaves the demographics out.
        prompt_width: Width of the space in which a feature is embedded before the map to d_model.
        numeric_features: Columns of x_num; the pipeline's one is age in standard units.
        categorical_features: Categories of each column of x_cat: gender, ethnicity.
        pointer_width: Width of the attention that points at codes of earlier visits; 0 points at none.
        kinds: Whether it is decided first if a code comes, <v>, <\\v> or END, and then which code.
        code_groups: Clinical groups whose codes share a part of their embeddings; 0, none do.
        age_edges: First age of each band but the youngest, in standard units, for the offsets of the
            logits that are counted by demographics; none, no such offsets.
    """

    model_type = "prompt_bart"

    prompt_length: int = 1
    prompt_width: int = 128
    numeric_features: int = 1
    categorical_features: tuple[int, ...] | list[int] = (len(tokens.GENDERS), len(tokens.ETHNICITIES))
    pointer_width: int = 0
    kinds: bool = False
    code_groups: int = 0
    age_edges: tuple[float, ...] | list[float] = ()
    pad_token_id: int | None = tokens.PAD
    bos_token_id: int | None = tokens.BOS
    eos_token_id: int | list[int] | None = tokens.END
    decoder_start_token_id: int | None = tokens.BOS
    forced_eos_token_id: int | list[int] | None = None

    @property
    def prompts(self) -> int:
        """Prompt vectors in front of the tokens, of encoder and decoder alike."""
        return self.prompt_length * (self.numeric_features + len(self.categorical_features))


def from_settings(
    train: Train, vocabulary_size: int, age_edges: Sequence[float] = (), code_groups: int = 0
) -> PromptBartConfig:
    """The configuration that the train settings ask for.

    Args:
        train: Shape, prompts and dropout.
        vocabulary_size: Number of token ids, read from the vocabulary.
        age_edges: As in `PromptBartConfig`.
        code_groups: As there.
    """
    shape = train.shape
    sizes: dict[str, Any] = {
        f"{side}_{field}": value
        for side in ("encoder", "decoder")
        for field, value in (("attention_heads", shape.heads), ("ffn_dim", shape.feed_forward))
    }
    return PromptBartConfig(
        vocab_size=vocabulary_size,
        d_model=shape.width,
        encoder_layers=shape.encoder_layers,
        decoder_layers=shape.decoder_layers,
        max_position_embeddings=shape.positions,
        dropout=train.dropout,
        prompt_length=train.prompt.length,
        prompt_width=train.prompt.width,
        pointer_width=train.pointer_width,
        kinds=train.kinds,
        age_edges=list(age_edges),
        code_groups=code_groups,
        **sizes,
    )
