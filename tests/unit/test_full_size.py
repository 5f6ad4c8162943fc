"""Training at full size, at a tiny one: what is kept, what is done again, and what the table says."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import full_size
from promptehr import artifacts, schemas, settings
from promptehr.model import loop
from promptehr.settings import Train
from promptehr.stages import train

TINY = (
    'train.shape={"width": 8, "encoder_layers": 1, "decoder_layers": 1, "heads": 2, "feed_forward": 16,'
    ' "positions": 288}'
)


def called(work: Path, *changes: str, recipes: Sequence[str] = ("small", "4096_tokens")) -> None:
    options = ["--work", str(work), "--patients", "80", "--threads", "1", "--device", "cpu"]
    full_size.main([*options, "--set", TINY, "train.epochs=1", *changes, "--recipes", *recipes])


def cells(printed: str) -> list[list[str]]:
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines()]
    assert tuple(rows[0]) == full_size.HEAD
    return rows[2:]


WITHOUT_POLARS = """
import sys
sys.modules.update(dict.fromkeys(("polars", "snakemake", "sklearn")))
from tests.unit.test_full_size import called, Path
called(Path(sys.argv[1]))
"""


def test_a_recipe_needs_nothing_that_a_gpu_machine_lacks_and_a_finished_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called(tmp_path, recipes=[])
    assert capsys.readouterr().out == ""
    first = subprocess.run(
        [sys.executable, "-c", WITHOUT_POLARS, str(tmp_path)], check=True, capture_output=True, text=True
    ).stdout
    small, large = cells(first)
    assert small[0].startswith("small ")
    assert large[0].startswith("4096_tokens ")
    folder = next(tmp_path.glob("cohort-80-1-small-*"))
    found = artifacts.read_json(folder / "likelihood.json", schemas.EVALUATION)["likelihood"]
    assert small[1] == "cpu"
    assert small[3] == "1, 1"
    assert small[8] == f"{found['conditions']['prompt']['codes']['nll']:.3f}"
    assert small[9] == full_size.share(found["gap_closed"]["prompt"])
    monkeypatch.setattr(train, "run", None)
    called(tmp_path)
    assert capsys.readouterr().out == first


def test_a_stopped_run_continues_and_its_starts_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step = loop.train_step

    def stopped(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments, **options)

    monkeypatch.setattr(loop, "train_step", stopped)
    with pytest.raises(SystemExit, match="SIGTERM"):
        called(tmp_path, recipes=["small"])
    monkeypatch.setattr(loop, "train_step", step)
    with caplog.at_level("INFO"):
        called(tmp_path, recipes=["small"])
    assert "continuing after step 1" in caplog.text
    folder = next(tmp_path.glob("cohort-80-1-small-*"))
    starts = full_size.lines(folder / "starts.jsonl")
    assert len(starts) == 2
    assert full_size.read(folder).elapsed_s == sum(start["seconds"] for start in starts)


def test_a_changed_setting_or_cohort_is_another_run(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "shards").mkdir(parents=True)
        (tmp_path / name / "shards/index.json").write_text(name)
    base = full_size.RECIPES["reference"]
    first = full_size.digest(base, tmp_path / "one")
    assert first == full_size.digest(base, tmp_path / "one")
    assert first == full_size.digest((*base, f"train.epochs={Train().epochs}"), tmp_path / "one")
    assert first != full_size.digest((*base, "train.epochs=3"), tmp_path / "one")
    assert first != full_size.digest(base, tmp_path / "two")


@pytest.mark.parametrize("section", ["train", "evaluate_likelihood"])
def test_another_default_is_another_run(
    section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/index.json").write_text("")
    first = full_size.digest((), tmp_path)
    read = settings.from_assignments

    def with_another_seed(stage: str, given: Sequence[str]) -> settings.Settings:
        return read(stage, [*given, *([f"{section}.seed=77"] if stage == section else [])])

    monkeypatch.setattr(settings, "from_assignments", with_another_seed)
    assert full_size.digest((), tmp_path) != first


def test_a_bad_setting_is_one_line_and_leaves_no_start(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^train\.epochs: "):
        called(tmp_path, "train.epochs=0", recipes=["small"])
    assert not list(tmp_path.glob("cohort-80-1-small-*"))


@pytest.mark.parametrize("option", ["--patients", "--threads"])
def test_a_number_that_cannot_be_is_one_line(option: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=rf"{option.strip('-')}: .* got 0"):
        full_size.main(["--work", str(tmp_path), option, "0", "--recipes"])


def test_every_recipe_is_valid_settings() -> None:
    for assignments in full_size.RECIPES.values():
        settings.from_assignments("train", assignments)


@pytest.mark.parametrize(
    ("gap", "text"),
    [
        ({"value": 0.5, "interval": [0.25, 0.75]}, "50.0% (25.0% to 75.0%)"),
        ({"value": None, "reason": "too few"}, "unknown"),
    ],
)
def test_a_share_has_its_interval_or_is_unknown(gap: dict[str, Any], text: str) -> None:
    assert full_size.share(gap) == text
