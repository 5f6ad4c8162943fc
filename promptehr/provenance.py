"""Which code is behind an artifact.

Turns a stage's name into one fingerprint per module that the stage can import: source text
without comments, docstrings and blank lines, so that only an edit that can change an artifact
changes a fingerprint. Reads source text and never imports it; standard library only, because
the Snakefile imports this module.

The import closure starts at `promptehr.stages.<stage>`, and at `<stage>_part` where jobs share its
work, and follows every import of the package, those inside functions too. It leaves out modules whose
whole effect is seen elsewhere:

    settings, stage_table    a validated value is in the key, a file's name in the command line
    errors, cli, progress    what people read, never what an artifact holds
    locks, lease             who may write, never what
    provenance               its results are the key

`schemas`, `tokens` and `artifacts` serve every stage. Only those of their top-level definitions
count that the stage's modules name, and what these name in turn, so that another stage's schema
reruns nothing here. The text of `artifacts` is taken whole all the same: it is the format.

Parsing takes a third of a second, which every start of Snakemake and every job would wait for: the
result is kept beside Python's own compiled files, for exactly the bytes it was told from.
"""

import ast
import functools
import hashlib
import importlib.util
import io
import json
import os
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "promptehr"
ROOT = Path(__file__).parent.parent
LEFT_OUT = frozenset(
    f"{PACKAGE}.{name}"
    for name in (
        "settings",
        "stage_table",
        "errors",
        "cli",
        "progress",
        "locks",
        "lease",
        "provenance",
    )
)
BY_DEFINITION = frozenset(f"{PACKAGE}.{name}" for name in ("schemas", "tokens", "artifacts"))
WHOLE_TEXT = frozenset({f"{PACKAGE}.artifacts"})
ALL = "*"
TOLD_FROM = frozenset(
    {ast.Name, ast.Attribute, ast.Constant, ast.JoinedStr, ast.Expr, ast.Import, ast.ImportFrom}
)
WITHOUT_NODES = frozenset({"ctx", "op", "ops", "id", "attr", "arg", "kind", "type_comment", "simple"})


# --- code --------------------------------------------------------------------------------------


@functools.cache
def code(stage: str, root: Path = ROOT) -> Mapping[str, str]:
    """Module name to fingerprint, for every module the stage can import, sorted by name.

    All files are read at the first call of a process, so a long job records the code it started
    with if it asks for it at its start.

    Args:
        stage: A name of the stage table.
        root: The folder that holds the package.
    """
    kept = _kept(root)
    if stage not in kept:
        found = closure(stage, root).items()
        kept[stage] = {module: _fingerprint(module, names, root) for module, names in found}
        _keep(kept, root)
    return kept[stage]


# --- what an earlier process found -------------------------------------------------------------


@functools.cache
def _kept(root: Path) -> dict[str, dict[str, str]]:
    """Stage to its fingerprints, as far as they were told from these very sources before."""
    try:
        content = json.loads(_keeper(root).read_bytes())
        kept: dict[str, dict[str, str]] = content["stages"] if content["sources"] == _digest(root) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return kept


def _keep(stages: Mapping[str, Mapping[str, str]], root: Path) -> None:
    """Leave the fingerprints for the next process; where that cannot be, it parses again."""
    file = _keeper(root)
    if sys.dont_write_bytecode:
        return
    own = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(exist_ok=True)
        own.write_text(json.dumps({"sources": _digest(root), "stages": stages}), "utf-8")
        own.replace(file)
    except OSError:
        with suppress(OSError):
            own.unlink()


def _keeper(root: Path) -> Path:
    return Path(importlib.util.cache_from_source(str(root / PACKAGE / "provenance.py"))).with_suffix(".json")


@functools.cache
def _digest(root: Path) -> str:
    """One hash of every source of the package, and of this one, which reads them."""
    found = hashlib.sha256(Path(__file__).read_bytes())
    for path, source in _sources(root).items():
        found.update(f"{path.relative_to(root)} {len(source)}\n".encode() + source)
    return found.hexdigest()


