"""Publication whole or not at all, checked reading, seals, ledgers."""

import math
import os
import stat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptehr import artifacts, schemas
from promptehr.errors import ArtifactError
from promptehr.settings import Settings
from tests.record_builders import frame, patient

ROWS = pa.table({"table": ["patients"], "record": pa.array([3], pa.int64()), "reason": ["dob missing"]})


def table_file(path: Path) -> Path:
    artifacts.write_table(path, ROWS, schemas.REJECTS)
    return path


def sealed(folder: Path) -> tuple[Path, Path]:
    """A ledger and the file it seals."""
    file, ledger = table_file(folder / "rejects.parquet"), folder / "ledger.json"
    artifacts.write_sealed(
        ledger,
        {"tables": {}},
        schemas.LEDGER,
        stage="ingest",
        settings=Settings(),
        inputs={"patients": file},
        files=[file],
    )
    return ledger, file


def test_a_table_comes_back_and_is_private(tmp_path: Path) -> None:
    path = table_file(tmp_path / "new" / "deep" / "rejects.parquet")
    assert artifacts.read_table(path, schemas.REJECTS).equals(ROWS.cast(schemas.REJECTS.arrow))
    assert artifacts.read_table(path, schemas.REJECTS, ["record"]).to_pylist() == [{"record": 3}]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in path.parents[:2]] == [0o700, 0o700]
    assert [p.name for p in path.parent.iterdir()] == ["rejects.parquet"]


def test_a_document_seals_the_tables_that_are_written_before_it(tmp_path: Path) -> None:
    _, file = sealed(tmp_path)
    ledger, table = tmp_path / "new/ledger.json", tmp_path / "new/rejects.parquet"
    keys = {"stage": "ingest", "settings": Settings(), "inputs": {"patients": file}}
    artifacts.write_sealed(
        ledger, {"tables": {}}, schemas.LEDGER, **keys, files=[file], tables={table: (ROWS, schemas.REJECTS)}
    )
    found = artifacts.open_sealed(ledger, schemas.LEDGER, "ingest", file, table)
    assert found["files"] == dict.fromkeys(["rejects.parquet", "../rejects.parquet"], artifacts.sha256(file))
    with pytest.raises(ArtifactError, match="is no file that could be replaced"):
        artifacts.write_sealed(
            tmp_path / "never.json", {}, schemas.LEDGER, **keys, tables={tmp_path: (ROWS, schemas.REJECTS)}
        )
    assert not (tmp_path / "never.json").exists()


def test_texts_read_as_dictionaries_are_the_same_over_several_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "ROWS_OF_A_GROUP", 2)
    path, code = tmp_path / "train.parquet", "visits.list.element.list.element"
    records = frame(patient(["4019"], ["585", "4019"]), patient(["25000"]), patient(["585"]))
    artifacts.write_table(path, records.to_arrow(), schemas.RECORDS)
    assert pq.read_metadata(path).num_row_groups == 2
    found = artifacts.read_table(path, schemas.RECORDS, dictionaries=[code])
    assert pa.types.is_dictionary(found["visits"].type.value_type.value_type)
    assert found.to_pylist() == records.to_dicts()
    last = artifacts.read_table(path, schemas.RECORDS, dictionaries=[code], keep=lambda rows: rows.slice(1))
    assert last.to_pylist() == records.to_dicts()[1:2]


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    artifacts.write_bytes(path, b"old")

    def die_half_way() -> None:
        with artifacts.published(path) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        die_half_way()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="cannot be written"):
        artifacts.write_bytes(tmp_path / "file" / "a.json", b"x")


def test_a_flipped_byte_is_refused_or_changes_no_row(tmp_path: Path) -> None:
    path = table_file(tmp_path / "rejects.parquet")
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            found = artifacts.read_table(path, schemas.REJECTS)
        except ArtifactError:
            continue
        # Statistics and the writer's name are not checked by page sums; what they say is not read.
        assert found.equals(ROWS.cast(schemas.REJECTS.arrow)), place


@pytest.mark.parametrize("content", [b"", b"PAR1", b"nonsense" * 20])
def test_what_is_no_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rejects.parquet"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged Parquet file"):
        artifacts.read_table(path, schemas.REJECTS)


