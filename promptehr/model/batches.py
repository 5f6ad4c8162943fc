"""A cohort's tokens on the device, and which patients a training step sees, under which condition.

The order is stateless: an epoch's plan is a pure function of (seed, epoch), so the batch of any
step can be had without the steps before it. Works on token ids; never sees codes.

Shapes: B patients of the cohort, T tokens in all, V visits in all, N patients of a plan.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from promptehr import tokens
from promptehr.settings import Train
from promptehr.tokens import Cohort, Ints

Condition = Literal["prompt", "history", "denoise"]
# `copy` is measured and never trained.
Shown = Literal[Condition, "copy"]
CONDITIONS: tuple[Condition, ...] = ("prompt", "history", "denoise")
PROMPT, HISTORY, DENOISE = range(3)

# Widths that compiled code is given, so that few shapes exist; the 2 is BOS EOS, what the encoder
# sees under the prompt condition. Steps below a quarter keep what they pad small.
BUCKETS = (2, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256)


@dataclass(frozen=True)
class TokenStore:
    """All patients of a split, on the device once; batches are gathers from it.

    Attributes:
        tokens: [T] int64, BOS to END of each patient.
        offsets: [B+1] int64; patient i is tokens[offsets[i]:offsets[i+1]].
        visit_starts: [V+B] int64, place in tokens of each <v>, then of END, patient by patient.
        visit_offsets: [B+1] int64; patient i's places are visit_starts[visit_offsets[i]:visit_offsets[i+1]],
            one more than it has visits.
        x_num: [B, 1] float32 age in standard units.
        x_cat: [B, 2] int64 gender and ethnicity ids.
        lengths: [B] tokens of each patient, on the host: widths of batches are known without
            asking the device.
        visits: [B] visits of each patient, on the host.
        host_starts: [V+B] as visit_starts, on the host and counted from each patient's BOS.
        scored_before: [T+1] tokens before each place that are scored when they are written: all but
            <unk>; on the host.
        vocabulary_size: Number of token ids.
    """

    tokens: Tensor
    offsets: Tensor
    visit_starts: Tensor
    visit_offsets: Tensor
    x_num: Tensor
    x_cat: Tensor
    lengths: Ints
    visits: Ints
    host_starts: Ints
    scored_before: Ints
    vocabulary_size: int

    @classmethod
    def from_cohort(cls, cohort: Cohort, device: torch.device | str, *, vocabulary_size: int) -> "TokenStore":
        """Copy a cohort to the device."""
        starts = np.flatnonzero((cohort.tokens == tokens.VISIT) | (cohort.tokens == tokens.END))
        visit_offsets = np.searchsorted(starts, cohort.offsets)
        return cls(
            tokens=torch.from_numpy(cohort.tokens).to(device),
            offsets=torch.from_numpy(cohort.offsets).to(device),
            visit_starts=torch.from_numpy(starts).to(device),
            visit_offsets=torch.from_numpy(visit_offsets).to(device),
            x_num=torch.tensor(cohort.age_z, dtype=torch.float32, device=device)[:, None],
            x_cat=torch.from_numpy(np.stack([cohort.gender_id, cohort.ethnicity_id], axis=1)).to(device),
            lengths=np.diff(cohort.offsets),
            visits=np.diff(visit_offsets) - 1,
            host_starts=starts - np.repeat(cohort.offsets[:-1], np.diff(visit_offsets)),
            scored_before=np.concatenate([[0], np.cumsum(cohort.tokens != vocabulary_size - 1)]),
            vocabulary_size=vocabulary_size,
        )

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def device(self) -> torch.device:
        return self.tokens.device

    @property
    def mask(self) -> int:
        """Id of <mask>."""
        return self.vocabulary_size - 2

    @property
    def unknown(self) -> int:
        """Id of <unk>."""
        return self.vocabulary_size - 1

    def places(self, rows: Ints, visit: Ints) -> Ints:
        """Tokens before each patient's visit of that number (from 0), BOS included; on the host.

        The number may be the patient's number of visits: then it is the tokens before END.
        """
        first = np.concatenate([[0], np.cumsum(self.visits + 1)])
        found: Ints = self.host_starts[first[rows] + visit]
        return found

    def labels(self, rows: Ints, written: Ints) -> Ints:
        """Scored ones among the last so many tokens of each patient; on the host."""
        end = np.cumsum(self.lengths)[rows]
        found: Ints = self.scored_before[end] - self.scored_before[end - written]
        return found


@dataclass(frozen=True)
class Step:
    """What one step trains on: N patients, each under one condition.

    Attributes:
        rows: [N] int64 places in the store, on the device.
        visible: [N] int64 visits that the encoder sees.
        first: [N] int64 visit that the decoder begins to write; the number of visits for END only.
        corrupted: [N] bool, whether the encoder sees the visits through noise.
        condition: [N] int64 place in CONDITIONS.
        present: [N] bool; a row that only fills up a static shape is a patient that counts for nothing.
        encoder_width: Longest encoder input.
        decoder_width: Longest decoder input.
    """

    rows: Tensor
    visible: Tensor
    first: Tensor
    corrupted: Tensor
    condition: Tensor
    present: Tensor
    encoder_width: int
    decoder_width: int


@dataclass(frozen=True)
class Plan:
    """The steps of one epoch.

    Attributes:
        steps: In the order they are done.
        labels_per_step: Mean number of scored labels of a step.
        useful_share: Scored labels among the decoder's token positions that are computed; prompts,
            which are no padding, are not among them.
    """

    steps: tuple[Step, ...]
    labels_per_step: float
    useful_share: float


def plan_epoch(store: TokenStore, train: Train, *, epoch: int, static: bool = False) -> Plan:
    """Every patient once, under a drawn condition, in batches of similar length in random order.

    Args:
        store: The training split.
        train: Seed, conditions, and what a batch holds.
        epoch: From 0.
        static: Whether batches are filled up to few shapes, as compiled code wants them; what a
            batch holds is the same.
    """
    rng = np.random.default_rng([train.seed, epoch])
    drawn = _drawn(store, train, rng)
    batches = _cut(drawn, train)
    order = [batches[place] for place in rng.permutation(len(batches))]
    shapes = [_shape(drawn, chosen, train, static=static) for chosen in order]
    filled = [np.resize(chosen, rows) for chosen, (rows, _, _) in zip(order, shapes, strict=True)]
    columns = _columns(store, drawn, order, filled)
    bounds = np.cumsum([0, *(len(chosen) for chosen in filled)])
    steps = tuple(
        _step([column[begin:end] for column in columns], encoder, decoder)
        for (begin, end), (_, encoder, decoder) in zip(pairwise(bounds), shapes, strict=True)
    )
    labels = int(drawn.labels.sum())
    decoder_positions = sum(rows * decoder for rows, _, decoder in shapes)
    return Plan(
        steps,
        labels_per_step=labels / len(steps),
        useful_share=labels / decoder_positions,
    )


def epoch_starts(store: TokenStore, train: Train) -> list[int]:
    """Steps before each epoch of the settings, and after the last one: [epochs + 1]."""
    if train.batch_patients is not None:
        each = -(-len(store) // train.batch_patients)
        return [each * epoch for epoch in range(train.epochs + 1)]
    counts = (
        len(_cut(_drawn(store, train, np.random.default_rng([train.seed, epoch])), train))
        for epoch in range(train.epochs)
    )
    return [0, *accumulate(counts)]


# --- what a batch holds ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Drawn:
    """An epoch's patients in random order, on the host, each [B]: condition, and lengths that follow."""

    rows: Ints
    condition: Ints
    visible: Ints
    first: Ints
    encoder: Ints
    decoder: Ints
    labels: Ints