@functools.cache
def _sources(root: Path) -> Mapping[Path, bytes]:
    """Path to content of every module, read once, so that what is kept and what is told agree."""
    return {path: path.read_bytes() for path in sorted((root / PACKAGE).rglob("*.py"))}


# --- the modules that a stage can import -------------------------------------------------------


def closure(stage: str, root: Path = ROOT) -> dict[str, frozenset[str]]:
    """Module name to the names that are used of it, `*` for all; sorted by module."""
    used: dict[str, set[str]] = {}
    waiting = [(f"{PACKAGE}.stages.{name}", ALL) for name in (stage, f"{stage}_part")]
    while waiting:
        module, name = waiting.pop()
        if module not in LEFT_OUT and name not in used.setdefault(module, set()):
            used[module].add(name)
            waiting += _needs(module, name, root)
    return {module: frozenset(used[module]) for module in sorted(used) if _parts(module, root)}


@dataclass(frozen=True)
class Part:
    """One top-level statement of a module.

    Attributes:
        text: Its source without comments, docstrings and blank lines.
        defines: Names it binds in the module.
        names: Names it mentions, apart from the bases in `attributes`.
        attributes: (base, attribute) for each `base.attribute` whose base is a name.
        imports: (bound name, module, name in it or None) for each import in it.
    """

    text: str
    defines: frozenset[str]
    names: frozenset[str]
    attributes: frozenset[tuple[str, str]]
    imports: frozenset[tuple[str, str, str | None]]


def _fingerprint(module: str, names: frozenset[str], root: Path) -> str:
    whole = ALL in names or module in WHOLE_TEXT
    texts = [part.text for part in _parts(module, root) if whole or _is_used(part, names)]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _is_used(part: Part, names: Iterable[str]) -> bool:
    """Whether a name is defined here; a statement that defines nothing acts on all of them."""
    return not part.defines or not part.defines.isdisjoint(names)


@functools.cache
def _needs(module: str, name: str, root: Path) -> frozenset[tuple[str, str]]:
    """(module, name) for all that one name of a module leads to; shared between stages."""
    return frozenset(_leads_to(module, name, root))


def _leads_to(module: str, name: str, root: Path) -> Iterator[tuple[str, str]]:
    parts = _parts(module, root)
    bound = {(alias, target, inner) for part in parts for alias, target, inner in part.imports}
    defined = {word for part in parts for word in part.defines}
    for package in _packages(module):
        yield package, ALL
    for part in parts:
        if name == ALL or _is_used(part, [name]):
            mentioned = part.names | {base for base, _ in part.attributes}
            if module in BY_DEFINITION:
                yield from ((module, other) for other in mentioned & defined)
            for alias, target, inner in bound:
                if alias in mentioned or (alias, target, inner) in part.imports:
                    yield from _reached(target, inner, alias, part, root)


def _reached(target: str, inner: str | None, alias: str, part: Part, root: Path) -> Iterator[tuple[str, str]]:
    """What a part uses of an import bound as `alias`."""
    module = f"{target}.{inner}" if inner and _path(f"{target}.{inner}", root) else target
    if module not in BY_DEFINITION:
        yield module, ALL
    elif module == target and inner:
        yield module, inner
    elif module == target or alias in part.names:
        yield module, ALL
    else:
        yield from ((module, attribute) for base, attribute in part.attributes if base == alias)


def _packages(module: str) -> list[str]:
    """The packages whose `__init__` runs before the module does."""
    words = module.split(".")
    return [".".join(words[:length]) for length in range(1, len(words))]


def _path(module: str, root: Path) -> Path | None:
    base = root.joinpath(*module.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path in _sources(root)), None)


@functools.cache
def _parts(module: str, root: Path) -> tuple[Part, ...]:
    """The top-level statements of a module; none where there is no such module."""
    path = _path(module, root)
    if path is None:
        return ()
    source = _sources(root)[path].decode("utf-8").replace("\r\n", "\n")
    lines = source.split("\n")
    return tuple(_part(node, lines) for node in ast.parse(source).body if not _is_docstring(node))


