"""A run that is killed: a real process, SIGKILL at random moments, the bytes of an undisturbed run.

One server process imports the training code once and forks a trainer per attempt, so that an
attempt costs its training and not ten seconds of imports.
"""

import random
import signal
import subprocess
import sys
from pathlib import Path

from tests.model_builders import random_patients, write_inputs

KILLS = 24
ROOT = Path(__file__).parents[2]

SERVER = """
import os, signal, sys, time
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from tests.model_builders import outputs, tiny_settings
from promptehr import provenance
from promptehr.settings import Runtime
from promptehr.stages import train as stage

provenance.code("train")  # as the command line does: an edit while this runs is not the code that runs
inputs = stage.Inputs(*map(Path, sys.argv[2:]))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
for line in sys.stdin:
    folder, seconds = line.rsplit(maxsplit=1)
    signal.sigtimedwait([signal.SIGCHLD], 0)  # what the trainer before left pending
    began, trainer = time.monotonic(), os.fork()
    if not trainer:
        settings = tiny_settings(dropout=0.3)
        stage.run(inputs, outputs(Path(folder)), settings, Runtime(device="cpu", threads=1))
        os._exit(0)
    signal.sigtimedwait([signal.SIGCHLD], float(seconds))
    # An ended trainer keeps its number until it is waited for, so nobody else is hit.
    os.kill(trainer, signal.SIGKILL)
    print(os.waitpid(trainer, 0)[1], time.monotonic() - began, flush=True)
"""


def train(server: subprocess.Popen[str], folder: Path, *, kill_after_s: float = 600.0) -> tuple[int, float]:
    """One trainer's exit status as the kernel tells it, and its seconds."""
    assert server.stdin
    assert server.stdout
    server.stdin.write(f"{folder} {kill_after_s}\n")
    server.stdin.flush()
    status, seconds = server.stdout.readline().split()
    return int(status), float(seconds)


def everything(folder: Path) -> dict[str, bytes]:
    """Published files, and of the last checkpoint the weights, the optimiser's state and the history."""
    kept = [path for path in sorted(folder.glob("model/*")) if path.is_file()]
    kept += [folder / "history.jsonl", folder / "summary.json"]
    kept += sorted((folder / "checkpoints" / "step-00000015").iterdir())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}


def test_a_trainer_killed_at_random_moments_ends_with_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    inputs = write_inputs(
        tmp_path / "cohort", train=random_patients(40, seed=1), valid=random_patients(12, seed=2)
    )
    shown = [str(path) for path in vars(inputs).values() if path is not None]
    arguments = [sys.executable, "-c", SERVER, str(ROOT), *shown]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        status, seconds = train(server, tmp_path / "undisturbed")
        assert status == 0
        expected = everything(tmp_path / "undisturbed")
        assert {"history.jsonl", "checkpoints/step-00000015/state.pt"} <= expected.keys()
        moments, killed, runs = random.Random(1), 0, 0
        while killed < KILLS:
            runs += 1
            folder = tmp_path / f"run-{runs}"
            while not (folder / "summary.json").exists() and killed < KILLS:
                status, _ = train(server, folder, kill_after_s=moments.uniform(0, seconds))
                assert status in (0, signal.SIGKILL)
                killed += status == signal.SIGKILL
            assert train(server, folder)[0] == 0
            assert everything(folder) == expected
