"""Shards as jobs of their own: the same bytes as one job writes, and parts of another run are refused."""

import threading
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from promptehr import artifacts, locks, schemas
from promptehr.errors import ArtifactError, SettingsError
from promptehr.settings import Settings, from_assignments
from promptehr.stages import shards, shards_part
from tests.source_builders import SPLITS, run_ingest, run_records
from tests.unit.test_vocabulary import run_vocabulary

# Visits are dropped and cut, so that parts have something to count.
SHORT = "shards.max_tokens=24"


def settings(count: int, *assignments: str) -> Settings:
    return from_assignments("shards", [f"shards.count={count}", SHORT, *assignments])


@pytest.fixture(scope="module")
def inputs(mimic3_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> shards_part.Inputs:
    """The hundred patients of the MIMIC-III demo."""
    folder = tmp_path_factory.mktemp("parts")
    made = run_records(run_ingest(mimic3_demo, folder), folder)
    known = run_vocabulary(made, folder)
    splits = {split: made / f"{split}.parquet" for split in SPLITS}
    words = {"vocabulary": known / "vocabulary.json", "vocabulary_ledger": known / "ledger.json"}
    return shards_part.Inputs(**splits, records_ledger=made / "ledger.json", **words)


def divide(inputs: shards_part.Inputs, folder: Path, count: int) -> list[Path]:
    """The summary of every part of so many."""
    summaries = [folder / f"{number:05}.json" for number in range(count)]
    for path in summaries:
        shards_part.run(inputs, shards_part.Outputs(path), settings(count))
    return summaries


def put_together(
    inputs: shards_part.Inputs, folder: Path, summaries: list[Path], under: Settings
) -> dict[str, bytes]:
    """What shards leaves, by name, from these parts, or by itself without any; not the summaries."""
    outputs = shards.Outputs(folder / "index.json", folder / "ledger.json")
    shards.run(shards.Inputs(**vars(inputs), part_summaries=tuple(summaries)), outputs, under)
    files = sorted({path for path in folder.rglob("[!.]*") if path.is_file()} - set(summaries))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_parts_are_the_bytes_that_one_job_writes(
    inputs: shards_part.Inputs, tmp_path: Path, count: int
) -> None:
    whole = put_together(inputs, tmp_path / "whole", [], settings(count))
    summaries = divide(inputs, tmp_path / "divided", count)
    assert put_together(inputs, tmp_path / "divided", summaries[::-1], settings(count)) == whole
    assert len(whole) == 2 + 3 * count
    ledger = artifacts.read_json(tmp_path / "whole" / "ledger.json", schemas.LEDGER)
    assert ledger["tables"]["codes"]["rejected"]


def test_parts_that_do_not_belong_together_are_refused(inputs: shards_part.Inputs, tmp_path: Path) -> None:
    first, second = divide(inputs, tmp_path, 2)
    for given in ([first], [first, first]):
        with pytest.raises(ArtifactError, match="not every part is there once; rerun shards_part"):
            put_together(inputs, tmp_path, given, settings(2))
    with pytest.raises(ArtifactError, match=r"00000\.json: made from other settings or inputs"):
        put_together(inputs, tmp_path, [first, second], settings(2, "shards.drop=oldest"))
    with pytest.raises(ArtifactError, match="not every part is there once"):
        put_together(inputs, tmp_path / "elsewhere", [first, second], settings(2))
    other = replace(inputs, train=inputs.valid)
    with pytest.raises(ArtifactError, match=r"00000\.json: made from other settings or inputs"):
        put_together(other, tmp_path, [first, second], settings(2))
    (tmp_path / "train/00001.parquet").write_bytes((tmp_path / "train/00000.parquet").read_bytes())
    with pytest.raises(ArtifactError, match=r"train/00001\.parquet: .*they are not of one run"):
        put_together(inputs, tmp_path, [first, second], settings(2))


def test_a_part_waits_for_a_stopped_runs_job_that_writes_every_shard(
    inputs: shards_part.Inputs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    part = threading.Thread(target=divide, args=(inputs, tmp_path, 1))
    with locks.outputs([tmp_path / "ledger.json"]):
        part.start()
        while not any("waiting for its end" in line for line in caplog.messages):
            time.sleep(0.01)
        assert not (tmp_path / "train").exists()
    part.join()
    assert (tmp_path / "00000.json").is_file()


def test_what_a_killed_job_left_half_written_is_removed(inputs: shards_part.Inputs, tmp_path: Path) -> None:
    divide(inputs, tmp_path, 2)
    for name in (".00000.parquet.abcdefgh", ".00001.parquet.abcdefgh"):
        (tmp_path / "train" / name).touch()
    shards_part.run(inputs, shards_part.Outputs(tmp_path / "00000.json"), settings(2))
    left = sorted(path.name for path in (tmp_path / "train").iterdir())
    assert left == [".00001.parquet.abcdefgh", "00000.parquet", "00001.parquet"]


@pytest.mark.parametrize("name", ["part.json", "00002.json", "1.json"])
def test_a_name_that_tells_no_part_is_refused(inputs: shards_part.Inputs, tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match=r"expected a name from 00000\.json to 00001\.json"):
        shards_part.run(inputs, shards_part.Outputs(tmp_path / name), settings(2))
    assert list(tmp_path.iterdir()) == []


def test_a_patient_that_no_part_wrote_is_noticed(inputs: shards_part.Inputs, tmp_path: Path) -> None:
    with patch.object(shards, "of_shards", lambda records, **_: records.slice(1)):
        summaries = divide(inputs, tmp_path, 2)
    with pytest.raises(AssertionError):
        put_together(inputs, tmp_path, summaries, settings(2))
    assert not (tmp_path / "index.json").exists()


def test_a_shard_without_patients_is_a_shard(inputs: shards_part.Inputs, tmp_path: Path) -> None:
    summaries = divide(inputs, tmp_path, 40)
    put_together(inputs, tmp_path, summaries, settings(40))
    index = artifacts.read_json(tmp_path / "index.json", schemas.INDEX)
    rows = [entry["rows"] for entry in index["splits"]["test"]]
    assert (min(rows), sum(rows)) == (0, artifacts.read_split(tmp_path / "index.json", "test").num_rows)
