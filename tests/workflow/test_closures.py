"""Which modules are behind which stage, and that an edit reaches just those stages."""

import pytest

from promptehr.provenance import closure, code
from promptehr.stage_table import STAGES, Stage
from tests.workflow.checkout import Checkout

OF_SHARDS = ("shards_part", "shards")
LIGHT = ("simulate", "ingest", "records", "vocabulary", *OF_SHARDS)
OF_MODEL = {"train", "generate_part", "generate", "evaluate_likelihood"}
TOKENS = {*OF_SHARDS, *OF_MODEL}


def behind(part: str) -> set[str]:
    """The stages that a module, or a package's modules, are behind."""
    return {
        stage.name
        for stage in STAGES
        if any(module == part or module.startswith(f"{part}.") for module in closure(stage.name))
    }


def test_every_stage_has_itself_and_the_format_behind_it() -> None:
    for stage in STAGES:
        assert {stage.module, "promptehr.artifacts"} <= set(closure(stage.name))
        assert not {"promptehr.settings", "promptehr.cli"} & set(closure(stage.name))


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_is_behind_no_other(stage: Stage) -> None:
    parts = {part.name for part in STAGES if part.part_of == stage.name}
    assert behind(stage.module) == {stage.name, stage.section, *parts}


def test_the_model_is_behind_its_stages_only() -> None:
    assert behind("promptehr.model") == OF_MODEL


def test_the_simulator_is_behind_no_stage_that_makes_anything_of_real_patients() -> None:
    assert behind("promptehr.simulation") == {"simulate", "evaluate_likelihood", "evaluate_fidelity"}


def test_the_data_stages_know_no_metric() -> None:
    assert not behind("promptehr.metrics") & {*LIGHT, "train", "generate"}


@pytest.mark.parametrize(
    ("file", "old", "new", "stages"),
    [
        ("schemas", '"one patient as token ids"', '"other"', TOKENS),
        ("schemas", "\nREJECTS = Table(", "\nNEW = 1\nREJECTS = Table(", set()),
        ("schemas", "# null positions last", "# nulls come last", set()),
        ("tokens", "FIRST_CODE = range(7)", "FIRST_CODE = range(0, 7)", {"vocabulary", *TOKENS}),
        ("artifacts", 'compression="zstd"', 'compression="lz4"', {stage.name for stage in STAGES}),
        ("settings", "patients: Count = 46_520", "patients: Count = 46_521", set()),
        ("stage_table", '"index", "ledger"', '"index", "the_ledger"', set()),
    ],
)
def test_an_edit_of_a_shared_module_reaches_the_stages_that_name_the_definition(
    checkout: Checkout, file: str, old: str, new: str, stages: set[str]
) -> None:
    before = {stage.name: code(stage.name) for stage in STAGES}
    checkout.edit(f"promptehr/{file}.py", old, new)
    after = {stage.name: code(stage.name, checkout.folder) for stage in STAGES}
    assert {name for name in before if before[name] != after[name]} == stages
