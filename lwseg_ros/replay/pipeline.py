"""Stages of work on items in order, each in threads of its own, a few items ahead of the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

AHEAD = 4
"""How many items wait before each stage, beyond those that are worked on (our choice)."""

T = TypeVar('T')
R = TypeVar('R')


@contextmanager
def in_threads(threads: int, work: Callable[[T], R], items: Iterator[T]) -> Iterator[Iterator[R]]:
    """Give `work(item)` of each item in order, done by threads before it is asked for.

    At the end what has begun is completed, and nothing else is begun.
    """
    end: Any = object()
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(1) as taker, ThreadPoolExecutor(threads) as workers:

        def begin() -> None:
            taken = taker.submit(next, items, end)
            waiting.append(
                workers.submit(lambda: end if (item := taken.result()) is end else work(item))
            )

        def results() -> Iterator[R]:
            for _ in range(threads + AHEAD):
                begin()
            while (result := waiting.popleft().result()) is not end:
                begin()
                yield result

        try:
            yield results()
        finally:
            for pool in (workers, taker):
                pool.shutdown(wait=False, cancel_futures=True)
