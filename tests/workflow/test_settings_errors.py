"""What can be known before a job ends with one line and status 2 while the Snakefile is read."""

from pathlib import Path

import pytest

from tests.workflow.checkout import Checkout


def refusal(checkout: Checkout, settings: str) -> str:
    """The one line of a run that these settings stop; nothing is written."""
    done = checkout.with_settings(settings).snakemake("--cores", "1")
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("promptehr: ")]
    assert len(lines) == 1, done.stdout
    assert not (checkout.folder / "results" / "simulate").exists()
    return lines[0].removeprefix("promptehr: ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("trian: {}\n", "trian: unknown setting; did you mean train?"),
        ("train: {epochs: many}\n", "train.epochs: Input should be a valid integer, got 'many'"),
        ("train: {dropout: 1.5}\n", "train.dropout: Input should be less than 1, got 1.5"),
        ("records:\n", "records: empty; give it a value or delete the line to get the default"),
        (
            "train: {learning_rate: 1e-4}\n",
            "train.learning_rate: Input should be a valid number, got '1e-4' as text (write 1.0e-4,",
        ),
        (
            "experiments: {base: {train: {epohcs: 2}}}\n",
            "experiments.base.train.epohcs: unknown setting; did you mean epochs?",
        ),
        ("experiments: {base: {generate: {histories: absent}}}\n", "generate.histories: absent is no file;"),
    ],
)
def test_a_wrong_setting(checkout: Checkout, settings: str, message: str) -> None:
    assert refusal(checkout, settings).startswith(message)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "is not a folder; name the one that holds the source's CSVs"),
        ([], "has no PATIENTS.csv or PATIENTS.csv.gz; copy the table there"),
        (["PATIENTS.csv", "admissions.csv.gz"], "has no DIAGNOSES_ICD.csv or DIAGNOSES_ICD.csv.gz;"),
        (["PATIENTS.csv", "PATIENTS.csv.gz"], "has PATIENTS.csv, PATIENTS.csv.gz; keep one of them"),
        (["PATIENTS.csv", "patients.csv"], "has PATIENTS.csv, patients.csv; keep one of them"),
    ],
)
def test_a_wrong_source_folder(
    checkout: Checkout, tmp_path: Path, files: list[str] | None, message: str
) -> None:
    folder = tmp_path / "source"
    if files is not None:
        folder.mkdir()
        for name in files:
            (folder / name).touch()
    line = refusal(checkout, f"source: {{kind: mimic3, path: '{folder}'}}\n")
    assert line.startswith(f"source.path: {folder} {message}")
