"""Any artifact as text for the terminal: what it is, its counts, its flow of rows.

Opens Parquet, JSON, JSON lines, CSV and model folders with pyarrow and the standard library.
Rows of patients are shown only where they are asked for; everything else is counts.
"""

import csv
import json
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from promptehr import schemas
from promptehr.errors import ArtifactError

TOP = 15
WIDEST = 60
LONGEST = 200
SCHEMAS = {table.name: table for table in schemas.TABLES}
DOCUMENTS = {document.name: document for document in schemas.DOCUMENTS}
CURVES = {
    "epoch": "epoch",
    "step": "step",
    "learning rate": "learning_rate",
    "train NLL, prompt": "train.prompt.nll",
    "prompt": "valid.prompt.codes.perplexity",
    "accuracy": "valid.prompt.codes.accuracy",
    "history": "valid.history.codes.perplexity",
    "denoise": "valid.denoise.codes.perplexity",
    "best so far": "best",
}
SEAL = ("format", "format_version", "stage", "key", "inputs", "files")

Content = Mapping[str, Any]


def describe(path: Path, *, rows: int) -> str:
    """An artifact as text that ends without a newline.

    Args:
        path: A file or folder under the results folder.
        rows: Rows of a table to show; 0 shows counts only.

    Raises:
        ArtifactError: if there is nothing at the path, or nothing that the pipeline writes.
    """
    if path.is_dir():
        return _model(path) if (path / "config.json").is_file() else _folder(path)
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file or folder; `snakemake -n` names what a run would write")
    suffixes: dict[str, Callable[[Path, int], str]] = {
        ".parquet": _parquet,
        ".json": _json,
        ".jsonl": _history,
        ".csv": _csv,
        ".safetensors": lambda file, _: "\n".join(_weights(file)),
    }
    if path.suffix not in suffixes:
        known = ", ".join(suffixes)
        raise ArtifactError(f"{path}: {path.suffix or 'no'} suffix, expected one of {known}, or a folder")
    return suffixes[path.suffix](path, rows)


# --- Parquet -----------------------------------------------------------------------------------


def _parquet(path: Path, rows: int) -> str:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table, groups = file.read(), file.metadata.num_row_groups
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{path}: damaged Parquet file; delete it and rerun its stage") from error
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    name = metadata.get("promptehr.schema")
    if name is None:
        raise ArtifactError(
            f"{path}: Parquet without a promptehr schema, so not one of the pipeline's tables"
        )
    meanings = json.loads(metadata["promptehr.columns"])
    columns = [
        (field.name, str(field.type), _nulls(table, field), meanings.get(field.name, ""))
        for field in table.schema
    ]
    order, unique = (metadata[f"promptehr.{key}"].replace(",", ", ") for key in ("sorted_by", "unique"))
    head = (
        f"{path.name}: {name} version {metadata['promptehr.version']}, a row is {metadata['promptehr.row']}\n"
        f"{table.num_rows:,} rows (row groups: {groups}), sorted by {order}; unique: {unique}"
    )
    parts = [
        head,
        _aligned(("column", "type", "nulls", "meaning"), columns),
        *_counts(name, table),
        *([_first_rows(table, rows)] if rows else []),
    ]
    return "\n\n".join(parts)


def _nulls(table: pa.Table, field: pa.Field) -> str:
    return f"{table[field.name].null_count:,}" if field.nullable else "none"


def _counts(name: str, table: pa.Table) -> list[str]:
    """What can be said of a table without showing a row."""
    if name in ("records", "synthetic"):
        return [_cohort(table), _top(pc.list_flatten(pc.list_flatten(table["visits"])), "code")]
    if name == "rejects":
        pairs = Counter(zip(table["table"].to_pylist(), table["reason"].to_pylist(), strict=True))
        return [
            _aligned(("table", "reason", "rows"), [(*pair, f"{n:,}") for pair, n in sorted(pairs.items())])
        ]
    if name == "shard":
        lengths = pc.list_value_length(table["tokens"])
        return [f"{pc.sum(lengths).as_py() or 0:,} tokens, longest sequence {pc.max(lengths).as_py() or 0}"]
    return [_top(table["code"], "code")] if name == "diagnoses" else []


def _cohort(table: pa.Table) -> str:
    visits = pc.list_flatten(table["visits"])
    patients, codes = table.num_rows, pc.sum(pc.list_value_length(visits)).as_py() or 0
    age = pc.mean(table["age"]).as_py()
    sexes = ", ".join(
        f"{sex} {count:,}" for sex, count in sorted(Counter(table["gender"].to_pylist()).items())
    )
    per_visit = f", {codes / len(visits):.2f} codes per visit" if len(visits) else ""
    return (
        f"{patients:,} patients ({sexes or 'none'}), {len(visits):,} visits, {codes:,} codes{per_visit}"
        + (f"; mean age {age:.1f}" if age is not None else "")
    )


