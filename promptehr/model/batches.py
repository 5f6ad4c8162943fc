"""A cohort's tokens on the device, and which patients a training step sees, under which condition.

The order is stateless: an epoch's plan is a pure function of (seed, epoch), so the batch of any
step can be had without the steps before it. Works on token ids; never sees codes.

Shapes: B patients of the cohort, T tokens in all, V visits in all, N patients of a plan.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from promptehr import tokens
from promptehr.tokens import Cohort, Ints

Condition = Literal["prompt", "history", "denoise"]
CONDITIONS: tuple[Condition, ...] = ("prompt", "history", "denoise")
PROMPT, HISTORY, DENOISE = range(3)

# Batches of one plan are sorted by length within pools of this many; more would tie a patient
# to the same neighbours, fewer would pad more.
POOL_BATCHES = 64


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


@dataclass(frozen=True)
class Step:
    """What one step trains on: N patients, each under one condition.

    Attributes:
        rows: [N] int64 places in the store, on the device.
        visible: [N] int64 visits that the encoder sees.
        first: [N] int64 visit that the decoder begins to write; the number of visits for END only.
        corrupted: [N] bool, whether the encoder sees the visits through noise.
        condition: [N] int64 place in CONDITIONS.
        encoder_width: Longest encoder input.
        decoder_width: Longest decoder input.
    """

    rows: Tensor
    visible: Tensor
    first: Tensor
    corrupted: Tensor
    condition: Tensor
    encoder_width: int
    decoder_width: int


@dataclass(frozen=True)
class Plan:
    """The steps of one epoch, and the mean number of labels of a step."""

    steps: tuple[Step, ...]
    labels_per_step: float
    useful_share: float


def steps_per_epoch(store: TokenStore, batch_patients: int) -> int:
    """Batches of an epoch; the last ones may be smaller."""
    return -(-len(store) // batch_patients)


def plan_epoch(
    store: TokenStore, weights: Mapping[Condition, float], *, batch_patients: int, seed: int, epoch: int
) -> Plan:
    """Every patient once, under a drawn condition, in batches of similar length in random order.

    Args:
        store: The training split.
        weights: Relative probability of each condition.
        batch_patients: Patients per step.
        seed: Seed of the training.
        epoch: From 0.
    """
    rng = np.random.default_rng([seed, epoch])
    rows = rng.permutation(len(store))
    shares = np.array([weights[name] for name in CONDITIONS])
    condition = rng.choice(len(CONDITIONS), size=len(rows), p=shares / shares.sum())
    split = rng.integers(1, store.visits[rows] + 1)
    visible = np.select([condition == PROMPT, condition == HISTORY], [0, split], store.visits[rows])
    first = np.where(condition == HISTORY, split, 0)
    encoder = store.places(rows, visible) + 1  # BOS, visible visits, EOS
    decoder = store.lengths[rows] - store.places(rows, first)
    batches = _bucketed(store.lengths[rows], batch_patients, rng)
    steps = [
        Step(
            rows=_to(store, rows[chosen]),
            visible=_to(store, visible[chosen]),
            first=_to(store, first[chosen]),
            corrupted=_to(store, condition[chosen] == DENOISE),
            condition=_to(store, condition[chosen]),
            encoder_width=int(encoder[chosen].max()),
            decoder_width=int(decoder[chosen].max()),
        )
        for chosen in batches
    ]
    width = sum(step.decoder_width * len(step.rows) for step in steps)
    return Plan(tuple(steps), float(decoder.sum() / len(steps)), float(decoder.sum() / width))


def _bucketed(lengths: Ints, size: int, rng: np.random.Generator) -> list[Ints]:
    """Places of a random order, cut into batches of similar length; batches in random order."""
    pools = np.arange(len(lengths)) // (size * POOL_BATCHES)
    by_length = np.lexsort((np.arange(len(lengths)), lengths, pools))
    batches = [by_length[start : start + size] for start in range(0, len(lengths), size)]
    return [batches[place] for place in rng.permutation(len(batches))]


def _to(store: TokenStore, values: Ints | npt.NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(store.device)


def derived_seed(seed: int, purpose: str, step: int = 0) -> int:
    """A seed for one purpose at one step: 63 bits of BLAKE2b, equal on every machine."""
    text = f"{seed}:{purpose}:{step}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
