"""Any rows in any dialect: both readers agree, and every row has exactly one outcome."""

import csv
import gzip
import io
import tempfile
from pathlib import Path
from unittest import mock

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from promptehr.errors import PromptEHRError
from promptehr.ingestion import content, table
from tests.source_builders import (
    admission,
    all_records,
    diagnosis,
    folder,
    ledger,
    patient,
    run_ingest,
    run_records,
)

fields = st.text(st.sampled_from('a1,"\n é;\t'), max_size=6)


@st.composite
def dialects(draw: st.DrawFn) -> tuple[list[list[str]], bytes]:
    """Records of three fields, and the bytes of a file that says the same."""
    records = draw(st.lists(st.lists(fields, min_size=3, max_size=3), min_size=1, max_size=8))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    buffer = io.StringIO(newline="")
    writer = csv.writer(
        buffer, lineterminator=end, quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    )
    writer.writerow(["A", "b", "C"])
    writer.writerows(records)
    text = buffer.getvalue()
    if draw(st.booleans()):
        text = text.removesuffix(end)
    content = (b"\xef\xbb\xbf" if draw(st.booleans()) else b"") + text.encode()
    cut = draw(st.integers(0, len(content)))
    packed = gzip.compress(content[:cut]) + gzip.compress(content[cut:])
    return records, packed if draw(st.booleans()) else content


@given(dialects(), st.sampled_from([1, 2, 7, 30, content.PIECE]))
@settings(max_examples=300, deadline=None)
def test_every_dialect_gives_the_fields_that_were_written_whatever_the_size_of_a_piece(
    written: tuple[list[list[str]], bytes], size: int
) -> None:
    records, whole = written
    with tempfile.TemporaryDirectory() as name, mock.patch.object(content, "PIECE", size):
        path = Path(name) / "t.csv"
        path.write_bytes(whole)
        found = table.read("t", path, ("C", "A"))
    # A line end inside a field is read as a space: no field of any table has a meaning for it.
    expected = [[record[2], record[0]] for record in records]
    assert found.rows_in == len(records)
    assert found.rows["record"].to_list() == list(range(1, len(records) + 1))
    assert found.rows.select(pl.col("c", "a").cast(pl.String)).fill_null("").rows() == [
        tuple(field.replace("\r\n", "\n").replace("\n", " ") for field in record) for record in expected
    ]


@given(st.binary(max_size=60), st.booleans(), st.sampled_from([1, 5, content.PIECE]))
@settings(max_examples=300, deadline=None)
def test_any_bytes_end_in_rows_or_in_one_line(whole: bytes, headed: bool, size: int) -> None:
    with tempfile.TemporaryDirectory() as name, mock.patch.object(content, "PIECE", size):
        path = Path(name) / "t.csv"
        path.write_bytes((b"A,B\n" if headed else b"") + whole)
        message, counts = "", [1, 1]
        try:
            found = table.read("t", path, ("A", "B"))
            counts = [found.rows_in, found.rows.height]
        except PromptEHRError as error:
            message = str(error)
    assert len(message.splitlines()) <= 1
    assert counts[0] == counts[1] > 0


ids = st.sampled_from(["1", "2", "3", "", "x", "0", str(2**40)])
times = st.sampled_from(["2150-01-01 10:00:00", "2150-06-01", "", "soon", "2090-01-01 00:00:00"])
codes = st.sampled_from(["4019", "401.9", "v5861", "", "NULL", "E8859", "99", "0389", "585"])
positions = st.sampled_from(["1", "2", "", "x"])


@given(
    st.lists(st.builds(patient, ids, st.sampled_from(["M", "F", "", "X"])), min_size=1, max_size=6),
    st.lists(st.builds(admission, ids, ids, times, times), min_size=1, max_size=6),
    st.lists(st.builds(diagnosis, codes, ids, ids, positions), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
@settings(max_examples=25, deadline=None)
def test_every_row_has_one_outcome_and_order_does_not_matter(patients, admissions, diagnoses, random) -> None:  # type: ignore[no-untyped-def]
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        outcomes = []
        for turn in ("straight", "shuffled"):
            source = folder(here / turn / "s", patients=patients, admissions=admissions, diagnoses=diagnoses)
            try:
                ingested = run_ingest(source, here / turn, "ingest.max_zeroless_share=1.0")
            except PromptEHRError as error:
                outcomes.append(("refused", "contradicts" in str(error)))
            else:
                records = run_records(ingested, here / turn)
                counts = {n: (t["rows_kept"], t["rejected"]) for n, t in ledger(ingested).items()}
                for table_name, rows in (
                    ("patients", patients),
                    ("admissions", admissions),
                    ("diagnoses", diagnoses),
                ):
                    assert counts[table_name][0] + sum(counts[table_name][1].values()) == len(rows)
                outcomes.append((counts, all_records(records)))
            patients, admissions, diagnoses = (
                random.sample(x, len(x)) for x in (patients, admissions, diagnoses)
            )
        assert outcomes[0] == outcomes[1]
