"""Settings: defaults, ranges, keys, experiments, and the files that follow from them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from promptehr import settings_docs
from promptehr.errors import SettingsError
from promptehr.settings import (
    NOT_IN_KEY,
    Settings,
    assignments,
    for_experiment,
    from_assignments,
    leaves,
    meanings,
    merge,
    parse,
    runtime_from,
)
from promptehr.stage_table import STAGES, Stage

CHECKOUT = Path(__file__).parents[2]


def refusal(text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        parse(yaml.safe_load(text))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_settings_file_holds_every_default_in_the_order_of_the_models() -> None:
    written = yaml.safe_load((CHECKOUT / "config.yaml").read_text("utf-8"))
    experiments = written.pop("experiments")
    defaults = Settings().model_dump(by_alias=True, exclude={"experiments"})
    assert leaves(written) == leaves(defaults)
    assert list(experiments) == ["base", "unigram", "bigram", "memoriser"]


@pytest.mark.parametrize(("path", "text"), [("SCHEMA", "schema"), ("PAGE", "page")])
def test_generated_files_are_in_sync(path: str, text: str) -> None:
    file = CHECKOUT / getattr(settings_docs, path)
    assert file.read_text("utf-8") == getattr(settings_docs, text)(), "run: make generated"


def test_the_page_shows_default_range_and_meaning() -> None:
    assert (
        "| `train.learning_rate` | `0.0001` | number > 0.0, ≤ 1.0 | Peak AdamW learning rate. |"
        in settings_docs.page()
    )
    assert "| `generate.patients` | `null` | whole number ≥ 1 or null |" in settings_docs.page()
    assert '| `shards.drop` | `"newest"` | `oldest`, `newest` |' in settings_docs.page()


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_key_has_a_meaning(stage: Stage) -> None:
    section = type(getattr(Settings(), stage.section))
    assert list(meanings(section)) == list(section.model_fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian: {}", "trian: unknown setting; did you mean train?"),
        ("train: {shape: {widht: 8}}", "train.shape.widht: unknown setting; did you mean width?"),
        ("train:", "train: empty; give it a value or delete the line to get the default"),
        ("train: {epochs: '3'}", "train.epochs: Input should be a valid integer, got '3'"),
        ("train: {epochs: 0}", "train.epochs: Input should be greater than or equal to 1, got 0"),
        ("train: {epochs: true}", "train.epochs: Input should be a valid integer, got True"),
        ("train: {learning_rate: .nan}", "train.learning_rate: Input should be a finite number, got nan"),
        ("records: {seed: [1]}", "records.seed: Input should be a valid integer, got a list"),
        ("records: 1", "records: expected keys below it, got 1"),
        ("records: {split: {train: 0.9}}", "records.split: train + valid + test must be 1"),
        ("train: {shape: {heads: 7}}", "train.shape: width must be a multiple of heads (7)"),
        ("source: mimic3", "source: expected keys below it, got 'mimic3'"),
        (
            "train: {seed: '2'}",
            "train.seed: Input should be a valid integer, got '2' as text (leave the quotes",
        ),
        ("experiments: {2: {}}", "experiments.2: a name is text, got 2; put it in quotes"),
        (
            "experiments: {x: {records: {seed: 2}}}",
            "experiments.x.records: unknown setting; an experiment changes keys of train, generate",
        ),
        ("source: {kind: mimic3}", "source.path: a folder is needed when source.kind is mimic3"),
        (
            "report: {small_counts: no}",
            "report.small_counts: Input should be 'auto', 'mask' or 'show', got False",
        ),
        (
            "experiments: {Base: {}}",
            "experiments.Base: must match ^[a-z0-9][a-z0-9-]{0,39}$, got 'Base'; correct",
        ),
        ("experiments: {a: {records: {}}}", "experiments.a.records: unknown setting"),
        (
            "experiments: {a: {train: {epohcs: 1}}}",
            "experiments.a.train.epohcs: unknown setting; did you mean epochs?",
        ),
        ("experiments: {a: {generate: {top_p: 2}}}", "experiments.a.generate.top_p: Input should be less"),
        ("results_dir: ''", "results_dir: must match ^[^{}<>]+$, got ''; correct it"),
        ("results_dir: 'a{b}'", "results_dir: must match ^[^{}<>]+$, got 'a{b}'; correct it"),
    ],
)
def test_a_wrong_setting_is_one_line_with_key_seen_and_expected(text: str, message: str) -> None:
    assert refusal(text).startswith(message)


def test_further_problems_are_counted() -> None:
    assert refusal("train: {epochs: 0, dropout: 2.0}").endswith("got 2.0 (and 1 more)")


def test_an_experiment_overrides_single_keys_and_shares_the_rest() -> None:
    settings = parse({"train": {"epochs": 3}, "experiments": {"wide": {"train": {"shape": {"width": 96}}}}})
    wide = for_experiment(settings, "wide")
    assert (wide.train.epochs, wide.train.shape.width, wide.train.shape.heads) == (3, 96, 12)
    assert wide.model_copy(update={"train": settings.train}) == settings
    with pytest.raises(SettingsError, match=r"experiments.wid: unknown; did you mean wide"):
        for_experiment(settings, "wid")


OVERLAYS: list[dict[str, Any]] = [
    {},
    {"source": {"kind": "mimic3", "path": "somewhere"}, "records": {"min_age": 18.0}},
    {"report": {"title": 'A "quoted" {title} = ü'}, "experiments": {"b": {}, "a": {}}},
    {"train": {"publish": 3, "stop_after_epochs": 2}, "generate": {"copy": {"share": 0.5}}},
]


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_job_reads_the_key_that_the_workflow_wrote(stage: Stage, overlay: dict[str, Any]) -> None:
    written = assignments(stage.name, parse(overlay))
    assert assignments(stage.name, from_assignments(stage.name, written)) == written
    assert len({text.partition("=")[0] for text in written}) == len(written)


def test_where_files_lie_is_in_no_key() -> None:
    overlay = {
        "source": {"kind": "mimic3", "path": "a"},
        "generate": {"demographics": "b"},
        "runtime": {"threads": 3},
        "results_dir": "c",
    }
    moved = merge(overlay, {"source": {"path": "d"}, "generate": {"demographics": "e"}, "results_dir": "f"})
    for stage in STAGES:
        key = assignments(stage.name, parse(overlay))
        assert key == assignments(stage.name, parse(moved))
        assert not {text.partition("=")[0] for text in key} & {*NOT_IN_KEY, "results_dir"}
        assert not any(text.startswith("runtime.") for text in key)


def test_maps_merge_and_anything_else_is_replaced() -> None:
    assert merge({"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"c": [2]}, "d": {"e": 1}}) == {
        "a": {"b": 1, "c": [2]},
        "d": {"e": 1},
    }


def test_runtime_is_read_from_texts() -> None:
    assert runtime_from(["device=cpu", "threads=2", "log_every_s=1"]).model_dump() == {
        "device": "cpu",
        "threads": 2,
        "log_every_s": 1.0,
        "tensorboard": False,
        "resume": "auto",
    }
    with pytest.raises(SettingsError, match="device: Input should be 'auto', 'cpu' or 'cuda', got 'gpu'"):
        runtime_from(["device=gpu"])
