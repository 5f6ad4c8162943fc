"""The benchmark of the training step at a tiny size; its figures are nobody's business here."""

import time
from pathlib import Path

import pytest
import torch

from benchmarks import train_step
from promptehr.model import config, device, loop, objective, promptbart
from promptehr.settings import Train

GIVEN = [
    "--shape",
    "demo",
    "--patients",
    "40",
    "--seconds",
    "0.01",
    "--threads",
    "1",
    "--batches",
    "16p",
    "512t",
]


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_step, "CODES", 300)
    monkeypatch.setattr(train_step, "matmul_flops", lambda *_: 1.0e12)


def test_one_row_each_beside_the_naive_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small(monkeypatch)
    train_step.main(GIVEN)
    printed = capsys.readouterr().out
    assert "1 threads" in printed
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == [
        "| naive: fp32, 16 patients padded to 256",
        "| ours: fp32, 16 patients",
        "| ours: fp32, 512 tokens",
    ]
    assert rows[1][2] == "1.0"
    assert all(float(row[2]) > 1.0 for row in rows[2:])


def test_the_compiled_path_runs_every_shape_once_before_it_is_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small(monkeypatch)
    monkeypatch.setattr(device, "compiles", lambda *_: True)
    monkeypatch.setattr(loop, "compiled", lambda model: model)
    train_step.main(GIVEN)
    assert "ours: fp32, 512 tokens, compiled" in capsys.readouterr().out


def test_a_profile_names_the_operations_of_each_of_our_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small(monkeypatch)
    monkeypatch.setattr(train_step, "PROFILED_STEPS", 1)
    (tmp_path / "steps.txt").write_text("of an earlier call")
    train_step.main([*GIVEN[:-1], "--profile", str(tmp_path / "steps.txt")])
    text = (tmp_path / "steps.txt").read_text()
    assert text.startswith("ours: fp32, 16 patients, 1 steps\n")
    assert "aten::addmm" in text


def test_peaks_are_taken_before_and_after_each_row() -> None:
    peaks = iter([1.0, 3.0, 7.0])
    rows = [train_step.Row(name, 1.0, 1.0, 1.0) for name in "ab"]
    found = train_step.between_peaks([lambda row=row: row for row in rows], lambda: next(peaks))
    assert list(found) == [(rows[0], 2.0), (rows[1], 5.0)]


def test_products_that_the_hardware_lacks_are_measured_small() -> None:
    found = train_step.matmul_flops(torch.bfloat16, torch.device("cpu"), time.process_time, seconds=0.01)
    assert found > 1.0e7


def test_processor_time_is_of_one_thread(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_step.arguments(["--processor-time", "--threads", "1"]).processor_time
    with pytest.raises(SystemExit, match="2"):
        train_step.arguments(["--processor-time", "--threads", "2"])
    assert "--processor-time needs --threads 1" in capsys.readouterr().err


def test_operations_by_hand() -> None:
    """Width 8, one layer each, 16 wide inside, 3 prompts; two records of 5 labels each."""
    train = Train.model_validate(
        {"shape": {"width": 8, "encoder_layers": 1, "decoder_layers": 1, "heads": 2, "feed_forward": 16}}
    )
    patients = train_step.store(4, torch.device("cpu"))
    shape = config.from_settings(train, patients.vocabulary_size)
    model = promptbart.start(shape, objective.log_unigram(patients), seed=1)
    decoder, keys = 4 * 64 + 2 * 64 + 2 * 128, 2 * 64
    written = decoder * (10 + 2 * 3) + 8 * patients.vocabulary_size * 10
    encoder = 4 * 64 + 2 * 128
    done = train_step.Done(labels=10, patients=2)
    assert train_step.flops(model, done) == 6.0 * (written + (encoder + keys) * 2 * 5)


def test_every_beginning_of_the_steps_is_spread_over_them_all() -> None:
    order = train_step.evenly(range(100))
    assert order[:7] == [50, 25, 75, 12, 62, 37, 87]
    for count in (1, 2, 3, 7, 100):
        assert sorted(train_step.evenly(range(count))) == list(range(count))
