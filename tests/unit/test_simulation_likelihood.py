"""The filter against sums over every hidden path, written out from the process's definition."""

from itertools import permutations, product

import numpy as np
import pytest

from promptehr.simulation import likelihood, process, sampler
from promptehr.simulation.process import Process
from tests.simulation_builders import Record, drawn, histories, tiny

VISITS = [visit for length in (1, 2, 3) for visit in permutations(range(5), length)]
RECORDS: list[Record] = [[visit] for visit in VISITS] + [list(pair) for pair in product(VISITS, VISITS)]
PERSON = {"band": 1, "female": 1, "ethnicity": 2}
EVERYTHING = np.ones(5, dtype=bool)


def sigmoid(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))


class Truth:
    """Probabilities of one person's hidden paths and visits, read off the process's parameters."""

    def __init__(self, truth: Process, *, band: int, female: int, ethnicity: int):
        self.truth, self.band, self.female, self.ethnicity = truth, band, female, ethnicity

    def start(self, state: tuple[int, ...]) -> float:
        p, truth = 1.0, self.truth
        for i, bit in enumerate(state):
            logit = truth.chronic_band[i, self.band] + truth.chronic_female[i] * self.female
            logit += truth.chronic_ethnicity[i, self.ethnicity]
            logit += sum(truth.chronic_earlier[i, j] * state[j] for j in range(i))
            p *= sigmoid(logit) if bit else 1 - sigmoid(logit)
        return p

    def change(self, now: tuple[int, ...], then: tuple[int, ...]) -> float:
        p = 1.0
        for before, after, appears in zip(now, then, self.truth.switch_on, strict=True):
            p *= float(after == 1) if before else (appears if after else 1 - appears)
        return p

    def reason(self, state: tuple[int, ...], reason: int) -> float:
        truth = self.truth
        odds = np.exp(
            truth.reason_band[self.band]
            + truth.reason_female * self.female
            + np.array(state) @ truth.reason_chronic
        )
        return float(odds[reason] / odds.sum())

    def follows(self, state: tuple[int, ...], number: int) -> float:
        truth = self.truth
        if number + 1 == truth.most_visits:
            return 0.0
        return sigmoid(
            truth.revisit_band[self.band]
            + truth.revisit_visit * number
            + float(np.array(state) @ truth.revisit_chronic)
        )

    def theta(
        self, state: tuple[int, ...], reason: int, previous: tuple[int, ...], *, first: bool
    ) -> np.ndarray:
        truth = self.truth
        general = truth.general_theme[self.band]
        active = [theme for bit, theme in zip(state, truth.chronic_theme, strict=True) if bit]
        chronic = np.mean(active, axis=0) if active else general
        weights = truth.first_mixture if first else truth.later_mixture
        share = truth.demographic_share[self.band, self.female, self.ethnicity]
        mixed = weights[0] * truth.reason_theme[reason] + weights[1] * chronic + weights[2] * general
        fresh = (1 - share.sum()) * mixed + share @ truth.demographic_theme
        if not previous:
            return fresh
        repeat = truth.repeat[0 if first else 1]
        return (1 - repeat) * fresh + repeat * np.isin(np.arange(5), previous) / len(previous)

    def visit(
        self,
        state: tuple[int, ...],
        reason: int,
        codes: tuple[int, ...],
        previous: tuple[int, ...],
        *,
        closed: bool,
    ) -> float:
        p, stop = 1.0, self.truth.stop[self.band]
        for position, code in enumerate(codes):
            theta = self.theta(state, reason, previous, first=position == 0)
            p *= theta[code] / (1 - theta[list(codes[:position])].sum())
            p *= 1 - stop[position - 1] if position else 1.0
        return float(p * stop[len(codes) - 1]) if closed else float(p)

    def beginning(self, record: Record, *, closed: bool = True, end: str = "") -> float:
        """P of a record's beginning: its last visit closed or not, then nothing, `<v>` or END."""
        states = list(product((0, 1), repeat=2))
        total = 0.0
        for path in product(product(states, (0, 1)), repeat=len(record)):
            p = self.start(path[0][0])
            for number, (state, reason) in enumerate(path):
                previous = record[number - 1] if number else ()
                last = number == len(record) - 1
                p *= self.reason(state, reason)
                p *= self.visit(state, reason, record[number], previous, closed=closed or not last)
                if not last:
                    p *= self.follows(state, number) * self.change(state, path[number + 1][0])
            follows = self.follows(path[-1][0], len(record) - 1)
            total += p * {"": 1.0, "<v>": follows, "END": 1 - follows}[end]
        return total

    def token(self, record: Record, place: int, *, alphabet: np.ndarray) -> float:
        """P of one code or end of the last visit given all before it, over the alphabet."""
        *earlier, visit = record
        codes = visit[:place]
        opening = self.beginning(earlier, end="<v>") if earlier else 1.0
        here = self.beginning([*earlier, codes], closed=False) if codes else opening
        nexts = {
            code: self.beginning([*earlier, (*codes, code)], closed=False) / here
            for code in np.flatnonzero(alphabet)
            if code not in codes
        }
        stop = self.beginning([*earlier, codes]) / here if codes else 0.0
        total = sum(nexts.values()) + stop
        return (stop if place == len(visit) else nexts[visit[place]]) / total


