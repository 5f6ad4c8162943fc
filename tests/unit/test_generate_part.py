"""Parts of a model's patients: any number of them merges to the same bytes."""

from pathlib import Path

import pytest

from promptehr import artifacts, parts, schemas
from promptehr.errors import ArtifactError, SettingsError
from promptehr.settings import Runtime, Settings, parse
from promptehr.stages import generate, generate_part, train
from tests.model_builders import outputs, random_patients, tiny_settings, write_inputs

CPU = Runtime(device="cpu", threads=1)
# Three blocks, the last one short.
SETTINGS = parse({"generate": {"patients": 600}})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> generate_part.Inputs:
    """Shards of forty patients and a model trained on them for one epoch."""
    folder = tmp_path_factory.mktemp("parts")
    shards = write_inputs(folder, train=random_patients(40, seed=1), valid=random_patients(15, seed=2))
    made = outputs(folder / "train")
    train.run(shards, made, tiny_settings(epochs=1), CPU)
    return generate_part.Inputs(
        model=made.model,
        train_summary=made.summary,
        index=shards.index,
        shards_ledger=shards.shards_ledger,
        vocabulary=shards.vocabulary,
        vocabulary_ledger=shards.vocabulary_ledger,
        demographics=None,
        histories=None,
    )


@pytest.fixture(scope="module")
def whole(inputs: generate_part.Inputs, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The files of the run without parts."""
    return merge(inputs, tmp_path_factory.mktemp("whole"), [])


def divide(inputs: generate_part.Inputs, folder: Path, count: int) -> list[generate_part.Outputs]:
    """Every part of so many."""
    names = [folder / f"{number:05}-of-{count:05}.parquet" for number in range(count)]
    made = [generate_part.Outputs(name, name.with_suffix(".json")) for name in names]
    for files in made:
        generate_part.run(inputs, files, SETTINGS, CPU)
    return made


def merge(
    inputs: generate_part.Inputs,
    folder: Path,
    made: list[generate_part.Outputs],
    settings: Settings = SETTINGS,
) -> list[bytes]:
    """What generate publishes from these parts, or by itself without any."""
    of = {"parts": tuple(f.part for f in made), "part_summaries": tuple(f.part_summary for f in made)}
    files = generate.Outputs(folder / "synthetic.parquet", folder / "summary.json")
    generate.run(generate.Inputs(**vars(inputs), **of), files, settings, CPU)
    return [files.synthetic.read_bytes(), files.summary.read_bytes()]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_parts_merges_to_the_same_bytes(
    inputs: generate_part.Inputs, whole: list[bytes], tmp_path: Path, count: int
) -> None:
    assert merge(inputs, tmp_path, divide(inputs, tmp_path, count)[::-1]) == whole


def test_a_part_is_whole_blocks(inputs: generate_part.Inputs, tmp_path: Path) -> None:
    tables = [artifacts.read_table(made.part, schemas.SYNTHETIC) for made in divide(inputs, tmp_path, 2)]
    ids = [[identity - 2**40 for identity in table["subject_id"].to_pylist()] for table in tables]
    assert ids == [list(range(256)), list(range(256, 600))]


def test_parts_that_do_not_belong_together_are_refused(inputs: generate_part.Inputs, tmp_path: Path) -> None:
    made = divide(inputs, tmp_path, 2)
    with pytest.raises(ArtifactError, match="not every part is there once; rerun generate_part"):
        merge(inputs, tmp_path, made[:1])
    other = parse({"generate": {"patients": 600, "top_k": 3}})
    with pytest.raises(
        ArtifactError, match=r"00000-of-00002\.json: made from other .*forcerun generate_part"
    ):
        merge(inputs, tmp_path, made, other)
    made[0].part.write_bytes(made[1].part.read_bytes())
    with pytest.raises(ArtifactError, match="they are not of one run"):
        merge(inputs, tmp_path, made)


@pytest.mark.parametrize("name", ["part.parquet", "00002-of-00002.parquet", "1-of-2.parquet"])
def test_a_name_that_tells_no_part_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=r"expected a name like 00000-of-00004\.parquet"):
        parts.place(Path(name))


def test_a_baseline_has_no_parts(inputs: generate_part.Inputs, tmp_path: Path) -> None:
    files = generate_part.Outputs(tmp_path / "00000-of-00002.parquet", tmp_path / "00000-of-00002.json")
    with pytest.raises(SettingsError, match=r"generate\.method: unigram has no parts; call generate"):
        generate_part.run(inputs, files, parse({"generate": {"method": "unigram"}}), CPU)


@pytest.mark.parametrize("blocks", [0, 1, 5, 12])
@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_parts_are_all_blocks_once_and_even(blocks: int, count: int) -> None:
    shares = [parts.share(range(blocks), number, count) for number in range(count)]
    assert [number for share in shares for number in share] == list(range(blocks))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
