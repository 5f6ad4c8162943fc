"""Truncation, encoding, buckets and ledger of the shards."""

import doctest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptehr import artifacts, schemas
from promptehr.errors import ArtifactError
from promptehr.settings import Shards, from_assignments
from promptehr.stages import shards
from promptehr.stages.shards import buckets, shard, truncated
from promptehr.tokens import Vocabulary
from tests.source_builders import SPLITS, ledger, run_ingest, run_records
from tests.unit.test_vocabulary import run_vocabulary, train_of

VISITS = pa.list_(pa.list_(pa.string()))
VOCABULARY = Vocabulary(("C0", "C1"), age_mean=0.0, age_spread=1.0, demographics=())


def histories(*patients: list[int]) -> pa.ListArray:
    """Patients with visits of so many codes, C0, C1 ... in each."""
    return pa.array([[[f"C{i}" for i in range(size)] for size in sizes] for sizes in patients], VISITS)


def lengths(visits: pa.ListArray) -> list[list[int]]:
    return [[len(visit) for visit in patient] for patient in visits.to_pylist()]


def run_shards(made: Path, known: Path, results: Path, *assignments: str) -> Path:
    out = results / "shards"
    shards.run(
        shards.Inputs(
            *(made / f"{split}.parquet" for split in SPLITS),
            made / "ledger.json",
            known / "vocabulary.json",
            known / "ledger.json",
        ),
        shards.Outputs(out / "index.json", out / "ledger.json"),
        from_assignments("shards", assignments),
    )
    return out


def index_of(out: Path) -> dict[str, Any]:
    return artifacts.read_json(out / "index.json", schemas.INDEX)


@pytest.mark.parametrize(
    ("tokens", "drop", "kept"),
    [
        (2 + 5 + 4 + 6, "newest", [3, 2, 4]),
        (2 + 5 + 4 + 5, "newest", [3, 2]),
        (2 + 5 + 4 + 5, "oldest", [2, 4]),
        (2 + 6, "oldest", [4]),
        (2 + 5 + 4, "newest", [3, 2]),
        (8, "newest", [3]),
    ],
)
def test_whole_visits_are_dropped_from_one_end(tokens: int, drop: str, kept: list[int]) -> None:
    settings = Shards.model_validate({"max_tokens": tokens, "drop": drop})
    found = truncated(histories([3, 2, 4]), settings)
    assert (lengths(found.visits), found.dropped.tolist()) == ([kept], [3 - len(kept)])


def test_visits_after_a_dropped_one_are_dropped_too() -> None:
    # 2 + 4 + 9 tokens do not fit, 2 + 4 + 3 would: but the record would have a hole.
    assert lengths(truncated(histories([2, 7, 1]), Shards(max_tokens=12)).visits) == [[2]]


@pytest.mark.parametrize("drop", ["newest", "oldest"])
def test_a_visit_too_long_by_itself_keeps_its_first_codes(drop: str) -> None:
    settings = Shards.model_validate({"max_tokens": 8, "drop": drop})
    found = truncated(histories([9]), settings)
    assert found.visits.to_pylist() == [[["C0", "C1", "C2", "C3"]]]
    assert (found.dropped.tolist(), found.cut.tolist()) == ([0], [5])


def test_each_patient_is_truncated_alone() -> None:
    found = truncated(histories([1], [9, 9], [2, 1]), Shards(max_tokens=13))
    assert lengths(found.visits) == [[1], [9], [2, 1]]
    assert (found.dropped.tolist(), found.cut.tolist()) == ([0, 1, 0], [0, 0, 0])


def test_the_example_holds() -> None:
    assert doctest.testmod(shards).failed == 0


def by_hand(sizes: list[int], settings: Shards) -> list[int]:
    """Lengths of the visits that stay, one visit after the other."""
    left = settings.max_tokens - 2
    kept: list[int] = []
    for size in sizes if settings.drop == "newest" else sizes[::-1]:
        left -= size + 2
        if left < 0:
            break
        kept.append(size)
    kept = kept or [settings.max_tokens - 4]
    return kept if settings.drop == "newest" else kept[::-1]


sizes = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@given(st.lists(sizes, max_size=5), st.integers(8, 30), st.sampled_from(["oldest", "newest"]))
def test_truncation_is_that_of_one_patient_after_the_other(
    patients: list[list[int]], tokens: int, drop: str
) -> None:
    settings = Shards.model_validate({"max_tokens": tokens, "drop": drop})
    found = truncated(histories(*patients), settings)
    assert lengths(found.visits) == [by_hand(sizes, settings) for sizes in patients]
    lost = [sum(before) - sum(after) for before, after in zip(patients, lengths(found.visits), strict=True)]
    gone = [sum(before[-n:] if drop == "newest" else before[:n]) if n else 0
            for before, n in zip(patients, found.dropped.tolist(), strict=True)]  # fmt: skip
    assert found.cut.tolist() == [total - whole for total, whole in zip(lost, gone, strict=True)]


