"""What a person sees of a run: a bar on a terminal, a line in the log now and then, TensorBoard.

Reads the loop's state and changes nothing; asks the device for numbers at intervals only.
"""

import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from promptehr.errors import SettingsError
from promptehr.model.batches import Step
from promptehr.model.evaluation import perplexity
from promptehr.model.state import LoopState
from promptehr.settings import Runtime

logger = logging.getLogger(__name__)

BAR_EVERY_S = 0.5


def watched(state: LoopState, steps: Iterable[Step], runtime: Runtime, total: int) -> Iterator[Step]:
    """The steps of an epoch, shown while they are worked on.

    Args:
        state: The run.
        steps: What is left of the epoch.
        runtime: Seconds between lines of the log.
        total: Steps of the whole run, which the time left is reckoned for.
    """
    pace = Pace(state)
    with tqdm(
        total=total,
        initial=state.step,
        unit="step",
        disable=not sys.stderr.isatty(),
        dynamic_ncols=True,
        leave=False,
    ) as bar:
        shown = lined = time.monotonic()
        for step in steps:
            yield step
            now = time.monotonic()
            if not bar.disable and now - shown > BAR_EVERY_S:
                bar.n, shown = state.step, now
                bar.set_postfix_str(numbers(state, pace.tokens_per_s()))
            if now - lined > runtime.log_every_s:
                text, left = numbers(state, pace.tokens_per_s()), pace.seconds_left(total)
                logger.info("step %d of %d: %s, %s left", state.step, total, text, duration(left))
                lined = now


class Pace:
    """How fast a run has been since this was made; scored tokens, steps."""

    def __init__(self, state: LoopState):
        self.state = state
        self.began, self.step, self.tokens = time.monotonic(), state.step, _scored(state)

    def tokens_per_s(self) -> float:
        return (_scored(self.state) - self.tokens) / (time.monotonic() - self.began)

    def seconds_left(self, total: int) -> float:
        """For the steps up to `total`, at this pace."""
        done = max(1, self.state.step - self.step)
        return (time.monotonic() - self.began) / done * (total - self.state.step)


def numbers(state: LoopState, tokens_per_s: float) -> str:
    """Loss and perplexity of the epoch so far, all conditions, with dropout; pace; learning rate."""
    nats, scored, code_nats, codes = state.sums.sum(0).tolist()
    rate = state.optimizer.param_groups[0]["lr"]
    return (
        f"loss {nats / max(scored, 1.0):.4f}, code perplexity {_perplexity(code_nats, codes):.1f},"
        f" {tokens_per_s:.0f} useful tokens/s, learning rate {rate:.2e}"
    )


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as in 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _scored(state: LoopState) -> float:
    return float(state.sums[:, 1].sum())


def _perplexity(nats: float, scored: float) -> float:
    return perplexity(nats / scored) if scored else math.nan


# --- TensorBoard -------------------------------------------------------------------------------


class Board:
    """TensorBoard event files of a run: a copy of the history, made anew when the run continues.

    They hold clock times and are no artifact.
    """

    def __init__(self, folder: Path, history: Iterable[Mapping[str, Any]]):
        """Start the folder anew with the epochs that are done.

        Raises:
            SettingsError: if the tensorboard package is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise SettingsError(
                "runtime.tensorboard: true, but the tensorboard package is not installed; install it"
                " (pip install -c constraints.txt tensorboard) or set it to false"
            ) from None
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(str(folder))
        for record in history:
            self.add(record)

    def add(self, record: Mapping[str, Any]) -> None:
        """Write the numbers of one epoch, by their place in its record, as in valid/prompt/codes/nll."""
        for name, value in scalars(record):
            self._writer.add_scalar(name, value, global_step=record["step"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def scalars(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in nested mappings as (name/of/place, value); what is null is left out."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)
