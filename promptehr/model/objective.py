"""What the model sees, what it must write, and what that costs.

Turns patients of a TokenStore into a Batch under a condition:

    prompt    encoder BOS EOS                          decoder writes the record: generation
    history   encoder BOS, visits before t, EOS        decoder writes visits t.. and END
    denoise   encoder BOS, the corrupted record, EOS   decoder writes the record
    copy      encoder BOS, the record, EOS             decoder writes the record; never trained:
                                                       it measures how much the model copies

Labels are the record itself under every condition, never what the encoder sees. Everything is a
tensor operation on the device; the host is asked for nothing where widths are given.

Shapes: N patients of the batch, S encoder tokens, L decoder tokens, V vocabulary.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from promptehr import tokens
from promptehr.model.batches import Shown, Step, TokenStore
from promptehr.model.kinds import NEVER
from promptehr.settings import Corruption

NOT_SCORED = -100


@dataclass(frozen=True)
class Batch:
    """The model's input and the labels.

    Attributes:
        x_num: [N, 1] float32 age in standard units.
        x_cat: [N, 2] int64 gender and ethnicity ids.
        input_ids: [N, S] int64 BOS, what is visible, EOS, then PAD.
        attention_mask: [N, S] int64, 0 at PAD.
        decoder_input_ids: [N, L] int64 BOS and the labels moved one to the right, then PAD.
        labels: [N, L] int64; NOT_SCORED at padding and at <unk>.
    """

    x_num: Tensor
    x_cat: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    decoder_input_ids: Tensor
    labels: Tensor

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Keyword arguments of the model's forward, without the labels."""
        return {
            "x_num": self.x_num,
            "x_cat": self.x_cat,
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "decoder_input_ids": self.decoder_input_ids,
        }


# --- conditions --------------------------------------------------------------------------------


def prompt(store: TokenStore, rows: Tensor) -> Batch:
    """The encoder sees the prompts only, the decoder writes the record: generation.

    Args:
        store: The split.
        rows: [N] int64 places in the store, on its device.
    """
    zero = torch.zeros_like(rows)
    return between(store, rows, visible=zero, first=zero)


def history(store: TokenStore, rows: Tensor, first: Tensor) -> Batch:
    """The encoder sees the visits before `first`, the decoder writes the others and END.

    Args:
        store: The split.
        rows: [N] places in the store.
        first: [N] number of the first hidden visit, from 1 to the number of visits; END is all
            there is to write after the last visit.
    """
    return between(store, rows, visible=first, first=first)


def denoise(store: TokenStore, rows: Tensor, corruption: Corruption, generator: torch.Generator) -> Batch:
    """The encoder sees the record through noise, the decoder writes it clean."""
    batch = copy(store, rows)
    everyone = torch.ones_like(rows, dtype=torch.bool)
    return corrupted(store, batch, everyone, corruption, generator)


def copy(store: TokenStore, rows: Tensor) -> Batch:
    """The encoder sees the answer. For evaluation only: it tells what a copying model would reach."""
    return between(store, rows, visible=visits(store, rows), first=torch.zeros_like(rows))


def held_out(
    store: TokenStore, rows: Tensor, condition: Shown, corruption: Corruption, generator: torch.Generator
) -> Batch:
    """The batch of a condition, `copy` among them, as patients are scored: `history` gives one visit."""
    match condition:
        case "prompt":
            return prompt(store, rows)
        case "history":
            return history(store, rows, torch.ones_like(rows))
        case "denoise":
            return denoise(store, rows, corruption, generator)
        case "copy":
            return copy(store, rows)


def training(store: TokenStore, step: Step, corruption: Corruption, generator: torch.Generator) -> Batch:
    """The batch of a training step: each patient under the condition the plan drew for it."""
    widths = (step.encoder_width, step.decoder_width)
    batch = between(store, step.rows, visible=step.visible, first=step.first, widths=widths)
    return corrupted(store, batch, step.corrupted, corruption, generator)


def visits(store: TokenStore, rows: Tensor) -> Tensor:
    """[N] number of visits of each patient."""
    return store.visit_offsets[rows + 1] - store.visit_offsets[rows] - 1


def between(
    store: TokenStore,
    rows: Tensor,
    *,
    visible: Tensor,
    first: Tensor,
    widths: tuple[int, int] | None = None,
) -> Batch:
    """The encoder sees the first visits of each patient, the decoder writes from a visit on.

    Args:
        store: The split.
        rows: [N] places in the store.
        visible: [N] visits that the encoder sees.
        first: [N] first visit that the decoder writes.
        widths: Longest encoder and decoder input, if the host knows them.
    """
    begin, end = store.offsets[rows], store.offsets[rows + 1]
    seen_until = store.visit_starts[store.visit_offsets[rows] + visible]
    written_from = store.visit_starts[store.visit_offsets[rows] + first]
    seen, written = seen_until - begin + 1, end - written_from
    if widths is None:
        widths = (int(seen.max()), int(written.max()))

    place = torch.arange(widths[0], device=store.device)
    input_ids, mask = _gather(store, begin, seen, widths[0])
    input_ids = torch.where(place == (seen - 1)[:, None], tokens.EOS, input_ids)

    answer, scored = _gather(store, written_from, written, widths[1])
    bos = torch.full_like(rows, tokens.BOS)[:, None]
    before = torch.where(scored[:, 1:], answer[:, :-1], tokens.PAD)
    return Batch(
        x_num=store.x_num[rows],
        x_cat=store.x_cat[rows],
        input_ids=input_ids,
        attention_mask=mask.long(),
        decoder_input_ids=torch.cat([bos, before], dim=1),
        labels=torch.where(scored & (answer != store.unknown), answer, NOT_SCORED),
    )


