"""Timing several things in turns, so that all meet the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

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


def time_in_turns(
    tasks: Mapping[Any, Callable[[], object]], seconds: float
) -> Iterator[tuple[Any, list[float]]]:
    """Run every task for about `seconds`, in `ROUNDS` rounds; yield its times of a round in ms.

    The first run of a round is left out: what ran before has emptied the caches, or its threads
    still spin.
    """
    for _ in range(ROUNDS):
        for key, task in tasks.items():
            yield key, times_ms(task, seconds / ROUNDS)


def times_ms(task: Callable[[], object], seconds: float) -> list[float]:
    """Run a task once, then for about `seconds`; return how long each run but the first took."""
    once = _timed(task)
    runs = int(np.clip(seconds / (once / 1e3), LEAST_RUNS, MOST_RUNS))
    return [_timed(task) for _ in range(runs)]


def _timed(task: Callable[[], object]) -> float:
    start = time.perf_counter()
    task()
    return 1e3 * (time.perf_counter() - start)
