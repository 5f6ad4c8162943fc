"""The benchmark of the data half at a tiny size; its figures are nobody's business here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from benchmarks import data
from promptehr import artifacts, schemas


def here(function: Callable[..., Any], *arguments: Any) -> Any:
    """In place of a process of its own."""
    return function(*arguments)


def test_pandas_makes_the_records_that_the_stages_make(tmp_path: Path) -> None:
    data.stage("simulate", tmp_path / "once", "simulate.patients=150")
    data.copied(tmp_path / "once", tmp_path, 2)
    for name in ("ingest", "records"):
        data.stage(name, tmp_path)
    splits = [tmp_path / data.FILES[name] for name in ("train", "valid", "test")]
    ours = pl.concat(pl.DataFrame(artifacts.read_table(path, schemas.RECORDS)) for path in splits)
    theirs = data.by_pandas(tmp_path)
    assert ours.height == 300
    assert theirs.to_dict("records") == ours.sort("subject_id").to_dicts()


def test_tables_have_a_row_per_step_and_part(tmp_path: Path) -> None:
    found, parts = data.measure(tmp_path, 100, [1, 2], 2, apart=here)
    assert [(one.scale, len(one.seconds["pandas"]), len(one.seconds["shards"])) for one in found] == [
        (1, 2, 2),
        (2, 1, 2),
    ]
    assert found[1].rows == 2 * found[0].rows
    lines = data.markdown(found, parts, (0.0, 0.0)).splitlines()
    steps = [line.split(" | ")[1] for line in lines if line.startswith(("| 1x", "| 2x"))]
    assert len(steps) == 2 * (len(data.STEPS) + 1)
    assert sum(line.endswith("% |") for line in lines) == len(data.PARTS) + 2
    whole, *of_parts = (sum(seconds) for seconds in reversed(parts.values()))
    assert whole == pytest.approx(sum(of_parts))


def test_a_step_in_its_own_process_gives_seconds_and_mib(tmp_path: Path) -> None:
    data.stage("simulate", tmp_path, "simulate.patients=20")
    seconds, busy, peak = data.in_own_process(data.measured, "floor", tmp_path, tmp_path)
    assert 0.0 < seconds < 60.0
    assert 0.0 < busy < 60.0
    assert 50.0 < peak < 4_000.0


def test_pandas_is_left_out_where_time_or_memory_would_be_too_much() -> None:
    def smaller(seconds: float, peak: float, **skipped: str) -> data.Figures:
        return data.Figures(1, 1, 1, {"pandas": [seconds]}, {}, {"pandas": [peak]}, skipped)

    assert data.too_much(10, smaller(8.9, 1.0)) == {}
    assert data.too_much(10, smaller(9.1, 1.0)) == {
        "pandas": "skipped: 91 s by the smaller scale, the limit is 90"
    }
    assert data.too_much(10, smaller(1.0, 1.0e9))["pandas"].startswith("skipped: 9765625 GiB")
    assert data.too_much(10, smaller(1.0, 1.0, pandas="why")) == {
        "pandas": "skipped, as at the smaller scale"
    }


def test_tables_replace_what_stands_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{data.BEGIN}\nold\n{data.END}\nafter\n")
    data.put_into(page, "new\n")
    assert page.read_text() == f"before\n{data.BEGIN}\nnew\n{data.END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="has no lines"):
        data.put_into(page, "new\n")
