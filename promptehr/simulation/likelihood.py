"""The exact probability of patients under the process: the optimum that no model can beat.

Filters the hidden state, 128 chronic states times 11 reasons, token by token: the probability of
a token is its expectation over the state given all earlier tokens, and the state is then updated.
By the chain rule the same numbers serve a whole record and the visits after a history.

Codes are scored over an alphabet, renormalised to it and the structure tokens; a code outside is
scored by no one, but moves the state like any other.

Shapes: B patients, V visits, T tokens, N patients of a batch, C codes, S chronic states, R reasons,
K themes, D demographic themes, P codes of the visit before.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from promptehr.simulation.process import Array, Process
from promptehr.tokens import Ints

Bools = npt.NDArray[np.bool_]

BATCH = 128  # patients filtered at once: 128 * 1408 states * 8 bytes = 1.4 MB an array
ABSENT = -1  # pads rectangles of codes


@dataclass(frozen=True)
class Histories:
    """Patients to score, codes in the order patient, visit, position.

    Attributes:
        band: [B] age band.
        female: [B] 0 M, 1 F.
        ethnicity: [B] place in tokens.ETHNICITIES.
        visits: [B] visits of each patient, at least 1.
        lengths: [V] codes of each visit, at least 1.
        codes: Place of each code in Process.codes.
    """

    band: Ints
    female: Ints
    ethnicity: Ints
    visits: Ints
    lengths: Ints
    codes: Ints

    @property
    def offsets(self) -> Ints:
        """[B+1] where each patient's tokens after BOS start: codes, <v> and <\\v> of visits, END."""
        per_visit = np.concatenate([[0], np.cumsum(self.lengths + 2)])
        ends = per_visit[np.cumsum(self.visits)] + np.arange(1, len(self.visits) + 1)
        return np.concatenate([[0], ends])


def log_probs(process: Process, histories: Histories, alphabet: Bools) -> Array:
    """Natural-log probability of each token after BOS given all earlier ones and the demographics.

    The first <v> is certain: 0. A code outside the alphabet is 0 too and not to be counted. Minus
    infinity where the process cannot produce the token, which happens to generated patients only.
    A truncated patient's END counts as an END.

    Args:
        process: The truth.
        histories: B patients.
        alphabet: [C] whether a code is scored, as those of a vocabulary.

    Returns:
        Patient by patient, from histories.offsets[i] to histories.offsets[i + 1].
    """
    offsets = histories.offsets
    scores = np.zeros(offsets[-1])
    order = np.lexsort((np.diff(offsets), histories.visits))  # patients alike leave few idle rows
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        batch = _Batch.of(histories, rows)
        found = _Filter(process, alphabet, batch).run()
        inside = np.arange(found.shape[1]) < batch.tokens[:, None]
        scores[(offsets[rows][:, None] + np.arange(found.shape[1]))[inside]] = found[inside]
    return scores


def patient_log_probs(process: Process, histories: Histories) -> Array:
    """[B] natural-log probability of each patient given the demographics, over all codes."""
    everything = np.ones(len(process.codes), dtype=bool)
    sums: Array = np.add.reduceat(log_probs(process, histories, everything), histories.offsets[:-1])
    return sums


