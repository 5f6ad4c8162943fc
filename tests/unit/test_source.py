"""Finding the source's files."""

from pathlib import Path

import pytest

from promptehr.errors import InputError
from promptehr.source import existing, find, results_folder


def folder(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).touch()
    return path


@pytest.mark.parametrize(
    "names",
    [
        ("PATIENTS.csv", "ADMISSIONS.csv", "DIAGNOSES_ICD.csv"),
        ("patients.csv.gz", "Admissions.CSV", "DIAGNOSES_ICD.csv.gz"),
        ("patients.csv", "admissions.csv", "diagnoses_icd.csv", "D_ICD_DIAGNOSES.csv", "patients.csv.bak"),
    ],
)
def test_tables_are_found_in_any_letter_case(tmp_path: Path, names: tuple[str, ...]) -> None:
    found = find(folder(tmp_path, *names), "mimic3")
    assert found == dict(
        zip(("patients", "admissions", "diagnoses"), (tmp_path / name for name in names[:3]), strict=True)
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("PATIENTS.csv", "ADMISSIONS.csv"), "has no DIAGNOSES_ICD.csv or DIAGNOSES_ICD.csv.gz; copy"),
        (("PATIENTS.tsv",), "has no PATIENTS.csv or PATIENTS.csv.gz; copy the table there"),
        (("PATIENTS.csv", "PATIENTS.csv.gz"), "has PATIENTS.csv, PATIENTS.csv.gz; keep one of them"),
        (("PATIENTS.csv", "patients.csv"), "has PATIENTS.csv, patients.csv; keep one of them"),
    ],
)
def test_a_missing_or_double_table_is_one_line(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError) as caught:
        find(folder(tmp_path, *names), "mimic3")
    assert str(caught.value).startswith(f"source.path: {tmp_path} {message}")
    assert "\n" not in str(caught.value)


def hospital(path: Path, *names: str) -> Path:
    """A release folder whose tables are below it."""
    (path / "Hosp").mkdir()
    folder(path / "Hosp", *names)
    return path


def test_mimic4_may_be_given_with_its_hospital_folder(tmp_path: Path) -> None:
    names = ("patients.csv.gz", "admissions.csv.gz", "diagnoses_icd.csv.gz")
    expected = [tmp_path / "Hosp" / name for name in names]
    assert list(find(hospital(tmp_path, *names), "mimic4").values()) == expected
    assert list(find(tmp_path / "Hosp", "mimic4").values()) == expected
    with pytest.raises(InputError, match=r"has no tables but Hosp/, as .*; set source.kind: mimic4"):
        find(tmp_path, "mimic3")


def test_tables_beside_a_hospital_folder_are_taken_first(tmp_path: Path) -> None:
    folder(hospital(tmp_path, "patients.csv"), "patients.csv", "admissions.csv")
    with pytest.raises(InputError, match=f"{tmp_path} has no DIAGNOSES_ICD.csv or DIAGNOSES_ICD.csv.gz"):
        find(tmp_path, "mimic4")


def test_a_table_that_is_no_file_is_named(tmp_path: Path) -> None:
    folder(tmp_path, "PATIENTS.csv", "ADMISSIONS.csv")
    path = tmp_path / "DIAGNOSES_ICD.csv"
    for make in (path.mkdir, lambda: path.symlink_to("nowhere"), lambda: path.symlink_to(path.name)):
        make()
        with pytest.raises(InputError, match=f"source.path: {path} is a folder, a pipe or a broken link"):
            find(tmp_path, "mimic3")
        path.unlink() if path.is_symlink() else path.rmdir()


def test_a_path_that_the_system_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^source.path: .*: File name too long; correct it"):
        find(tmp_path / ("x" * 300), "mimic3")


def test_a_folder_whose_name_would_be_a_wildcard_is_refused(tmp_path: Path) -> None:
    for name, signs in (("{x}", r"\{ and \}"), ("a<b>c", "< and >")):
        (tmp_path / name).mkdir()
        with pytest.raises(InputError, match=rf"^source.path: .* has {signs} in its name, which Snakemake"):
            find(tmp_path / name, "mimic3")
    with pytest.raises(InputError, match=r"^train.init_from: a<b has < in its name"):
        existing("a<b", "train.init_from")


def test_a_results_folder_that_is_something_else_is_named(tmp_path: Path) -> None:
    assert results_folder(tmp_path / "new" / "results") == tmp_path / "new" / "results"
    folder(tmp_path, "file")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link", "file/results"):
        with pytest.raises(InputError, match=rf"results_dir: {tmp_path}/(file|link) is no folder"):
            results_folder(tmp_path / name)


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"source.path: .*/absent is not a folder; name the one"):
        find(tmp_path / "absent", "mimic3")


def test_a_file_named_by_a_setting_must_exist(tmp_path: Path) -> None:
    given = str(folder(tmp_path, "given.parquet") / "given.parquet")
    assert existing(given, "generate.demographics") == given
    with pytest.raises(InputError, match=r"generate.histories: absent is no file; correct the path"):
        existing("absent", "generate.histories")
