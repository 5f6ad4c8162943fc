"""Reading and publishing artifacts: whole or not at all, checked against their contract.

A file is written under a temporary name in its own folder, flushed to disk and renamed. A
stage's last file seals the others: it holds their sha256, the stage's key and the hashes of its
inputs, and `open_sealed` refuses a set that does not match. Knows no stage's logic.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from promptehr import provenance, schemas
from promptehr.errors import ArtifactError
from promptehr.settings import Settings, assignments

ROWS_OF_A_GROUP = 1 << 20  # of a Parquet file
PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
NO_TABLES: Mapping[Path, tuple[pa.Table, schemas.Table]] = MappingProxyType({})


# --- files -------------------------------------------------------------------------------------


@contextmanager
def published(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends without an error.

    The folder is made if it is missing (0700); the file is 0600. A kill leaves at most a
    dot-file that nobody reads.
    """
    if path.exists() and not path.is_file():
        # A rename would put a plain file in the place of a device such as /dev/null.
        raise ArtifactError(f"{path}: is no file that could be replaced; name another")
    temporary = _temporary(path)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(PRIVATE_FILE)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """An empty file beside `path`, after every missing folder above it is made private."""
    try:
        for folder in reversed(path.parents):
            if not folder.exists():
                folder.mkdir(exist_ok=True, mode=PRIVATE_FOLDER)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    os.close(handle)
    return Path(name)


def _unwritable(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"{path}: cannot be written ({error.strerror}); free or change the folder")


def write_bytes(path: Path, content: bytes) -> None:
    """Publish bytes."""
    with published(path) as temporary:
        temporary.write_bytes(content)


def files_of(folder: Path) -> list[Path]:
    """The files that a folder holds, sorted; not what a killed job left half written."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes; of a folder, of its files' names and digests.

    Raises:
        ArtifactError: if the file is missing or unreadable.
    """
    if path.is_dir():
        names = "".join(f"{file.name} {sha256(file)}\n" for file in files_of(path))
        return hashlib.sha256(names.encode()).hexdigest()
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}; rerun the stage that writes it") from error


# --- Parquet -----------------------------------------------------------------------------------


def write_table(path: Path, table: pa.Table, schema: schemas.Table) -> None:
    """Publish a table that has exactly the schema's columns; rows must already be sorted.

    A column of texts may come as a dictionary, also in lists: it is stored without being spelt out.
    """
    stored = pa.schema(
        [pa.field(c.name, _stored_type(table[c.name].type, c.type), c.nullable) for c in schema.columns]
    )
    leaves = dict(_leaves(schema.arrow))
    ids = [name for name, kind in leaves.items() if kind == pa.int64() or pa.types.is_timestamp(kind)]
    with (
        published(path) as temporary,
        pq.ParquetWriter(
            temporary,
            stored,
            compression="zstd",
            write_page_checksum=True,
            # Ids and times rarely repeat, and the least and largest text of a column help nobody.
            use_dictionary=[name for name in leaves if name not in ids],
            column_encoding=dict.fromkeys(ids, "DELTA_BINARY_PACKED"),
            write_statistics=[name for name, kind in leaves.items() if kind != pa.string()],
            # It would say of a column that it was a dictionary in memory.
            store_schema=False,
        ) as writer,
    ):
        writer.add_key_value_metadata(_metadata(schema))
        for start in range(0, max(1, table.num_rows), ROWS_OF_A_GROUP):
            writer.write_table(_in_one_piece(table.slice(start, ROWS_OF_A_GROUP), stored))