def _top(values: pa.ChunkedArray | pa.Array, title: str) -> str:
    counted = sorted(Counter(values.to_pylist()).items(), key=lambda pair: (-pair[1], pair[0]))
    lines = [(value, f"{count:,}") for value, count in counted[:TOP]]
    return f"most frequent of {len(counted):,} distinct:\n" + _aligned((title, "rows"), lines)


def _first_rows(table: pa.Table, rows: int) -> str:
    shown = table.slice(0, rows).to_pylist()
    lines = ["\n".join(f"  {name}: {_plain(value)}" for name, value in row.items()) for row in shown]
    return f"first {len(shown)} rows\n" + "\n\n".join(lines)


# --- JSON --------------------------------------------------------------------------------------


def _json(path: Path, rows: int) -> str:
    del rows  # A document holds counts; there is no row of a patient to show or to hide.
    content = _read(path)
    name = content.get("format")
    if name not in DOCUMENTS:
        raise ArtifactError(f"{path}: JSON of format {name}, expected one of {', '.join(DOCUMENTS)}")
    document = DOCUMENTS[name]
    by = f", written by {content['stage']}" if "stage" in content else ""
    head = f"{path.name}: {name} version {content['format_version']}{by}: {document.meaning}"
    shown = {"ledger": _ledger, "vocabulary": _vocabulary, "index": _index}.get(name, _tree)
    return "\n\n".join(part for part in (head, shown(content), _seal(content)) if part)


def _read(path: Path) -> Content:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{path}: not valid JSON; delete it and rerun its stage") from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{path}: JSON that is not an object; no stage writes that")
    return content


def _ledger(content: Content) -> str:
    lines = []
    for unit, table in content["tables"].items():
        lines.append((unit, f"{table['rows_in']:,}", f"{table['rows_kept']:,}", "", ""))
        lines += [("", "", "", f"{rows:,}", reason) for reason, rows in table["rejected"].items()]
        lines += [("", "", "", f"{rows:,}", f"(kept) {fact}") for fact, rows in table["noted"].items()]
    return _aligned(
        ("unit", "rows in", "kept", "rows", "left out because, or (kept) although"), lines, right=(1, 2, 3)
    )


def _vocabulary(content: Content) -> str:
    codes, age = content["codes"], content["age"]
    unlisted = sum(entry["title"] is None for entry in codes)
    frequent = sorted(codes, key=lambda entry: (-entry["patients"], entry["code"]))[:TOP]
    lines = [
        (entry["code"], f"{entry['patients']:,}", f"{entry['occurrences']:,}", entry["title"] or "(unlisted)")
        for entry in frequent
    ]
    return "\n\n".join(
        [
            f"{len(codes):,} codes ({unlisted:,} unlisted) and {len(content['special'])} special tokens:"
            f" {_plain(content['special'])}",
            f"{age['patients']:,} patients, age mean {age['mean']:.2f}, spread {age['spread']:.2f} years;"
            f" {len(content['demographics']):,} cells of sex, ethnicity and age",
            "most frequent:\n" + _aligned(("code", "patients", "rows", "title"), lines, right=(1, 2)),
        ]
    )


def _index(content: Content) -> str:
    lines = [
        (split, shard["path"], f"{shard['rows']:,}", f"{shard['tokens']:,}", str(shard["longest"]))
        for split, shards in content["splits"].items()
        for shard in shards
    ]
    head = f"{content['vocabulary_size']:,} token ids; longest sequence {content['longest']} tokens"
    return head + "\n\n" + _aligned(("split", "shard", "rows", "tokens", "longest"), lines, right=(2, 3, 4))


def _tree(content: Content) -> str:
    """Nested values: a table where entries have the same keys, else one line each."""
    own = {key: value for key, value in content.items() if key not in SEAL}
    loose, tables = [], []
    for name, value in _branches(own):
        if _is_grid(value):
            tables.append(_grid(name, value))
        else:
            loose.append((name, _plain(value)))
    lines = "\n".join(f"{name}  {value}" for name, value in _padded(loose))
    return "\n\n".join(part for part in (lines, *tables) if part)


