"""What comes next, before which code: does the visit end here, and does the record?

Turns decoder states and what is written into log-probabilities of `<v>`, `<\\v>`, END and "a code".
In one softmax with thousands of codes the end of a visit competes with the sum of their noise, and
a few thousand patients teach a network the number of codes of a visit worse than counting does. So
kinds are decided first, and start at what counting knows:

    P(token) = P(kind) P(token | kind)
    after <v>       a code
    after a code    <\\v>, with log-odds counted[codes so far] + a learned function of the state; else a code
    after <\\v>      END, with log-odds counted[visits so far] + another one; else <v>
    after BOS       <v>; where the encoder sees visits, as after the last of them

Source: discrete-time hazards, as in Singer and Willett, Journal of Educational Statistics 18(2), 1993.

Shapes: B patients, L decoder tokens, D width.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from promptehr.model.batches import TokenStore
from promptehr.tokens import BOS, END, FIRST_CODE, VISIT, VISIT_END

# Its exponential is 0 in float32, exactly: a number on the way to 0 would make the arithmetic slow.
NEVER = -1.0e4
# Codes of a visit and visits of a record that are told apart; beyond, the last one's log-odds hold.
MOST_CODES, MOST_VISITS = 40, 10
# So many visits or records of the average weigh as much as those counted at a place.
PRIOR = 10.0

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ends:
    """Counted log-odds that it ends.

    Attributes:
        visits: [MOST_CODES + 1] a visit, after so many codes; that of no code is never asked for.
        records: [MOST_VISITS + 1] a record, after so many visits; likewise.
    """

    visits: Tensor
    records: Tensor


def even() -> Ends:
    """Log-odds of 0 everywhere: what nobody counted."""
    return Ends(torch.zeros(MOST_CODES + 1), torch.zeros(MOST_VISITS + 1))


class Kinds(nn.Module):
    """The table of the module's docstring; the log-odds are buffers, saved with the weights."""

    visits: Tensor
    records: Tensor

    def __init__(self, d_model: int):
        super().__init__()
        self.register_buffer("visits", torch.zeros(MOST_CODES + 1))
        self.register_buffer("records", torch.zeros(MOST_VISITS + 1))
        # Of visit and record, where the encoder sees no visit and where it does: there the decoder may
        # write what follows them or write them anew, and what that asks for must not move generation.
        self.ends = nn.Linear(d_model, 4)

    def start(self, counted: Ends) -> None:
        """Begin at the counted log-odds: the state says nothing yet."""
        self.visits.copy_(counted.visits)
        self.records.copy_(counted.records)
        nn.init.zeros_(self.ends.weight)
        nn.init.zeros_(self.ends.bias)

    def forward(
        self, states: Tensor, *, last: Tensor, codes: Tensor, visits: Tensor, seen: Tensor, full: Tensor
    ) -> Tensor:
        """[B, L, FIRST_CODE + 1] log-probabilities of each token that is no code, then of any code.

        Args:
            states: [B, L, D] of the decoder.
            last: [B, L] newest token.
            codes: [B, L] of its visit so far.
            visits: [B, L] of the record so far, seen and begun.
            seen: [B, 1] of those that the encoder sees.
            full: [B, L] whether the visit has every code there is.
        """
        alone, after = self.ends(states).float().split(2, dim=-1)
        learned = torch.where(seen[..., None] > 0, after, alone)
        visit_ends = self.visits[codes.clamp(max=MOST_CODES)] + learned[..., 0]
        record_ends = self.records[visits.clamp(max=MOST_VISITS)] + learned[..., 1]
        visit_ends = torch.where(full, -NEVER, visit_ends)
        record_ends = torch.where(visits == 0, NEVER, record_ends)
        never = torch.full_like(visit_ends, NEVER)
        certain = torch.zeros_like(visit_ends)
        begun, within = last == VISIT, last >= FIRST_CODE
        inside = begun | within
        found = [never] * (FIRST_CODE + 1)
        found[FIRST_CODE] = torch.where(
            within, nn.functional.logsigmoid(-visit_ends), torch.where(begun, certain, never)
        )
        found[VISIT_END] = torch.where(within, nn.functional.logsigmoid(visit_ends), never)
        found[VISIT] = torch.where(inside, never, nn.functional.logsigmoid(-record_ends))
        found[END] = torch.where(inside, never, nn.functional.logsigmoid(record_ends))
        return torch.stack(found, dim=-1)


# --- counting ----------------------------------------------------------------------------------


def counted(store: TokenStore) -> Ends:
    """The log-odds of a training split; CPU."""
    ids = store.tokens.cpu().numpy()
    place = np.arange(len(ids))
    begun = np.cumsum(ids == VISIT)
    codes = place - np.maximum.accumulate(np.where(ids == VISIT, place, 0)) - 1  # before each token
    visits = begun - np.maximum.accumulate(np.where(ids == BOS, begun, 0))  # up to it
    goes_on = (ids >= FIRST_CODE) & (codes > 0)
    next_visit = (ids == VISIT) & (visits > 1)
    return Ends(
        visits=log_odds(codes[ids == VISIT_END], codes[goes_on], MOST_CODES),
        records=log_odds(visits[ids == END], visits[next_visit] - 1, MOST_VISITS),
    )


def log_odds(ended: Ints, went_on: Ints, most: int) -> Tensor:
    """[most + 1] log-odds of the end at each place, those of few cases drawn to the average."""
    ends, others = (np.bincount(np.minimum(at, most), minlength=most + 1) for at in (ended, went_on))
    average = (len(ended) + 1) / (len(ended) + len(went_on) + 2)
    odds = (ends + PRIOR * average) / (others + PRIOR * (1 - average))
    return torch.from_numpy(np.log(odds)).float()
