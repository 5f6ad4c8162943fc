"""Progress of long work: a bar on a terminal, and a line in the log now and then."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

logger = logging.getLogger(__name__)
EVERY_S = 30.0  # between lines of the log, where the settings do not say
SHORT_S = 1.0  # work that ends sooner shows no bar
T = TypeVar("T")


def steps(items: Iterable[T], *, total: int, what: str, every_s: float = EVERY_S) -> Iterator[T]:
    """The items, with their number shown while they are worked on.

    Args:
        items: What is worked on.
        total: Number of items.
        what: Their name, in the plural.
        every_s: Seconds between lines of the log.
    """
    last = time.monotonic()
    bar = tqdm(
        items, total=total, unit="", desc=what, disable=not sys.stderr.isatty(), leave=False, delay=SHORT_S
    )
    for done, item in enumerate(bar, start=1):
        yield item
        if time.monotonic() - last >= every_s:
            logger.info("%d of %d %s", done, total, what)
            last = time.monotonic()