def _in_one_piece(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A row group's columns as they are stored, each in one piece: pages do not depend on its history."""
    columns = (table[field.name].cast(field.type).combine_chunks() for field in schema)
    return pa.table(list(columns), schema)


def _stored_type(found: pa.DataType, kind: pa.DataType) -> pa.DataType:
    """The type of the contract, with a dictionary for texts where one was found."""
    if pa.types.is_list(kind):
        return pa.list_(_stored_type(found.value_type, kind.value_type))
    return pa.dictionary(pa.int32(), kind) if pa.types.is_dictionary(found) else kind


def _leaves(schema: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    """Parquet's name and the type of what each column holds, inside its lists."""
    for field in schema:
        name, kind = field.name, field.type
        while pa.types.is_list(kind):
            name, kind = f"{name}.list.element", kind.value_type
        yield name, kind


def read_table(
    path: Path,
    schema: schemas.Table,
    columns: Sequence[str] | None = None,
    *,
    dictionaries: Sequence[str] = (),
    keep: Callable[[pa.Table], pa.Table] = lambda rows: rows,
) -> pa.Table:
    """A table, or some of its columns, after its schema name, version and types were compared.

    Args:
        path: The file.
        schema: Its contract.
        columns: Those to read; all where None.
        dictionaries: Parquet paths of text columns to read as dictionaries: each text once.
        keep: What to keep of each row group's rows; only one group is in memory whole.

    Raises:
        ArtifactError: if the file is missing, damaged or of another schema.
    """
    _require(path)
    try:
        # Dictionaries are asked for by name: the file must be known to have the columns.
        _check_schema(path, pq.read_schema(path), schema)
        with pq.ParquetFile(
            path, page_checksum_verification=True, read_dictionary=list(dictionaries)
        ) as file:
            names = list(columns) if columns is not None else None
            # Arrow cannot read a nested dictionary over a row group's end (ArrowNotImplementedError).
            groups = range(file.num_row_groups)
            parts = [keep(file.read_row_group(n, columns=names)) for n in groups]
            parts = parts or [file.read(columns=names)]
            return pa.concat_tables(parts).replace_schema_metadata()
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(
            f"{path}: damaged Parquet file; delete it and give the same command again"
        ) from error


def _metadata(schema: schemas.Table) -> dict[str, str]:
    return {
        "promptehr.schema": schema.name,
        "promptehr.version": str(schema.version),
        "promptehr.row": schema.meaning,
        "promptehr.columns": json.dumps({c.name: c.meaning for c in schema.columns}),
        "promptehr.sorted_by": ",".join(schema.sorted_by),
        "promptehr.unique": ",".join(schema.unique),
    }


def _check_schema(path: Path, found: pa.Schema, expected: schemas.Table) -> None:
    metadata = found.metadata or {}
    name = metadata.get(b"promptehr.schema", b"none").decode(errors="replace")
    version = metadata.get(b"promptehr.version", b"none").decode(errors="replace")
    if (name, version) != (expected.name, str(expected.version)):
        raise ArtifactError(
            f"{path}: holds schema {name} version {version}, expected {expected.name}"
            f" version {expected.version}; rerun the stage that writes it"
        )
    if not found.remove_metadata().equals(expected.arrow):
        raise ArtifactError(f"{path}: its columns are not those of {expected.name}; rerun its stage")


# --- JSON --------------------------------------------------------------------------------------


def write_json(path: Path, content: Mapping[str, Any], document: schemas.Document) -> None:
    """Publish a document: sorted keys, no NaN, one trailing newline."""
    write_bytes(path, json_bytes({"format": document.name, "format_version": document.version, **content}))


def read_json(path: Path, document: schemas.Document) -> dict[str, Any]:
    """A document whose format and version were compared.

    Raises:
        ArtifactError: if it is missing, not JSON, or of another format.
    """
    _require(path)
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{path}: not valid JSON; delete it and give the same command again") from error
    found = (content.get("format"), content.get("format_version")) if isinstance(content, dict) else None
    if found != (document.name, document.version):
        raise ArtifactError(
            f"{path}: expected format {document.name} version {document.version};"
            " rerun the stage that writes it"
        )
    return content  # type: ignore[no-any-return]  # JSON is untyped by nature


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Canonical bytes of a JSON object; NaN and infinity are a bug of the caller."""
    return (
        json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    ).encode()


# --- seals -------------------------------------------------------------------------------------


def write_sealed(
    path: Path,
    content: Mapping[str, Any],
    document: schemas.Document,
    *,
    stage: str,
    settings: Settings,
    inputs: Mapping[str, Path],
    files: Sequence[Path] = (),
    tables: Mapping[Path, tuple[pa.Table, schemas.Table]] = NO_TABLES,
) -> None:
    """Publish a stage's tables, then its last document, which seals them and the files published before it.

    Args:
        path: Where the document goes.
        content: Its own keys.
        document: Its contract.
        stage: The stage, whose key (settings and code) is recorded.
        settings: The settings it ran under.
        inputs: What it read, by option name; recorded as sha256, without the path.
        files: What it wrote, in the document's folder or below it.
        tables: What it writes there now, each with its schema, on several threads.
    """

    def written(file: Path) -> str:
        write_table(file, *tables[file])
        return sha256(file)

    # The longest write first: what else there is to do is done beside it.
    largest_first = sorted(tables, key=lambda file: tables[file][0].nbytes, reverse=True)
    with ThreadPoolExecutor(pa.cpu_count()) as pool:
        of_files = {file: pool.submit(written, file) for file in largest_first}
        of_inputs = {name: pool.submit(sha256, file) for name, file in inputs.items()}
        of_files |= {file: pool.submit(sha256, file) for file in files}
    seal = {
        "stage": stage,
        "key": {"settings": assignments(stage, settings), "code": provenance.code(stage)},
        "inputs": {name: digest.result() for name, digest in of_inputs.items()},
        "files": {relative(file, path.parent): digest.result() for file, digest in of_files.items()},
    }
    write_json(path, {**content, **seal}, document)


def open_sealed(path: Path, document: schemas.Document, stage: str, *files: Path) -> dict[str, Any]:
    """A sealing document, after the given files were compared with the hashes it holds.

    Raises:
        ArtifactError: if the document or a file is missing or damaged, or they are not of one run.
    """
    content = read_json(path, document)
    if content.get("stage") != stage:
        raise ArtifactError(f"{path}: written by stage {content.get('stage')}, expected {stage}")
    for file in files:
        if content.get("files", {}).get(relative(file, path.parent)) != sha256(file):
            raise ArtifactError(
                f"{file}: does not match {path}; rerun {stage}, they are not of one run: give the same"
                f" command with --forcerun {stage}"
            )
    return content


def open_part(
    path: Path, stage: str, inputs: Mapping[str, str], settings: Settings, *files: Path
) -> dict[str, Any]:
    """The summary of a part, as `open_sealed`, if it was made from inputs of these hashes and settings.

    Raises:
        ArtifactError: if not.
    """
    content = open_sealed(path, schemas.SUMMARY, stage, *files)
    if (content["inputs"], content["key"]["settings"]) != (inputs, assignments(stage, settings)):
        raise ArtifactError(
            f"{path}: made from other settings or inputs; give the same command with --forcerun {stage}"
        )
    return content


def relative(file: Path, folder: Path) -> str:
    """A file's name as a seal in the folder records it, however the two are spelt."""
    return Path(os.path.relpath(file, folder)).as_posix()


# --- ledgers -----------------------------------------------------------------------------------


def account(
    *, rows_in: int, rows_kept: int, rejected: Mapping[str, int], noted: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """One table's entry of a ledger; reasons that never occurred are left out.

    Args:
        rows_in: Rows counted independently of the code that keeps or rejects them.
        rows_kept: Rows that went on.
        rejected: Rows by reason; each row under one reason.
        noted: Rows that were kept although something was remarkable, by fact.
    """
    assert rows_in == rows_kept + sum(rejected.values()), (rows_in, rows_kept, dict(rejected))
    return {
        "rows_in": rows_in,
        "rows_kept": rows_kept,
        "rejected": {reason: rows for reason, rows in rejected.items() if rows},
        "noted": {fact: rows for fact, rows in (noted or {}).items() if rows},
    }


def read_split(index: Path, split: str) -> pa.Table:
    """All shards of one split as one table sorted by subject_id, each compared with its hash."""
    content = read_json(index, schemas.INDEX)
    tables = []
    for shard in content["splits"][split]:
        path = index.parent / shard["path"]
        if sha256(path) != shard["sha256"]:
            raise ArtifactError(f"{path}: does not match {index}; rerun shards, they are not of one run")
        tables.append(read_table(path, schemas.SHARD))
    return pa.concat_tables(tables).sort_by("subject_id").combine_chunks()


def _require(path: Path) -> None:
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; run the stage that writes it")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
