"""The stage table: words that can be rules, options and modules at once."""

import keyword

import pytest

from promptehr.settings import Settings
from promptehr.stage_table import BY_NAME, STAGES, Stage, stage


def bare(names: tuple[str, ...]) -> list[str]:
    return [name.rstrip("?*") for name in names]


def test_the_stages_stand_in_pipeline_order() -> None:
    assert list(BY_NAME) == [
        *("simulate", "ingest", "records", "vocabulary", "shards_part", "shards", "train"),
        *("generate_part", "generate"),
        *("evaluate_likelihood", "evaluate_fidelity", "evaluate_utility", "evaluate_privacy", "report"),
    ]
    assert stage("records").module == "promptehr.stages.records"


@pytest.mark.parametrize("row", STAGES, ids=lambda row: row.name)
def test_a_row_can_be_options_fields_and_sections(row: Stage) -> None:
    names = [*bare(row.inputs), *bare(row.outputs)]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and not keyword.iskeyword(name) for name in names)
    assert {row.section, *row.shared} <= Settings.model_fields.keys()
    assert row.outputs
    assert not any(name.endswith(("?", "*")) for name in row.outputs)


def test_an_unknown_stage_is_a_bug_of_ours() -> None:
    with pytest.raises(KeyError):
        stage("recrods")
