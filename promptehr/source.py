"""The source's files: finds them by name in a folder and says what is wrong in one line.

Knows names of files and folders, never what files hold.
"""

from pathlib import Path

from promptehr.errors import InputError

TABLES = {"patients": "PATIENTS", "admissions": "ADMISSIONS", "diagnoses": "DIAGNOSES_ICD"}
SUFFIXES = (".csv", ".csv.gz")
# MIMIC-IV's release keeps the tables of the whole hospital in a folder of this name.
HOSPITAL = "hosp"


def find(folder: Path, kind: str) -> dict[str, Path]:
    """The three tables of a MIMIC folder, `.csv` or `.csv.gz`, in any letter case.

    Args:
        folder: Holds them; of `mimic4` they may lie in its `hosp/`.
        kind: `source.kind`.

    Raises:
        InputError: if the folder or a table is missing, or a table is there more than once.
    """
    try:
        return _found(folder, kind)
    except OSError as error:
        raise InputError(f"source.path: {folder}: {error.strerror}; correct it or its permissions") from None


def _found(folder: Path, kind: str) -> dict[str, Path]:
    _refuse_wildcards(str(folder), "source.path")
    if not folder.is_dir():
        raise InputError(f"source.path: {folder} is not a folder; name the one that holds the source's CSVs")
    below = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name.lower() == HOSPITAL]
    if below and not any(_named(folder, table) for table in TABLES.values()):
        if kind != "mimic4":
            raise InputError(
                f"source.path: {folder} has no tables but {below[0].name}/, as MIMIC-IV does;"
                " set source.kind: mimic4"
            )
        folder = below[0]
    return {name: _only(folder, table) for name, table in TABLES.items()}


def existing(path: str, setting: str) -> str:
    """The path itself.

    Raises:
        InputError: if there is no such file, or Snakemake would take a part of its name for another.
    """
    _refuse_wildcards(path, setting)
    if not Path(path).is_file():
        raise InputError(f"{setting}: {path} is no file; correct the path or delete the line")
    return path


def _refuse_wildcards(path: str, setting: str) -> None:
    if found := sorted(set(path) & set("{}<>")):
        raise InputError(
            f"{setting}: {path} has {' and '.join(found)} in its name, which Snakemake takes for a wildcard;"
            " rename it or name a link to it"
        )


def results_folder(path: Path) -> Path:
    """The folder itself.

    Raises:
        InputError: if something else has its name, or that of a folder above it.
    """
    for place in (path, *path.parents):
        if place.is_dir():
            return path
        if place.exists() or place.is_symlink():
            raise InputError(f"results_dir: {place} is no folder; name a folder, or rename what is there")
    return path


def _named(folder: Path, table: str) -> list[Path]:
    wanted = {f"{table}{suffix}".lower() for suffix in SUFFIXES}
    return sorted(path for path in folder.iterdir() if path.name.lower() in wanted)


def _only(folder: Path, table: str) -> Path:
    found = _named(folder, table)
    if not found:
        raise InputError(f"source.path: {folder} has no {table}.csv or {table}.csv.gz; copy the table there")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"source.path: {folder} has {names}; keep one of them")
    if not found[0].is_file():
        raise InputError(
            f"source.path: {found[0]} is a folder, a pipe or a broken link, expected a file;"
            " copy the table there"
        )
    return found[0]
