"""PromptBART: transformers' BART with demographic prompts in front of encoder and decoder.

Turns demographics and visible tokens into logits of the tokens to write. Works on token ids;
never sees codes. Prompts take the first positions of both sides; the decoder's stand in the
cache after the first step, and no logits are returned for them.

Shapes: B patients, S encoder tokens, L decoder tokens, P prompts, D width, V vocabulary.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, BartForConditionalGeneration
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.models.bart.modeling_bart import BartEncoder
from transformers.utils import logging as transformers_logging

from promptehr.errors import ArtifactError, SettingsError
from promptehr.model.config import PromptBartConfig
from promptehr.model.device import is_out_of_memory
from promptehr.model.groups import CodeGroups
from promptehr.model.kinds import Ends, even
from promptehr.model.offsets import Offsets
from promptehr.model.prompt import Prompts
from promptehr.model.repeats import CLOSED, Places, Repeats
from promptehr.tokens import FIRST_CODE


@dataclass
class Encoded(BaseModelOutput):  # type: ignore[misc]  # transformers is not typed
    """What the encoder saw: states [B, P + S, D], and the ids [B, S] that codes are pointed at by."""

    visible_ids: Tensor | None = None


class EmbeddingNorm(nn.LayerNorm):
    """The layer norm of the embeddings with the dropout after it, which BART's stacks do themselves."""

    def __init__(self, config: PromptBartConfig):
        super().__init__(config.d_model)
        self.dropout = config.dropout

    def forward(self, embeds: Tensor) -> Tensor:
        """[B, L, D] to [B, L, D]."""
        return nn.functional.dropout(super().forward(embeds), p=self.dropout, training=self.training)


class PromptBartEncoder(BartEncoder):  # type: ignore[misc]  # transformers is not typed
    """BART's encoder with P prompt vectors in front of the tokens."""

    config_class = PromptBartConfig

    def __init__(self, config: PromptBartConfig):
        super().__init__(config)
        self.prompts = prompts_of(config)
        self.groups = groups_of(config)
        self.post_init()

    def words(self, ids: Tensor) -> Tensor:
        """[B, S] ids to embeddings [B, S, D]."""
        own: Tensor = self.embed_tokens(ids)
        return own if self.groups is None else own + self.groups(ids)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        x_num: Tensor | None = None,
        x_cat: Tensor | None = None,
        **kwargs: Any,
    ) -> Encoded:
        """[B, S] ids or [B, S, D] embeddings, [B, S] mask to states [B, P + S, D]."""
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.words(input_ids)
        embeds = with_prompts(inputs_embeds, self.prompts, x_num, x_cat)
        mask = of_keys(lengthened(attention_mask, embeds.shape[1]), self.config)
        states = super().forward(inputs_embeds=embeds, attention_mask=mask, **kwargs)
        return Encoded(**states, visible_ids=input_ids)