def scored(truth: Process, record: Record, alphabet: np.ndarray = EVERYTHING) -> np.ndarray:
    return likelihood.log_probs(truth, histories(record, **PERSON), alphabet)


@pytest.mark.parametrize(
    "record", [[(3,)], [(0, 4, 2)], [(1, 0), (0, 3)], [(2, 4, 0), (1,)], [(1,), (1, 3, 0)]]
)
def test_a_record_has_the_probability_of_the_sum_over_hidden_paths(record: Record) -> None:
    truth = tiny()
    assert scored(truth, record).sum() == pytest.approx(
        np.log(Truth(truth, **PERSON).beginning(record, end="END")), abs=1e-12
    )


@pytest.mark.parametrize("alphabet", [(0, 1, 2, 3, 4), (0, 2, 3), (4,)])
def test_each_token_has_its_probability_given_all_before_it_over_the_alphabet(
    alphabet: tuple[int, ...],
) -> None:
    truth, record = tiny(), [(2, 4, 0), (4, 1)]
    known = np.isin(np.arange(5), alphabet)
    brute = Truth(truth, **PERSON)
    expected = [0.0]  # the first <v>
    for number, visit in enumerate(record):
        for place in range(len(visit) + 1):
            so_far = [*record[:number], visit]
            scores = place == len(visit) or known[visit[place]]
            expected.append(np.log(brute.token(so_far, place, alphabet=known)) if scores else 0.0)
        after = "END" if number + 1 == len(record) else "<v>"
        closed = brute.beginning(record[: number + 1])
        expected.append(np.log(brute.beginning(record[: number + 1], end=after) / closed))
    np.testing.assert_allclose(scored(truth, record, known), expected, atol=1e-12)


def test_all_records_of_a_person_sum_to_one() -> None:
    for kind in ({"band": 0, "female": 0, "ethnicity": 1}, PERSON):
        log_p = likelihood.patient_log_probs(tiny(), histories(*RECORDS, **kind))
        assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-9)


def test_patients_of_a_batch_do_not_touch_each_other() -> None:
    truth, everyone = tiny(), histories(*RECORDS[::37], **PERSON)
    together = likelihood.log_probs(truth, everyone, EVERYTHING)
    alone = [scored(truth, record) for record in RECORDS[::37]]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-13)
    assert everyone.offsets.tolist() == np.cumsum([0, *map(len, alone)]).tolist()


def test_what_the_process_cannot_produce_is_minus_infinity_and_later_tokens_are_scored() -> None:
    found = scored(tiny(), [(0, 1, 2, 3), (1,), (2,)])  # at most 3 codes and 2 visits are possible
    assert np.flatnonzero(np.isinf(found)).tolist() == [4, 9]
    assert not np.isnan(found).any()