def test_another_schema_or_version_is_refused(tmp_path: Path) -> None:
    path = table_file(tmp_path / "rejects.parquet")
    with pytest.raises(ArtifactError, match="holds schema rejects version 1, expected patients version 1"):
        artifacts.read_table(path, schemas.PATIENTS)
    pq.write_table(ROWS, path)
    with pytest.raises(ArtifactError, match="holds schema none"):
        artifacts.read_table(path, schemas.REJECTS)


def test_null_where_the_contract_has_none_is_not_written(tmp_path: Path) -> None:
    table = pa.table({"table": ["patients"], "record": pa.array([None], pa.int64()), "reason": ["x"]})
    with pytest.raises((ValueError, pa.ArrowInvalid)):
        artifacts.write_table(tmp_path / "rejects.parquet", table, schemas.REJECTS)
    assert list(tmp_path.iterdir()) == []


def test_json_comes_back_and_has_one_canonical_form(tmp_path: Path) -> None:
    for name, content in (("a", {"b": 1, "a": "é"}), ("b", {"a": "é", "b": 1})):
        artifacts.write_json(tmp_path / name, content, schemas.REPORT)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert artifacts.read_json(tmp_path / "a", schemas.REPORT)["a"] == "é"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_a_number_is_never_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifacts.write_json(tmp_path / "a.json", {"nll": value}, schemas.REPORT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"format": "ledger"}', b"\xff"])
def test_what_is_no_such_document_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"rerun|same command"):
        artifacts.read_json(tmp_path / "a.json", schemas.LEDGER)


def test_missing_files_are_one_line(tmp_path: Path) -> None:
    for read in (artifacts.read_json, artifacts.read_table):
        with pytest.raises(ArtifactError, match="no such file"):
            read(tmp_path / "a", schemas.LEDGER if read is artifacts.read_json else schemas.REJECTS)
    with pytest.raises(ArtifactError, match="No such file"):
        artifacts.sha256(tmp_path / "a")


def test_a_seal_holds_key_inputs_and_files_but_no_path(tmp_path: Path) -> None:
    ledger, file = sealed(tmp_path)
    content = artifacts.open_sealed(ledger, schemas.LEDGER, "ingest", file)
    assert content["inputs"] == {"patients": artifacts.sha256(file)}
    assert content["files"] == {"rejects.parquet": artifacts.sha256(file)}
    assert content["key"]["settings"][0] == 'ingest.max_rejected_share="auto"'
    assert str(tmp_path) not in ledger.read_text()


def test_a_file_of_another_run_breaks_the_seal(tmp_path: Path) -> None:
    ledger, file = sealed(tmp_path)
    artifacts.write_table(file, ROWS.slice(0, 0), schemas.REJECTS)
    with pytest.raises(ArtifactError, match="not of one run"):
        artifacts.open_sealed(ledger, schemas.LEDGER, "ingest", file)


def test_another_stages_seal_or_an_unsealed_file_is_refused(tmp_path: Path) -> None:
    ledger, file = sealed(tmp_path)
    with pytest.raises(ArtifactError, match="written by stage ingest, expected records"):
        artifacts.open_sealed(ledger, schemas.LEDGER, "records", file)
    with pytest.raises(ArtifactError, match="not of one run"):
        artifacts.open_sealed(ledger, schemas.LEDGER, "ingest", table_file(tmp_path / "other.parquet"))


def test_an_account_balances_and_leaves_out_what_never_occurred() -> None:
    assert artifacts.account(rows_in=3, rows_kept=2, rejected={"a": 1, "b": 0}, noted={"c": 0}) == {
        "rows_in": 3,
        "rows_kept": 2,
        "rejected": {"a": 1},
        "noted": {},
    }
    with pytest.raises(AssertionError):
        artifacts.account(rows_in=3, rows_kept=2, rejected={})


def test_what_is_no_plain_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(ArtifactError, match="is no file that could be replaced"):
            artifacts.write_bytes(tmp_path / name, b"")
    assert (tmp_path / "pipe").is_fifo()


def test_a_folders_digest_is_that_of_its_files(tmp_path: Path) -> None:
    digests = []
    for name, content in (("a", "1"), ("b", "1"), (".left", "half"), ("b", "2")):
        (tmp_path / name).write_text(content)
        digests.append(artifacts.sha256(tmp_path))
    assert len(set(digests)) == 3
    assert digests[1] == digests[2]
