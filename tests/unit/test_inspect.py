"""`promptehr inspect`: every kind of artifact says what it is, and shows no patient unasked."""

import json
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptehr import artifacts, schemas
from promptehr.errors import ArtifactError
from promptehr.inspect import describe
from promptehr.settings import Settings


def records(*visits: list[list[str]]) -> pa.Table:
    """A patient for each list of visits; the first one is 101."""
    number = len(visits)
    return pa.table(
        {
            "subject_id": list(range(101, 101 + number)),
            "gender": ["F"] * number,
            "ethnicity": ["ASIAN"] * number,
            "age": [61.5] * number,
            "age_capped": [False] * number,
            "visits": list(visits),
            "visit_days": [list(range(len(one))) for one in visits],
        },
        schema=schemas.RECORDS.arrow,
    )


def write_records(folder: Path, *visits: list[list[str]]) -> Path:
    artifacts.write_table(folder / "train.parquet", records(*visits), schemas.RECORDS)
    return folder / "train.parquet"


def write_ledger(folder: Path, tables: dict[str, Any], *files: Path) -> Path:
    path = folder / "ledger.json"
    artifacts.write_sealed(
        path,
        {"tables": tables},
        schemas.LEDGER,
        stage="vocabulary",
        settings=Settings(),
        inputs={},
        files=files,
    )
    return path


def block(text: str, number: int) -> str:
    """One of the parts that blank lines separate."""
    return text.split("\n\n")[number]


def test_records_are_counted_and_not_shown(tmp_path: Path) -> None:
    shown = describe(write_records(tmp_path, [["4019", "25000"], ["4019"]], [["0389"]]), rows=0)
    assert block(shown, 0) == (
        "train.parquet: records version 1, a row is one patient\n"
        "2 rows (row groups: 1), sorted by subject_id; unique: subject_id"
    )
    assert block(shown, 2) == "2 patients (F 2), 3 visits, 4 codes, 1.33 codes per visit; mean age 61.5"
    assert block(shown, 3) == "most frequent of 3 distinct:\ncode   rows\n4019   2\n0389   1\n25000  1"
    assert "101" not in shown


def test_every_column_has_its_meaning(tmp_path: Path) -> None:
    lines = block(describe(write_records(tmp_path, [["4019"]]), rows=0), 1).splitlines()
    assert lines[2].split(maxsplit=3) == ["gender", "string", "none", "M, F or UNKNOWN"]
    assert len(lines) == 1 + len(schemas.RECORDS.columns)


def test_rows_are_shown_when_asked_for(tmp_path: Path) -> None:
    shown = describe(write_records(tmp_path, [["4019"]], [["0389"]]), rows=1)
    assert "first 1 rows\n  subject_id: 101\n" in shown
    assert '  visits: [["4019"]]\n' in shown
    assert "102" not in shown


def test_empty_table_has_no_average(tmp_path: Path) -> None:
    assert block(describe(write_records(tmp_path), rows=5), 2) == "0 patients (none), 0 visits, 0 codes"


def test_rejects_are_counted_by_reason(tmp_path: Path) -> None:
    table = pa.table(
        {"table": ["patients"] * 3, "record": [1, 2, 3], "reason": ["no sex", "no sex", "no birth"]},
        schema=schemas.REJECTS.arrow,
    )
    artifacts.write_table(tmp_path / "rejects.parquet", table, schemas.REJECTS)
    shown = describe(tmp_path / "rejects.parquet", rows=0)
    assert block(shown, 2).splitlines()[1:] == ["patients  no birth  1", "patients  no sex    2"]


def test_ledger_is_a_flow_of_rows(tmp_path: Path) -> None:
    table = artifacts.account(rows_in=1000, rows_kept=990, rejected={"no code": 10}, noted={"age hidden": 7})
    assert block(describe(write_ledger(tmp_path, {"patients": table}), rows=0), 1).splitlines() == [
        "unit      rows in  kept  rows  left out because, or (kept) although",
        "patients    1,000   990",
        "                           10  no code",
        "                            7  (kept) age hidden",
    ]


def test_seal_names_settings_and_files(tmp_path: Path) -> None:
    other = write_records(tmp_path, [["4019"]])
    shown = block(describe(write_ledger(tmp_path, {}, other), rows=0), -1).splitlines()
    assert shown[0] == "settings: vocabulary.min_patients=1"
    assert shown[-1] == f"  train.parquet  {artifacts.sha256(other)[:16]}"


def test_vocabulary_shows_the_most_frequent_codes_with_titles(tmp_path: Path) -> None:
    codes = [
        {"code": "0389", "title": "Septicemia", "patients": 5, "occurrences": 6},
        {"code": "585", "title": None, "patients": 1200, "occurrences": 1300},
    ]
    content = {
        "special": {"PAD": 0},
        "codes": codes,
        "age": {"mean": 60.0, "spread": 20.0, "patients": 1300},
        "demographics": [],
    }
    artifacts.write_json(tmp_path / "vocabulary.json", content, schemas.VOCABULARY)
    shown = describe(tmp_path / "vocabulary.json", rows=0)
    assert block(shown, 1).startswith('2 codes (1 unlisted) and 1 special tokens: {"PAD": 0}')
    assert block(shown, 3).splitlines() == [
        "most frequent:",
        "code  patients   rows  title",
        "585      1,200  1,300  (unlisted)",
        "0389         5      6  Septicemia",
    ]


