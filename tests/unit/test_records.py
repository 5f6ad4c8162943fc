"""Join, ages, ethnicity, filters, split and ledger of records."""

import hashlib
from pathlib import Path

import pytest

from promptehr import artifacts, schemas
from promptehr.errors import ArtifactError
from promptehr.ingestion.ethnicity import GROUPS
from promptehr.settings import Split
from promptehr.stages.records import places, splits_of
from promptehr.tokens import ETHNICITIES
from tests.source_builders import (
    SPLITS,
    admission,
    all_records,
    diagnosis,
    folder,
    ledger,
    patient,
    run_ingest,
    run_records,
)


def made(tmp_path: Path, *assignments: str, **tables: list[list[str]]) -> Path:
    """Records of a folder with these rows."""
    return run_records(run_ingest(folder(tmp_path / "source", **tables), tmp_path), tmp_path, *assignments)


def ages(tmp_path: Path, born: str, *assignments: str) -> tuple[list[tuple[float, bool]], dict[str, int]]:
    """(age, capped) of the records of one patient admitted on 2150-01-01, and patients by reason."""
    out = made(tmp_path, *assignments, patients=[patient(born=born)])
    found = [(record["age"], record["age_capped"]) for record in all_records(out)]
    return found, ledger(out)["patients"]["rejected"]


def test_visits_are_in_time_order_and_codes_in_seq_num_order(tmp_path: Path) -> None:
    out = made(
        tmp_path,
        admissions=[
            admission(10, admitted="2150-03-02 01:00:00"),
            admission(11, admitted="2150-01-01 23:00:00"),
            admission(12, admitted="2150-03-02 01:00:00"),
        ],
        diagnoses=[
            diagnosis("4019", 10, position=2),
            diagnosis("V5861", 10, position=1),
            diagnosis("25000", 10, position=""),
            diagnosis("0389", 12, position=1),
            diagnosis("41401", 11, position=7),
            diagnosis("E8859", 11, position=7),
        ],
    )
    assert all_records(out) == [
        {
            "subject_id": 1,
            "gender": "F",
            "ethnicity": "WHITE",
            "age": pytest.approx(50.0, abs=0.01),
            "age_capped": False,
            "visits": [["41401", "E8859"], ["V5861", "4019", "25000"], ["0389"]],
            "visit_days": [0, 60, 60],
        }
    ]


def test_age_counts_days_not_calendar_years(tmp_path: Path) -> None:
    found, _ = ages(tmp_path, "2149-12-31 00:00:00")
    assert found == [(pytest.approx(1 / 365.2425, rel=1e-6), False)]


@pytest.mark.parametrize(
    ("born", "age", "capped"),
    [
        ("2061-01-01 00:00:00", 89 * 365.2425 / 365.2425, False),
        ("2060-12-30 00:00:00", 90.0, True),
        ("2030-01-02 00:00:00", 90.0, True),
        ("1850-01-01 00:00:00", 90.0, True),
    ],
)
def test_age_over_89_becomes_90(tmp_path: Path, born: str, age: float, capped: bool) -> None:
    found, _ = ages(tmp_path, born)
    assert found == [(pytest.approx(age, abs=0.01), capped)]


@pytest.mark.parametrize("born", ["2029-12-01 00:00:00", "1900-01-01 00:00:00", "1150-01-01 00:00:00"])
def test_impossible_ages_are_rejected(tmp_path: Path, born: str) -> None:
    assert ages(tmp_path, born) == ([], {"age impossible": 1})


def test_age_is_at_the_first_admission_with_a_code(tmp_path: Path) -> None:
    out = made(
        tmp_path,
        admissions=[admission(9, admitted="2140-01-01 00:00:00", ethnicity="ASIAN"), admission(10)],
    )
    (record,) = all_records(out)
    assert (record["age"], record["ethnicity"]) == (pytest.approx(50.0, abs=0.01), "ASIAN")
    assert ledger(out)["visits"]["rejected"] == {"admission without a code": 1}
    assert ledger(out)["patients"]["noted"] == {"admissions disagree on ethnicity": 1}


def test_filters_are_counted_in_patients_visits_and_codes(tmp_path: Path) -> None:
    out = made(
        tmp_path,
        "records.min_age=18",
        "records.min_visits=2",
        patients=[patient(1), patient(2, born="2149-01-01 00:00:00"), patient(3), patient(4)],
        admissions=[
            admission(10, 1),
            admission(11, 1, admitted="2151-01-01 00:00:00"),
            admission(20, 2),
            admission(30, 3),
            admission(40, 4),
        ],
        diagnoses=[
            diagnosis("4019", 10, 1),
            diagnosis("4019", 11, 1),
            diagnosis("V3000", 20, 2),
            diagnosis("V053", 20, 2, 2),
            diagnosis("0389", 30, 3),
        ],
    )
    tables = ledger(out)
    assert (tables["patients"]["rows_in"], tables["patients"]["rows_kept"]) == (4, 1)
    assert tables["patients"]["rejected"] == {
        "no admission with a code": 1,
        "younger than records.min_age": 1,
        "fewer visits than records.min_visits": 1,
    }
    assert (tables["visits"]["rows_in"], tables["visits"]["rows_kept"]) == (5, 2)
    assert tables["visits"]["rejected"] == {
        "admission without a code": 1,
        "patient: younger than records.min_age": 1,
        "patient: fewer visits than records.min_visits": 1,
    }
    assert (tables["codes"]["rows_in"], tables["codes"]["rows_kept"]) == (5, 2)
    assert tables["codes"]["rejected"] == {
        "patient: younger than records.min_age": 2,
        "patient: fewer visits than records.min_visits": 1,
    }