def test_sampled_patients_have_the_entropy_of_the_process() -> None:
    truth, count, rng = tiny(), 20_000, np.random.default_rng(3)
    people = sampler.People(
        band=np.ones(count, dtype=np.int64),
        age_days=np.full(count, 20_000),
        female=np.ones(count, dtype=np.int64),
        ethnicity=np.full(count, 2),
    )
    nll = -likelihood.patient_log_probs(truth, drawn(people, sampler.draw_visits(truth, people, rng)))
    log_p = likelihood.patient_log_probs(truth, histories(*RECORDS, **PERSON))
    entropy = -(np.exp(log_p) * log_p).sum()
    assert abs(nll.mean() - entropy) < 3 * nll.std() / np.sqrt(count)


def test_sampled_first_codes_are_as_frequent_as_the_process_says() -> None:
    truth, count, rng = tiny(), 20_000, np.random.default_rng(4)
    people = sampler.draw_people(truth, count, rng)
    visits = sampler.draw_visits(truth, people, rng)
    first = visits.code[np.flatnonzero(np.append(True, np.diff(visits.patient) > 0))]
    for band, female in product(range(2), range(2)):
        for ethnicity in (0, 1):
            kind = (people.band == band) & (people.female == female) & (people.ethnicity == ethnicity)
            brute = Truth(truth, band=band, female=female, ethnicity=ethnicity)
            expected = np.array([brute.beginning([(code,)], closed=False) for code in range(5)])
            share = np.bincount(first[kind], minlength=5) / kind.sum()
            assert (abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / kind.sum())).all()


def test_the_default_process_sums_to_one_over_the_next_token() -> None:
    truth = process.default()
    place = {code: number for number, code in enumerate(truth.codes)}
    frequent = np.argsort(-truth.general_theme[3])[:150]
    alphabet = np.isin(np.arange(len(truth.codes)), frequent)
    prefix = [place["41071"], place["41401"], place["4280"]]
    before, visit = [place["486"], place["4280"], int(frequent[0])], [*prefix, int(frequent[1])]
    others = [int(code) for code in frequent if code not in visit]
    longer = histories(*([before, [*visit, code]] for code in others), band=4, female=1, ethnicity=1)
    stop = likelihood.log_probs(truth, histories([before, visit], band=4, female=1, ethnicity=1), alphabet)
    tokens = likelihood.log_probs(truth, longer, alphabet)[longer.offsets[:-1] + 5 + 1 + 4]
    assert np.exp(tokens).sum() + np.exp(stop[5 + 1 + 4]) == pytest.approx(1.0, abs=1e-9)


def test_knowing_a_feature_is_worth_its_information() -> None:
    truth = tiny()
    kinds = list(product(range(2), range(6)))
    log_p = np.stack(
        [
            likelihood.patient_log_probs(truth, histories(*VISITS_ALONE, band=0, female=sex, ethnicity=group))
            for sex, group in kinds
        ]
    )
    sexes = np.array([1 - truth.female[0], truth.female[0]])
    for number, (sex, group) in enumerate(kinds):
        same_group = [kinds.index((other, group)) for other in range(2)]
        same_sex = [kinds.index((sex, other)) for other in range(6)]
        gain = likelihood.conditioning_gain(
            truth, histories(*VISITS_ALONE, band=0, female=sex, ethnicity=group)
        )
        np.testing.assert_allclose(
            gain["gender"], log_p[number] - np.log(sexes @ np.exp(log_p[same_group])), atol=1e-12
        )
        np.testing.assert_allclose(
            gain["ethnicity"], log_p[number] - np.log(truth.ethnicity @ np.exp(log_p[same_sex])), atol=1e-12
        )


def test_the_age_band_is_worth_what_the_mixture_over_bands_given_the_sex_does_not_know() -> None:
    truth = tiny()
    bands = range(len(truth.bands))
    log_p = np.stack(
        [
            likelihood.patient_log_probs(truth, histories(*VISITS_ALONE, band=band, female=1, ethnicity=2))
            for band in bands
        ]
    )
    share = truth.band * truth.female
    mixed = np.log(share / share.sum() @ np.exp(log_p))
    for band in bands:
        people = histories(*VISITS_ALONE, band=band, female=1, ethnicity=2)
        found = likelihood.conditioning_gain(truth, people)["age"]
        np.testing.assert_allclose(found, log_p[band] - mixed, atol=1e-12)


VISITS_ALONE: list[Record] = [[visit] for visit in VISITS[:20]]
