"""Where a stage computes: decided once, then passed on."""

import logging

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
