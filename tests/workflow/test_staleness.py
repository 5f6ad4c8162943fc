"""A stage reruns exactly when its settings, its inputs' content or its code change: the whole matrix.

Every row is a real dry run and names every rule that would run, with its number of jobs.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from promptehr.stage_table import BY_NAME
from tests.workflow.checkout import Checkout, jobs

REPORT = {"report": 1}
FIDELITY = {"evaluate_fidelity": 4}
OF_SYNTHETIC = {"evaluate_fidelity": 4, "evaluate_utility": 4, "evaluate_privacy": 4}
OF_MODEL = {
    "train": 1,
    "generate": 1,
    "evaluate_likelihood": 1,
    "report": 1,
    **dict.fromkeys(("evaluate_fidelity", "evaluate_utility", "evaluate_privacy"), 1),
}
AFTER_SHARDS = {"train": 1, "generate": 4, "evaluate_likelihood": 1, **OF_SYNTHETIC, **REPORT}
OF_SHARDS = {"shards_part": 2, "shards": 1}
AFTER_VOCABULARY = {**OF_SHARDS, **AFTER_SHARDS}
AFTER_RECORDS = {"vocabulary": 1, **AFTER_VOCABULARY}
AFTER_INGEST = {"records": 1, **AFTER_RECORDS}
AFTER_SIMULATE = {"ingest": 1, **AFTER_INGEST}
EVERYTHING = {"simulate": 1, **AFTER_SIMULATE}


def test_a_finished_run_is_not_stale(finished: Checkout) -> None:
    assert finished.stale() == {}


@pytest.mark.parametrize("spelt", ["results/tiny/", "./results/tiny", "results//x/../tiny"])
def test_a_results_folder_is_the_same_however_it_is_spelt(finished: Checkout, spelt: str) -> None:
    same = finished.with_settings(f"results_dir: {spelt}")
    assert same.stale() == {}
    changed = finished.with_settings(f"results_dir: {spelt}\nrecords: {{min_age: 18.0}}\n")
    assert changed.stale() == {"records": 1, **AFTER_RECORDS}


@pytest.mark.parametrize(
    ("settings", "reason", "stale"),
    [
        ("simulate: {seed: 2}", "simulate.seed=2", EVERYTHING),
        (
            "ingest: {max_rejected_share: 0.06}",
            "ingest.max_rejected_share=0.06",
            {"ingest": 1, **AFTER_INGEST},
        ),
        ("records: {min_age: 18.0}", "records.min_age=18.0", {"records": 1, **AFTER_RECORDS}),
        ("vocabulary: {min_patients: 2}", "vocabulary.min_patients=2", {"vocabulary": 1, **AFTER_VOCABULARY}),
        ("shards: {drop: oldest}", 'shards.drop="oldest"', {**OF_SHARDS, **AFTER_SHARDS}),
        ("train: {dropout: 0.2}", "train.dropout=0.2", OF_MODEL),
        ("generate: {top_k: 5}", "generate.top_k=5", {"generate": 4, **OF_SYNTHETIC, **REPORT}),
        (
            "evaluate_likelihood: {seed: 2}",
            "evaluate_likelihood.seed=2",
            {"evaluate_likelihood": 1, **REPORT},
        ),
        ("evaluate_fidelity: {seed: 2}", "evaluate_fidelity.seed=2", {**FIDELITY, **REPORT}),
        ("evaluate_utility: {tasks: 9}", "evaluate_utility.tasks=9", {"evaluate_utility": 4, **REPORT}),
        (
            "evaluate_privacy: {min_codes: 4}",
            "evaluate_privacy.min_codes=4",
            {"evaluate_privacy": 4, **REPORT},
        ),
        ("report: {title: 'A {b} c'}", 'report.title="A {b} c"', REPORT),
    ],
)
def test_one_setting_makes_its_stage_and_what_follows_stale(
    once: Checkout, settings: str, reason: str, stale: dict[str, int]
) -> None:
    assert once.with_settings(settings).stale_because() == (stale, {reason})


def test_two_values_that_change_places_are_two_changes(once: Checkout) -> None:
    swapped = once.with_settings("evaluate_privacy: {min_codes: 10, min_members: 5}")
    reasons = {"evaluate_privacy.min_codes=10", "evaluate_privacy.min_members=5"}
    assert swapped.stale_because() == ({"evaluate_privacy": 4, **REPORT}, reasons)


def test_the_source_reaches_ingest_and_the_report(once: Checkout, tmp_path: Path) -> None:
    for name in ("PATIENTS", "ADMISSIONS", "DIAGNOSES_ICD"):
        shutil.copy2(simulated(once, name), tmp_path)
    other = once.with_settings(f"source: {{kind: mimic3, path: '{tmp_path}'}}")
    assert other.stale_because() == ({"ingest": 1, **AFTER_INGEST}, {'source.kind="mimic3"'})


def test_a_new_setting_of_one_stage_leaves_the_others(finished: Checkout) -> None:
    finished.edit(
        "promptehr/settings.py",
        "class EvaluatePrivacy(Section):\n",
        "class EvaluatePrivacy(Section):\n    added: int = 1\n",
    )
    found = ({"evaluate_privacy": 4, **REPORT}, {"evaluate_privacy.added=1"})
    assert finished.stale_because() == found


def test_another_profile_makes_nothing_stale(once: Checkout) -> None:
    assert once.stale("--profile", "profiles/local") == {}
    assert once.stale("--profile", "profiles/slurm") == {}


def test_runtime_makes_nothing_stale(once: Checkout) -> None:
    assert once.with_settings("runtime: {device: auto, threads: 2, log_every_s: 5.0}").stale() == {}


def test_a_new_experiment_runs_only_its_own_and_the_report(once: Checkout) -> None:
    added = once.with_settings("experiments: {seed-2: {train: {seed: 2}, generate: {seed: 2}}}")
    assert added.stale() == OF_MODEL


def test_an_override_of_one_experiment_leaves_the_others(once: Checkout) -> None:
    changed = once.with_settings("experiments: {bigram: {generate: {method: bigram, seed: 3}}}")
    ones = dict.fromkeys(("generate", "evaluate_fidelity", "evaluate_utility", "evaluate_privacy"), 1)
    assert changed.stale_because() == ({**ones, **REPORT}, {"generate.seed=3"})


def test_comments_docstrings_and_blank_lines_rerun_nothing(finished: Checkout) -> None:
    for path in (finished.folder / "promptehr").rglob("*.py"):
        if path.read_text("utf-8"):
            path.write_text(
                '"""Another first line."""\n\n# A comment.\n' + path.read_text("utf-8") + "\n# End.\n"
            )
    for path in (finished.folder / "workflow" / "rules").glob("*.smk"):
        path.write_text("# A comment.\n" + path.read_text("utf-8"))
    assert finished.stale() == {}


@pytest.mark.parametrize(
    ("module", "stale"),
    [
        ("artifacts", EVERYTHING),
        ("icd10", {"ingest": 1, **AFTER_INGEST}),
        ("baselines", {"generate": 4, "evaluate_likelihood": 1, **OF_SYNTHETIC, **REPORT}),
        ("stages/records", {"records": 1, **AFTER_RECORDS}),
        ("stages/shards", {**OF_SHARDS, **AFTER_SHARDS}),
        ("stages/shards_part", {**OF_SHARDS, **AFTER_SHARDS}),
        ("stages/report", REPORT),
        ("stages/train", OF_MODEL),
        ("simulation/dirt", EVERYTHING),
        ("ingestion/values", {"ingest": 1, **AFTER_INGEST}),
        ("metrics/utility", {"evaluate_utility": 4, **REPORT}),
        ("metrics/likelihood", {"evaluate_likelihood": 1, **REPORT}),
        ("model/objective", {**OF_MODEL, "generate": 4, **OF_SYNTHETIC}),
        ("reporting/page", REPORT),
        ("cli", {}),
        ("status", {}),
        ("settings", {}),
    ],
)
def test_an_edit_of_code_makes_the_stages_behind_it_stale(
    finished: Checkout, module: str, stale: dict[str, int]
) -> None:
    path = finished.folder / "promptehr" / f"{module}.py"
    path.write_text(path.read_text("utf-8") + "\nADDED = 1\n", "utf-8")
    found, reasons = finished.stale_because()
    assert found == stale
    named = {reason.partition(" ")[0] for reason in reasons}
    assert named == ({f"promptehr.{module.replace('/', '.')}"} if stale else set())


def test_a_changed_contract_reaches_who_reads_or_writes_the_artifact(finished: Checkout) -> None:
    finished.edit("promptehr/schemas.py", '"one patient as token ids"', '"a patient"')
    found, reasons = finished.stale_because()
    assert found == {**OF_SHARDS, **AFTER_SHARDS}
    assert {reason.partition(" ")[0] for reason in reasons} == {"promptehr.schemas"}


def test_a_touched_file_is_compared_by_content(finished: Checkout) -> None:
    simulated(finished, "PATIENTS").touch()
    (finished.folder / "results" / "tiny" / "records" / "train.parquet").touch()
    assert finished.stale() == {}


def test_a_touched_table_of_megabytes_is_compared_by_content(checkout: Checkout, once: Checkout) -> None:
    source = checkout.folder / "source"
    source.mkdir()
    for name in ("PATIENTS", "ADMISSIONS", "DIAGNOSES_ICD"):
        table = simulated(once, name).read_text("utf-8").splitlines()
        wider = [table[0] + ",NOTE", *(line + "," + 20_000 * "x" for line in table[1:])]
        (source / f"{name}.csv").write_text("\n".join(wider) + "\n", "utf-8")
        assert (source / f"{name}.csv").stat().st_size > 2e6
    real = checkout.with_settings("source: {kind: mimic3, path: source}")
    local = ("--profile", "profiles/local", "--until", "ingest")
    done = real.snakemake(*local)
    assert done.returncode == 0, done.stdout
    for table_file in source.iterdir():
        table_file.touch()
    assert real.stale(*local) == {}


def test_one_more_row_of_a_table_is_seen(finished: Checkout) -> None:
    repeat_last_row(simulated(finished, "DIAGNOSES_ICD"))
    assert finished.stale() == {"ingest": 1, **AFTER_INGEST}


def test_a_deleted_intermediate_is_made_again_only_when_asked_for(finished: Checkout) -> None:
    file = "results/tiny/records/train.parquet"
    (finished.folder / file).unlink()
    assert finished.stale() == {}
    assert finished.stale(file) == {"records": 1}


def test_moving_the_checkout_reruns_nothing(finished: Checkout, elsewhere: Callable[[str], Path]) -> None:
    assert finished.copy_to(elsewhere("moved")).stale() == {}


def test_a_refactoring_that_changes_no_record_stops_there_in_two_steps(finished: Checkout) -> None:
    finished.edit("promptehr/ingestion/values.py", "\nfrom promptehr", "\nADDED = 1\nfrom promptehr")
    assert finished.stale() == {"ingest": 1, **AFTER_INGEST}
    until_records(finished)
    assert finished.stale() == REPORT


@pytest.mark.parametrize("edit", ["a repeated diagnosis", "another time of discharge"])
def test_a_row_that_changes_no_record_stops_there_in_two_steps(finished: Checkout, edit: str) -> None:
    if edit == "a repeated diagnosis":
        repeat_last_row(simulated(finished, "DIAGNOSES_ICD"))
    else:
        discharge_a_year_later(simulated(finished, "ADMISSIONS"))
    assert finished.stale() == {"ingest": 1, **AFTER_INGEST}
    until_records(finished)
    assert finished.stale() == REPORT


def test_parts_of_generation_are_merged_to_the_same_bytes(finished: Checkout) -> None:
    file = "results/tiny/generate/base/synthetic.parquet"
    two_blocks = finished.with_settings("generate: {patients: 300}")
    make(two_blocks, file)
    expected = (finished.folder / file).read_bytes()
    divided = two_blocks.with_settings("generate: {parts: 2}")
    assert divided.stale(file) == {"generate_part": 2, "generate": 1}
    make(divided, file)
    assert (finished.folder / file).read_bytes() == expected
    assert divided.stale(file) == {}


def test_the_number_of_shards_changes_neither_model_nor_patients(finished: Checkout) -> None:
    results = finished.folder / "results" / "tiny"
    names = (
        "train/base/model/model.safetensors",
        "train/base/history.jsonl",
        "generate/base/synthetic.parquet",
    )
    expected = [(results / name).read_bytes() for name in names]
    more = finished.with_settings("shards: {count: 3}")
    assert more.stale() == {"shards_part": 3, "shards": 1, **AFTER_SHARDS}
    make(more, f"results/tiny/{names[-1]}")
    assert [(results / name).read_bytes() for name in names] == expected


def make(checkout: Checkout, file: str) -> None:
    done = checkout.snakemake("--cores", "2", "--max-checksum-file-size", "1GB", file)
    assert done.returncode == 0, done.stdout


def until_records(checkout: Checkout) -> None:
    """The first of the two steps."""
    done = checkout.snakemake("--profile", "profiles/local", "--cores", "1", "--until", "records")
    assert done.returncode == 0, done.stdout


def simulated(checkout: Checkout, name: str) -> Path:
    return checkout.folder / "results" / "tiny" / "simulate" / f"{name}.csv"


def repeat_last_row(table: Path) -> None:
    """A row that ingest counts and leaves out."""
    text = table.read_text("utf-8")
    table.write_text(text + text.splitlines()[-1] + "\n", "utf-8")


def discharge_a_year_later(table: Path) -> None:
    """A changed row of which no record tells: the first admission's end."""
    header, first, rest = table.read_text("utf-8").split("\n", 2)
    admission = first.split(",")
    place = header.replace('"', "").split(",").index("DISCHTIME")
    year = int(admission[place][1:5])
    admission[place] = admission[place].replace(str(year), str(year + 1), 1)
    table.write_text("\n".join([header, ",".join(admission), rest]), "utf-8")


