"""The exact probability of records under the process: the optimum no model can beat.

Filters the hidden state, 128 chronic states times 11 reasons, token by token. The probability of
a token is its expectation over the state given all earlier tokens; the state is then updated.
By the chain rule the same numbers serve a whole record and the visits after a history.

Scores the tokens of a truncated record over an alphabet: the structure and the codes of the
vocabulary. A code outside it is scored by no one, but the history is the true one: the state
is updated with the code itself.

Shapes: N patients of a batch, C codes, S chronic states, R reasons, K themes.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from promptehr.simulation.process import Array, Process
from promptehr.simulation.sampler import themes_of

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BATCH = 256  # patients filtered at once: 256 * 1408 states * 8 bytes = 3 MB an array


@dataclass(frozen=True)
class Histories:
    """Records to score, sorted by patient, visit and position.

    Attributes:
        band: [B] age band.
        female: [B] 0 M, 1 F.
        ethnicity: [B] place in tokens.ETHNICITIES.
        visits: [B] visits of each patient, at least 1.
        lengths: [V] codes of each visit, at least 1.
        codes: [T] place in Process.codes of each code.
    """

    band: Ints
    female: Ints
    ethnicity: Ints
    visits: Ints
    lengths: Ints
    codes: Ints


def token_log_probs(process: Process, histories: Histories, alphabet: Bools) -> list[Array]:
    """Natural-log probability of each token after BOS, patient by patient.

    For a patient with visits of c1, c2, ... codes: <v>, c1 codes, <\\v>, <v>, ..., <\\v>, END. The
    first <v> and the choice between a first code and an empty visit are certain: 0. A code outside
    the alphabet is 0 too and not to be counted.

    Args:
        process: The truth.
        histories: B patients.
        alphabet: [C] whether a code is in the vocabulary; the codes' probabilities are
            renormalised to it, and to the structure tokens.

    Returns:
        B arrays of length codes + 2 * visits + 1.
    """
    order = np.argsort(_tokens(histories), kind="stable")  # alike lengths leave few idle rows
    found: list[Array] = [np.empty(0)] * len(order)
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        batch = _Batch.of(histories, rows)
        scores = _Filter(process, alphabet, batch).run()
        for row, length, score in zip(rows, batch.tokens, scores, strict=True):
            found[row] = score[:length]
    return found


def patient_log_probs(process: Process, histories: Histories) -> Array:
    """[B] natural-log probability of each record given its demographics, over all codes."""
    everything = np.ones(len(process.codes), dtype=bool)
    return np.array([scores.sum() for scores in token_log_probs(process, histories, everything)])


def conditioning_gain(process: Process, histories: Histories) -> dict[str, Array]:
    """[B] nats per patient that knowing a feature is worth: sex, ethnicity.

    log P(record | all) - log P(record | all but the feature), the latter a mixture over the
    feature's values with their probability given the others.
    """
    known = patient_log_probs(process, histories)
    sexes = [
        patient_log_probs(process, replace(histories, female=np.full_like(histories.female, value)))
        for value in range(2)
    ]
    female = process.female[histories.band]
    groups = [
        patient_log_probs(process, replace(histories, ethnicity=np.full_like(histories.ethnicity, value)))
        for value in range(len(process.ethnicity))
    ]
    return {
        "gender": known - _log_mixture(np.stack(sexes), np.stack([1 - female, female])),
        "ethnicity": known - _log_mixture(np.stack(groups), process.ethnicity[:, None]),
    }


def _log_mixture(log_p: Array, weights: Array) -> Array:
    peak = log_p.max(0)
    mixed: Array = peak + np.log((weights * np.exp(log_p - peak)).sum(0))
    return mixed


def _log(probability: Array) -> Array:
    """Natural logarithm, minus infinity for an impossible event."""
    return np.log(probability, out=np.full_like(probability, -np.inf), where=probability > 0)


def _tokens(histories: Histories) -> Ints:
    """[B] tokens after BOS."""
    ends = np.cumsum(histories.visits)
    codes = np.add.reduceat(histories.lengths, ends - histories.visits)
    return codes + 2 * histories.visits + 1


@dataclass(frozen=True)
class _Batch:
    """Patients of one batch as rectangles, NONE outside.

    Attributes:
        demographics: band, female, ethnicity, each [N].
        codes: [N, visits, codes].
        lengths: [N, visits], 0 where there is no such visit.
        tokens: [N] tokens after BOS.
    """

    demographics: tuple[Ints, Ints, Ints]
    codes: Ints
    lengths: Ints
    tokens: Ints

    @classmethod
    def of(cls, histories: Histories, rows: Ints) -> "_Batch":
        first_visit = np.cumsum(histories.visits) - histories.visits
        first_code = np.cumsum(histories.lengths) - histories.lengths
        most_visits = int(histories.visits[rows].max())
        visit = first_visit[rows][:, None] + np.arange(most_visits)
        exists = np.arange(most_visits) < histories.visits[rows][:, None]
        visit = np.where(exists, visit, 0)
        lengths = np.where(exists, histories.lengths[visit], 0)
        place = first_code[visit][:, :, None] + np.arange(int(lengths.max()))
        inside = np.arange(int(lengths.max())) < lengths[:, :, None]
        codes = np.where(inside, histories.codes[np.where(inside, place, 0)], -1)
        return cls(
            demographics=(histories.band[rows], histories.female[rows], histories.ethnicity[rows]),
            codes=codes,
            lengths=lengths,
            tokens=_tokens(histories)[rows],
        )


class _Filter:
    """The belief about the hidden state of a batch, moved along by its tokens."""

    def __init__(self, process: Process, alphabet: Bools, batch: _Batch):
        self.process = process
        self.batch = batch
        self.alphabet = alphabet
        self.themes = themes_of(process)
        self.outside = self.themes[:, ~alphabet].sum(1)  # [K] mass of each theme outside the alphabet
        self.scores = np.zeros((len(batch.tokens), int(batch.tokens.max())))
        self.place = np.zeros(len(batch.tokens), dtype=np.int64)

    def run(self) -> Array:
        """[N, longest] log-probabilities, 0 after each patient's last token."""
        band, female, ethnicity = self.batch.demographics
        chronic = self.process.start[band, female, ethnicity]  # [N, S], sums to 1
        rows = np.arange(len(band))
        self._write(rows, np.zeros(len(rows)))  # the first <v> is certain
        for visit in range(self.batch.lengths.shape[1]):
            chronic[rows] = self._visit(rows, visit, chronic[rows])
            chronic[rows] = self._between(rows, visit, chronic[rows])
            rows = rows[self._returns(rows, visit)]
            if not len(rows):
                break
            chronic[rows] = chronic[rows] @ self.process.change
        return self.scores

    def _write(self, rows: Ints, scores: Array) -> None:
        self.scores[rows, self.place[rows]] = scores
        self.place[rows] += 1

    def _returns(self, rows: Ints, visit: int) -> Bools:
        """Which patients have another visit."""
        if visit + 1 == self.batch.lengths.shape[1]:
            return np.zeros(len(rows), dtype=bool)
        returns: Bools = self.batch.lengths[rows, visit + 1] > 0
        return returns

    def _between(self, rows: Ints, visit: int, chronic: Array) -> Array:
        """Score the next <v> or END; return the belief about the chronic state after it."""
        follows = self.process.revisit[self.batch.demographics[0][rows], visit]  # [n, S]
        joint = chronic * np.where(self._returns(rows, visit)[:, None], follows, 1 - follows)
        probability = joint.sum(1)
        self._write(rows, np.log(probability))
        return joint / probability[:, None]

    def _visit(self, rows: Ints, visit: int, chronic: Array) -> Array:
        """Score a visit's codes and its end; return the belief about the chronic state."""
        band, female, _ = (values[rows] for values in self.batch.demographics)
        belief = chronic[:, :, None] * self.process.reason[band, female]  # [n, S, R]
        used = np.zeros_like(belief)  # theta of the codes that the visit has
        used_outside = np.zeros_like(belief)  # the same of those outside the alphabet
        going = np.arange(len(rows))
        for position in range(int(self.batch.lengths[rows, visit].max()) + 1):
            stop = self.process.stop[band[going], position - 1] if position else np.zeros(len(going))
            outside = self._outside(rows[going], visit, first=position == 0)
            left = 1 - used[going]
            inside = 1 - (belief[going] * (outside - used_outside[going]) / left).sum((1, 2))
            # Structure tokens are in every alphabet; of the codes only what is inside remains.
            kept = stop + (1 - stop) * inside
            ends = self.batch.lengths[rows[going], visit] == position
            self._write(rows[going[ends]], _log(stop[ends] / kept[ends]))
            going, stop, kept, left = going[~ends], stop[~ends], kept[~ends], left[~ends]
            if not len(going):
                break

            code = self.batch.codes[rows[going], visit, position]
            emitted = belief[going] * self._theta(rows[going], visit, code, first=position == 0) / left
            probability = emitted.sum((1, 2))
            known = self.alphabet[code]
            self._write(rows[going], np.where(known, _log((1 - stop) * probability / kept), 0.0))
            # A code that these demographics cannot have leaves the belief as it was.
            possible = (probability > 0)[:, None, None]
            belief[going] = np.where(
                possible, emitted / np.where(possible, probability[:, None, None], 1.0), belief[going]
            )
            later = self._theta(rows[going], visit, code, first=False)
            used[going] += later
            used_outside[going] += np.where(known[:, None, None], 0.0, later)
        chronic_after: Array = belief.sum(2)
        return chronic_after

    def _theta(self, rows: Ints, visit: int, code: Ints, *, first: bool) -> Array:
        """[n, S, R] theta of one code of each patient."""
        previous = self._previous(rows, visit)
        share = self._repeat(previous, first=first)
        again = (previous == code[:, None]).sum(1) / np.maximum((previous >= 0).sum(1), 1)
        fresh = self._mixed(rows, self.themes[:, code].T, first=first)
        theta: Array = (share * again)[:, None, None] + (1 - share)[:, None, None] * fresh
        return theta

    def _outside(self, rows: Ints, visit: int, *, first: bool) -> Array:
        """[n, S, R] theta of all codes outside the alphabet together."""
        previous = self._previous(rows, visit)
        share = self._repeat(previous, first=first)
        foreign = (previous >= 0) & ~self.alphabet[previous]
        again = foreign.sum(1) / np.maximum((previous >= 0).sum(1), 1)
        fresh = self._mixed(rows, np.broadcast_to(self.outside, (len(rows), len(self.outside))), first=first)
        theta: Array = (share * again)[:, None, None] + (1 - share)[:, None, None] * fresh
        return theta

    def _previous(self, rows: Ints, visit: int) -> Ints:
        """[n, codes] codes of the visit before, -1 where there is none."""
        if visit == 0:
            return np.full((len(rows), 1), -1)
        previous: Ints = self.batch.codes[rows, visit - 1]
        return previous

    def _repeat(self, previous: Ints, *, first: bool) -> Array:
        """[n] share of the mixture that the previous visit has."""
        share: Array = np.where(previous[:, 0] >= 0, self.process.repeat[0 if first else 1], 0.0)
        return share

    def _mixed(self, rows: Ints, values: Array, *, first: bool) -> Array:
        """[n, S, R] mixture of one value per theme, [n, K], over conditions and reasons."""
        process = self.process
        band, female, ethnicity = (each[rows] for each in self.batch.demographics)
        conditions, reasons = len(process.chronic_theme), len(process.reason_theme)
        weights = process.first_mixture if first else process.later_mixture
        share = process.demographic_share[band, female, ethnicity]  # [n, D]
        rest = 1 - share.sum(1)
        general = values[np.arange(len(rows)), conditions + reasons + band]
        by_state = values[:, :conditions] @ process.condition_weight[:, :-1].T
        by_state = by_state + general[:, None] * process.condition_weight[:, -1]
        by_reason = values[:, conditions : conditions + reasons]
        constant = rest * weights[2] * general + (share * values[:, -share.shape[1] :]).sum(1)
        mixed: Array = (
            (rest[:, None] * weights[1] * by_state)[:, :, None]
            + (rest[:, None] * weights[0] * by_reason)[:, None, :]
            + constant[:, None, None]
        )
        return mixed