def _branches(content: Content, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted names of what is a table or a single value."""
    for key, value in content.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, dict) and value and len(value) <= WIDEST and not _is_grid(value):
            yield from _branches(value, name)
        else:
            yield name, value


def _is_grid(value: Any) -> bool:
    """Whether a mapping holds at least two mappings of single values that share a key."""
    if not isinstance(value, dict) or len(value) < 2:
        return False
    rows = list(value.values())
    if not all(isinstance(row, dict) and row for row in rows):
        return False
    single = not any(isinstance(cell, dict) for row in rows for cell in row.values())
    return single and bool(set.intersection(*(set(row) for row in rows)))


def _grid(name: str, value: Content) -> str:
    columns = list(dict.fromkeys(column for row in value.values() for column in row))
    lines = [
        (entry, *(_plain(row[key]) if key in row else "" for key in columns)) for entry, row in value.items()
    ]
    return _aligned((name, *columns), lines)


def _lines(content: Content, prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in content.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, dict) and value and len(value) <= WIDEST:
            yield from _lines(value, name)
        else:
            yield name, _plain(value)


def _seal(content: Content) -> str:
    if "key" not in content:
        return ""
    settings = content["key"]["settings"]
    files = [f"  {name}  {digest[:16]}" for name, digest in content["files"].items()]
    return "\n".join(
        [
            f"settings: {' '.join(settings) or 'none'}",
            f"code: {len(content['key']['code'])} modules; read: {', '.join(content['inputs']) or 'nothing'}",
            *(["seals, by sha256:", *files] if files else []),
        ]
    )


# --- history, CSV, model, folder ---------------------------------------------------------------


def _history(path: Path, rows: int) -> str:
    del rows  # A line per epoch: no patient is in it.
    try:
        lines = [dict(_lines(json.loads(line))) for line in path.read_text().splitlines()]
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{path}: not JSON lines; rerun train") from error
    cells = [[line.get(name, "") for name in CURVES.values()] for line in lines]
    marked = [[*row[:-1], "*" if row[-1] == "true" else ""] for row in cells]
    head = f"{path.name}: training history, {len(lines)} epochs; code perplexity and accuracy on valid"
    return f"{head}\n\n{_aligned(tuple(CURVES), marked, right=range(len(CURVES) - 1))}"


def _csv(path: Path, rows: int) -> str:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            first = list(islice(reader, rows))
            count = len(first) + sum(1 for _ in reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ArtifactError(f"{path}: not UTF-8 text in CSV form; simulate writes it anew") from error
    text = f"{path.name}: CSV, {count:,} records, {len(header)} columns: {', '.join(header)}"
    return text + ("\n\n" + _aligned(header, first) if rows else "")


def _model(folder: Path) -> str:
    config = _read(folder / "config.json")
    lines = [(name, _plain(value)) for name, value in sorted(config.items())]
    files = [(file.name, f"{file.stat().st_size:,}") for file in sorted(folder.iterdir())]
    weights = [line for file in sorted(folder.glob("*.safetensors")) for line in _weights(file)]
    return "\n\n".join(
        [
            f"{folder}: a model that from_pretrained reads",
            _aligned(("file", "bytes"), files, right=(1,)),
            "\n".join(weights),
            "\n".join(f"{name}  {value}" for name, value in _padded(lines)),
        ]
    )


def _weights(path: Path) -> list[str]:
    """Number, types and largest tensors, from the header alone."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
    except (OSError, ValueError, struct.error) as error:
        raise ArtifactError(f"{path}: damaged safetensors file; rerun train") from error
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    sizes = {name: _size(entry["shape"]) for name, entry in tensors.items()}
    types = ", ".join(sorted({entry["dtype"] for entry in tensors.values()}))
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:TOP]
    lines = [(name, str(tensors[name]["shape"]), f"{sizes[name]:,}") for name in largest]
    return [
        f"{path.name}: {len(tensors):,} tensors, {sum(sizes.values()):,} values, {types}; the largest:",
        _aligned(("tensor", "shape", "values"), lines, right=(2,)),
    ]


def _size(shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _folder(folder: Path) -> str:
    """What lies in a folder, hidden files aside: files with their bytes, folders with a slash."""
    found = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    lines = [
        (f"{path.name}/", "") if path.is_dir() else (path.name, f"{path.stat().st_size:,}") for path in found
    ]
    return f"{folder}\n\n" + _aligned(("name", "bytes"), lines, right=(1,))


# --- text --------------------------------------------------------------------------------------


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and value and all(isinstance(entry, float) for entry in value):
        value = [float(f"{entry:.4g}") for entry in value]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return f"({len(value):,} entries)" if isinstance(value, list | dict) and len(text) > LONGEST else text


def _padded(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    width = max((len(name) for name, _ in pairs), default=0)
    return [(name.ljust(width), value) for name, value in pairs]


def _aligned(head: Sequence[str], lines: Sequence[Sequence[str]], *, right: Iterable[int] = ()) -> str:
    """A table with columns as wide as their widest cell; the given ones set flush right."""
    texts = [list(head), *([str(cell) for cell in line] for line in lines)]
    widths = [max(len(line[place]) for line in texts) for place in range(len(head))]
    flush = frozenset(right)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place in flush else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in texts
    )