def test_results_without_snakemakes_records_are_named_when_their_key_differs(finished: Checkout) -> None:
    shutil.rmtree(finished.folder / ".snakemake")
    output = finished.dry_run()
    assert "copied here" not in output
    assert jobs(output) == {}
    changed = finished.with_settings("records: {min_age: 18.0}")
    path = "results/tiny/records/ledger.json"
    assert (
        f"{path}: copied here, and written with another records.min_age;"
        " to rerun it, add to this command: --forcerun records\n" in changed.dry_run()
    )
    assert changed.stale("--forcerun", "records") == {"records": 1, **AFTER_RECORDS}


@pytest.mark.parametrize("order", [1, -1])
def test_results_copied_without_their_times_rerun_nothing(finished: Checkout, order: int) -> None:
    shutil.rmtree(finished.folder / ".snakemake")
    names = sorted(path for path in (finished.folder / "results").rglob("*") if path.is_file())
    for place, path in enumerate(names):  # either "evaluate" before "records", or shards before their index
        os.utime(path, (1e9 + order * place, 1e9 + order * place))
    assert finished.stale() == {}
    assert finished.with_settings("records: {min_age: 18.0}").stale() == {}
    simulated(finished, "PATIENTS").touch()
    assert finished.stale() == {}
    repeat_last_row(simulated(finished, "DIAGNOSES_ICD"))
    assert finished.stale() == {"ingest": 1, **AFTER_INGEST}


