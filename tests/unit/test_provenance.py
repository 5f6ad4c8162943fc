"""Fingerprints and closures."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from promptehr.provenance import ROOT, closure, code

STAGE = "promptehr.stages.count"


def package(folder: Path, **modules: str) -> Path:
    """A package of these modules, `a__b` for a.b, below a new folder."""
    root = folder / str(len(list(folder.iterdir())))
    for name, text in {"__init__": "", "stages____init__": "", **modules}.items():
        path = root.joinpath("promptehr", *name.replace("____", "/__").replace("__init__", "@").split("__"))
        path = path.with_name(path.name.replace("@", "__init__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return root


def fingerprint(folder: Path, text: str) -> str:
    return code("count", package(folder, stages__count=text))[STAGE]


BASE = '''"""Counts."""

import os


def count(xs):
    """How many."""
    # A reason.
    text = """one

two # three"""
    return len(xs), text, "# no comment"
'''


@pytest.mark.parametrize(
    "edited",
    [
        BASE.replace('"""Counts."""\n', ""),
        BASE.replace("How many.", "The number,\n\n    as an integer: Zahl größer null."),
        BASE.replace("    # A reason.\n", ""),
        BASE.replace("import os", "import os  # for later\n# and more\n"),
        BASE.replace("\n\n\ndef", "\ndef"),
        BASE.replace("import os", "import os   "),
        BASE + '\n"a stray string"\n',
    ],
)
def test_what_cannot_change_an_artifact_keeps_the_fingerprint(tmp_path: Path, edited: str) -> None:
    assert fingerprint(tmp_path, edited) == fingerprint(tmp_path, BASE)


@pytest.mark.parametrize(
    "edited",
    [
        BASE.replace("len(xs)", "len(xs) + 1"),
        BASE.replace('"# no comment"', '"# a comment"'),
        BASE.replace("one\n\ntwo", "one\ntwo"),
        BASE.replace("# three", "# four"),
        BASE.replace("def count", "@cache\ndef count"),
        BASE + "\nX = 1\n",
    ],
)
def test_what_can_change_an_artifact_changes_the_fingerprint(tmp_path: Path, edited: str) -> None:
    assert fingerprint(tmp_path, edited) != fingerprint(tmp_path, BASE)


def test_a_docstring_beside_code_on_its_line_is_cut_by_bytes(tmp_path: Path) -> None:
    one = 'def f(): "Länge"; return 1\n'
    assert fingerprint(tmp_path, one) == fingerprint(tmp_path, one.replace("Länge", "Tiefe"))
    assert fingerprint(tmp_path, one) != fingerprint(tmp_path, one.replace("return 1", "return 2"))


def test_imports_inside_functions_and_of_packages_count(tmp_path: Path) -> None:
    root = package(
        tmp_path,
        stages__count="def run():\n    from promptehr.model import loop\n    import promptehr.words\n",
        model____init__="import promptehr.registry\n",
        model__loop="from promptehr.numbers import one\n",
        numbers="one = 1\n",
        words="w = 1\n",
        registry="r = 1\n",
        unrelated="u = 1\n",
    )
    assert list(closure("count", root)) == [
        *("promptehr.model", "promptehr.model.loop", "promptehr.numbers", "promptehr.registry"),
        *(STAGE, "promptehr.words"),
    ]


def test_what_people_read_and_what_the_key_already_holds_is_left_out(tmp_path: Path) -> None:
    names = ("settings", "stage_table", "errors", "cli", "progress", "locks", "lease", "provenance")
    imports = "".join(f"import promptehr.{name}\n" for name in names)
    root = package(
        tmp_path,
        stages__count=imports,
        settings="import promptehr.deep\n",
        deep="x = 1\n",
        **dict.fromkeys(names[1:], "x = 1\n"),
    )
    assert list(closure("count", root)) == [STAGE]


SCHEMAS = """
import os
from promptehr.words import word

def column(name): return word + name
A = column("a")
B = os.sep
C = "c"
TABLES = (A, B)
"""


@pytest.mark.parametrize(
    ("stage", "edit", "changes"),
    [
        ("from promptehr.schemas import A", ('"a"', '"b"'), True),
        ("from promptehr.schemas import A", ("word + name", "name"), True),
        ("from promptehr.schemas import A", ("os.sep", "os.linesep"), False),
        ("from promptehr.schemas import A", ('C = "c"', 'C = "d"'), False),
        ("from promptehr import schemas\nx = schemas.C", ('C = "c"', 'C = "d"'), True),
        ("from promptehr import schemas\nx = schemas.C", ('"a"', '"b"'), False),
        ("from promptehr import schemas as s\ndef f(): return s.TABLES", ("os.sep", "os.linesep"), True),
        ("from promptehr import schemas\nf(schemas)", ('C = "c"', 'C = "d"'), True),
        ("import promptehr.schemas", ('C = "c"', 'C = "d"'), True),
    ],
)
def test_of_schemas_only_the_definitions_that_are_named_count(
    tmp_path: Path, stage: str, edit: tuple[str, str], changes: bool
) -> None:
    assert edit[0] in SCHEMAS
    before, after = (
        code("count", package(tmp_path, stages__count=stage, schemas=text, words="word = 'w'\n"))
        for text in (SCHEMAS, SCHEMAS.replace(*edit))
    )
    assert (before != after) == changes
    assert before[STAGE] == after[STAGE]


def test_a_definition_brings_what_it_imports_and_no_more(tmp_path: Path) -> None:
    def reached(name: str) -> list[str]:
        stage = f"from promptehr.schemas import {name}\n"
        root = package(tmp_path, stages__count=stage, schemas=SCHEMAS, words="word = 'w'\n")
        return list(closure("count", root))

    assert reached("A") == ["promptehr.schemas", STAGE, "promptehr.words"]
    assert reached("B") == ["promptehr.schemas", STAGE]


def test_the_format_counts_whole_but_leads_only_where_it_is_used(tmp_path: Path) -> None:
    artifacts = (
        "from promptehr import schemas\ndef write(): return schemas.C\ndef shards(): return schemas.A\n"
    )

    def key(artifacts: str, schemas: str) -> dict[str, str]:
        stage = "from promptehr.artifacts import write\n"
        modules = {"stages__count": stage, "artifacts": artifacts, "schemas": schemas, "words": "word = 1\n"}
        return dict(code("count", package(tmp_path, **modules)))

    base = key(artifacts, SCHEMAS)
    assert list(base) == ["promptehr.artifacts", "promptehr.schemas", STAGE]
    assert key(artifacts, SCHEMAS.replace('"a"', '"b"')) == base
    assert key(artifacts, SCHEMAS.replace('"c"', '"d"')) != base
    assert key(artifacts.replace("schemas.A", "2"), SCHEMAS) != base


def test_a_relative_import_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="relative import in line 1"):
        code("count", package(tmp_path, stages__count="from . import x\n"))


def test_the_fingerprints_are_those_of_every_python_version(tmp_path: Path) -> None:
    assert fingerprint(tmp_path, BASE) == "2ad51a56bcc0720a"


# --- what an earlier process found -------------------------------------------------------------


def in_a_process_of_its_own(root: Path, **environ: str) -> str:
    """The fingerprint of the stage's module as a new process tells it."""
    told = f"from promptehr.provenance import code; print(code('count', Path({str(root)!r}))[{STAGE!r}])"
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "", **environ}
    done = subprocess.run(
        [sys.executable, "-c", f"from pathlib import Path; {told}"],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def kept(root: Path) -> list[Path]:
    return sorted((root / "promptehr").rglob("*.json"))


def test_a_later_process_takes_what_an_earlier_one_found(tmp_path: Path) -> None:
    root = package(tmp_path, stages__count=BASE)
    assert in_a_process_of_its_own(root) == fingerprint(tmp_path, BASE)
    (file,) = kept(root)
    file.write_text(re.sub(r'(stages\.count": ")\w+', r"\1found before", file.read_text("utf-8")), "utf-8")
    assert in_a_process_of_its_own(root) == "found before"


@pytest.mark.parametrize("damage", ["", "{}", "[1]", '{"sources": "of another", "stages": {}}'])
def test_what_was_kept_of_other_sources_or_is_damaged_is_told_again(tmp_path: Path, damage: str) -> None:
    root = package(tmp_path, stages__count=BASE)
    in_a_process_of_its_own(root)
    kept(root)[0].write_text(damage, "utf-8")
    assert in_a_process_of_its_own(root) == fingerprint(tmp_path, BASE)
    edited = BASE.replace("len(xs)", "len(xs) + 1")
    (root / "promptehr" / "stages" / "count.py").write_text(edited, "utf-8")
    assert in_a_process_of_its_own(root) == fingerprint(tmp_path, edited) != fingerprint(tmp_path, BASE)


def test_nothing_is_kept_where_python_keeps_no_compiled_files(tmp_path: Path) -> None:
    root = package(tmp_path, stages__count=BASE)
    assert in_a_process_of_its_own(root, PYTHONDONTWRITEBYTECODE="1") == fingerprint(tmp_path, BASE)
    assert kept(root) == []


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    root = package(tmp_path, stages__count=BASE)
    (root / "promptehr" / "__pycache__").write_text("no folder", "utf-8")
    assert in_a_process_of_its_own(root) == fingerprint(tmp_path, BASE)
