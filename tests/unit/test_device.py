"""The device is decided once, and a GPU that is not there is said to be missing."""

import os

import pytest
import torch

from promptehr.errors import SettingsError
from promptehr.model import device
from promptehr.settings import Runtime


@pytest.mark.parametrize(
    ("wanted", "there", "expected"),
    [("auto", False, "cpu"), ("cpu", True, "cpu"), ("auto", True, "cuda"), ("cuda", True, "cuda")],
)
def test_auto_takes_a_gpu_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch, wanted: str, there: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert device.decide(Runtime.model_validate({"device": wanted})) == torch.device(expected)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=r"runtime\.device: cuda, but torch sees no GPU"):
        device.decide(Runtime(device="cuda"))


def test_threads_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    device.decide(Runtime(device="cpu", threads=3))
    device.decide(Runtime(device="cpu"))
    assert given == [3]


def test_repeatable_arithmetic_is_asked_for_on_a_gpu_only_and_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for wanted, where, expected in ((True, "cuda", True), (False, "cuda", False), (True, "cpu", False)):
        with device.repeatable(wanted, torch.device(where)):
            assert torch.are_deterministic_algorithms_enabled() == expected
    assert not torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