def conditioning_gain(process: Process, histories: Histories) -> dict[str, Array]:
    """[B] nats per patient that knowing a feature is worth: gender, ethnicity, age band.

    log P(patient | all) - log P(patient | all but the feature), the latter a mixture over the
    feature's values with their probability given the other features. Its mean is the information
    between feature and record, so at least 0 and at most the feature's entropy.
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
    bands = [
        patient_log_probs(process, replace(histories, band=np.full_like(histories.band, value)))
        for value in range(len(process.bands))
    ]
    of_sex = np.where(histories.female, process.female[:, None], 1 - process.female[:, None])  # [G, B]
    of_band = process.band[:, None] * of_sex
    return {
        "gender": known - _log_mixture(np.stack(sexes), np.stack([1 - female, female])),
        "ethnicity": known - _log_mixture(np.stack(groups), process.ethnicity[:, None]),
        "age": known - _log_mixture(np.stack(bands), of_band / of_band.sum(0)),
    }


def _log_mixture(log_p: Array, weights: Array) -> Array:
    peak = log_p.max(0)
    mixed: Array = peak + np.log((weights * np.exp(log_p - peak)).sum(0))
    return mixed


def _log(probability: Array) -> Array:
    """Natural logarithm, minus infinity for an impossible event."""
    return np.log(probability, out=np.full_like(probability, -np.inf), where=probability > 0)


# --- the filter --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Batch:
    """Patients of one batch as rectangles.

    Attributes:
        band: [N].
        female: [N].
        ethnicity: [N].
        codes: [N, visits, codes], ABSENT outside.
        lengths: [N, visits], 0 where there is no such visit.
        tokens: [N] tokens after BOS.
    """

    band: Ints
    female: Ints
    ethnicity: Ints
    codes: Ints
    lengths: Ints
    tokens: Ints

    @classmethod
    def of(cls, histories: Histories, rows: Ints) -> "_Batch":
        first_visit = np.cumsum(histories.visits) - histories.visits
        first_code = np.cumsum(histories.lengths) - histories.lengths
        number = np.arange(histories.visits[rows].max())
        exists = number < histories.visits[rows][:, None]
        visit = np.where(exists, first_visit[rows][:, None] + number, 0)
        lengths = np.where(exists, histories.lengths[visit], 0)
        position = np.arange(lengths.max())
        inside = position < lengths[:, :, None]
        place = np.where(inside, first_code[visit][:, :, None] + position, 0)
        return cls(
            band=histories.band[rows],
            female=histories.female[rows],
            ethnicity=histories.ethnicity[rows],
            codes=np.where(inside, histories.codes[place], ABSENT),
            lengths=lengths,
            tokens=np.diff(histories.offsets)[rows],
        )


@dataclass(frozen=True)
class _Sources:
    """Where the codes of one visit come from, for n patients.

    Attributes:
        process: The truth.
        outside_values: [K] probability of all codes outside the alphabet in each theme.
        known: [C] whether a code is in the alphabet.
        band: [n].
        demographic: [n, D] shares of the demographic themes.
        previous: [n, P] codes of the visit before, ABSENT where there is none.
    """

    process: Process
    outside_values: Array
    known: Bools
    band: Ints
    demographic: Array
    previous: Ints

    def theta(self, codes: Ints, *, first: bool) -> Array:
        """[m, S, R] theta of one code of each of the first m patients."""
        repeats = self.repeat(len(codes), first=first) * (self.previous[: len(codes)] == codes[:, None]).sum(
            1
        )
        return self._mix(self.process.themes[:, codes].T, repeats, first=first)

    def outside(self, *, first: bool) -> Array:
        """[n, S, R] theta of all codes outside the alphabet together."""
        count = len(self.band)
        foreign = ((self.previous != ABSENT) & ~self.known[self.previous]).sum(1)
        values = np.broadcast_to(self.outside_values, (count, len(self.outside_values)))
        return self._mix(values, self.repeat(count, first=first) * foreign, first=first)

    def repeat(self, count: int, *, first: bool) -> Array:
        """[m] theta that each code of the visit before has for being in it."""
        codes = (self.previous[:count] != ABSENT).sum(1)
        share: Array = np.where(codes > 0, self.process.repeat[0 if first else 1], 0.0) / np.maximum(codes, 1)
        return share

    def _mix(self, values: Array, repeats: Array, *, first: bool) -> Array:
        """[m, S, R] mixture of one value per theme, [m, K], and what repeats add."""
        process, count = self.process, len(values)
        chronic, acute, general, demographic = process.split(values)
        general = general[np.arange(count), self.band[:count]]
        weights = process.first_mixture if first else process.later_mixture
        fresh = 1 - np.where(self.previous[:count, 0] != ABSENT, process.repeat[0 if first else 1], 0.0)
        share = self.demographic[:count]
        rest = fresh * (1 - share.sum(1))
        anyone = repeats + fresh * (share * demographic).sum(1) + rest * weights[2] * general
        by_condition = chronic @ process.condition_weight[:, :-1].T
        by_condition += general[:, None] * process.condition_weight[:, -1]
        by_state = anyone[:, None] + (rest * weights[1])[:, None] * by_condition
        by_reason = (rest * weights[0])[:, None] * acute
        mixed: Array = by_state[:, :, None] + by_reason[:, None, :]
        return mixed


class _Filter:
    """The belief about the hidden state of a batch, moved along by its tokens."""

    def __init__(self, process: Process, alphabet: Bools, batch: _Batch):
        self.process = process
        self.batch = batch
        self.known = alphabet
        self.outside_values = process.themes[:, ~alphabet].sum(1)
        self.scores = np.zeros((len(batch.tokens), int(batch.tokens.max())))
        self.place = np.zeros(len(batch.tokens), dtype=np.int64)

    def run(self) -> Array:
        """[N, longest] log-probabilities, 0 after each patient's last token."""
        batch = self.batch
        chronic = self.process.start[batch.band, batch.female, batch.ethnicity]  # [N, S], sums to 1
        rows = np.arange(len(batch.tokens))
        self._write(rows, np.zeros(len(rows)))  # the first <v> is certain
        for visit in range(batch.lengths.shape[1]):
            rows = rows[np.argsort(-batch.lengths[rows, visit], kind="stable")]
            belief = self._visit(rows, visit, chronic[rows])
            returns = self._returns(rows, visit)
            chronic[rows] = self._between(rows, visit, belief, returns) @ self.process.change
            rows = rows[returns]
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

    def _between(self, rows: Ints, visit: int, belief: Array, returns: Bools) -> Array:
        """[n, S] score the next <v> or END; return the belief after it."""
        follows = self.process.revisit[self.batch.band[rows], min(visit, self.process.most_visits - 1)]
        joint = belief * np.where(returns[:, None], follows, 1 - follows)
        probability = joint.sum(1)
        self._write(rows, _log(probability))
        return _given(joint, probability, belief)

    def _visit(self, rows: Ints, visit: int, chronic: Array) -> Array:
        """[n, S] score a visit's codes and its end; return the belief about the chronic state.

        Rows come by descending number of codes, so that those still going are always the first.
        """
        lengths = self.batch.lengths[rows, visit]
        belief = chronic[:, :, None] * self.process.reason[self.batch.band[rows], self.batch.female[rows]]
        sources = self._sources(rows, visit)
        left = np.ones_like(belief)  # theta of the codes that the visit does not have yet
        within = left - sources.outside(first=True)  # the same, of those in the alphabet
        for position in range(lengths[0] + 1):
            going, emitting = (np.count_nonzero(lengths >= least) for least in (position, position + 1))
            stop = self._stop(rows[:going], position)
            weight = belief[:going] / left[:going]
            # Structure tokens are in every alphabet; of the codes only what is within remains.
            kept = stop + (1 - stop) * np.einsum("nsr,nsr->n", weight, within[:going])
            self._write(rows[emitting:going], _log(stop[emitting:] / kept[emitting:]))
            if not emitting:
                break

            codes, first = self.batch.codes[rows[:emitting], visit, position], position == 0
            known, theta = self.known[codes], sources.theta(codes, first=first)
            emitted = weight[:emitting] * theta
            probability = emitted.sum((1, 2))
            score = _log((1 - stop[:emitting]) * probability / kept[:emitting])
            self._write(rows[:emitting], np.where(known, score, 0.0))
            belief[:emitting] = _given(emitted, probability, belief[:emitting])

            if first:
                left[:] = 1.0
                within = left - sources.outside(first=False)
                theta = sources.theta(codes, first=False)
            left[:emitting] -= theta
            within[:emitting] -= theta * known[:, None, None]
        chronic_after: Array = belief.sum(2)
        return chronic_after

    def _sources(self, rows: Ints, visit: int) -> _Sources:
        batch = self.batch
        shares = self.process.demographic_share[batch.band[rows], batch.female[rows], batch.ethnicity[rows]]
        previous = batch.codes[rows, visit - 1] if visit else np.full((len(rows), 1), ABSENT)
        return _Sources(self.process, self.outside_values, self.known, batch.band[rows], shares, previous)

    def _stop(self, rows: Ints, position: int) -> Array:
        """[n] probability that the visit ends after so many codes."""
        if position == 0:
            return np.zeros(len(rows))
        hazard = self.process.stop
        stop: Array = hazard[self.batch.band[rows], min(position, hazard.shape[1]) - 1]
        return stop


def _given(joint: Array, probability: Array, before: Array) -> Array:
    """The belief after an event; the one before where the process cannot produce the event."""
    total = probability.reshape(-1, *[1] * (joint.ndim - 1))
    after: Array = np.where(total > 0, joint / np.where(total > 0, total, 1.0), before)
    return after