def _drawn(store: TokenStore, train: Train, rng: np.random.Generator) -> _Drawn:
    rows = rng.permutation(len(store))
    shares = np.array([getattr(train.conditions, name) for name in CONDITIONS])
    condition = rng.choice(len(CONDITIONS), size=len(rows), p=shares / shares.sum())
    split = rng.integers(1, store.visits[rows] + 1)
    visible = np.select([condition == PROMPT, condition == HISTORY], [0, split], store.visits[rows])
    first = np.where(condition == HISTORY, split, 0)
    decoder = store.lengths[rows] - store.places(rows, first)
    return _Drawn(
        rows=rows,
        condition=condition,
        visible=visible,
        first=first,
        encoder=store.places(rows, visible) + 1,  # BOS, visible visits, EOS
        decoder=decoder,
        labels=store.labels(rows, decoder),
    )


def _cut(drawn: _Drawn, train: Train) -> list[Ints]:
    """Places in the drawn order, cut into batches of similar length.

    Batches of equally many patients are sorted by what the decoder writes, then by what the encoder
    sees. Under a budget of tokens the condition comes first: it decides how long the encoder's side
    is, and large batches that mix conditions would compute mostly padding there.
    """
    place = np.arange(len(drawn.rows))
    if train.batch_patients is not None:
        order = np.lexsort((place, drawn.encoder, drawn.decoder))
        return [order[begin : begin + train.batch_patients] for begin in place[:: train.batch_patients]]
    assert train.batch_tokens is not None
    order = np.lexsort((place, drawn.encoder, drawn.decoder, drawn.condition))
    width = _bucket(np.maximum(drawn.encoder, drawn.decoder))[order]
    return list(_within_budget(order, width, train.batch_tokens))


