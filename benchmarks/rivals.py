"""Other sequence models, made so that the product's own loop trains and scores them.

Each reads the demographics as prompts in front of BOS and of what is written, and starts at the
unigram as PromptBART does: they differ from it in how they compute, not in what they are told.

Shapes: B patients, L decoder tokens, P prompts, D width, V vocabulary.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model
from transformers.modeling_outputs import CausalLMOutput

from promptehr.model.kinds import even
from promptehr.model.prompt import Prompts
from promptehr.model.repeats import CLOSED, Places, Repeats
from promptehr.settings import Train
from promptehr.tokens import ETHNICITIES, FIRST_CODE, GENDERS

SPREAD = 0.02  # of first weights, as in GPT-2 and BART


class Unruled(Repeats):
    """In place of `Repeats`: logits to log-probabilities, whatever is already written."""

    def __init__(self) -> None:
        super().__init__(width=0, d_model=1, kinds=False)

    def forward(self, logits: Tensor, states: Tensor, places: Places, embeddings: Tensor | None) -> Tensor:
        return super().forward(logits, states, forgetting(places), embeddings)

    def of_answers(
        self, logits: Tensor, states: Tensor, places: Places, embeddings: Tensor | None, answers: Tensor
    ) -> Tensor:
        return super().of_answers(logits, states, forgetting(places), embeddings, answers)


class MayRepeat(Unruled):
    """The same with the pointer: a code may come twice in a visit, those of earlier ones are pointed at."""

    def __init__(self, *, width: int, d_model: int, kinds: bool):
        Repeats.__init__(self, width=width, d_model=d_model, kinds=kinds)


def forgetting(places: Places) -> Places:
    """No code is used yet."""
    return replace(places, used=torch.zeros_like(places.used))


class Decoder(nn.Module):
    """P(tokens | demographics) without an encoder; takes what PromptBART takes and gives what it gives.

    Attributes:
        prompts: Demographics to the first P inputs.
        final_logits_bias: [1, V] constant offset of the logits.
        repeats: What is done to logits with what is already written.
        offsets: Of the logits, counted by demographics; None for none, as it starts.
    """

    offsets: nn.Module | None

    def __init__(self, log_unigram: Tensor, train: Train, *, repeats: Repeats):
        super().__init__()
        self.prompts = Prompts(
            numeric=1,
            categorical=(len(GENDERS), len(ETHNICITIES)),
            length=train.prompt.length,
            width=train.prompt.width,
            d_model=train.shape.width,
        )
        self.register_buffer("final_logits_bias", log_unigram[None])
        self.repeats = repeats
        self.offsets = None
        for linear in (self.prompts.numeric_map, self.prompts.categorical_map):
            nn.init.normal_(linear.weight, std=SPREAD / train.prompt.width**0.5)

    @property
    def device(self) -> torch.device:
        return self.final_logits_bias.device

    @property
    def embeddings(self) -> nn.Embedding:
        """[V, D], shared by input and output."""
        raise NotImplementedError

    def states(self, inputs: Tensor) -> Tensor:
        """[B, P + L, D] embeddings to [B, P + L, D] states, none of which sees later inputs."""
        raise NotImplementedError

    def forward(
        self,
        *,
        x_num: Tensor,
        x_cat: Tensor,
        decoder_input_ids: Tensor,
        answers: Tensor | None = None,
        **_: object,
    ) -> CausalLMOutput:
        """[B, L, V] log-probabilities of the token after each, or [B, L] of the answers.

        What an encoder would see is not looked at.
        """
        inputs = torch.cat([self.prompts(x_num, x_cat), self.embeddings(decoder_input_ids)], dim=1)
        states = self.states(inputs)[:, -decoder_input_ids.shape[1] :]
        logits = nn.functional.linear(states, self.embeddings.weight, self.final_logits_bias[0])
        if self.offsets is not None:
            logits = logits + self.offsets(x_num, x_cat)
        codes = logits.shape[-1] - FIRST_CODE - 2
        width = decoder_input_ids.shape[1]
        places = Places.of(decoder_input_ids, decoder_input_ids[:, :0], width, codes=codes)
        keys = self.embeddings(places.ids) if self.repeats.width else None
        if answers is not None:
            return CausalLMOutput(logits=self.repeats.of_answers(logits, states, places, keys, answers))
        return CausalLMOutput(logits=self.repeats(logits, states, places, keys))


class Gpt2(Decoder):
    """transformers' GPT-2 of so many layers, width and heads those of the settings."""

    def __init__(self, log_unigram: Tensor, train: Train, *, repeats: Repeats, layers: int):
        super().__init__(log_unigram, train, repeats=repeats)
        shape = train.shape
        self.body = GPT2Model(
            GPT2Config(
                vocab_size=len(log_unigram),
                n_positions=shape.positions,
                n_embd=shape.width,
                n_layer=layers,
                n_head=shape.heads,
                n_inner=shape.feed_forward,
                resid_pdrop=train.dropout,
                embd_pdrop=train.dropout,
                attn_pdrop=0.0,  # as BART
                use_cache=False,
                bos_token_id=None,
                eos_token_id=None,
            )
        )

    @property
    def embeddings(self) -> nn.Embedding:
        return self.body.wte

    def states(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.body(inputs_embeds=inputs).last_hidden_state
        return found


class Lstm(Decoder):
    """One LSTM layer of so many units, mapped to the width of the embeddings."""

    def __init__(self, log_unigram: Tensor, train: Train, *, repeats: Repeats, units: int):
        super().__init__(log_unigram, train, repeats=repeats)
        width = train.shape.width
        self.embed = nn.Embedding(len(log_unigram), width)
        nn.init.normal_(self.embed.weight, std=SPREAD)
        self.norm = nn.LayerNorm(width)  # at a spread of 0.02 the gates would see next to nothing
        self.lstm = nn.LSTM(width, units, batch_first=True)
        self.out = nn.Linear(units, width)
        self.dropout = nn.Dropout(train.dropout)

    @property
    def embeddings(self) -> nn.Embedding:
        return self.embed

    def states(self, inputs: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.dropout(self.norm(inputs)))
        found: Tensor = self.out(self.dropout(hidden))
        return found


def pointing(train: Train) -> Repeats:
    """The rules of the product, gate nearly closed as there; nobody has counted when visits end."""
    found = Repeats(width=train.pointer_width, d_model=train.shape.width, kinds=train.kinds)
    if found.kinds is not None:
        found.kinds.start(even())
    if found.width:
        nn.init.constant_(found.gate.bias, CLOSED)
    return found


def parameters(model: nn.Module) -> int:
    """Numbers that training changes, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
