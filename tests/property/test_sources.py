"""The same patients as MIMIC-III writes them and as MIMIC-IV does."""

import tempfile
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from promptehr.ingestion.ethnicity import GROUPS
from tests import mimic4_builders as mimic4
from tests import source_builders as mimic3
from tests.source_builders import all_records, ledger, run_ingest, run_records

FIRST_DAY = date(2150, 1, 1)
COMPARED = ("subject_id", "gender", "ethnicity", "visits", "visit_days", "age_capped")

codes = st.sampled_from(["4019", "401.9", "v5861", "", "E8859", "E030", "99", "0389", "585", "I10"])
visits = st.tuples(
    st.integers(0, 2000), st.sampled_from(sorted(GROUPS)), st.lists(codes, min_size=1, max_size=5)
)
people = st.tuples(st.sampled_from(["M", "F", "X"]), st.integers(1, 80), st.lists(visits, max_size=3))


def written(patients: list[Any], path: Path) -> tuple[Path, Path]:
    """Both folders: a birth on 1 January is one that year and age tell exactly."""
    three: tuple[list[list[str]], ...] = ([], [], [])
    four: tuple[list[list[str]], ...] = ([], [], [])
    hadm = 0
    for subject, (gender, age, stays) in enumerate(patients, start=1):
        three[0].append(mimic3.patient(subject, gender, f"{2150 - age}-01-01 00:00:00"))
        four[0].append(mimic4.patient(subject, gender, age=age, year=2150))
        for day, group, texts in stays:
            hadm += 1
            times = [str(FIRST_DAY + timedelta(days=day + stay)) for stay in (0, 3)]
            three[1].append(mimic3.admission(hadm, subject, *times, group))
            four[1].append(mimic4.admission(hadm, subject, *times, group))
            three[2].extend(mimic3.diagnosis(text, hadm, subject, n) for n, text in enumerate(texts))
            four[2].extend(mimic4.diagnosis(text, hadm, subject, n) for n, text in enumerate(texts))
    names = ("patients", "admissions", "diagnoses")
    return (
        mimic3.folder(path / "three", **dict(zip(names, three, strict=True))),
        mimic4.folder(path / "four", **dict(zip(names, four, strict=True))),
    )


@given(st.lists(people, min_size=1, max_size=5).filter(lambda drawn: any(stays for _, _, stays in drawn)))
@settings(max_examples=20, deadline=None)
def test_both_sources_end_in_the_same_visits(patients: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        sources = written(patients, here)
        lax = "ingest.max_zeroless_share=1.0"
        ingested = [run_ingest(sources[0], here / "a", lax), mimic4.run_mimic4(sources[1], here / "b", lax)]
        made = [run_records(out, out.parent) for out in ingested]
        ledgers = [ledger(out)["diagnoses"] for out in ingested]
        found = [all_records(out) for out in made]
    assert ledgers[0] == ledgers[1]
    cut = [[{key: record[key] for key in COMPARED} for record in side] for side in found]
    assert cut[0] == cut[1]
    for one, other in zip(*found, strict=True):
        # Whole years: up to one below the age by days, which leap days may put just above.
        assert -0.01 < one["age"] - other["age"] < 1.01