# --- promptehr status --------------------------------------------------------------------------


def told(checkout: Checkout) -> dict[str, int]:
    """Stage to number of artifacts that `promptehr status` does not call fresh."""
    done = checkout.promptehr("status")
    assert done.returncode == 0, done.stdout
    _, *lines, _ = done.stdout.splitlines()
    seals = [Path(line.split()[0]) for line in lines if line.split()[1] != "fresh"]
    return dict(Counter(f"evaluate_{s.stem}" if s.parts[2] == "evaluate" else s.parts[2] for s in seals))


def without_parts(stale: dict[str, int]) -> dict[str, int]:
    """Jobs by rule, as `promptehr status` sees them: parts are on the way to an artifact."""
    return {name: count for name, count in stale.items() if not BY_NAME[name].part_of}


def test_a_dry_run_says_what_changed_also_where_something_earlier_runs(finished: Checkout) -> None:
    assert "changed: " not in finished.dry_run()
    changed = finished.with_settings(
        "records: {min_age: 18.0}\nevaluate_privacy: {min_codes: 4}\n"
        "experiments: {base: {generate: {seed: 3}}}"
    )
    changed.edit("promptehr/metrics/utility.py", "\nimport", "\nADDED = 1\nimport")
    everybody = "base, unigram, bigram, memoriser"
    assert [line for line in changed.dry_run().splitlines() if line.startswith("changed: ")] == [
        "changed: records: records.min_age: 0.0 -> 18.0",
        "changed: generate of base: generate.seed: 1 -> 3",
        f"changed: evaluate_utility of {everybody}: promptehr.metrics.utility changed",
        f"changed: evaluate_privacy of {everybody}: evaluate_privacy.min_codes: 5 -> 4",
    ]


