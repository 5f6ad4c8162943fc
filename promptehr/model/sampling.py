"""A trained model and demographics to new records, or histories to the visits that follow.

Samples token by token with a cache, within the grammar: `<v> code+ <\\v>` ... END, no code twice in
a visit. Patients are generated in blocks of 256 consecutive ids, each from a seed of its own, so
that what a patient becomes depends on nothing outside its block. Works on token ids.

Shapes: A patients of a block still being written, V vocabulary, L tokens written so far.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from promptehr.model import objective
from promptehr.model.batches import TokenStore, derived_seed
from promptehr.model.objective import Batch
from promptehr.model.promptbart import PromptBartForConditionalGeneration
from promptehr.settings import Generate
from promptehr.tokens import BOS, END, FIRST_CODE, PAD, VISIT, VISIT_END, Ints

logger = logging.getLogger(__name__)

BLOCK = 256
# Rows that have ended are dropped once so many are idle: each drop copies the cache.
DROP_BELOW = 0.8


@dataclass(frozen=True)
class Written:
    """What the model wrote for one block.

    Attributes:
        tokens: [256 or fewer] lists of ids from the first written token to END.
        closed: Records that were ended because they reached the model's positions.
    """

    tokens: list[Ints]
    closed: int


def blocks(
    model: PromptBartForConditionalGeneration,
    people: TokenStore,
    settings: Generate,
    numbers: range,
    *,
    continues: bool,
) -> Iterator[Written]:
    """Generate for the persons of the store in these blocks, one after the other.

    Args:
        model: In evaluation mode, on the store's device.
        people: Demographics, and histories where they are continued.
        settings: Seed, temperature, top-k, top-p.
        numbers: Blocks of 256 consecutive persons, from 0; a block's records are its own affair.
        continues: Whether the encoder sees the whole record and the decoder writes what follows.
    """
    for number in numbers:
        start = number * BLOCK
        rows = torch.arange(start, min(start + BLOCK, len(people)), device=people.device)
        batch = (
            objective.history(people, rows, objective.visits(people, rows))
            if continues
            else new(people, rows)
        )
        noise = torch.Generator().manual_seed(derived_seed(settings.seed, "generate", number))
        yield write(model, batch, settings, noise, may_end_at_once=continues)


def new(people: TokenStore, rows: Tensor) -> Batch:
    """The condition of generation: the encoder sees the prompts only."""
    return objective.prompt(people, rows)


@torch.inference_mode()
def write(
    model: PromptBartForConditionalGeneration,
    batch: Batch,
    settings: Generate,
    noise: torch.Generator,
    *,
    may_end_at_once: bool,
) -> Written:
    """Sample one block; every step draws one number per patient of the block, written or not."""
    size, device = len(batch.x_num), batch.x_num.device
    room = model.config.max_position_embeddings - model.config.prompts
    grammar = Grammar(
        size, model.config.vocab_size, room=room, device=device, may_end_at_once=may_end_at_once
    )
    states = model.get_encoder()(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, x_num=batch.x_num, x_cat=batch.x_cat
    )
    mask, cache = batch.attention_mask, None
    alive = torch.arange(size, device=device)
    so_far = torch.full((size, 1), BOS, device=device)
    written: list[Tensor] = []
    while len(alive):
        output = model(
            encoder_outputs=states,
            attention_mask=mask,
            decoder_input_ids=so_far[:, -1:],
            written_ids=so_far,
            past_key_values=cache,
            use_cache=True,
            x_num=batch.x_num[alive],
            x_cat=batch.x_cat[alive],
        )
        cache = output.past_key_values
        u = torch.rand(size, generator=noise, dtype=torch.float64).to(device)[alive]
        chosen = pick(grammar.restrict(output.logits[:, -1], alive), u, settings)
        grammar.advance(chosen, alive)
        step = torch.full((size,), PAD, device=device)
        step[alive] = chosen
        written.append(step)
        going = ~grammar.ended[alive]
        if not going.any():
            break
        if going.double().mean() < DROP_BELOW:
            keep = going.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            states.last_hidden_state, states.visible_ids = (
                kept[keep] for kept in (states.last_hidden_state, states.visible_ids)
            )
            alive, mask, so_far, chosen = alive[keep], mask[keep], so_far[keep], chosen[keep]
        so_far = torch.cat([so_far, chosen[:, None]], dim=1)
    return Written(_until_end(torch.stack(written, dim=1)), closed=int(grammar.closed.sum()))


def _until_end(tokens: Tensor) -> list[Ints]:
    rows = tokens.cpu().numpy()
    ends = (rows == END).argmax(1) + 1
    return [row[:end] for row, end in zip(rows, ends, strict=True)]


# --- choice ------------------------------------------------------------------------------------


def pick(logits: Tensor, u: Tensor, settings: Generate) -> Tensor:
    """[A] the token at quantile u of the distribution that the settings leave.

    Temperature divides the logits; of the allowed tokens, structure included, top-k keeps the k
    likeliest, then top-p the likeliest up to its probability, one at least.

    Args:
        logits: [A, V], minus infinity where the grammar forbids.
        u: [A] float64 in [0, 1).
        settings: temperature, top_k (0 keeps all), top_p (1 keeps all).
    """
    logits = logits.double() / settings.temperature
    if settings.top_k:
        least = logits.topk(min(settings.top_k, logits.shape[1]), dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probability = logits.softmax(1)
    if settings.top_p < 1.0:
        ordered, place = probability.sort(dim=1, descending=True, stable=True)
        beyond = ordered.cumsum(1) - ordered >= settings.top_p
        probability = probability.scatter(1, place, ordered.masked_fill(beyond, 0.0))
    total = probability.cumsum(1)
    # A token without probability adds nothing to the sum and is never passed over to.
    return (total <= u[:, None] * total[:, -1:]).sum(1).clamp(max=logits.shape[1] - 1)


# --- grammar -----------------------------------------------------------------------------------


class Grammar:
    """Which tokens may follow, for each patient of a block.

    BOS is followed by <v>, or by END too where a history may have no sequel; <v> by a code; a
    code by a code that the visit does not have or by <\\v>; <\\v> by <v> or END. Where the room for
    tokens is nearly used up, the visit and the record are closed.
    """

    def __init__(
        self, size: int, vocabulary_size: int, *, room: int, device: torch.device, may_end_at_once: bool
    ):
        self.room = room
        self.length = torch.ones(size, dtype=torch.int64, device=device)  # BOS
        self.used = torch.zeros(size, vocabulary_size, dtype=torch.bool, device=device)
        self.in_visit = torch.zeros(size, dtype=torch.bool, device=device)
        self.empty = torch.zeros(size, dtype=torch.bool, device=device)  # the visit has no code yet
        self.may_end = torch.full((size,), may_end_at_once, device=device)
        self.ended = torch.zeros(size, dtype=torch.bool, device=device)
        self.closed = torch.zeros(size, dtype=torch.bool, device=device)

    def restrict(self, logits: Tensor, rows: Tensor) -> Tensor:
        """[A, V] logits of the given patients with minus infinity at what may not follow."""
        allowed = torch.zeros_like(logits, dtype=torch.bool)
        in_visit, empty, ended = self.in_visit[rows], self.empty[rows], self.ended[rows]
        last_code = logits.shape[1] - 2  # <mask> and <unk> are never written
        allowed[:, FIRST_CODE:last_code] = in_visit[:, None] & ~self.used[rows, FIRST_CODE:last_code]
        all_used = ~allowed[:, FIRST_CODE:last_code].any(1)
        allowed[:, VISIT_END] = in_visit & ~empty
        allowed[:, VISIT] = ~in_visit
        allowed[:, END] = ~in_visit & self.may_end[rows]
        # A code needs <\v> and END after it; a <v> needs a code, <\v> and END.
        left = self.room - self.length[rows]
        full_visit = in_visit & ~empty & (left < 3)
        full_record = ~in_visit & (left < 4) & self.may_end[rows]
        self.closed[rows] |= full_visit | full_record
        allowed[full_visit | (in_visit & ~empty & all_used), FIRST_CODE:last_code] = False
        allowed[full_record, VISIT] = False
        # A patient that has ended waits for its row to be dropped.
        allowed[ended] = False
        allowed[ended, PAD] = True
        return logits.masked_fill(~allowed, -torch.inf).where(~(ended[:, None] & allowed), 0.0)

    def advance(self, chosen: Tensor, rows: Tensor) -> None:
        """Note what was written."""
        is_code = chosen >= FIRST_CODE
        self.used[rows, chosen] |= is_code
        begins = chosen == VISIT
        self.used[rows[begins]] = False
        self.in_visit[rows] = (self.in_visit[rows] | begins) & (chosen != VISIT_END)
        self.empty[rows] = begins | (self.empty[rows] & ~is_code)
        self.may_end[rows] |= chosen == VISIT_END
        self.ended[rows] |= chosen == END
        self.length[rows] += 1


def joined(written: list[Ints], histories: list[Ints] | None = None) -> tuple[Ints, Ints]:
    """Written records as flat tokens with BOS, and offsets; after the given histories without END."""
    before = [np.array([BOS])] * len(written) if histories is None else [h[:-1] for h in histories]
    records = [np.concatenate(pair) for pair in zip(before, written, strict=True)]
    offsets = np.concatenate([[0], np.cumsum([len(record) for record in records])]).astype(np.int64)
    # A part of a small cohort may have no patients.
    return np.concatenate([np.empty(0, np.int64), *records]).astype(np.int64), offsets
