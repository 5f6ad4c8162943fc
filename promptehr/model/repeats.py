"""What is already written, and what it does to the next token: no code twice in a visit, old codes again.

Turns logits, decoder states and token ids into log-probabilities. Codes of the visit being
written are ruled out, as generation does, so that a model is not charged for what it can never
write. Codes of earlier visits, among them those the encoder sees, may be pointed at: hospital
visits repeat chronic codes, and a small model has too few patients with two visits to learn
every code's own repetition.

    P(code) = P(a code) ((1 - g) P(code | logits) + g sum of attention over earlier places that hold it)

where `model.kinds` decides first whether a code comes at all: what can be pointed at does not make
a visit longer. Without kinds P(a code) is 1 and the logits decide about <v>, <\\v> and END as well.

Shapes: B patients, L new decoder tokens of T so far, S encoder tokens, V vocabulary, D width,
C = S + T places that can be pointed at.

Source of the mixture: See, Liu and Manning, pointer-generator networks, ACL 2017, section 2.2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from promptehr.model.kinds import NEVER, Kinds
from promptehr.tokens import FIRST_CODE, PAD, VISIT

# A gate this far below 0 begins at 2 %: a model that has learned nothing repeats next to nothing.
CLOSED = -4.0


@dataclass(frozen=True)
class Places:
    """Where codes stand, seen from each new token.

    Attributes:
        ids: [B, C] tokens of the encoder, then of the decoder.
        used: [B, L, T] decoder places in the same visit, up to the token itself.
        earlier: [B, L, C] places whose code may be pointed at.
        recent: [B, L, C] those of the visit before.
        open: [B, L] whether a code may follow: in a visit.
        last: [B, L] the new tokens themselves.
        codes: [B, L] codes of the visit so far.
        visits: [B, L] visits so far, seen and begun.
        seen: [B, 1] visits that the encoder sees.
        full: [B, L] whether the visit has all codes.
    """

    ids: Tensor
    used: Tensor
    earlier: Tensor
    recent: Tensor
    open: Tensor
    last: Tensor
    codes: Tensor
    visits: Tensor
    seen: Tensor
    full: Tensor

    @classmethod
    def of(cls, written: Tensor, visible: Tensor, new: int, codes: int) -> "Places":
        """From [B, T] decoder ids, [B, S] encoder ids and the number of codes; for the last `new` tokens."""
        is_code = [(ids >= FIRST_CODE) & (ids < FIRST_CODE + codes) for ids in (visible, written)]
        seen, begun = ((ids == VISIT).cumsum(1) for ids in (visible, written))
        all_seen = (visible == VISIT).sum(1, keepdim=True)
        now = begun[:, -new:, None]  # [B, L, 1]
        order = torch.arange(written.shape[1], device=written.device)
        before = order <= order[-new:, None]  # [L, T]
        inside = is_code[1][:, None]
        used = inside & before & (begun[:, None] == now)
        earlier = torch.cat([is_code[0][:, None].expand(-1, new, -1), inside & (begun[:, None] < now)], dim=2)
        # To the first visit written, the visit before is the last one seen.
        last_seen = (seen == all_seen)[:, None] & (now == 1)
        recent = torch.cat([last_seen, begun[:, None] == now - 1], dim=2) & earlier
        last = written[:, -new:]
        newest = torch.where(written == VISIT, order, 0).cummax(1).values[:, -new:]
        return cls(
            ids=torch.cat([visible, written], dim=1),
            used=used,
            earlier=earlier,
            recent=recent,
            open=(last == VISIT) | (last >= FIRST_CODE),
            last=last,
            codes=order[-new:] - newest,
            visits=all_seen + now[..., 0],
            seen=all_seen,
            full=used.sum(2) >= codes,
        )


class Repeats(nn.Module):
    """The mixture of the module's docstring.

    Args:
        width: Of the attention; 0 for no pointing at all.
        d_model: Width of the states.
        kinds: Whether kinds are decided first; otherwise <v>, <\\v> and END are among the logits.
    """

    def __init__(self, *, width: int, d_model: int, kinds: bool):
        super().__init__()
        self.width = width
        self.kinds = Kinds(d_model) if kinds else None
        if width:
            self.query = nn.Linear(d_model, width, bias=False)
            self.key = nn.Linear(d_model, width, bias=False)
            self.gate = nn.Linear(d_model, 1)
            self.recency = nn.Linear(1, 1, bias=False)

    def forward(self, logits: Tensor, states: Tensor, places: Places, embeddings: Tensor | None) -> Tensor:
        """[B, L, V] logits, [B, L, D] states and [B, C, D] embeddings of the places to log-probabilities."""
        logits = self._of_codes(logits, places)
        found = self._mixed(logits, states, places, embeddings)
        if self.kinds is None:
            return found
        kinds = self._of_kinds(states, places)
        return torch.cat([kinds[..., :-1], found[..., FIRST_CODE:] + kinds[..., -1:]], dim=-1)

    def of_answers(
        self, logits: Tensor, states: Tensor, places: Places, embeddings: Tensor | None, answers: Tensor
    ) -> Tensor:
        """[B, L] what `forward` says of the answers, [B, L] ids: a third less work for small models."""
        logits = self._of_codes(logits, places)
        found = self._mixed_answers(logits, states, places, embeddings, answers)
        if self.kinds is None:
            return found
        kind = self._of_kinds(states, places).gather(2, answers.clamp(max=FIRST_CODE)[..., None])
        return torch.where(answers >= FIRST_CODE, found, 0.0) + kind[..., 0]

    def _mixed(self, logits: Tensor, states: Tensor, places: Places, embeddings: Tensor | None) -> Tensor:
        """[B, L, V] log-probabilities of the logits, mixed with what is pointed at."""
        own = logits.log_softmax(-1)
        if not self.width or embeddings is None:
            return own
        attention, gate = self._pointed(logits, states, places, embeddings)
        own = own + nn.functional.logsigmoid(-gate)
        # A code's attention is that of all its places; the mixture is written at the first of them.
        same = (places.ids[:, :, None] == places.ids[:, None]).float()  # [B, C, C]
        # In bfloat16 the shares of a code's places would not add up to 1.
        with torch.autocast(logits.device.type, enabled=False):
            pointed = (attention @ same).clamp(min=1e-30).log() + nn.functional.logsigmoid(gate)
        where = places.ids[:, None].expand(-1, logits.shape[1], -1)  # [B, L, C]
        plain = own.gather(2, where)
        first = same.cumsum(1).diagonal(dim1=1, dim2=2) == 1
        kept = first[:, None] & (plain > NEVER / 2)
        mixed = torch.where(kept, torch.logaddexp(plain, pointed), torch.full_like(plain, NEVER))
        return own.scatter(2, torch.where(kept, where, PAD), mixed)

    def _mixed_answers(
        self, logits: Tensor, states: Tensor, places: Places, embeddings: Tensor | None, answers: Tensor
    ) -> Tensor:
        """[B, L] what `_mixed` says of the answers."""
        plain = -nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten(), reduction="none")
        plain = plain.view_as(answers)
        if not self.width or embeddings is None:
            return plain
        attention, gate = self._pointed(logits, states, places, embeddings)
        own = plain + nn.functional.logsigmoid(-gate[..., 0])
        here = places.ids[:, None] == answers[..., None]  # [B, L, C]
        pointed = (attention * here).sum(-1).clamp(min=1e-30).log() + nn.functional.logsigmoid(gate[..., 0])
        return torch.where(here.any(2) & (own > NEVER / 2), torch.logaddexp(own, pointed), own)

    def _pointed(
        self, logits: Tensor, states: Tensor, places: Places, embeddings: Tensor
    ) -> tuple[Tensor, Tensor]:
        """[B, L, C] attention over the places, all 0 where none may be pointed at, and [B, L, 1] the gate."""
        where = places.ids[:, None].expand(-1, logits.shape[1], -1)
        may = places.earlier & places.open[..., None] & (logits.gather(2, where) > NEVER)
        scores = self.query(states) @ self.key(embeddings).transpose(1, 2) / self.width**0.5
        scores = scores.float() + self.recency.weight.float() * places.recent
        attention = scores.masked_fill(~may, NEVER).softmax(-1) * may
        gate = torch.where(may.any(2), self.gate(states).float()[..., 0], NEVER)[..., None]
        return attention, gate

    def _of_codes(self, logits: Tensor, places: Places) -> Tensor:
        """[B, L, V] float32 logits with NEVER at codes of the visit so far, and where kinds decide."""
        written = places.ids[:, -places.used.shape[2] :]
        # What is not used sends PAD there, which is never written anyway.
        found = logits.float().scatter(2, torch.where(places.used, written[:, None], PAD), NEVER)
        if self.kinds is not None:
            found[..., :FIRST_CODE] = NEVER
        return found

    def _of_kinds(self, states: Tensor, places: Places) -> Tensor:
        assert self.kinds is not None
        found: Tensor = self.kinds(
            states,
            last=places.last,
            codes=places.codes,
            visits=places.visits,
            seen=places.seen,
            full=places.full,
        )
        return found