def _part(statement: ast.stmt, lines: Sequence[str]) -> Part:
    nodes = _nodes(statement)
    dotted = [n for n in nodes if type(n) is ast.Attribute]
    bases = {id(n.value) for n in dotted}
    return Part(
        text=_text(statement, nodes, lines),
        defines=frozenset(_defined(statement)),
        names=frozenset(n.id for n in nodes if type(n) is ast.Name and id(n) not in bases),
        attributes=frozenset((n.value.id, n.attr) for n in dotted if type(n.value) is ast.Name),
        imports=frozenset(found for n in nodes for found in _imports(n)),
    )


def _nodes(statement: ast.stmt) -> list[ast.AST]:
    """The nodes that a part is told from; a loop of our own, as `ast.walk` takes half a second for all."""
    found: list[ast.AST] = []
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        if type(node) in TOLD_FROM:
            found.append(node)
        for field in node._fields:
            if field not in WITHOUT_NODES:
                value = getattr(node, field, None)
                if type(value) is list:
                    waiting += [item for item in value if isinstance(item, ast.AST)]
                elif isinstance(value, ast.AST):
                    waiting.append(value)
    return found


def _defined(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in statement.names)


def _imports(node: ast.AST) -> Iterator[tuple[str, str, str | None]]:
    """Imports of the package itself; only absolute ones, as everywhere in it."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.partition(".")[0] == PACKAGE:
                yield alias.asname or alias.name, alias.name, None
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"relative import in line {node.lineno}"
        if node.module and node.module.partition(".")[0] == PACKAGE:
            yield from ((alias.asname or alias.name, node.module, alias.name) for alias in node.names)


# --- source text -------------------------------------------------------------------------------


def _text(statement: ast.stmt, nodes: Sequence[ast.AST], lines: Sequence[str]) -> str:
    """The statement's lines that hold code; blank lines inside a string belong to it."""
    first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))])
    kept = {number: lines[number - 1] for number in range(first, (statement.end_lineno or first) + 1)}
    for row, column in _comments(kept, nodes):
        kept[row] = kept[row][:column]
    docstrings = [node for node in nodes if isinstance(node, ast.Expr) and _is_docstring(node)]
    for docstring in docstrings:
        _cut(kept, docstring)
    in_string = _lines_in_strings(nodes, {id(docstring.value) for docstring in docstrings})
    return "\n".join(
        line if number in in_string else line.rstrip()
        for number, line in kept.items()
        if number in in_string or line.strip()
    )


def _comments(lines: Mapping[int, str], nodes: Iterable[ast.AST]) -> list[tuple[int, int]]:
    """(line number, column) of each comment of a statement.

    A `#` on a line without a string begins one. Only where a string is near, the tokeniser, which
    takes a hundred times as long, has to tell.
    """
    marked = {number: line.index("#") for number, line in lines.items() if "#" in line}
    if not marked:
        return []
    near = {
        number
        for node in nodes
        if type(node) is ast.JoinedStr or (type(node) is ast.Constant and isinstance(node.value, str | bytes))
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    if near.isdisjoint(marked):
        return list(marked.items())
    first = min(lines)
    tokens = tokenize.generate_tokens(io.StringIO("\n".join(lines.values())).readline)
    return [(first + t.start[0] - 1, t.start[1]) for t in tokens if t.type == tokenize.COMMENT]


def _is_docstring(node: ast.AST) -> bool:
    """Whether a statement is only a string: it does nothing, wherever it stands."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _cut(lines: dict[int, str], node: ast.Expr) -> None:
    """Take a statement's text out of its lines; columns of a syntax tree count UTF-8 bytes."""
    last = node.end_lineno or node.lineno
    before = lines[node.lineno].encode()[: node.col_offset].decode()
    after = lines[last].encode()[node.end_col_offset :].decode()
    for number in range(node.lineno, last + 1):
        lines[number] = ""
    lines[node.lineno] = before + after


def _lines_in_strings(nodes: Iterable[ast.AST], docstrings: set[int]) -> set[int]:
    """Lines that end inside a string that counts."""
    return {
        number
        for node in nodes
        if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in docstrings
        for number in range(node.lineno, node.end_lineno or node.lineno)
    }
