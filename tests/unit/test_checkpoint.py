"""Checkpoints: whole or skipped, pruned to the last ones and what they need, one owner at a time."""

import itertools
import json
import math
import os
import resource
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn

from promptehr import lease
from promptehr.errors import ArtifactError, BusyError, Interrupted
from promptehr.model import checkpoint, ownership, signals
from promptehr.model.checkpoint import Checkpoints, Saved

KEY = {"settings": ["train.seed=1"], "data": {"index": "a"}, "code": {"promptehr.model.loop": "b"}}


def saved(step: int, *, needs: tuple[int, ...] = ()) -> Saved:
    """A state whose every number tells its step."""
    return Saved(
        step=step,
        weights={"w": torch.full((2, 3), float(step)), "bias": torch.zeros(1)},
        tensors={
            "optimizer": {"state": {0: {"m": torch.full((2,), step / 7)}}, "param_groups": [{"lr": 0.1}]}
        },
        values={"best_step": None, "history": [{"epoch": 1, "nll": 0.1 + 0.2}], "needs": list(needs)},
        origin={"device": "cpu"},
    )


def plain(state: Saved) -> dict[str, Any]:
    return {
        "step": state.step,
        "weights": {name: tensor.tolist() for name, tensor in state.weights.items()},
        "m": state.tensors["optimizer"]["state"][0]["m"].tolist(),
        "groups": state.tensors["optimizer"]["param_groups"],
        "values": dict(state.values),
        "origin": dict(state.origin),
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_comes_back_to_the_bit(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(saved(12))
    found = checkpoints.newest(at_most=12)
    assert found is not None
    assert plain(found) == plain(saved(12))
    assert plain(checkpoints.named("step-00000012")) == plain(saved(12))


def test_the_newest_within_the_limit_is_found(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    assert checkpoints.newest(at_most=99) is None
    for step in (5, 10, 15):
        checkpoints.save(saved(step))
    assert [getattr(checkpoints.newest(at_most=most), "step", None) for most in (99, 14, 4)] == [15, 10, None]


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, damage: str
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(saved(5))
    checkpoints.save(saved(10))
    path = tmp_path / "step-00000010" / file
    content = path.read_bytes()
    flipped = bytes([*content[:40], content[40] ^ 4, *content[41:]])
    damaged = {"flip": flipped, "cut": content[:-1], "empty": b"", "remove": b""}[damage]
    path.write_bytes(damaged)
    if damage == "remove":
        path.unlink()
    found = checkpoints.newest(at_most=99)
    is_blank = file == "manifest.json" and damage == "cut"  # only the newline at the end is gone
    assert (found.step if found else None) == (10 if is_blank else 5)
    assert ("step-00000010: skipped" in caplog.text) != is_blank


@pytest.mark.parametrize(
    "file", ["model.safetensors", "state.pt", "state.json", "manifest.json", "weights/model.safetensors"]
)
def test_any_flipped_bit_is_seen_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str
) -> None:
    """Bits spread over the file, the first and the last among them; blanks of the JSON are not content."""
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(saved(5))
    checkpoints.save_weights(8, saved(8).weights)
    checkpoints.save(saved(10, needs=(8,)))
    folder = tmp_path / ("weights-00000008" if file.startswith("weights/") else "step-00000010")
    path = folder / file.removeprefix("weights/")
    content = path.read_bytes()
    bits = len(content) * 8
    for bit in sorted({0, bits - 8 * 4, *range(0, bits - 8 * 4, max(1, bits // 40))}):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        if file == "manifest.json" and content[bit // 8 : bit // 8 + 1].isspace():
            continue
        path.write_bytes(flipped)
        caplog.clear()
        found = checkpoints.newest(at_most=99)
        assert found is not None
        assert found.step == 5, bit
        assert f"{folder}: skipped, " in caplog.text
    path.write_bytes(content)
    assert plain(checkpoints.named("step-00000010")) == plain(saved(10, needs=(8,)))


def test_a_damaged_older_one_is_in_nobody_s_way(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (5, 10):
        checkpoints.save(saved(step))
    (tmp_path / "step-00000005" / "state.json").write_bytes(b"{")
    checkpoints.save(saved(15))
    assert names(tmp_path) == ["step-00000005", "step-00000010", "step-00000015"]


def test_without_a_whole_one_there_is_none(tmp_path: Path) -> None:
    Checkpoints(tmp_path, keep=3).save(saved(5))
    (tmp_path / "step-00000005" / "state.pt").write_bytes(b"")
    assert Checkpoints(tmp_path, keep=3).newest(at_most=9) is None


def test_a_checkpoint_whose_best_weights_are_gone_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(saved(5))
    checkpoints.save_weights(8, saved(8).weights)
    checkpoints.save(saved(10, needs=(8,)))
    (tmp_path / "weights-00000008" / "model.safetensors").unlink()
    found = checkpoints.newest(at_most=99)
    assert found is not None
    assert found.step == 5
    assert "the weights of step 8 that it needs are gone" in caplog.text


def test_keeps_the_last_ones_and_the_weights_they_need(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, needs in ((5, ()), (10, (7,)), (15, (7,)), (20, (17,))):
        for needed in needs:
            checkpoints.save_weights(needed, saved(needed).weights)
        checkpoints.save(saved(step, needs=needs))
    assert names(tmp_path) == ["step-00000015", "step-00000020", "weights-00000007", "weights-00000017"]
    weights = checkpoints.weights(7)
    assert weights is not None
    assert weights["w"].tolist() == [[7.0] * 3] * 2
    assert checkpoints.weights(10) is None


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    (tmp_path / ".begun-step-00000005").mkdir()  # left by a kill
    checkpoints.save(saved(5))
    checkpoints.save(saved(5))
    assert names(tmp_path) == ["step-00000005"]


@pytest.mark.parametrize("moved", [True, False])
def test_a_kill_while_a_step_is_replaced_loses_neither(tmp_path: Path, moved: bool) -> None:
    Checkpoints(tmp_path, keep=2).save(saved(5))
    (tmp_path / "step-00000005").rename(tmp_path / ".replaced-step-00000005")
    if not moved:
        Checkpoints(tmp_path / "other", keep=2).save(saved(5))
        (tmp_path / "other/step-00000005").rename(tmp_path / "step-00000005")
        (tmp_path / "other").rmdir()
    found = Checkpoints(tmp_path, keep=2).newest(at_most=9)
    assert plain(found) == plain(saved(5))
    assert names(tmp_path) == ["step-00000005"]


def test_what_was_just_saved_stays_beside_steps_of_a_longer_run(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (30, 35):
        checkpoints.save(saved(step))
    checkpoints.save_weights(5, saved(5).weights)
    checkpoints.save(saved(8, needs=(5,)))
    assert names(tmp_path) == ["step-00000008", "step-00000030", "step-00000035", "weights-00000005"]


def test_damaged_ones_do_not_count_among_those_kept(tmp_path: Path) -> None:
    before = Checkpoints(tmp_path, keep=2)
    for step in (5, 10):
        before.save(saved(step))
    (tmp_path / "step-00000010" / "state.pt").write_bytes(b"")
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert getattr(checkpoints.newest(at_most=99), "step", None) == 5
    checkpoints.save(saved(12))
    assert names(tmp_path) == ["step-00000005", "step-00000012"]


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_best_weights_are_made_anew_from_their_checkpoint_before_it_goes(tmp_path: Path, damage: str) -> None:
    before = Checkpoints(tmp_path, keep=2)
    before.save_weights(5, saved(5).weights)
    before.save(saved(5, needs=(5,)))
    before.save(saved(10, needs=(5,)))
    path = tmp_path / "weights-00000005" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07") if damage == "flip" else path.unlink()
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert getattr(checkpoints.newest(at_most=99), "step", None) == 10
    for step in (15, 20):
        checkpoints.save(saved(step, needs=(5,)))
    weights = checkpoints.weights(5)
    assert weights is not None
    assert weights["w"].tolist() == [[5.0] * 3] * 2


def test_weights_that_are_not_finite_are_skipped_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(saved(5))
    spoilt = saved(10)
    spoilt.weights["w"][0, 0] = math.nan
    checkpoints.save(spoilt)
    assert getattr(checkpoints.newest(at_most=99), "step", None) == 5
    assert "step-00000010: skipped, weight w is not finite" in caplog.text


def test_a_person_s_copy_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(saved(15))
    shutil.copytree(tmp_path / "step-00000015", tmp_path / "step-00000015.bak")
    assert checkpoints.newest(at_most=9) is None
    checkpoints.save(saved(20))
    assert names(tmp_path) == ["step-00000015.bak", "step-00000020"]


def test_files_are_private(tmp_path: Path) -> None:
    Checkpoints(tmp_path / "new", keep=1).save(saved(5))
    folder = tmp_path / "new" / "step-00000005"
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert [path.stat().st_mode & 0o777 for path in (folder, folder.parent)] == [0o700, 0o700]


def test_a_full_disk_is_one_line_and_leaves_the_older_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(saved(5))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ArtifactError, match=r"step-00000010: cannot be written \(No space left"):
        checkpoints.save(saved(10))
    found = checkpoints.newest(at_most=99)
    assert found is not None
    assert found.step == 5


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """The system refuses to write more into one file, as it refuses all on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("large", ["weights", "tensors"])
def test_what_torch_and_safetensors_say_of_a_disk_is_one_line_too(tmp_path: Path, large: str) -> None:
    state = replace(saved(10), **{large: {"big": torch.zeros(50_000)}})
    with no_file_over(100_000), pytest.raises(ArtifactError) as told:
        Checkpoints(tmp_path, keep=2).save(state)
    assert str(told.value) == (
        f"{tmp_path}/step-00000010: cannot be written (File too large); the checkpoints before it are whole,"
        " free some space and run the same command"
    )
    assert Checkpoints(tmp_path, keep=2).newest(at_most=10) is None


def test_what_tokenizers_says_of_a_disk_is_one_line_too(tmp_path: Path) -> None:
    words = Tokenizer(WordLevel({str(number): number for number in range(10_000)}, unk_token="0"))
    with no_file_over(10_000), pytest.raises(ArtifactError) as told, checkpoint.writing(tmp_path):
        words.save(str(tmp_path / "tokenizer.json"))
    assert str(told.value) == f"{tmp_path}: cannot be written (File too large); free or change the folder"


def test_an_error_that_is_none_of_the_disk_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a bug"), checkpoint.writing(tmp_path):
        raise RuntimeError("a bug")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.system, ("exit 1",))

    Checkpoints(tmp_path, keep=1).save(saved(5))
    path = tmp_path / "step-00000005"
    torch.save({"optimizer": Evil()}, path / "state.pt")
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    manifest["state.pt"] = checkpoint.artifacts.sha256(path / "state.pt")
    (path / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(ArtifactError, match="step-00000005: cannot be read"):
        Checkpoints(tmp_path, keep=1).newest(at_most=9)


# --- weights -----------------------------------------------------------------------------------


def test_weights_of_tied_tensors_are_saved_once_and_restored() -> None:
    model, other = tied(1), tied(2)
    weights = checkpoint.weights_of(model)
    assert sorted(weights) == ["0.weight"]
    checkpoint.restore_weights(other, weights)
    assert torch.equal(other[1].weight, model[0].weight)


def test_saved_weights_do_not_follow_the_model() -> None:
    model = tied(1)
    weights = checkpoint.weights_of(model)
    before = weights["0.weight"].clone()
    with torch.no_grad():
        model[0].weight.add_(1.0)
    assert torch.equal(weights["0.weight"], before)


def test_weights_of_another_model_are_refused_by_name() -> None:
    with pytest.raises(ArtifactError, match=r"0\.bias is on one side only"):
        checkpoint.restore_weights(nn.Sequential(nn.Linear(2, 2)), {"0.weight": torch.zeros(2, 2)})


def tied(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    return model


# --- the run's own -----------------------------------------------------------------------------


def test_the_same_key_keeps_the_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ownership.claim(tmp_path, KEY)
    Checkpoints(tmp_path, keep=1).save(saved(5))
    ownership.claim(tmp_path, KEY)
    assert names(tmp_path) == ["key.json", "step-00000005"]
    assert caplog.text == ""


def test_another_key_moves_the_old_run_aside_and_names_what_differs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ownership.claim(tmp_path, KEY)
    Checkpoints(tmp_path, keep=1).save(saved(5))
    other = {
        "settings": ["train.seed=2"],
        "data": {"index": "z"},
        "code": {"promptehr.model.loop": "b", "promptehr.model.new": "c"},
    }
    ownership.claim(tmp_path, other)
    assert "a run with other index, promptehr.model.new, train.seed; moved to superseded-" in caplog.text
    [first] = tmp_path.glob("superseded-*")
    assert names(first) == ["key.json", "step-00000005"]


def test_a_run_comes_back_with_its_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ownership.claim(tmp_path, KEY)
    Checkpoints(tmp_path, keep=1).save(saved(5))
    other, third = ({**KEY, "settings": [f"train.seed={seed}"]} for seed in (7, 8))
    ownership.claim(tmp_path, other)
    Checkpoints(tmp_path, keep=1).save(saved(8))
    ownership.claim(tmp_path, KEY)
    assert "this run's own come back" in caplog.text
    [aside] = tmp_path.glob("superseded-*")
    assert names(tmp_path) == ["key.json", "step-00000005", aside.name]
    assert names(aside) == ["key.json", "step-00000008"]
    assert json.loads((tmp_path / "key.json").read_bytes()) == KEY
    ownership.claim(tmp_path, third)
    [last] = tmp_path.glob("superseded-*")
    assert names(last) == ["key.json", "step-00000005"]


@pytest.mark.parametrize("done", [1, 2])
def test_a_move_that_was_cut_short_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    ownership.claim(tmp_path, KEY)
    checkpoints = Checkpoints(tmp_path, keep=3, run=ownership.digest(KEY))
    for step in (5, 10):
        checkpoints.save(saved(step))
    other = {**KEY, "settings": ["train.seed=7"]}
    move, moves = Path.rename, itertools.count()

    def cut_short(path: Path, target: Path) -> Path:
        if next(moves) == done:
            raise KeyboardInterrupt
        return move(path, target)

    for key in (other, KEY):
        moves = itertools.count()
        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", cut_short)
            with pytest.raises(KeyboardInterrupt):
                ownership.claim(tmp_path, key)
        ownership.claim(tmp_path, key)
    [aside] = tmp_path.glob("superseded-*")
    assert names(tmp_path) == ["key.json", "step-00000005", "step-00000010", aside.name]
    assert names(aside) == ["key.json"]


def test_a_run_that_may_not_start_over_leaves_another_s_folder(tmp_path: Path) -> None:
    ownership.claim(tmp_path, KEY)
    Checkpoints(tmp_path, keep=1).save(saved(5))
    other = {**KEY, "settings": ["train.seed=7"]}
    with pytest.raises(ArtifactError, match=r"belongs to a run with other train\.seed; put that back"):
        ownership.claim(tmp_path, other, may_start_over=False)
    assert names(tmp_path) == ["key.json", "step-00000005"]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"settings": ["train.seed=3"], "data": {}, "code": {}}'])
def test_a_damaged_key_does_not_lose_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    ownership.claim(tmp_path, KEY)
    whole = (tmp_path / "key.json").read_bytes()
    Checkpoints(tmp_path, keep=1, run=ownership.digest(KEY)).save(saved(5))
    (tmp_path / "key.json").write_bytes(damage)
    ownership.claim(tmp_path, KEY)
    assert names(tmp_path) == ["key.json", "step-00000005"]
    assert (tmp_path / "key.json").read_bytes() == whole
    assert "key.json: damaged" in caplog.text


def test_checkpoints_without_a_key_are_not_trusted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Checkpoints(tmp_path, keep=1).save(saved(5))
    ownership.claim(tmp_path, KEY)
    assert list(tmp_path.glob("step-*")) == []
    assert "moved to superseded-" in caplog.text


# --- the lease ---------------------------------------------------------------------------------


def test_a_held_lease_refuses_a_second_holder_and_names_the_first(tmp_path: Path) -> None:
    with (
        lease.held(tmp_path),
        pytest.raises(BusyError, match=f"process {os.getpid()} on {socket.gethostname()} trains here"),
        lease.held(tmp_path),
    ):
        pass
    with lease.held(tmp_path):
        pass


class Elsewhere:
    """A holder on another host, and the clock of this one: sleeping makes time pass."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, ahead_s: float = 0.0):
        self.path, self.ahead_s, self.now = folder / "lease.json", ahead_s, 1000.0
        self.beats_every_s: float | None = None
        self.ends_at: float | None = None
        self.is_written_anew = False
        self.beat()
        monkeypatch.setattr(lease.time, "time", lambda: self.now)
        monkeypatch.setattr(lease.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(lease.time, "sleep", self.sleep)

    def beat(self) -> None:
        content = {"host": "elsewhere", "pid": 7, "job": None, "heartbeat": self.now + self.ahead_s}
        self.path.write_text(json.dumps(content), "utf-8")

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.ends_at is not None and self.now >= self.ends_at:
            self.path.write_text(lease.SIGNED_OFF, "utf-8")
        elif self.is_written_anew:
            self.path.write_text("", "utf-8")
        elif self.beats_every_s is not None and self.now % self.beats_every_s < seconds:
            self.beat()


@pytest.mark.parametrize(
    ("ahead_s", "waited_s"), [(0.0, 120.0), (-50.0, 70.0), (-110.0, 40.0), (-130.0, 0.0), (500.0, 120.0)]
)
def test_a_silent_holder_on_another_host_is_waited_for_two_minutes(
    ahead_s: float,
    waited_s: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = Elsewhere(tmp_path, monkeypatch, ahead_s=ahead_s)
    with lease.held(tmp_path):
        assert json.loads(other.path.read_text("utf-8"))["pid"] == os.getpid()
    assert other.now - 1000.0 == waited_s
    waiting = f"process 7 on elsewhere trained here; waiting {waited_s:.0f} s for a sign of life"
    assert [message.endswith(waiting) for message in caplog.messages] == [True] * bool(waited_s)


def test_a_holder_on_another_host_whose_heart_beats_is_not_disturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Elsewhere(tmp_path, monkeypatch)
    other.beats_every_s = lease.HEARTBEAT_S
    with pytest.raises(BusyError, match="process 7 on elsewhere trains here"), lease.held(tmp_path):
        pass
    assert json.loads(other.path.read_text("utf-8"))["pid"] == 7


def test_a_holder_on_another_host_that_signs_off_is_followed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Elsewhere(tmp_path, monkeypatch)
    other.ends_at = other.now + 10.0
    with lease.held(tmp_path):
        assert other.now == 1010.0


def test_an_empty_lease_is_no_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Elsewhere(tmp_path, monkeypatch)
    other.is_written_anew = True
    with lease.held(tmp_path):
        assert other.now == 1120.0


def test_a_lease_that_is_deleted_while_it_is_waited_for_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Elsewhere(tmp_path, monkeypatch)
    monkeypatch.setattr(lease.time, "sleep", lambda _: other.path.unlink())
    with pytest.raises(BusyError, match="deleted while it was waited for; start again"), lease.held(tmp_path):
        pass


def test_a_run_that_was_stopped_signs_off_too(tmp_path: Path) -> None:
    with pytest.raises(Interrupted), lease.held(tmp_path):
        raise Interrupted("training stopped by SIGTERM")
    assert (tmp_path / "lease.json").read_text("utf-8").strip() == lease.SIGNED_OFF


def test_a_dead_holder_on_this_host_is_no_obstacle(tmp_path: Path) -> None:
    content = {"host": socket.gethostname(), "pid": 7, "job": None, "heartbeat": time.time()}
    (tmp_path / "lease.json").write_text(json.dumps(content), "utf-8")
    with lease.held(tmp_path):
        held = json.loads((tmp_path / "lease.json").read_text("utf-8"))
    assert (held["pid"], held["host"]) == (os.getpid(), socket.gethostname())
    assert (tmp_path / "lease.json").read_text("utf-8").strip() == lease.SIGNED_OFF


def test_a_lease_that_was_deleted_or_taken_over_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    with lease.held(tmp_path) as held:
        held.require()
        path.unlink()
        with pytest.raises(BusyError, match="deleted or replaced"):
            held.require()
    with lease.held(tmp_path) as held:
        path.write_text(json.dumps({"host": "elsewhere", "pid": 7}), "utf-8")
        with pytest.raises(BusyError, match="process 7 on elsewhere took over"):
            held.require()
    assert json.loads(path.read_text("utf-8"))["pid"] == 7


def test_the_heart_beats_once_per_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 105.0, 100.0 + lease.HEARTBEAT_S + 1])
    monkeypatch.setattr(lease.time, "monotonic", lambda: next(clock))
    beats = iter([1.0, 2.0])
    monkeypatch.setattr(lease.time, "time", lambda: next(beats))
    with lease.held(tmp_path) as held:
        held.beat()
        assert json.loads((tmp_path / "lease.json").read_text("utf-8"))["heartbeat"] == 1.0
        held.beat()
        assert json.loads((tmp_path / "lease.json").read_text("utf-8"))["heartbeat"] == 2.0


# --- signals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", signals.ASKING)
def test_a_signal_is_noted_and_the_old_handler_comes_back(number: signals.signal.Signals) -> None:
    before = signals.signal.getsignal(number)
    with signals.watched() as asked:
        assert asked() is None
        signals.signal.raise_signal(number)
        assert asked() == number.name
    assert signals.signal.getsignal(number) == before
