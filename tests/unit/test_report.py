"""The report: from the documents of all stages to one page and its numbers."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from promptehr import artifacts, cli, schemas
from promptehr.errors import ArtifactError
from promptehr.reporting import cells, masking, reading
from promptehr.reporting.content import Experiment, Material, assemble
from promptehr.reporting.page import render
from promptehr.reporting.sections import fidelity, likelihood, overview
from promptehr.reporting.views import Table
from promptehr.stages import report
from tests import report_builders as build


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> report.Inputs:
    """One results folder for all tests of this file; none of them changes it."""
    return build.write_results(tmp_path_factory.mktemp("results"), build.settings())


@pytest.fixture(scope="module")
def made(inputs: report.Inputs, tmp_path_factory: pytest.TempPathFactory) -> report.Outputs:
    """The page under the default settings."""
    return run(inputs, tmp_path_factory.mktemp("report"))


def run(inputs: report.Inputs, folder: Path, *assignments: str) -> report.Outputs:
    outputs = report.Outputs(folder / "report.html", folder / "report.json")
    report.run(inputs, outputs, build.settings(*assignments))
    return outputs


def numbers(outputs: report.Outputs) -> dict[str, Any]:
    return artifacts.open_sealed(outputs.json, schemas.REPORT, "report", outputs.html)


def material(*experiments: Experiment) -> Material:
    return Material({}, build.vocabulary(build.patients(50, seed=1)), experiments)


# --- the page ----------------------------------------------------------------------------------


def test_page_fetches_nothing_and_runs_nothing(made: report.Outputs) -> None:
    page = made.html.read_text()
    assert "<script" not in page
    assert "url(" not in page
    targets = re.findall(r'(?:src|href)="([^"]{0,12})', page)
    assert {target.partition(":")[0] if ":" in target else target[0] for target in targets} == {"data", "#"}


def test_page_shows_nothing_that_its_numbers_lack(made: report.Outputs) -> None:
    assert render(numbers(made)) == made.html.read_text()


def test_same_inputs_give_the_same_bytes(inputs: report.Inputs, made: report.Outputs, tmp_path: Path) -> None:
    again = run(inputs, tmp_path)
    assert again.html.read_bytes() == made.html.read_bytes()
    assert again.json.read_bytes() == made.json.read_bytes()


def test_numbers_name_no_folder_and_no_time(inputs: report.Inputs, made: report.Outputs) -> None:
    text = made.json.read_text()
    read = list(json.loads(text)["inputs"])
    assert [read[0], read[-1]] == ["evaluate/base/fidelity.json", "vocabulary/vocabulary.json"]
    assert str(inputs.vocabulary.parents[1]) not in text
    assert "seconds" not in text


def test_every_section_stands_on_the_page(made: report.Outputs) -> None:
    page = made.html.read_text()
    anchors = [
        *("overview", "flow", "training", "likelihood", "fidelity"),
        *("utility", "privacy", "patients", "origins"),
    ]
    assert re.findall(r'<section id="(\w+)">', page) == anchors
    assert page.count("<figure>") == 4


def test_flow_begins_with_what_was_simulated(made: report.Outputs) -> None:
    assert "<p>The simulator wrote 61,000 diagnoses, 5,000 patients.</p>" in made.html.read_text()


def test_title_is_text_and_not_markup() -> None:
    settings = build.settings('report.title="<b>A & B"')
    page = render(assemble(material(Experiment("base", {})), settings, {}))
    assert "<h1>&lt;b&gt;A &amp; B</h1>" in page


def test_verdict_is_about_the_trained_experiment(made: report.Outputs) -> None:
    verdict = overview.verdict_text(numbers(made))
    assert verdict.startswith(
        "Experiment base. Knowing only age, sex and ethnicity, the model predicts the codes of held-out"
        " patients with a perplexity of 140, better than code frequencies by sex and age (230)."
    )
    assert "Privacy could not be judged: 24 members" in verdict


def test_copier_fails_the_gate_on_the_page(made: report.Outputs) -> None:
    assert "FAILED: copies" in made.html.read_text()


def test_files_of_another_run_are_refused(inputs: report.Inputs, tmp_path: Path) -> None:
    other = tmp_path / "base" / "history.jsonl"
    artifacts.write_bytes(other, b'{"epoch": 1}\n')
    with pytest.raises(ArtifactError, match=r"base/history\.jsonl: does not match .*; rerun train"):
        run(replace(inputs, histories=(other,)), tmp_path)


def test_vocabulary_of_another_run_is_refused(inputs: report.Inputs, tmp_path: Path) -> None:
    other = tmp_path / "vocabulary.json"
    artifacts.write_json(other, build.vocabulary(build.patients(9, seed=7)), schemas.VOCABULARY)
    with pytest.raises(ArtifactError, match=r"does not match .*; rerun vocabulary"):
        run(replace(inputs, vocabulary=other), tmp_path)


# --- what is missing ---------------------------------------------------------------------------


def test_experiment_without_a_model_has_no_likelihood_and_says_why(made: report.Outputs) -> None:
    rows = overview.section(numbers(made)).views[0].rows
    assert rows[1][:2] == (cells.words("memoriser"), cells.words("planted copier"))
    assert rows[1][3] == cells.Cell("—", "only a trained model has a likelihood of its own")


def test_null_is_a_dash_with_its_reason(made: report.Outputs) -> None:
    page = made.html.read_text()
    assert '<td class="n">—<sup>a</sup></td>' in page
    assert "<li>the source is not simulated</li>" in page


def test_new_patients_of_the_process_have_a_table_of_their_own(made: report.Outputs) -> None:
    content = numbers(made)
    tables = len(fidelity.section(content).views)
    one = content["experiments"]["base"]["fidelity"]
    known = {key: one[key] for key in ("prevalence", "conditional_prevalence", "pairs")}
    surprise = {
        "synthetic": {"nats_per_code": 7.31, "impossible": 0.106},
        "new": {"nats_per_code": 5.69},
        "difference": {"value": 1.62, "interval": [1.48, 1.74]},
    }
    one["fresh"] = {**known, "patients": {"real": 20_000}, "surprise": surprise}
    found = fidelity.section(content).views
    assert len(found) == tables + 2
    assert "20,000 new patients" in found[3].caption
    assert [cell.text for cell in found[4].rows[0]] == [
        *("base", "10.6 %", "7.310", "5.690"),
        "1.620 [1.480, 1.740]",
    ]


def test_experiment_that_left_nothing_behind_is_shown_as_such() -> None:
    page = render(assemble(material(Experiment("base", {})), build.settings(), {}))
    assert "Held-out patients were not scored." in page
    assert "<li>not evaluated for this experiment</li>" in page


def test_reason_is_the_one_nearest_to_the_missing_value() -> None:
    document = {"reason": "far", "a": {"reason": "near", "b": {"c": None}}}
    assert reading.reason(document, "a", "b", "c") == "near"
    assert reading.reason(document, "x") == "far"
    assert reading.reason({}, "x") == "not among the evaluation's numbers"
    assert reading.reason(None, "x") == "not evaluated for this experiment"


def test_optimum_gives_the_share_of_the_gap_and_a_quiet_alarm() -> None:
    scored = build.likelihood()
    scored["gap_closed"]["prompt"] = {"value": 0.4, "interval": [0.3, 0.5]}
    scored["gap_closed_all"]["prompt"] = {"value": 0.2, "interval": [0.1, 0.3]}
    scored["leak"] = {"alarm": False, "mean": 12.5, "standard_errors": 20.0}
    one = Experiment("base", {"evaluate_likelihood": {"likelihood": scored}})
    table = likelihood.section(assemble(material(one), build.settings(), {})).views[1]
    assert isinstance(table, Table)
    gaps = ["40.00 [30.00, 50.00] %", "20.00 [10.00, 30.00] %", "—"]
    assert [row[1].text for row in table.rows] == [*gaps, "12.50", "20.0", "quiet"]


def test_leak_alarm_stands_out() -> None:
    scored = build.likelihood() | {"leak": {"alarm": True, "mean": -9.0, "standard_errors": -8.0}}
    one = Experiment("base", {"evaluate_likelihood": {"likelihood": scored}})
    table = likelihood.section(assemble(material(one), build.settings(), {})).views[1]
    assert isinstance(table, Table)
    assert table.rows[-1][1] == cells.Cell("RAISED", bad=True)
    assert "leak alarm is RAISED" in overview.verdict_text(assemble(material(one), build.settings(), {}))


# --- settings ----------------------------------------------------------------------------------


def test_settings_come_from_the_seals_and_differ_by_experiment(made: report.Outputs) -> None:
    settings = numbers(made)["settings"]
    assert settings["experiments"]["base"]["generate.method"] == "model"
    assert settings["experiments"]["memoriser"]["generate.method"] == "copy"
    assert settings["all"]["records.seed"] == 1
    assert settings["all"]["train.learning_rate"] == 1e-4


# --- synthetic patients ------------------------------------------------------------------------


def test_examples_have_titles(made: report.Outputs) -> None:
    examples = numbers(made)["examples"]
    assert (examples["experiment"], len(examples["patients"])) == ("base", 10)
    first = examples["patients"][0]["visits"][0][0]
    assert first == {"code": first["code"], "title": f"Title of {first['code']}"}


def sealed(method: str) -> dict[str, Any]:
    return {"key": {"settings": [f'generate.method="{method}"']}}


def test_patients_of_a_copier_are_never_shown() -> None:
    patient = {"gender": "F", "ethnicity": "WHITE", "age": 40.0, "visits": [["4019"]]}
    copier = Experiment("memoriser", {"generate": sealed("copy")}, examples=(patient,))
    assert assemble(material(copier), build.settings(), {})["examples"]["patients"] == []


def test_flagged_patients_are_withheld_where_small_counts_are_masked() -> None:
    patient = {"gender": "F", "ethnicity": "WHITE", "age": 40.0, "visits": [["4019"]]}
    judged = {"privacy": build.flagged()}
    one = Experiment("base", {"generate": sealed("model"), "evaluate_privacy": judged}, examples=(patient,))
    shown, withheld = (
        assemble(material(one), build.settings(f"report.small_counts={choice}"), {})["examples"]
        for choice in ("show", "mask")
    )
    assert len(shown["patients"]) == 1
    assert withheld == {
        "experiment": "base",
        "patients": [],
        "reason": "withheld, for these patients resemble real ones: alarm by copies",
    }


# --- small counts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        ((), "shown"),
        (('source.kind="mimic3"',), "masked"),
        (('source.kind="mimic3"', "report.small_counts=show"), "shown"),
        (("report.small_counts=mask",), "masked"),
    ],
)
def test_small_counts_are_masked_unless_patients_are_simulated(
    assignments: tuple[str, ...], expected: str
) -> None:
    assert assemble(material(), build.settings(*assignments), {})["small_counts"] == expected


def test_masked_report_holds_no_small_count_of_real_patients(inputs: report.Inputs, tmp_path: Path) -> None:
    outputs = run(inputs, tmp_path, "report.small_counts=mask")
    content = numbers(outputs)
    assert "&lt;11" in outputs.html.read_text()
    fidelity = content["experiments"]["base"]["fidelity"]
    real = [
        *fidelity["prevalence"]["points"]["real"],
        *fidelity["visits_per_patient"]["histogram"]["real"].values(),
        *fidelity["codes_per_visit"]["histogram"]["real"].values(),
        *(rates["real"]["affected"] for rates in fidelity["implausible"].values()),
        *(
            rows
            for tables in content["flow"].values()
            for table in tables.values()
            for rows in table["rejected"].values()
        ),
    ]
    assert cells.SMALL in real
    assert [value for value in real if value != cells.SMALL and 0 < value < 11] == []


def test_flow_with_a_small_count_is_rounded_to_tens() -> None:
    tables = {"ingest": {"patients": build.account(5003, unreadable=7, twice=14)}}
    assert masking.flow(tables)["ingest"]["patients"] == {
        "rows_in": 5000,
        "rows_kept": 4980,
        "rejected": {"unreadable": "<11", "twice": 11},
        "noted": {"age capped": 70},
    }


def test_flow_without_a_small_count_is_exact() -> None:
    tables = {"ingest": {"patients": build.account(5003, twice=14)}}
    assert masking.flow(tables) == tables


def test_single_masked_length_takes_another_with_it() -> None:
    assert masking.histogram({"1": 80, "2": 30, "3": 4}) == {"1": 80, "2": "<11", "3": "<11"}
    assert masking.histogram({"1": 80, "3": 4, "4": 2}) == {"1": 80, "3": "<11", "4": "<11"}
    assert masking.histogram({"1": 80, "2": 30}) == {"1": 80, "2": 30}


def test_share_of_few_copies_is_masked_with_what_gives_it_away() -> None:
    masked = masking.privacy(build.flagged())["copies"]
    assert masked["held_out"] == {"records": 100, "copies": "<11", "share": None}
    assert (masked["excess"], masked["interval"]) == (None, None)
    assert masked["synthetic"] == {"records": 200, "copies": 90, "share": 0.45}


def test_what_a_few_attacked_patients_gave_away_is_masked() -> None:
    assert masking.privacy(build.flagged())["attributes"] == {
        "attacked": "<11",
        "published": 100,
        **dict.fromkeys(("synthetic", "held_out", "excess", "interval")),
        "reason": masking.REASON,
    }


def test_reason_that_names_few_members_is_masked_too() -> None:
    told = "8 members and non-members with codes enough, 300 are needed"
    numbers = build.flagged()
    numbers["membership"] |= {"members": 8, "non_members": 8, "reason": told}
    numbers |= {"planted": {"controls": None, "reason": told}, "gate": {"passed": None, "reason": told}}
    masked = masking.privacy(numbers)
    assert masked["membership"]["members"] == "<11"
    assert told not in json.dumps(masked)


def test_numbers_from_fewer_than_11_test_patients_are_not_shown() -> None:
    tiny = {"fidelity": {"patients": {"real": 10, "synthetic": 80, "ceiling": 80}}}
    scored = {"likelihood": build.likelihood() | {"patients": 10}}
    one = Experiment("base", {"evaluate_fidelity": tiny, "evaluate_likelihood": scored})
    content = assemble(material(one), build.settings("report.small_counts=mask"), {})
    assert content["experiments"]["base"]["fidelity"] == {"reason": "made from fewer than 11 real patients"}
    assert "<p>base: not shown, made from fewer than 11 real patients.</p>" in render(content)
    assert content["experiments"]["base"]["likelihood"] == content["experiments"]["base"]["fidelity"]


@pytest.mark.parametrize(("valid", "epochs"), [(10, 0), (11, 1)])
def test_curves_need_11_validation_patients(valid: int, epochs: int) -> None:
    summary = {"published": build.epoch(5), "parameters": 7, "epochs": 5}
    one = Experiment("base", {"train": summary}, history=(build.epoch(5),))
    found = replace(material(one), ledgers={"records": {"tables": {}, "splits": {"valid": valid}}})
    content = assemble(found, build.settings("report.small_counts=mask"), {})
    assert len(content["experiments"]["base"]["history"]) == epochs
    assert ("valid" in content["experiments"]["base"]["train"]["published"]) == (epochs > 0)
    assert ("measured on fewer than 11 real patients" in render(content)) == (epochs == 0)


# --- cells -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (cells.count(1234567), "1,234,567"),
        (cells.count("<11"), "<11"),
        (cells.decimal(-0.25), "−0.250"),
        (cells.decimal(-0.0001), "0.000"),
        (cells.with_interval(-0.0001, [-0.0002, 0.0]), "0.000 [0.000, 0.000]"),
        (cells.perplexity(1.1949), "1.19"),
        (cells.perplexity(23.44), "23.4"),
        (cells.perplexity(30216.7), "30,217"),
        (cells.percent(0.1234), "12.3 %"),
        (cells.interval([-0.5, 0.25]), "−0.500 to 0.250"),
        (cells.with_interval(0.5, None), "0.500"),
        (cells.with_interval(0.5, [0.4, 0.6]), "0.500 [0.400, 0.600]"),
        (cells.with_percents(0.1, [0.05, 0.2]), "10.00 [5.00, 20.00] %"),
        (cells.verdict(True), "passed"),
        (cells.decimal(None, "because"), "—"),
    ],
)
def test_cells_read_as_a_table_is_set(cell: cells.Cell, text: str) -> None:
    assert cell.text == text


def test_equal_notes_share_a_letter() -> None:
    because, other = cells.Cell("—", "because"), cells.Cell("—", "other")
    table = Table("", ("x", "y"), ((because, other), (because, cells.words("word"))))
    assert table.notes == ("because", "other")
    assert [table.mark(because), table.mark(other)] == ["a", "b"]
    assert (table.numeric(0), Table("", ("x",), ((cells.words("word"),),)).numeric(0)) == (True, False)


def test_content_of_the_page_is_plain_json(made: report.Outputs) -> None:
    content = numbers(made)
    assert json.loads(json.dumps(content)) == content


# --- command line ------------------------------------------------------------------------------


def test_experiments_without_a_model_have_no_history_and_still_a_report(
    inputs: report.Inputs, tmp_path: Path
) -> None:
    listed = {"ledgers": inputs.ledgers, "vocabulary": (inputs.vocabulary,), "synthetics": inputs.synthetics}
    own = {"summaries": inputs.summaries, "evaluations": inputs.evaluations}
    files = {
        name: [path for path in paths if "base" not in path.parts] for name, paths in (listed | own).items()
    }
    options = [word for name, paths in files.items() for path in paths for word in (f"--{name}", str(path))]
    outputs = report.Outputs(tmp_path / "report.html", tmp_path / "report.json")
    written = ["--html", str(outputs.html), "--json", str(outputs.json), "--log", str(tmp_path / "log")]
    status = cli.run(["report", *options, *written, 'experiments=["memoriser"]'])
    for handler in cli.logger.handlers:
        handler.close()
    cli.logger.handlers = []
    assert status == 0
    assert numbers(outputs)["order"] == ["memoriser"]
    assert "No experiment trains a model." in outputs.html.read_text()
