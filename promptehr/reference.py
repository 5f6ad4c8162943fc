"""docs/artifacts.md, written from the contracts of the artifacts and the stage table.

`python -m promptehr.reference` writes the page, with `--check` it only says whether it differs.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from promptehr import schemas
from promptehr.stage_table import STAGES

PAGE = Path("docs/artifacts.md")

HEAD = """# Artifacts

What each stage reads and writes, and what stands in every file. `promptehr inspect PATH` shows any of
them in the terminal; patient rows only with `--rows N`. Every table is Parquet, zstd-compressed, with
page checksums and the schema's name, version and column meanings in its metadata; every document is
JSON with sorted keys. No artifact holds a clock, a duration, a host or a path.

A stage's last file seals its others. The seal has the stage's key (its settings and the fingerprints of
its code) and the sha256 of what it read and wrote; a reader refuses a set that is not of one run.

This page is generated from `promptehr/schemas.py` by `make generated`.
"""


def main(arguments: Sequence[str]) -> int:
    """Write or compare the page; status 1 if it differs."""
    text = page()
    if list(arguments) != ["--check"]:
        PAGE.write_text(text, "utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text("utf-8") == text:
        return 0
    sys.stderr.write(f"{PAGE} is not what the contracts give; run: make generated\n")
    return 1


def page() -> str:
    """The page: stages, tables, documents."""
    parts = [HEAD, *_stages(), "## Tables\n"]
    parts += [_table(table) for table in schemas.TABLES]
    parts += ["## Documents\n", *(_document(document) for document in schemas.DOCUMENTS)]
    return "\n".join(parts)


def _stages() -> Iterator[str]:
    yield "## Stages\n\n`?` may be absent, `*` any number. The last file written is the seal.\n"
    yield "| stage | reads | writes | for each |\n|---|---|---|---|"
    for stage in STAGES:
        reads = ", ".join(f"`{name}`" for name in stage.inputs) or "settings only"
        writes = ", ".join(f"`{name}`" for name in stage.outputs)
        yield f"| `{stage.name}` | {reads} | {writes} | {stage.scope} |"
    yield ""


def _table(table: schemas.Table) -> str:
    lines = [
        f"### `{table.name}` version {table.version}",
        "",
        f"A row is {table.meaning}. Sorted by {_names(table.sorted_by)}; unique: {_names(table.unique)}.",
        "",
        "| column | type | null | meaning |",
        "|---|---|---|---|",
        *(
            f"| `{c.name}` | `{c.type}` | {'yes' if c.nullable else 'no'} | {_escaped(c.meaning)} |"
            for c in table.columns
        ),
        "",
    ]
    return "\n".join(lines)


def _document(document: schemas.Document) -> str:
    lines = [f"### `{document.name}` version {document.version}", "", f"{_sentence(document.meaning)}", ""]
    if document.keys:
        lines += ["| key | holds |", "|---|---|"]
        lines += [f"| `{name}` | {_escaped(meaning)} |" for name, meaning in document.keys]
        lines += [""]
    return "\n".join(lines)


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _escaped(text: str) -> str:
    """Text for a Markdown cell: token names are not HTML tags."""
    return text.replace("\\", "\\\\").replace("<", "\\<").replace("|", "\\|")


def _sentence(text: str) -> str:
    return _escaped(text[0].upper() + text[1:] + ".")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
