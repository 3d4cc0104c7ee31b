"""Ctrl-C and SIGTERM in a command that has started the node: everything is ended in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType


@contextmanager
def terminable() -> Iterator[None]:
    """Make SIGTERM a KeyboardInterrupt, as Ctrl-C is: what was begun is ended in order."""
    with _handlers({signal.SIGTERM: signal.default_int_handler}):
        yield


@contextmanager
def signals_later() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait: a process that is just being started would be forgotten."""
    came: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        came.append(number)

    with _handlers({signal.SIGINT: remember, signal.SIGTERM: remember}):
        yield
    for number in came:
        signal.raise_signal(number)


@contextmanager
def _handlers(handlers: Mapping[int, Callable[[int, FrameType | None], object]]) -> Iterator[None]:
    """Set signal handlers for a while; only the main thread can, others go without."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handlers[number]) for number in handlers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
