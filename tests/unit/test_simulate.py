"""The simulate stage: MIMIC-III's shape, same seed same bytes, and what later stages find again."""

import csv
import io
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from promptehr import artifacts, icd9, schemas
from promptehr.ingestion import ethnicity
from promptehr.settings import from_assignments
from promptehr.simulation import process, recipe, sampler, themes
from promptehr.simulation.process import Process
from promptehr.stages import simulate
from promptehr.stages.simulate import Tables
from promptehr.tokens import ETHNICITIES
from tests.simulation_builders import drawn
from tests.source_builders import all_records, ledger, run_ingest, run_records

COUNT = 3_000


@pytest.fixture(scope="module")
def truth() -> Process:
    return process.default()


@pytest.fixture(scope="module")
def tables(truth: Process) -> Tables:
    return simulate.draw(truth, COUNT, np.random.default_rng(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stage writes for 300 patients."""
    return run(tmp_path_factory.mktemp("simulate"))


def run(folder: Path, *, patients: int = 300, seed: int = 1) -> Path:
    simulate.run(
        simulate.Inputs(),
        simulate.Outputs(
            folder / "PATIENTS.csv",
            folder / "ADMISSIONS.csv",
            folder / "DIAGNOSES_ICD.csv",
            folder / "process.json",
        ),
        from_assignments("simulate", [f"simulate.patients={patients}", f"simulate.seed={seed}"]),
    )
    return folder


def test_same_seed_same_bytes_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    again, other = run(tmp_path / "again"), run(tmp_path / "other", seed=2)
    for path in sorted(folder.iterdir()):
        assert path.read_bytes() == (again / path.name).read_bytes()
        assert path.read_bytes() != (other / path.name).read_bytes()


def test_the_files_look_like_mimic3(folder: Path) -> None:
    headers = {path.name: path.read_text().splitlines()[0] for path in folder.glob("*.csv")}
    assert headers == {
        "PATIENTS.csv": '"ROW_ID","SUBJECT_ID","GENDER","DOB"',
        "ADMISSIONS.csv": '"ROW_ID","SUBJECT_ID","HADM_ID","ADMITTIME","DISCHTIME","ETHNICITY"',
        "DIAGNOSES_ICD.csv": '"ROW_ID","SUBJECT_ID","HADM_ID","SEQ_NUM","ICD9_CODE"',
    }
    for row in rows(folder / "PATIENTS.csv"):
        assert row["GENDER"] in ("F", "M")
        assert row["DOB"][10:] == " 00:00:00"
    for row in rows(folder / "ADMISSIONS.csv"):
        assert "2100" <= row["ADMITTIME"] < row["DISCHTIME"]


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_identifiers_are_unique_and_sequences_count_from_one(tables: Tables) -> None:
    assert pc.count_distinct(tables.patients["SUBJECT_ID"]).as_py() == COUNT
    assert pc.count_distinct(tables.admissions["HADM_ID"]).as_py() == tables.admissions.num_rows
    position = tables.diagnoses["SEQ_NUM"].to_numpy()
    visit = tables.diagnoses["HADM_ID"].to_numpy()
    starts = np.append(True, visit[1:] != visit[:-1])
    assert (position[starts] == 1).all()
    assert (np.diff(position)[~starts[1:]] == 1).all()


def test_ingestion_rejects_nothing_and_counts_what_was_planted(folder: Path, tmp_path: Path) -> None:
    planted = artifacts.read_json(folder / "process.json", schemas.PROCESS)["planted"]
    found = ledger(run_ingest(folder, tmp_path))
    assert all(not table["rejected"] for table in found.values())
    assert {name: table["rows_kept"] for name, table in found.items()} == {
        name: planted[name] for name in ("patients", "admissions", "diagnoses")
    }


def test_records_have_the_demographics_and_codes_that_were_drawn(
    truth: Process, folder: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    people = sampler.draw_people(truth, 300, rng)
    visits = drawn(people, sampler.draw_visits(truth, people, rng))
    codes = np.split(np.array(truth.codes)[visits.codes], np.cumsum(visits.lengths)[:-1])
    expected = {
        int(row["SUBJECT_ID"]): (
            "MF"[people.female[number]],
            ETHNICITIES[people.ethnicity[number]],
            people.band[number],
            [codes[visit].tolist() for visit in range(end - visits.visits[number], end)],
        )
        for number, (row, end) in enumerate(
            zip(rows(folder / "PATIENTS.csv"), np.cumsum(visits.visits), strict=True)
        )
    }
    found = all_records(run_records(run_ingest(folder, tmp_path), tmp_path))
    ages = truth.band_of(np.array([row["age"] for row in found], dtype=np.float32))
    assert {
        row["subject_id"]: (row["gender"], row["ethnicity"], band, row["visits"])
        for row, band in zip(found, ages, strict=True)
    } == expected


def test_ages_over_89_are_hidden_by_a_birth_three_hundred_years_back(truth: Process) -> None:
    tables = simulate.draw(truth, COUNT, np.random.default_rng(1))
    people = sampler.draw_people(truth, COUNT, np.random.default_rng(1))
    first = np.unique(tables.admissions["SUBJECT_ID"].to_numpy(), return_index=True)[1]
    admitted = dict(
        zip(
            tables.admissions["SUBJECT_ID"].to_numpy()[first],
            tables.admissions["ADMITTIME"].to_numpy(zero_copy_only=False)[first].astype("datetime64[D]"),
            strict=True,
        )
    )
    born = tables.patients["DOB"].to_numpy(zero_copy_only=False).astype("datetime64[D]")
    subjects = tables.patients["SUBJECT_ID"].to_numpy()
    days = (np.array([admitted[subject] for subject in subjects]) - born).astype(int)
    hidden = people.age_days > 89 * 365.2425 + 7
    assert hidden.sum() > 50
    assert set(days[hidden]) == {int(300 * 365.2425)}
    assert (days[~hidden] == people.age_days[~hidden]).all()


def test_no_age_lies_within_a_week_of_a_band_edge(truth: Process) -> None:
    people = sampler.draw_people(truth, 50_000, np.random.default_rng(2))
    edges = truth.bands[1:, None] * 365.2425
    assert (abs(people.age_days - edges) >= 6).all()
    assert (truth.band_of(people.age_days / 365.2425) == people.band).all()
    assert truth.band_of(np.array([-1e-6, 0.0, 300.0])).tolist() == [0, 0, 6]


def test_every_ethnicity_text_stands_in_the_group_that_records_put_it_in() -> None:
    found = {text: group for group, texts in recipe.ETHNICITY_TEXTS.items() for text in texts}
    assert found.items() <= ethnicity.GROUPS.items()
    assert len(found) == 41


def test_some_patients_carry_two_ethnicity_groups(tables: Tables) -> None:
    subjects = tables.admissions["SUBJECT_ID"].to_numpy()
    texts = tables.admissions["ETHNICITY"].to_pylist()
    groups = np.array([ethnicity.GROUPS[text] for text in texts])
    several = [subject for subject in np.unique(subjects) if len(set(groups[subjects == subject])) > 1]
    assert 0.005 < len(several) / COUNT < 0.05


def test_the_stored_process_is_the_process(truth: Process, folder: Path) -> None:
    parameters = artifacts.read_json(folder / "process.json", schemas.PROCESS)["parameters"]
    assert Process.from_document(parameters).to_document() == truth.to_document()
    assert Process.from_document(parameters).themes.tolist() == truth.themes.tolist()


def test_every_table_of_the_process_is_a_distribution(truth: Process) -> None:
    for table in (truth.start, truth.change, truth.reason, truth.themes):
        np.testing.assert_allclose(table.sum(-1), 1.0, atol=1e-12)
    for probability in (truth.stop, truth.revisit, truth.demographic_share, truth.themes):
        assert ((probability >= 0) & (probability <= 1)).all()
    assert (truth.stop[:, -1] == 1).all()
    assert (truth.revisit[:, -1] == 0).all()


def test_every_code_of_the_recipe_is_listed() -> None:
    everything = (themes.CHRONIC, themes.REASONS, themes.DEMOGRAPHIC)
    heads = [theme.head for kind in everything for theme in kind.values()]
    heads += [themes.GENERAL.head, themes.PERINATAL_GENERAL.head]
    assert {code for head in heads for code in head} <= icd9.listed()
    assert all(sum(head.values()) < 1 for head in heads)


def test_codes_of_one_sex_or_of_newborns_stay_with_them(tables: Tables) -> None:
    sexes = dict(zip(*(tables.patients[name].to_pylist() for name in ("SUBJECT_ID", "GENDER")), strict=True))
    codes = zip(*(tables.diagnoses[name].to_pylist() for name in ("SUBJECT_ID", "ICD9_CODE")), strict=True)
    for subject, code in codes:
        if "630" <= code[:3] <= "677" or code[:3] in ("V22", "V23", "V24", "V27"):
            assert sexes[subject] == "F", code
        if code[:3] in ("185", "222", "600") or code == "V1046":
            assert sexes[subject] == "M", code


def test_marginals_lie_near_those_of_mimic3(tables: Tables) -> None:
    """Bounds around the figures of docs/simulation.md, wide enough for 3,000 patients."""
    visits = tables.admissions.num_rows
    codes = tables.diagnoses.num_rows
    counts = pc.value_counts(tables.diagnoses["ICD9_CODE"])
    shares = np.sort(np.array(counts.field("counts")))[::-1] / codes
    first = pc.utf8_slice_codeunits(tables.diagnoses["ICD9_CODE"], 0, 1)
    measured = {
        "visits per patient": (visits / COUNT, 1.20, 1.34),
        "codes per visit": (codes / visits, 10.7, 11.6),
        "share of the first code": (shares[0], 0.027, 0.035),
        "share of the first ten": (shares[:10].sum(), 0.135, 0.17),
        "share of the first hundred": (shares[:100].sum(), 0.47, 0.53),
        "female": (pc.mean(pc.equal(tables.patients["GENDER"], "F")).as_py(), 0.40, 0.47),
        "V codes": (pc.mean(pc.equal(first, "V")).as_py(), 0.08, 0.13),
        "E codes": (pc.mean(pc.equal(first, "E")).as_py(), 0.025, 0.055),
    }
    outside = {name: value for name, (value, low, high) in measured.items() if not low <= value <= high}
    assert not outside
    assert counts.field("values")[int(np.argmax(counts.field("counts")))].as_py() == "4019"
