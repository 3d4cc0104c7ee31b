"""Timing several things in turns, so that all meet the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

PERCENTILES = {'p50': 50, 'p90': 90, 'p99': 99, 'max': 100}
ROUNDS = 5
LEAST_RUNS, MOST_RUNS = 2, 100
"""In a row."""


def percentiles(times_ms: npt.ArrayLike) -> dict[str, float]:
    """Return the `PERCENTILES` of some times, in the same unit."""
    found = np.percentile(np.asarray(times_ms, float), list(PERCENTILES.values()))
    return {name: round(float(value), 2) for name, value in zip(PERCENTILES, found, strict=True)}


class Turn(NamedTuple):
    """What one round of one task took."""

    key: Any
    times_ms: list[float]
    processor_ms: float
    """Processor time of one run, of all threads together."""


def time_in_turns(tasks: Mapping[Any, Callable[[], object]], seconds: float) -> Iterator[Turn]:
    """Run every task for about `seconds`, in `ROUNDS` rounds; yield what it took in each.

    The first run of a round is left out: what ran before has emptied the caches, or its threads
    still spin.
    """
    for _ in range(ROUNDS):
        for key, task in tasks.items():
            start = time.process_time()
            times = times_ms(task, seconds / ROUNDS)
            processor_s = time.process_time() - start
            yield Turn(key, times, 1e3 * processor_s / (len(times) + 1))


def times_ms(task: Callable[[], object], seconds: float) -> list[float]:
    """Run a task once, then for about `seconds`; return how long each run but the first took."""
    once = time_ms(task)
    runs = int(np.clip(seconds / (once / 1e3), LEAST_RUNS, MOST_RUNS))
    return [time_ms(task) for _ in range(runs)]


def time_ms(task: Callable[[], object]) -> float:
    """Run a task once and return how many milliseconds it took."""
    start = time.perf_counter()
    task()
    return 1e3 * (time.perf_counter() - start)
