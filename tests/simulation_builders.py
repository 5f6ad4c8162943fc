"""Builders for tests of the simulator: tiny processes, and patients as lists of visits."""

from collections.abc import Sequence

import numpy as np

from promptehr.simulation.likelihood import Histories
from promptehr.simulation.process import Process
from promptehr.simulation.sampler import People, Visits

Record = Sequence[Sequence[int]]


def tiny(seed: int = 1) -> Process:
    """Five codes, two conditions, two reasons, two age bands; at most 3 codes and 2 visits."""
    rng = np.random.default_rng(seed)

    def themes(count: int) -> np.ndarray:
        return rng.dirichlet(np.ones(5), size=count)

    return Process(
        codes=("4019", "25000", "4280", "V3000", "0389"),
        bands=np.array([0.0, 40.0]),
        band=np.array([0.4, 0.6]),
        female=np.array([0.5, 0.3]),
        ethnicity=np.array([0.5, 0.3, 0.05, 0.05, 0.05, 0.05]),
        chronic_band=rng.normal(size=(2, 2)),
        chronic_female=rng.normal(size=2),
        chronic_ethnicity=rng.normal(size=(2, 6)),
        chronic_earlier=np.array([[0.0, 0.0], [1.5, 0.0]]),
        switch_on=np.array([0.3, 0.1]),
        reason_band=rng.normal(size=(2, 2)),
        reason_chronic=rng.normal(size=(2, 2)),
        reason_female=rng.normal(size=2),
        chronic_theme=themes(2),
        reason_theme=themes(2),
        general_theme=themes(2),
        demographic_theme=themes(2),
        demographic_share=rng.uniform(0.0, 0.2, size=(2, 2, 6, 2)),
        first_mixture=np.array([0.7, 0.2, 0.1]),
        later_mixture=np.array([0.3, 0.4, 0.3]),
        repeat=np.array([0.2, 0.5]),
        stop=np.array([[0.3, 0.4, 1.0], [0.1, 0.5, 1.0]]),
        revisit_band=np.array([-0.5, 0.5]),
        revisit_chronic=np.array([0.4, -0.3]),
        revisit_visit=0.2,
        most_visits=2,
    )


def histories(*records: Record, band: int = 0, female: int = 0, ethnicity: int = 0) -> Histories:
    """Patients of one kind, given by the places of their codes."""
    everyone = np.ones(len(records), dtype=np.int64)
    return Histories(
        band=band * everyone,
        female=female * everyone,
        ethnicity=ethnicity * everyone,
        visits=np.array([len(record) for record in records]),
        lengths=np.array([len(visit) for record in records for visit in record]),
        codes=np.array([code for record in records for visit in record for code in visit]),
    )


def drawn(people: People, visits: Visits) -> Histories:
    """What the sampler drew, to be scored."""
    keys, lengths = np.unique(np.stack([visits.patient, visits.visit]), axis=1, return_counts=True)
    return Histories(
        band=people.band,
        female=people.female,
        ethnicity=people.ethnicity,
        visits=np.bincount(keys[0], minlength=len(people.band)),
        lengths=lengths,
        codes=visits.code,
    )
