"""Pairs of codes: in one visit, or in a visit and the one after it.

Turns the visits of three cohorts into patient x pair matrices over the pairs that are frequent
among the real ones; without a loop over patients. A patient has some hundred pairs, so few
patients' are formed at once.
"""

import numpy as np
from scipy import sparse

from promptehr.metrics.bootstrap import Sides
from promptehr.metrics.incidence import Bools, Ints, Matrix, Patients, binary, totals

BLOCK = 20_000  # patients whose pairs are formed at once


def pair_sides(
    real: Patients, synthetic: Patients, ceiling: Patients, *, name: str, min_patients: int
) -> Sides:
    """[patients, P] matrices of three cohorts: 1 where the patient has the pair at least once.

    Args:
        real: Decides the P pairs: those of at least `min_patients` of its patients.
        synthetic: Counted over the same pairs.
        ceiling: Counted over the same pairs.
        name: `same_visit`, unordered and of different codes; or `next_visit`, ordered.
        min_patients: Real patients a pair needs.
    """
    # A pair is no more frequent than its codes, so all others can go before pairs are formed.
    frequent = totals(real.ever()) >= min_patients
    wanted = _frequent_pairs(real, name, frequent, min_patients)
    return Sides(*(_over(side, name, frequent, wanted) for side in (real, synthetic, ceiling)))


def _frequent_pairs(real: Patients, name: str, kept: Bools, min_patients: int) -> Ints:
    """The pairs of at least so many patients, in order."""
    pairs, counts = [], []
    for block in real.blocks(BLOCK):
        found, pair = patient_pairs(block, name=name, kept=kept)
        seen = np.unique(np.stack([pair, found]), axis=1)
        here, patients = np.unique(seen[0], return_counts=True)
        pairs.append(here)
        counts.append(patients)
    every, place = np.unique(np.concatenate(pairs), return_inverse=True)
    return every[np.bincount(place, weights=np.concatenate(counts)) >= min_patients]


def patient_pairs(patients: Patients, *, name: str, kept: Bools) -> tuple[Ints, Ints]:
    """Patient and pair (first code x K + second code) of every pair of kept codes [K]."""
    chosen = kept[patients.codes]
    codes, visit = patients.codes[chosen], patients.visit_of_code[chosen]
    sizes = np.bincount(visit, minlength=len(patients.visit_codes))
    starts = np.cumsum(sizes) - sizes
    last = np.cumsum(patients.visits) - 1
    step = 0 if name == "same_visit" else 1
    partner_visit = np.minimum(visit + step, len(sizes) - 1)
    partners = sizes[partner_visit]
    if step:
        partners = np.where(np.isin(visit, last), 0, partners)
    # Each code once per partner: partner j of a code stands at the start of the visit plus j.
    left = np.repeat(np.arange(len(codes)), partners)
    nth = np.arange(len(left)) - np.repeat(np.cumsum(partners) - partners, partners)
    first, second = codes[left], codes[np.repeat(starts[partner_visit], partners) + nth]
    valid = first < second if name == "same_visit" else np.ones(len(first), dtype=np.bool_)
    patient = patients.patient_of_visit[visit[left]]
    return patient[valid], (first * len(kept) + second)[valid]


def _over(patients: Patients, name: str, frequent: Bools, wanted: Ints) -> Matrix:
    rows = []
    for block in patients.blocks(BLOCK):
        found, pair = patient_pairs(block, name=name, kept=frequent)
        chosen = np.isin(pair, wanted)
        places = np.searchsorted(wanted, pair[chosen])
        rows.append(binary(found[chosen], places, (len(block), len(wanted))))
    return sparse.vstack(rows, format="csr")