class PromptBartForConditionalGeneration(BartForConditionalGeneration):  # type: ignore[misc]
    """P(tokens | demographics, visible tokens), token by token.

    `final_logits_bias` is BART's constant offset of the logits, [1, V], saved with the weights:
    training puts the log-unigram there, and a value that no token can outweigh at ids that are
    never written.
    """

    config_class = PromptBartConfig

    def __init__(self, config: PromptBartConfig):
        super().__init__(config)
        self.model.encoder = PromptBartEncoder(config)
        self.decoder_prompts = prompts_of(config)
        self.offsets = offsets_of(config)
        self.repeats = Repeats(width=config.pointer_width, d_model=config.d_model, kinds=config.kinds)
        for stack in (self.model.encoder, self.model.decoder):
            stack.layernorm_embedding = EmbeddingNorm(config)
        self.post_init()

    def train(self, mode: bool = True) -> Self:
        """As everywhere, but the two stacks themselves never train: only their layers do.

        A training stack of transformers 5.17 asks the host, layer by layer, whether to drop
        the layer, which splits a compiled step. PromptBART drops no layers.
        """
        super().train(mode)
        self.model.encoder.training = self.model.decoder.training = False
        return self

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        x_num: Tensor | None = None,
        x_cat: Tensor | None = None,
        written_ids: Tensor | None = None,
        answers: Tensor | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Log-probabilities [B, L, V] of the token after each decoder token, or [B, L] of one answer each.

        Args:
            input_ids: [B, S] BOS, visible visits, EOS, padding.
            attention_mask: [B, S], 0 at padding.
            decoder_input_ids: [B, L] BOS and the tokens written so far; only the new ones where
                there is a cache. Made from the labels if left out.
            decoder_attention_mask: [B, tokens with the cached ones]. Padding on the right needs none;
                on the left BART cannot have any: its positions count from the first column.
            encoder_outputs: States of an earlier call, [B, P + S, D], instead of input_ids.
            past_key_values: Cache of the earlier tokens, prompts included.
            labels: [B, L], -100 where nothing is scored; adds the mean loss.
            use_cache: Whether to return the cache.
            x_num: [B, 1] age in standard units.
            x_cat: [B, 2] gender and ethnicity ids.
            written_ids: [B, tokens with the cached ones] all decoder tokens, where there is a cache.
            answers: [B, L] ids; the log-probabilities of these alone are returned as logits, [B, L],
                which is all that training asks for.
            **kwargs: What transformers passes on to encoder and decoder.
        """
        kwargs.pop("return_dict", None)
        if encoder_outputs is None:
            encoder_outputs = self.model.encoder(
                input_ids=input_ids, attention_mask=attention_mask, x_num=x_num, x_cat=x_cat, **kwargs
            )
        if decoder_input_ids is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels=labels)
        states = encoder_outputs[0]
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        embeds = self.model.encoder.words(decoder_input_ids)  # [B, L, D]; both sides share their words
        if past == 0:
            embeds = with_prompts(embeds, self.decoder_prompts, x_num, x_cat)  # [B, P + L, D]
        mask = lengthened(decoder_attention_mask, past + embeds.shape[1])
        if mask is None and past_key_values is None:
            mask = causal(embeds, self.config)
        outputs = self.model.decoder(
            inputs_embeds=embeds,
            attention_mask=mask,
            encoder_hidden_states=states,
            encoder_attention_mask=of_keys(lengthened(attention_mask, states.shape[1]), self.config),
            past_key_values=past_key_values,
            use_cache=False if labels is not None else use_cache,
            **kwargs,
        )
        last = outputs.last_hidden_state[:, -decoder_input_ids.shape[1] :]  # without the prompts
        bias = self.final_logits_bias  # [1, V]
        if self.offsets is not None:
            bias = bias + self.offsets(x_num, x_cat)  # [B, 1, V]
        logits = self._with_repeats(
            nn.functional.linear(last, self._written_words()) + bias,
            last,
            decoder_input_ids,
            written=written_ids,
            visible=encoder_outputs.get("visible_ids"),
            cached=past > 0,
            answers=answers,
        )
        return Seq2SeqLMOutput(
            loss=None
            if labels is None
            else nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()),
            logits=logits,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=states,
            encoder_hidden_states=encoder_outputs.get("hidden_states"),
            encoder_attentions=encoder_outputs.get("attentions"),
        )

    def _written_words(self) -> Tensor:
        """[V, D] embeddings of all tokens, as the output compares states with them."""
        groups = self.model.encoder.groups
        own: Tensor = self.lm_head.weight
        return own if groups is None else own + groups.table()

    def _with_repeats(
        self,
        logits: Tensor,
        states: Tensor,
        new: Tensor,
        *,
        written: Tensor | None,
        visible: Tensor | None,
        cached: bool,
        answers: Tensor | None,
    ) -> Tensor:
        """[B, L, V] log-probabilities that heed what is already written, or [B, L] of the answers."""
        if written is None:
            if cached:
                raise ValueError("a cache needs written_ids: all decoder tokens so far")
            written = new
        visible = new[:, :0] if visible is None else visible
        places = Places.of(written, visible, new.shape[1], codes=self.config.vocab_size - FIRST_CODE - 2)
        embeddings = self.model.encoder.words(places.ids) if self.repeats.width else None
        if answers is not None:
            return self.repeats.of_answers(logits, states, places, embeddings, answers)
        found: Tensor = self.repeats(logits, states, places, embeddings)
        return found

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """transformers' own, with all tokens written so far beside the new ones."""
        return {**super().prepare_inputs_for_generation(input_ids, **kwargs), "written_ids": input_ids}


def prompts_of(config: PromptBartConfig) -> Prompts | None:
    """The prompts of one side; None where the configuration has none."""
    if config.prompt_length == 0:
        return None
    return Prompts(
        numeric=config.numeric_features,
        categorical=config.categorical_features,
        length=config.prompt_length,
        width=config.prompt_width,
        d_model=config.d_model,
    )


def offsets_of(config: PromptBartConfig) -> Offsets | None:
    """The offsets counted by demographics; None where the configuration has none."""
    if not config.age_edges:
        return None
    return Offsets(
        age_edges=config.age_edges,
        categories=config.categorical_features,
        vocabulary_size=config.vocab_size,
    )


def groups_of(config: PromptBartConfig) -> CodeGroups | None:
    """What codes of a clinical group share; None where the configuration has no groups."""
    if not config.code_groups:
        return None
    return CodeGroups(groups=config.code_groups, vocabulary_size=config.vocab_size, d_model=config.d_model)


