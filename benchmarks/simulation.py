"""Print the marginals, the optimum and the conditioning gains of the simulated cohort.

    python benchmarks/simulation.py [patients to draw] [patients to score]

The defaults, 46,520 and 4,000, give the table of docs/simulation.md.
"""

import sys
import time

import numpy as np

from promptehr.simulation import likelihood, process, sampler
from promptehr.simulation.likelihood import Histories
from promptehr.simulation.process import Process


def main(drawn: int = 46_520, scored: int = 4_000) -> None:
    truth = process.default()
    begin = time.perf_counter()
    cohort = draw(truth, drawn, seed=1)
    print(f"drawn in {time.perf_counter() - begin:.1f} s")
    for name, value in marginals(truth, cohort).items():
        print(f"{name}: {value}")
    sample = draw(truth, scored, seed=2)
    begin = time.perf_counter()
    found = optimum(truth, sample)
    print(f"scored in {time.perf_counter() - begin:.1f} s")
    for name, value in found.items():
        print(f"{name}: {value:.4f} nats, perplexity {np.exp(value):.1f}")
    for name, values in likelihood.conditioning_gain(truth, sample).items():
        print(f"gain of {name}: {values.mean():.3f} +- {values.std() / np.sqrt(scored):.3f} nats per patient")


def draw(truth: Process, count: int, *, seed: int) -> Histories:
    rng = np.random.default_rng(seed)
    people = sampler.draw_people(truth, count, rng)
    visits = sampler.draw_visits(truth, people, rng)
    keys, lengths = np.unique(np.stack([visits.patient, visits.visit]), axis=1, return_counts=True)
    return Histories(
        band=people.band,
        female=people.female,
        ethnicity=people.ethnicity,
        visits=np.bincount(keys[0], minlength=count),
        lengths=lengths,
        codes=visits.code,
    )


def marginals(truth: Process, cohort: Histories) -> dict[str, str]:
    counts = np.bincount(cohort.codes, minlength=len(truth.codes))
    shares = np.sort(counts[counts > 0])[::-1] / counts.sum()
    entropy = -(shares * np.log(shares)).sum()
    kinds = {kind: counts[[code[0] == kind for code in truth.codes]].sum() / counts.sum() for kind in "VE"}
    head = truth.codes[int(counts.argmax())]
    return {
        "visits per patient": f"{cohort.visits.mean():.3f}, one visit {(cohort.visits == 1).mean():.1%},"
        f" most {cohort.visits.max()}",
        "codes per visit": f"mean {cohort.lengths.mean():.2f}, median {np.median(cohort.lengths):.0f},"
        f" nine codes {(cohort.lengths == 9).mean():.1%}",
        "distinct codes": f"{(counts > 0).sum()}, seen once {(counts == 1).sum()}",
        "unigram entropy": f"{entropy:.3f} nats, perplexity {np.exp(entropy):.0f}",
        f"share of {head} and the first 10, 100, 500, 1000": " / ".join(
            f"{shares[:number].sum():.1%}" for number in (1, 10, 100, 500, 1000)
        ),
        "V and E codes": f"{kinds['V']:.1%}, {kinds['E']:.1%}",
        "male": f"{1 - cohort.female.mean():.1%}",
        "newborns among admissions": f"{cohort.visits[cohort.band == 0].sum() / cohort.visits.sum():.1%}",
        "codes shared with the visit before": f"{overlap(cohort):.1%}",
    }


def overlap(cohort: Histories) -> float:
    """Mean share of a later visit's codes that stand in the visit before it."""
    visits = [set(codes) for codes in np.split(cohort.codes, np.cumsum(cohort.lengths)[:-1])]
    firsts = set((np.cumsum(cohort.visits) - cohort.visits).tolist())
    later = [number for number in range(len(visits)) if number not in firsts]
    return float(np.mean([len(visits[i] & visits[i - 1]) / len(visits[i]) for i in later]))


def optimum(truth: Process, sample: Histories) -> dict[str, float]:
    """Mean NLL of codes, of structure tokens and of all."""
    everything = np.ones(len(truth.codes), dtype=bool)
    scores = likelihood.log_probs(truth, sample, everything)
    is_code = np.ones(len(scores), dtype=bool)
    is_code[sample.offsets[1:] - 1] = False  # END
    before = np.cumsum(sample.lengths + 2) - (sample.lengths + 2)
    starts = before + np.repeat(np.arange(len(sample.visits)), sample.visits)  # an END per earlier patient
    is_code[starts] = False
    is_code[starts + sample.lengths + 1] = False
    assert is_code.sum() == len(sample.codes)
    return {
        "optimum of codes": -scores[is_code].mean(),
        "optimum of structure": -scores[~is_code].mean(),
        "optimum of all tokens": -scores.mean(),
    }


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
