"""Where a stage computes: decided once, then passed on."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch

from promptehr.errors import SettingsError
from promptehr.settings import Runtime

logger = logging.getLogger(__name__)


def decide(runtime: Runtime) -> torch.device:
    """The device that the runtime settings ask for; sets torch's CPU threads.

    Raises:
        SettingsError: if a GPU is asked for and there is none.
    """
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    there = torch.cuda.is_available()
    if runtime.device == "cuda" and not there:
        raise SettingsError(
            "runtime.device: cuda, but torch sees no GPU here; use auto or cpu, or install torch's CUDA build"
        )
    device = torch.device("cuda" if there and runtime.device != "cpu" else "cpu")
    logger.info("device %s, %d CPU threads, torch %s", device, torch.get_num_threads(), torch.__version__)
    return device


def has_bf16(where: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices itself, by its capability, never by timing."""
    if where.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch before 2.13 may not tell; it computes in fp32 then.
    there: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(there.get("amx_bf16") or there.get("avx512_bf16"))


def compiles(choice: Literal["auto", "off"], where: torch.device) -> bool:
    """Whether training runs as compiled graphs: on a GPU, whose work is shorter than Python's."""
    return choice == "auto" and where.type == "cuda"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was short; torch's allocator of the CPU raises a plain RuntimeError."""
    short = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return short or "DefaultCPUAllocator" in str(error)


@contextmanager
def repeatable(wanted: bool, where: torch.device) -> Iterator[None]:
    """Arithmetic that repeats bit for bit on a GPU, if wanted; what cannot is an error that names it.

    cuBLAS repeats only with a workspace of fixed size, which it reads from the environment when it
    starts.
    """
    if not wanted or where.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