def test_index_lists_the_shards(tmp_path: Path) -> None:
    shard = {"path": "train/00000.parquet", "rows": 4000, "tokens": 61000, "longest": 90, "sha256": "0"}
    content = {"splits": {"train": [shard]}, "vocabulary_size": 240, "longest": 90}
    artifacts.write_json(tmp_path / "index.json", content, schemas.INDEX)
    shown = describe(tmp_path / "index.json", rows=0)
    assert block(shown, 2).splitlines()[1] == "train  train/00000.parquet  4,000  61,000       90"


def test_evaluation_is_a_list_of_named_values(tmp_path: Path) -> None:
    content = {"gate": {"passed": None, "reason": "fewer than 300 members"}, "copies": {"rate": 0.25}}
    artifacts.write_json(tmp_path / "privacy.json", content, schemas.EVALUATION)
    assert block(describe(tmp_path / "privacy.json", rows=0), 1).splitlines() == [
        "copies.rate  0.25",
        "gate.passed  null",
        "gate.reason  fewer than 300 members",
    ]


def test_entries_with_the_same_keys_are_a_table(tmp_path: Path) -> None:
    scored = {"nll": 5.0, "interval": [4.92345678, 5.1]}
    content = {"prompt": {"all": scored | {"tokens": 10}, "codes": scored}, "unknown_share": 0.25}
    artifacts.write_json(tmp_path / "likelihood.json", content, schemas.EVALUATION)
    shown = describe(tmp_path / "likelihood.json", rows=0)
    assert block(shown, 1) == "unknown_share  0.25"
    assert block(shown, 2).splitlines() == [
        "prompt  interval      nll  tokens",
        "all     [4.923, 5.1]  5    10",
        "codes   [4.923, 5.1]  5",
    ]


def test_history_is_a_table_of_epochs(tmp_path: Path) -> None:
    lines = [
        {
            "epoch": n,
            "step": 10 * n,
            "valid": {"prompt": {"codes": {"perplexity": 300.0 / n}}},
            "best": n == 2,
        }
        for n in (1, 2)
    ]
    path = tmp_path / "history.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    head, *rows = block(describe(path, rows=0), 1).splitlines()
    assert head.split()[:2] == ["epoch", "step"]
    assert [row.split() for row in rows] == [["1", "10", "300"], ["2", "20", "150", "*"]]


def test_long_values_are_counted(tmp_path: Path) -> None:
    content = {"parameters": {"codes": ["4019"] * 100}, "planted": {"patients": 20}}
    artifacts.write_json(tmp_path / "process.json", content, schemas.PROCESS)
    assert block(describe(tmp_path / "process.json", rows=0), 1).splitlines() == [
        "parameters.codes  (100 entries)",
        "planted.patients  20",
    ]


def test_csv_counts_records_and_hides_them(tmp_path: Path) -> None:
    path = tmp_path / "PATIENTS.csv"
    path.write_text('SUBJECT_ID,NOTE\n101,"two\nlines"\n102,x\n')
    head = "PATIENTS.csv: CSV, 2 records, 2 columns: SUBJECT_ID, NOTE"
    assert describe(path, rows=0) == head
    assert "101" in describe(path, rows=1)
    assert "102" not in describe(path, rows=1)


def test_model_folder_is_read_from_its_headers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"d_model": 8}')
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {}}
    ).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(24))
    shown = describe(tmp_path, rows=0)
    assert block(shown, 2).splitlines() == [
        "model.safetensors: 1 tensors, 6 values, F32; the largest:",
        "tensor  shape   values",
        "w       [2, 3]       6",
    ]
    assert block(shown, 3) == "d_model  8"


def test_folder_lists_what_lies_in_it(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "a.json").write_bytes(b"{}")
    (tmp_path / ".a.json.xyz").write_bytes(b"")
    assert block(describe(tmp_path, rows=0), 1).splitlines() == ["name    bytes", "a.json      2", "train/"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nothing.json", None, "no such file or folder"),
        ("notes.txt", b"x", ".txt suffix, expected one of .parquet"),
        ("broken.json", b"{", "not valid JSON"),
        ("other.json", b'{"format": "x"}', "JSON of format x, expected one of ledger"),
        ("list.json", b"[]", "JSON that is not an object"),
        ("broken.parquet", b"PAR1", "damaged Parquet file"),
        ("broken.jsonl", b"{", "not JSON lines"),
        ("broken.safetensors", b"x", "damaged safetensors file"),
        ("broken.csv", b"\xff\xfe", "not UTF-8 text"),
    ],
)
def test_what_is_no_artifact_is_named_in_one_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        describe(path, rows=0)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_foreign_parquet_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(ArtifactError, match="without a promptehr schema"):
        describe(tmp_path / "x.parquet", rows=0)