def start(
    config: PromptBartConfig,
    log_unigram: Tensor,
    *,
    seed: int,
    offsets: Tensor | None = None,
    groups: Tensor | None = None,
    ends: Ends | None = None,
) -> PromptBartForConditionalGeneration:
    """A model with random weights, a pure function of the arguments; in training mode, on the CPU.

    Modules draw their first weights from torch's global generator, so it is seeded for the time
    of the construction and put back as it was.

    Args:
        config: The shape.
        log_unigram: [V] offset of the logits.
        seed: Seed of the weights.
        offsets: Table of the offsets by demographics, where the configuration has them.
        groups: [V] clinical group of each token, likewise.
        ends: Log-odds that visits and records end, likewise; even ones if left out.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PromptBartForConditionalGeneration(config)
        for prompts in (model.model.encoder.prompts, model.decoder_prompts):
            if prompts is not None:
                _start_prompts(prompts, std=config.init_std)
        if model.repeats.width:
            nn.init.constant_(model.repeats.gate.bias, CLOSED)
        if model.repeats.kinds is not None:
            model.repeats.kinds.start(ends or even())
    model.final_logits_bias.copy_(log_unigram)
    if model.offsets is not None and offsets is not None:
        model.offsets.table.copy_(offsets)
    if model.model.encoder.groups is not None and groups is not None:
        model.model.encoder.groups.of_token.copy_(groups)
    model.train()
    return model


@torch.no_grad()
def _start_prompts(prompts: Prompts, *, std: float) -> None:
    """Give prompt vectors the spread of the token embeddings.

    With BART's own spread in both maps, a prompt would be several times smaller than the
    position vector it is added to, and the layer norm after it would leave little of the
    demographics.
    """
    for feature in (*prompts.numeric, *prompts.categorical):
        nn.init.normal_(feature.weight)
    for kind in (prompts.numeric_map, prompts.categorical_map):
        nn.init.normal_(kind.weight, std=std / prompts.width**0.5)


def with_prompts(
    embeds: Tensor, prompts: Prompts | None, x_num: Tensor | None, x_cat: Tensor | None
) -> Tensor:
    """[B, L, D] token embeddings to [B, P + L, D]."""
    if prompts is None:
        return embeds
    if x_num is None or x_cat is None:
        raise ValueError("a model with prompts needs x_num and x_cat")
    return torch.cat([prompts(x_num, x_cat).to(embeds.dtype), embeds], dim=1)


def lengthened(mask: Tensor | None, length: int) -> Tensor | None:
    """A [B, L] mask of the tokens with ones in front, for the prompts, up to the given length."""
    if mask is None or mask.shape[1] >= length:
        return mask
    return nn.functional.pad(mask, (length - mask.shape[1], 0), value=1)


def of_keys(mask: Tensor | None, config: PromptBartConfig) -> Tensor | None:
    """A [B, S] mask as [B, 1, 1, S] for scaled-dot-product attention, which takes it as it is.

    transformers would ask the device whether it is all ones, and the host would wait for the answer.
    """
    if mask is None or config._attn_implementation != "sdpa":
        return mask
    return mask[:, None, None, :].bool()


def causal(embeds: Tensor, config: PromptBartConfig) -> Tensor | None:
    """[1, 1, L, L] bool, each position sees itself and those before it; None where transformers makes it.

    transformers would make a mask of ones and ask the device about it.
    """
    if config._attn_implementation != "sdpa":
        return None
    length = embeds.shape[1]
    return torch.ones(1, 1, length, length, dtype=torch.bool, device=embeds.device).tril()


def register() -> None:
    """Make `AutoConfig` and `AutoModelForSeq2SeqLM` know PromptBART."""
    AutoConfig.register(PromptBartConfig.model_type, PromptBartConfig, exist_ok=True)
    AutoModelForSeq2SeqLM.register(PromptBartConfig, PromptBartForConditionalGeneration, exist_ok=True)


def load(folder: Path, device: torch.device | str) -> PromptBartForConditionalGeneration:
    """A published model in evaluation mode; nothing is looked up outside the folder.

    Raises:
        ArtifactError: if the folder does not hold a PromptBART.
        SettingsError: if it does not fit into memory.
    """
    shows_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        model: PromptBartForConditionalGeneration = PromptBartForConditionalGeneration.from_pretrained(
            folder, local_files_only=True
        )
        model.to(device).eval()
    # Weights of another shape are a RuntimeError, and so is a GPU without memory.
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise SettingsError(f"{folder}: does not fit into memory; ask for more of it") from error
        raise ArtifactError(f"{folder}: not a published model; rerun train") from error
    finally:
        if shows_bar:
            transformers_logging.enable_progress_bar()
    return model