@pytest.mark.parametrize(
    ("drop", "ages"), [("oldest", [50.0 + 730 / 365.2425, 90.0, 50.0]), ("newest", [50.0, 90.0, 50.0])]
)
def test_age_moves_on_when_the_oldest_visits_are_dropped_unless_it_is_capped(
    drop: str, ages: list[float]
) -> None:
    visits = histories([3, 3, 3], [3, 3], [1])
    records = pa.table(
        {
            "subject_id": [1, 2, 3],
            "gender": ["F", "M", "F"],
            "ethnicity": ["WHITE"] * 3,
            "age": pa.array([50.0, 90.0, 50.0], pa.float32()),
            "age_capped": [False, True, False],
            "visits": visits,
            "visit_days": pa.array([[0, 365, 730], [0, 700], [0]], pa.list_(pa.int32())),
        }
    )
    settings = Shards.model_validate({"max_tokens": 8, "drop": drop})
    table = shard(records, truncated(visits, settings), VOCABULARY, settings.drop)
    assert table["age_z"].to_pylist() == pytest.approx(ages)


def test_tokens_index_and_ledger_of_two_patients(tmp_path: Path) -> None:
    made = train_of(
        tmp_path / "records", ("F", 40.0, [["4019"], ["585", "4019"]]), ("M", 60.0, [["V5861"] * 1])
    )
    known = run_vocabulary(made, tmp_path)  # 4019, 585, V5861: ids 6, 7, 8
    out = run_shards(made, known, tmp_path, "shards.max_tokens=8")
    table = artifacts.read_table(out / "train" / "00000.parquet", schemas.SHARD)
    assert table.to_pylist() == [
        {
            "subject_id": 1, "age_z": -1.0, "gender_id": 1, "ethnicity_id": 0,
            "tokens": [1, 3, 6, 4, 5], "n_visits": 1,
        },
        {
            "subject_id": 2, "age_z": 1.0, "gender_id": 0, "ethnicity_id": 0,
            "tokens": [1, 3, 8, 4, 5], "n_visits": 1,
        },
    ]  # fmt: skip
    index = index_of(out)
    assert index["splits"]["train"] == [
        {
            "path": "train/00000.parquet", "rows": 2, "tokens": 10, "longest": 5,
            "sha256": artifacts.sha256(out / "train" / "00000.parquet"),
        }
    ]  # fmt: skip
    assert (index["vocabulary_size"], index["longest"]) == (11, 5)
    assert set(index) == {"format", "format_version", "splits", "vocabulary_size", "longest"}
    tables = ledger(out)
    assert tables["visits"]["rejected"] == {"beyond shards.max_tokens": 1}
    assert tables["codes"]["rejected"] == {"in a visit beyond shards.max_tokens": 2}
    assert tables["patients"]["noted"] == {"longer than shards.max_tokens, visits dropped": 1}


def test_unknown_codes_become_unk_and_are_counted(tmp_path: Path) -> None:
    made = train_of(tmp_path / "records", ("F", 40.0, [["4019", "585"]]), ("M", 60.0, [["4019"]]))
    known = run_vocabulary(made, tmp_path, "vocabulary.min_patients=2")
    out = run_shards(made, known, tmp_path)
    table = artifacts.read_split(out / "index.json", "train")
    assert table["tokens"].to_pylist() == [[1, 3, 6, 8, 4, 5], [1, 3, 6, 4, 5]]
    assert ledger(out)["codes"]["noted"] == {"not in the vocabulary, <unk>": 1}


def test_a_patients_shard_does_not_depend_on_the_others() -> None:
    everybody = list(range(1, 400))
    spread = buckets(everybody, 4)
    assert set(spread) == {0, 1, 2, 3}
    assert buckets([7, 300], 4).tolist() == [spread[6], spread[299]]


def test_several_shards_hold_the_same_patients_as_one(mimic3_demo: Path, tmp_path: Path) -> None:
    made = run_records(run_ingest(mimic3_demo, tmp_path), tmp_path)
    known = run_vocabulary(made, tmp_path)
    one = run_shards(made, known, tmp_path / "one")
    four = run_shards(made, known, tmp_path / "four", "shards.count=4")
    assert len(index_of(four)["splits"]["test"]) == 4
    for split in SPLITS:
        assert artifacts.read_split(one / "index.json", split).equals(
            artifacts.read_split(four / "index.json", split)
        )
    codes = ledger(one)["codes"]
    assert codes["rows_in"] == 1761 == codes["rows_kept"] + sum(codes["rejected"].values())


def test_a_second_run_gives_the_same_bytes(mimic3_demo: Path, tmp_path: Path) -> None:
    made = run_records(run_ingest(mimic3_demo, tmp_path), tmp_path)
    known = run_vocabulary(made, tmp_path)
    first, second = (run_shards(made, known, tmp_path / name) for name in "ab")
    for name in ("index.json", "ledger.json", *(f"{split}/00000.parquet" for split in SPLITS)):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_vocabulary_of_another_run_is_refused(tmp_path: Path) -> None:
    made = train_of(tmp_path / "records", ("F", 40.0, [["4019", "585"]]), ("M", 60.0, [["4019"]]))
    known = run_vocabulary(made, tmp_path)
    content = (known / "vocabulary.json").read_bytes()
    run_vocabulary(made, tmp_path, "vocabulary.min_patients=2")
    (known / "vocabulary.json").write_bytes(content)
    with pytest.raises(ArtifactError, match="not of one run"):
        run_shards(made, known, tmp_path)
