"""The command line: help, options, settings, exit statuses, logs."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptehr import cli
from promptehr.stage_table import STAGES, Stage


@pytest.fixture(autouse=True)
def _no_handlers_left() -> Iterator[None]:
    yield
    for handler in cli.logger.handlers:
        handler.close()
    cli.logger.handlers = []


def simulate_arguments(folder: Path) -> list[str]:
    return [
        "simulate",
        *("--patients", str(folder / "PATIENTS.csv")),
        *("--admissions", str(folder / "ADMISSIONS.csv")),
        *("--diagnoses", str(folder / "DIAGNOSES_ICD.csv")),
        *("--process", str(folder / "process.json")),
    ]


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = cli.run(arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return status, captured.err.rstrip("\n")


def test_help_lists_every_stage_in_pipeline_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    words = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    names = [stage.name for stage in STAGES]
    assert [word for word in words if word in names] == names


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 0
    assert "Usage: promptehr" in capsys.readouterr().out


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_stage_has_its_files_as_options(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([stage.name, "--help"]) == 0
    shown = capsys.readouterr().out
    for name in (*stage.inputs, *stage.outputs, "log"):
        assert f"--{name.rstrip('?*').replace('_', '-')} " in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recrods"], "No such command 'recrods'. Did you mean 'records'?; see promptehr --help"),
        (["records"], "--patients-table is missing; see promptehr records --help"),
        (["records", "--sed", "1"], "No such option: --sed; see promptehr records --help"),
        (["inspect"], "path is missing; see promptehr inspect --help"),
        (
            ["settings", "--configfile", "absent.yaml"],
            "absent.yaml: No such file or directory; name a settings file with --configfile",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(arguments, capsys) == (2, f"promptehr: {message}")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("simulate.sed=1", "simulate.sed: unknown setting; did you mean seed?"),
        ("simulate.seed", "simulate.seed: expected section.key=value, for instance simulate.seed=1"),
        (
            "train.seed=1",
            "train.seed: not a setting of simulate; its sections are simulate",
        ),
        (
            "simulate.patients=0",
            "simulate.patients: Input should be greater than or equal to 1, got 0",
        ),
        (
            "simulate.patients=many",
            "simulate.patients: Input should be a valid integer, got 'many'",
        ),
    ],
)
def test_a_wrong_setting_is_one_line_and_writes_nothing(
    assignment: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, line = error_of([*simulate_arguments(tmp_path), assignment], capsys)
    assert (status, line) == (2, f"promptehr: {message}")
    assert list(tmp_path.iterdir()) == []


def test_the_error_line_stands_in_the_log_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "logs" / "simulate.log"
    status, line = error_of([*simulate_arguments(tmp_path), "--log", str(log), "simulate.seed=x"], capsys)
    assert status == 2
    assert log.read_text().endswith(f" ERROR {line}\n")


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    status, line = error_of([*simulate_arguments(tmp_path), "--log", str(tmp_path / "file" / "log")], capsys)
    assert status == 2
    assert line.startswith(f"promptehr: --log {tmp_path / 'file' / 'log'}: ")


def test_a_run_logs_its_start_and_end_to_the_file_and_nothing_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "simulate.log"
    assert cli.run([*simulate_arguments(tmp_path), "--log", str(log), "simulate.patients=20"]) == 0
    assert capsys.readouterr() == ("", "")
    lines = [line.split(" ", 2)[2] for line in log.read_text().splitlines()]
    assert lines[0] == "INFO simulate starts"
    assert lines[-1] == "INFO simulate is done"


def test_a_bug_keeps_its_traceback_in_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    cli.logger.handlers = [logging.FileHandler(log)]
    error = ZeroDivisionError("ours")
    cli._log_bug(type(error), error, None)
    assert "ZeroDivisionError: ours" in log.read_text()
    assert "ZeroDivisionError: ours" in capsys.readouterr().err


def test_settings_shows_value_and_origin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, overlay = tmp_path / "base.yaml", tmp_path / "mine.yaml"
    base.write_text("train: {seed: 2, epochs: 3}\nexperiments: {base: {}, quick: {train: {epochs: 1}}}\n")
    overlay.write_text("train: {seed: 5}\n")
    files = ["--configfile", str(base), "--configfile", str(overlay)]
    assert cli.run(["settings", *files, "--experiment", "quick"]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["train.seed"] == ["5", str(overlay)]
    assert rows["train.epochs"] == ["1", "experiments.quick"]
    assert rows["records.seed"] == ["1", "default"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [", "line 1 is not YAML"),
        ("- a\n", "expected sections like `train:`, found list"),
        ("trian: {}\n", "trian: unknown setting; did you mean train?"),
        ("train:\n", "train: empty; give it a value or delete the line to get the default"),
        ("train: {learning_rate: 1e-4}\n", "got '1e-4' as text (write 1.0e-4, not 1e-4)"),
    ],
)
def test_a_settings_file_that_is_wrong_says_where(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    status, line = error_of(["settings", "--configfile", str(file)], capsys)
    assert status == 2
    assert message in line


def test_settings_need_not_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("train", "records-ledger", "vocabulary", "ledger")
    files = [word for name in names for word in (f"--{name}", str(tmp_path / name))]
    status, line = error_of(["vocabulary", *files, "--log", str(tmp_path / "log")], capsys)
    assert (status, line) == (
        2,
        f"promptehr: {tmp_path / 'records-ledger'}: no such file; run the stage that writes it",
    )


def test_any_number_of_files_may_be_none() -> None:
    paths = {"ledgers": None, "histories": [Path("a"), Path("b")], "model": None, "index": Path("c")}
    assert cli._files(("ledgers*", "histories*", "model?", "index"), paths) == {
        "ledgers": (),
        "histories": (Path("a"), Path("b")),
        "model": None,
        "index": Path("c"),
    }
