"""The dialect and order of input rows and the number of threads change no byte of ingest and records."""

import csv
import gzip
import io
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptehr.errors import PromptEHRError
from promptehr.ingestion import content, diagnoses
from promptehr.settings import Dirt
from promptehr.simulation import dirt, process
from promptehr.stages import records, simulate
from tests.source_builders import (
    ADMISSIONS,
    DIAGNOSES,
    PATIENTS,
    SPLITS,
    TABLES,
    admission,
    diagnosis,
    ledger,
    patient,
    run_ingest,
    run_records,
)

Rows = Sequence[Sequence[str]]
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Dialect:
    """How the same rows may be written.

    Attributes:
        seed: Of the order of columns and rows.
        quoting: Which fields are quoted.
        end: Line end.
        mark: Byte order mark or nothing.
        lower: Whether the header is in small letters.
        packed: Whether the file is gzip, of two members.
    """

    seed: int
    quoting: int
    end: str
    mark: bytes
    lower: bool
    packed: bool

    def written(self, columns: Sequence[str], rows: Rows) -> bytes:
        order = random.Random(self.seed)
        places = order.sample(range(len(columns)), len(columns))
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, quoting=self.quoting, lineterminator=self.end)
        writer.writerow([columns[place].lower() if self.lower else columns[place] for place in places])
        writer.writerows([row[place] for place in places] for row in order.sample(rows, len(rows)))
        content = self.mark + buffer.getvalue().encode()
        if not self.packed:
            return content
        return gzip.compress(content[:7], mtime=0) + gzip.compress(content[7:], mtime=0)


dialects = st.builds(
    Dialect,
    seed=st.integers(0, 1000),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    lower=st.booleans(),
    packed=st.booleans(),
)
ids = st.sampled_from(["1", "2", "3", "3.0", "", "x"])
genders = st.sampled_from(["M", "F", "f", ""])
births = st.sampled_from(["2100-01-01 00:00:00", "1850-01-01", "soon"])
times = st.sampled_from(["2150-01-01 10:00:00", "2150-06-01", "", "2090-01-01 00:00:00"])
texts = st.sampled_from(["WHITE", 'a, "b"', "asian", ""])
codes = st.sampled_from(["4019", "401.9", "v5861", "", "E8859", "0389", "585", "é"])
positions = st.sampled_from(["1", "2", "2.0", "", "x"])


def outcome(folder: Path, tables: dict[str, bytes]) -> list[bytes] | str:
    """Bytes of ingest's tables, its counts, and the bytes of all that records writes; or the refusal."""
    (folder / "source").mkdir(parents=True)
    for name, written in tables.items():
        (folder / "source" / f"{name}.csv").write_bytes(written)
    try:
        made = run_ingest(folder / "source", folder, "ingest.max_zeroless_share=1.0")
    except PromptEHRError as error:
        return "contradicts" if "contradicts" in str(error) else str(error)
    split = run_records(made, folder)
    files = [
        *(made / f"{n}.parquet" for n in TABLES[:3]),
        *(split / f"{n}.parquet" for n in SPLITS),
        split / "ledger.json",
    ]
    return [repr(ledger(made)).encode(), *(file.read_bytes() for file in files)]


@given(
    st.lists(st.builds(patient, ids, genders, births), min_size=1, max_size=5),
    st.lists(st.builds(admission, ids, ids, times, times, texts), min_size=1, max_size=8),
    st.lists(st.builds(diagnosis, codes, ids, ids, positions), min_size=1, max_size=15),
    dialects,
    dialects,
)
@settings(max_examples=20, deadline=None)
def test_dialect_and_order_change_no_byte(
    patients: Rows, admissions: Rows, diagnoses: Rows, one: Dialect, other: Dialect
) -> None:
    found = []
    with tempfile.TemporaryDirectory() as name:
        for turn, dialect in enumerate((one, other)):
            tables = {
                "PATIENTS": dialect.written(PATIENTS, patients),
                "ADMISSIONS": dialect.written(ADMISSIONS, admissions),
                "DIAGNOSES_ICD": dialect.written(DIAGNOSES, diagnoses),
            }
            found.append(outcome(Path(name) / str(turn), tables))
    assert found[0] == found[1]


def dirty_tables() -> dict[str, tuple[list[str], list[list[str]]]]:
    """Columns and rows of a simulated cohort with every defect."""
    drawn = simulate.draw(process.default(), 300, np.random.default_rng(1))
    planted, _ = dirt.plant(drawn, Dirt(**dict.fromkeys(Dirt.model_fields, 0.03)), seed=1)
    found = {}
    for name, table in zip(("PATIENTS", "ADMISSIONS", "DIAGNOSES_ICD"), vars(planted).values(), strict=True):
        head, *rows = csv.reader(io.StringIO(simulate.csv_bytes(table).decode(), newline=""))
        found[name] = (head, rows)
    return found


def test_dialect_and_order_change_no_byte_of_a_dirty_cohort(tmp_path: Path) -> None:
    tables = dirty_tables()
    plain = Dialect(1, csv.QUOTE_MINIMAL, "\n", b"", lower=False, packed=False)
    other = Dialect(2, csv.QUOTE_ALL, "\r\n", b"\xef\xbb\xbf", lower=True, packed=True)
    found = [
        outcome(tmp_path / str(turn), {name: dialect.written(*table) for name, table in tables.items()})
        for turn, dialect in enumerate((plain, other))
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 8


RUN = """
import sys
from pathlib import Path
from tests.source_builders import run_ingest, run_records
here = Path(sys.argv[1])
run_records(run_ingest(here / "source", here / sys.argv[2]), here / sys.argv[2])
"""


def test_the_size_of_pieces_and_parts_changes_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    plain = Dialect(1, csv.QUOTE_MINIMAL, "\n", b"", lower=False, packed=False)
    for name, table in dirty_tables().items():
        (tmp_path / "source" / f"{name}.csv").write_bytes(plain.written(*table))
    whole = bytes_made(tmp_path / "whole", tmp_path / "source")
    monkeypatch.setattr(content, "PIECE", 2000)
    monkeypatch.setattr(diagnoses, "ROWS_AT_ONCE", 50)
    monkeypatch.setattr(records, "VISITS_AT_ONCE", 7)
    assert bytes_made(tmp_path / "parts", tmp_path / "source") == whole


def bytes_made(folder: Path, source: Path) -> dict[Path, bytes]:
    """What ingest and records make of a source."""
    run_records(run_ingest(source, folder), folder)
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_number_of_threads_changes_no_byte(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    plain = Dialect(1, csv.QUOTE_MINIMAL, "\n", b"", lower=False, packed=False)
    for name, table in dirty_tables().items():
        (tmp_path / "source" / f"{name}.csv").write_bytes(plain.written(*table))
    found = []
    for threads in ("1", "4"):
        subprocess.run(
            [sys.executable, "-c", RUN, str(tmp_path), threads],
            env={**os.environ, "PYTHONPATH": str(ROOT), "POLARS_MAX_THREADS": threads},
            cwd=ROOT,
            check=True,
        )
        files = sorted(path for path in (tmp_path / threads).rglob("*") if path.is_file())
        found.append({path.relative_to(tmp_path / threads): path.read_bytes() for path in files})
    assert len(found[0]) == 9
    assert found[0] == found[1]