def test_ethnicity_conflicts_and_unmapped_texts_are_listed(tmp_path: Path) -> None:
    out = made(
        tmp_path,
        patients=[patient(1), patient(2), patient(3)],
        admissions=[
            admission(10, 1, ethnicity="white - russian"),
            admission(11, 1, admitted="2151-01-01 00:00:00", ethnicity="UNABLE TO OBTAIN"),
            admission(20, 2, ethnicity="Martian"),
            admission(30, 3, ethnicity=""),
        ],
        diagnoses=[diagnosis("4019", 10, 1), diagnosis("4019", 20, 2), diagnosis("4019", 30, 3)],
    )
    assert [record["ethnicity"] for record in all_records(out)] == ["WHITE", "UNKNOWN", "UNKNOWN"]
    content = artifacts.read_json(out / "ledger.json", schemas.LEDGER)
    assert content["ethnicity"] == {"unmapped": {"MARTIAN": 1}, "conflicts": {"UNKNOWN|WHITE": 1}}
    assert content["tables"]["patients"]["noted"] == {
        "ethnicity UNKNOWN": 2,
        "admissions disagree on ethnicity": 1,
    }


def test_the_table_of_ethnicities_is_in_six_groups() -> None:
    assert set(GROUPS.values()) == set(ETHNICITIES)


def test_a_patients_place_is_the_first_8_bytes_of_blake2b() -> None:
    exact = int.from_bytes(hashlib.blake2b(b"7:10006").digest()[:8], "big") / 2**64
    assert places(7, [10006]).tolist() == [pytest.approx(exact, abs=2**-52)]


def test_a_patient_stays_in_its_split_when_others_come() -> None:
    few, many = splits_of([5, 9], 1, Split()), splits_of(list(range(1, 20)), 1, Split())
    assert few == [many[4], many[8]]


@pytest.mark.parametrize("whole", SPLITS)
def test_a_share_of_one_takes_everybody(whole: str) -> None:
    shares = {name: float(name == whole) for name in SPLITS}
    assert set(splits_of(list(range(1, 500)), 1, Split(**shares))) == {whole}


def test_demo_gives_100_patients_129_visits_1761_codes(mimic3_demo: Path, tmp_path: Path) -> None:
    out = run_records(run_ingest(mimic3_demo, tmp_path), tmp_path)
    found = all_records(out)
    visits = [visit for record in found for visit in record["visits"]]
    assert (len(found), len(visits), sum(map(len, visits))) == (100, 129, 1761)
    assert sum(record["age_capped"] for record in found) == 8
    assert len({code for visit in visits for code in visit}) == 581


def test_a_second_run_gives_the_same_bytes(mimic3_demo: Path, tmp_path: Path) -> None:
    ingested = run_ingest(mimic3_demo, tmp_path)
    first, second = run_records(ingested, tmp_path / "a"), run_records(ingested, tmp_path / "b")
    for name in (*(f"{split}.parquet" for split in SPLITS), "ledger.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_tables_of_another_run_are_refused(tmp_path: Path) -> None:
    ingested = run_ingest(folder(tmp_path / "a"), tmp_path / "a")
    other = run_ingest(folder(tmp_path / "b", patients=[patient(), patient(2)]), tmp_path / "b")
    (ingested / "patients.parquet").write_bytes((other / "patients.parquet").read_bytes())
    with pytest.raises(ArtifactError, match="not of one run"):
        run_records(ingested, tmp_path)


def test_a_drawn_number_of_patients_is_spread_over_the_splits_and_stays_drawn(tmp_path: Path) -> None:
    def drawn(people: int, name: str, *assignments: str) -> tuple[list[int], Path]:
        ids = list(range(1, people + 1))
        out = made(
            tmp_path / name,
            *assignments,
            patients=[patient(n) for n in ids],
            admissions=[admission(n, n) for n in ids],
            diagnoses=[diagnosis("4019", n, n) for n in ids],
        )
        return [record["subject_id"] for record in all_records(out)], out

    some, out = drawn(200, "a", "records.patients=50")
    assert len(some) == 50
    assert ledger(out)["patients"]["rejected"] == {"beyond records.patients": 150}
    sizes = artifacts.read_json(out / "ledger.json", schemas.LEDGER)["splits"]
    assert sum(sizes.values()) == 50
    assert min(sizes.values()) > 0
    more, _ = drawn(200, "b", "records.patients=60")
    assert set(some) < set(more)
    everybody, _ = drawn(30, "c", "records.patients=60")
    assert len(everybody) == 30


def test_newborns_can_be_left_out(tmp_path: Path) -> None:
    def born(day: str, *assignments: str) -> tuple[int, dict[str, int]]:
        found, rejected = ages(tmp_path / day.replace(" ", ""), day, *assignments)
        return len(found), rejected

    assert born("2149-12-05 00:00:00", 'records.newborns="drop"') == (0, {"newborn, see records.newborns": 1})
    assert born("2149-12-04 00:00:00", 'records.newborns="drop"') == (1, {})
    assert born("2150-01-01 00:00:00") == (1, {})
