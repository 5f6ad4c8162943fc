"""The source's files: finds them by name in a folder and says what is wrong in one line.

Knows names of files, never what they hold.
"""

from pathlib import Path

from promptehr.errors import InputError

TABLES = {"patients": "PATIENTS", "admissions": "ADMISSIONS", "diagnoses": "DIAGNOSES_ICD"}
SUFFIXES = (".csv", ".csv.gz")


def find(folder: Path) -> dict[str, Path]:
    """The three tables of a MIMIC-III folder, `.csv` or `.csv.gz`, in any letter case.

    Raises:
        InputError: if the folder or a table is missing, or a table is there more than once.
    """
    if not folder.is_dir():
        raise InputError(f"source.path: {folder} is not a folder; name the one that holds the source's CSVs")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return {name: _only(folder, files, table) for name, table in TABLES.items()}


def existing(path: str, setting: str) -> str:
    """The path itself.

    Raises:
        InputError: if there is no such file.
    """
    if not Path(path).is_file():
        raise InputError(f"{setting}: {path} is no file; correct the path or delete the line")
    return path


def _only(folder: Path, files: list[Path], table: str) -> Path:
    wanted = {f"{table}{suffix}".lower() for suffix in SUFFIXES}
    found = [path for path in files if path.name.lower() in wanted]
    if not found:
        raise InputError(f"source.path: {folder} has no {table}.csv or {table}.csv.gz; copy the table there")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"source.path: {folder} has {names}; keep one of them")
    return found[0]
