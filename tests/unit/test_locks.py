"""One run on a results folder, one job on a stage's outputs, and what dead ones leave."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from promptehr import locks
from promptehr.errors import ArtifactError, BusyError

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from promptehr import locks
held = locks.results(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_told_who_holds_the_results(tmp_path: Path) -> None:
    results = tmp_path / "results"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(results)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=f"results: in use by process {holder.pid} on .+; wait for it"):
            locks.results(results)
        holder.kill()
    locks.results(results).close()


def test_the_lock_is_not_inherited_by_programs_that_are_started(tmp_path: Path) -> None:
    held = locks.results(tmp_path / "results")
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        held.close()
        locks.results(tmp_path / "results").close()
        child.kill()


def test_only_locks_that_name_our_files_are_dropped(tmp_path: Path) -> None:
    texts = {
        "0.input.lock": "data/PATIENTS.csv\nresults/ingest/patients.parquet\n",
        "0.output.lock": "results/records/train.parquet\n",
        "1.output.lock": "results/demo/records/train.parquet\n",
        "2.output.lock": "results-2/records/train.parquet\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    locks.drop_dead_locks(tmp_path, Path("results"), ["ingest", "records"])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["1.output.lock", "2.output.lock"]
    locks.drop_dead_locks(tmp_path, Path("results/demo"), ["ingest", "records"])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["2.output.lock"]


# --- a stage's outputs -------------------------------------------------------------------------


def test_a_job_waits_for_the_one_that_still_writes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = [tmp_path / "records" / "train.parquet", tmp_path / "records" / "ledger.json"]
    order = []

    def second() -> None:
        with locks.outputs(files):
            order.append("second")

    with locks.outputs(files):
        waiting = threading.Thread(target=second)
        waiting.start()
        while not caplog.messages:
            time.sleep(0.01)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
    holder = f"process {os.getpid()} on "
    assert caplog.messages[0].startswith(f"{files[-1]}: {holder}")
    assert caplog.messages[0].endswith(" of a stopped run still writes it; waiting for its end")


def test_parts_are_written_side_by_side_and_not_beside_the_whole(tmp_path: Path) -> None:
    seal = tmp_path / "ledger.json"
    refused = pytest.raises(BusyError, match=r"ledger\.json: the job of a part still writes it; wait for it")
    with locks.part_of(seal), locks.part_of(seal, wait_s=0.0), refused, locks.outputs([seal], wait_s=0.0):
        pass
    refused = pytest.raises(BusyError, match=r"ledger\.json: process \d+ on \S+ still writes it; wait for it")
    with locks.outputs([seal]), refused, locks.part_of(seal, wait_s=0.0):
        pass


def test_a_job_does_not_wait_for_ever(tmp_path: Path) -> None:
    files = [tmp_path / "ledger.json"]
    refused = pytest.raises(BusyError, match=r"ledger\.json: process \d+ on \S+ still writes it; wait for it")
    with locks.outputs(files), refused, locks.outputs(files, wait_s=0.0):
        pass


def test_other_outputs_in_the_same_folder_are_not_waited_for(tmp_path: Path) -> None:
    with locks.outputs([tmp_path / "fidelity.json"]), locks.outputs([tmp_path / "privacy.json"], wait_s=0.0):
        pass


def test_what_a_killed_job_left_half_written_is_removed(tmp_path: Path) -> None:
    model = tmp_path / "model"
    for folder in (model, tmp_path / ".model.abcdefgh"):
        folder.mkdir()
        (folder / "config.json").touch()
    (model / ".config.json.abc_1234").touch()
    (tmp_path / ".summary.json.12345678").touch()
    (tmp_path / ".other.json.12345678").touch()
    with locks.outputs([model, tmp_path / "summary.json"]):
        left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert left == [".other.json.12345678", ".summary.json.lock", "model", "model/config.json"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match=r"file/results: cannot be written \(Not a directory\); free"):
        locks.results(tmp_path / "file" / "results")
