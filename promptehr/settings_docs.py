"""What follows from the settings models: the JSON schema for editors and docs/settings.md.

`python -m promptehr.settings_docs` writes both files, with `--check` it only says which differ.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from promptehr.settings import Section, Settings, meanings

SCHEMA = Path("workflow/schemas/config.schema.json")
PAGE = Path("docs/settings.md")

HEAD = """# Settings

Every key of `config.yaml`, with its default and what it may be. A further file, given with
`--configfile`, is merged over it key by key. An unknown key, a wrong type or a value out of range
ends with one line and status 2 before anything runs; `promptehr settings` shows the values in force
and where each came from.

This page is generated from `promptehr/settings.py` by `make generated`.
"""


def main(arguments: list[str]) -> int:
    """Write or compare both files; status 1 if one differs."""
    wanted = {SCHEMA: schema(), PAGE: page()}
    if arguments != ["--check"]:
        for path, text in wanted.items():
            path.write_text(text, "utf-8")
        return 0
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text("utf-8") != text]
    for path in stale:
        sys.stderr.write(f"{path} is not what the settings give; run: make generated\n")
    return int(bool(stale))


def schema() -> str:
    """The JSON schema of config.yaml."""
    return json.dumps(_tree(), indent=1, ensure_ascii=False) + "\n"


def page() -> str:
    """A table per section, in pipeline order."""
    tree = _tree()
    sections = {name: _resolved(node, tree) for name, node in tree["properties"].items()}
    loose = {name: node for name, node in sections.items() if "properties" not in node}
    tables = [_table("Top level", _rows(loose, tree, ""))]
    for name, node in sections.items():
        if "properties" in node:
            rows = _rows(node["properties"], tree, f"{name}.")
            tables.append(_table(f"`{name}`", rows, node.get("description", "")))
    return "\n".join([HEAD, *tables])


def _tree() -> dict[str, Any]:
    """pydantic's schema with the meaning of every field."""
    tree: dict[str, Any] = Settings.model_json_schema(by_alias=True)
    for model in Section.__subclasses__():
        node = tree if model is Settings else tree["$defs"][model.__name__]
        for name, text in meanings(model).items():
            key = model.model_fields[name].alias or name
            node["properties"][key] = dict(sorted({**node["properties"][key], "description": text}.items()))
    return tree


def _table(title: str, rows: Iterator[tuple[str, str, str, str]], text: str = "") -> str:
    lines = [f"## {title}", "", *([text, ""] if text else []), "| key | default | may be | meaning |"]
    lines += ["|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows), ""]
    return "\n".join(lines)


def _rows(
    fields: Mapping[str, Any], tree: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, str, str, str]]:
    """(key, default, range, meaning) of each leaf."""
    for name, field in fields.items():
        node = _resolved(field, tree)
        if "properties" in node:
            yield from _rows(node["properties"], tree, f"{prefix}{name}.")
        else:
            default = json.dumps(field.get("default"), ensure_ascii=False)
            meaning = " ".join(field.get("description", "").split())
            yield f"`{prefix}{name}`", f"`{default}`", _range(node, tree), meaning


def _resolved(node: Mapping[str, Any], tree: Mapping[str, Any]) -> Mapping[str, Any]:
    target = node.get("$ref")
    return {**tree["$defs"][target.rpartition("/")[2]], **node} if target else node


def _range(node: Mapping[str, Any], tree: Mapping[str, Any]) -> str:
    """What a value may be, in a few words."""
    if "anyOf" in node:
        return " or ".join(_range(_resolved(inner, tree), tree) for inner in node["anyOf"])
    if "enum" in node or "const" in node:
        return ", ".join(f"`{value}`" for value in node.get("enum", [node.get("const")]))
    words = {"object": "mapping", "string": "text", "number": "number", "integer": "whole number"}
    bounds = [f"{sign} {node[key]:,}" for key, sign in _BOUNDS.items() if key in node]
    return " ".join([words.get(node.get("type", ""), node.get("type", "any")), ", ".join(bounds)]).strip()


_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
