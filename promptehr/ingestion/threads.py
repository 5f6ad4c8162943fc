"""A function over many items on the threads that polars has, its results in the items' order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import polars as pl

from promptehr.errors import InputError

Given = TypeVar("Given")
Made = TypeVar("Made")


def in_threads(function: Callable[[Given], Made], items: Iterable[Given]) -> Iterator[Made]:
    """What a function makes of each item, in their order, while the next items are being made.

    As many threads as polars has; none where that is one.
    """
    threads = pl.thread_pool_size()
    if threads == 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for made in _submitted(pool, function, items):
            waiting.append(made)
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _submitted(
    pool: ThreadPoolExecutor, function: Callable[[Given], Made], items: Iterable[Given]
) -> Iterator[Future[Made]]:
    """What will be made of each item; an error that ends the items comes in its turn, as on one thread."""
    try:
        for item in items:
            yield pool.submit(function, item)
    except InputError as error:
        failed: Future[Made] = Future()
        failed.set_exception(error)
        yield failed