def test_status_agrees_with_a_dry_run(finished: Checkout) -> None:
    assert told(finished) == {}
    for settings in (
        "records: {min_age: 18.0}",
        "train: {stop_after_epochs: 1}",
        "evaluate_privacy: {min_codes: 10, min_members: 5}",
        "runtime: {threads: 2}",
        "experiments: {seed-2: {train: {seed: 2}, generate: {seed: 2}}}",
    ):
        changed = finished.with_settings(settings)
        assert told(changed) == without_parts(changed.stale()), settings


def test_status_agrees_with_a_dry_run_after_edits_of_files(finished: Checkout) -> None:
    simulated(finished, "PATIENTS").touch()
    assert told(finished) == {}
    finished.edit("promptehr/metrics/privacy.py", "\nimport", "\nADDED = 1\nimport")
    assert told(finished) == finished.stale() == {"evaluate_privacy": 4, **REPORT}
    table = finished.folder / "results" / "tiny" / "shards" / "train" / "00000.parquet"
    content = table.read_bytes()
    table.write_bytes(table.with_name("00001.parquet").read_bytes())
    stale = {**OF_SHARDS, **AFTER_SHARDS}
    assert finished.stale() == stale
    assert told(finished) == without_parts(stale)
    table.write_bytes(content)
    finished.edit("promptehr/stages/shards_part.py", "\nfrom promptehr", "\nADDED = 1\nfrom promptehr")
    assert finished.stale() == stale
    assert told(finished) == without_parts(stale)
    repeat_last_row(simulated(finished, "DIAGNOSES_ICD"))
    assert told(finished) == without_parts(finished.stale()) == without_parts({"ingest": 1, **AFTER_INGEST})