def _within_budget(order: Ints, width: Ints, budget: int) -> Iterator[Ints]:
    """Consecutive batches whose patients times longest width stay within the budget, one at least."""
    begin = 0
    while begin < len(order):
        longest = np.maximum.accumulate(width[begin : begin + budget // int(width[begin]) + 1])
        fits = int((longest * np.arange(1, len(longest) + 1) <= budget).sum())
        end = begin + max(fits, 1)
        yield order[begin:end]
        begin = end


def _shape(drawn: _Drawn, chosen: Ints, train: Train, *, static: bool) -> tuple[int, int, int]:
    """Rows, encoder width and decoder width that a batch is computed with."""
    encoder, decoder = int(drawn.encoder[chosen].max()), int(drawn.decoder[chosen].max())
    if not static:
        return len(chosen), encoder, decoder
    widths = _bucket(np.array([encoder, decoder]))
    rows = train.batch_patients or (train.batch_tokens or 0) // int(widths.max())
    return max(rows, len(chosen)), int(widths[0]), int(widths[1])


def _bucket(width: Ints) -> Ints:
    """The static width that holds each: the smallest bucket that does, or a multiple of the largest."""
    edges = np.array(BUCKETS)
    bucket = edges[np.searchsorted(edges, width).clip(max=len(edges) - 1)]
    found: Ints = np.where(width > edges[-1], -(-width // edges[-1]) * edges[-1], bucket)
    return found


def _step(columns: list[Tensor], encoder_width: int, decoder_width: int) -> Step:
    rows, visible, first, corrupted, condition, present = columns
    return Step(rows, visible, first, corrupted, condition, present, encoder_width, decoder_width)


def _columns(store: TokenStore, drawn: _Drawn, order: list[Ints], filled: list[Ints]) -> list[Tensor]:
    """The fields of all steps, one after the other, on the device in one copy each."""
    places = np.concatenate(filled)
    condition = drawn.condition[places]
    present = np.concatenate(
        [np.arange(len(rows)) < len(chosen) for chosen, rows in zip(order, filled, strict=True)]
    )
    fields = (drawn.rows[places], drawn.visible[places], drawn.first[places], condition == DENOISE)
    return [torch.from_numpy(column).to(store.device) for column in (*fields, condition, present)]


def derived_seed(seed: int, purpose: str, step: int = 0) -> int:
    """A seed for one purpose at one step: 63 bits of BLAKE2b, equal on every machine."""
    text = f"{seed}:{purpose}:{step}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