def _gather(store: TokenStore, begin: Tensor, length: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Tokens of N stretches, [N, width] with PAD after their end, and where they are not padding."""
    place = torch.arange(width, device=store.device)
    inside = place < length[:, None]
    found = store.tokens[(begin[:, None] + place).clamp(max=len(store.tokens) - 1)]
    return torch.where(inside, found, tokens.PAD), inside


# --- noise -------------------------------------------------------------------------------------


def corrupted(
    store: TokenStore, batch: Batch, chosen: Tensor, corruption: Corruption, generator: torch.Generator
) -> Batch:
    """The batch with noise on what the encoder sees of the chosen patients; labels stay clean.

    Codes are hidden by spans whose lengths are Poisson, within a visit, one <mask> for each run
    of hidden codes; of the others some are deleted and some replaced by a random code. A span of
    length 0 hides nothing. Tokens that are not codes stay.

    Args:
        store: The split.
        batch: Clean batch.
        chosen: [N] bool.
        corruption: Shares and mean span length.
        generator: On the store's device; as many numbers are drawn whatever the shares.

    Source: Lewis et al., BART, ACL 2020, section 2.2.
    """
    ids = batch.input_ids
    codes = (ids >= tokens.FIRST_CODE) & chosen[:, None]
    hidden = _spans(ids, codes, corruption, generator)
    fate = torch.rand(ids.shape, generator=generator, device=ids.device)
    other = torch.randint(
        tokens.FIRST_CODE,
        max(store.mask, tokens.FIRST_CODE + 1),
        ids.shape,
        generator=generator,
        device=ids.device,
    )
    deleted = codes & (fate < corruption.delete_share)
    replaced = codes & ~deleted & (fate < corruption.delete_share + corruption.replace_share)
    starts_run = hidden & ~nn.functional.pad(hidden, (1, 0))[:, :-1]
    ids = torch.where(hidden, store.mask, torch.where(replaced, other, ids))
    kept = batch.attention_mask.bool() & torch.where(hidden, starts_run, ~deleted)
    return _with_encoder_input(batch, *_compacted(ids, kept))


def _spans(ids: Tensor, codes: Tensor, corruption: Corruption, generator: torch.Generator) -> Tensor:
    """[N, S] whether a code is hidden by a span.

    Spans start at each code with the rate that hides `span_share` of the codes of a long visit.
    """
    place = torch.arange(ids.shape[1], device=ids.device)
    share, mean_length = corruption.span_share, corruption.span_mean
    rate = math.inf if share == 1.0 else -math.log1p(-share) / mean_length
    starts = torch.rand(ids.shape, generator=generator, device=ids.device) < -math.expm1(-rate)
    mean = torch.full(ids.shape, mean_length, device=ids.device)
    length = torch.poisson(mean, generator=generator).long()
    visit_end = torch.where(ids == tokens.VISIT_END, place, ids.shape[1]).flip(1).cummin(1).values.flip(1)
    reach = torch.where(starts & codes, torch.minimum(place + length, visit_end), 0).cummax(1).values
    return codes & (place < reach)


def _compacted(ids: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The kept tokens moved to the left, PAD after them, and the mask."""
    target = torch.where(kept, kept.cumsum(1) - 1, ids.shape[1])  # the others go to a column to drop
    wide = ids.new_full((ids.shape[0], ids.shape[1] + 1), tokens.PAD)
    compact = wide.scatter(1, target, ids)[:, :-1]
    # What the extra column received is dropped; places after the last kept token are PAD.
    place = torch.arange(ids.shape[1], device=ids.device)
    return compact, (place < kept.sum(1, keepdim=True)).long()


def _with_encoder_input(batch: Batch, input_ids: Tensor, attention_mask: Tensor) -> Batch:
    return Batch(
        x_num=batch.x_num,
        x_cat=batch.x_cat,
        input_ids=input_ids,
        attention_mask=attention_mask,
        decoder_input_ids=batch.decoder_input_ids,
        labels=batch.labels,
    )


# --- costs -------------------------------------------------------------------------------------


def token_nll(log_probs: Tensor, labels: Tensor) -> Tensor:
    """-log P(label) in nats, [N, L] float32; 0 where nothing is scored.

    Args:
        log_probs: [N, L, V] what the model returns: normalised, so that it is not done twice.
        labels: [N, L], NOT_SCORED where nothing is scored.
    """
    found = log_probs.gather(2, labels.clamp(min=0)[..., None])[..., 0].float()
    return -found.masked_fill(labels == NOT_SCORED, 0.0)


def smoothing_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log P over the tokens that can be written, [N, L]; 0 where nothing is scored.

    The part of a smoothed loss that does not depend on the label. Codes that the visit has already
    cannot be written.
    """
    log_p = logits.float().log_softmax(-1)
    possible = log_p > NEVER / 2
    mean = (log_p * possible).sum(-1) / possible.sum(-1)
    return -mean * (labels != NOT_SCORED)


def log_unigram(store: TokenStore) -> Tensor:
    """[V] log of each token's share among the labels, counted once more than seen; CPU.

    Tokens that are never written (PAD, BOS, EOS, <mask>, <unk>) get NEVER, so that the model is a
    distribution over <v>, <\\v>, END and the codes.
    """
    counts = torch.bincount(store.tokens.cpu(), minlength=store.vocabulary_size).double()
    writable = torch.zeros(store.vocabulary_size, dtype=torch.bool)
    writable[tokens.VISIT : store.mask] = True
    smoothed = torch.where(writable, counts + 1, 0)
    return torch.where(writable, (smoothed / smoothed.sum()).log(), NEVER).float()
