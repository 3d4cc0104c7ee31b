"""When the messages of a recording were taken, and reading them in that order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MAX_WAITING = 64
"""How many messages may wait for an earlier one that was recorded later (our choice)."""


class RawMessage(NamedTuple):
    """A serialised message; `data` is CDR in a ROS 2 bag, ROS 1's own format in a ROS 1 bag."""

    topic: str
    type: str
    record_ns: int
    data: bytes


@dataclass(frozen=True)
class Index:
    """When the messages of some topics were taken, in the order of the recording.

    `topics` int `[n]` numbers each message's topic in `names`; `stamps` int64 `[n]` are header
    stamps in ns, the recorder's time where the header has none.
    """

    names: tuple[str, ...]
    topics: npt.NDArray[np.int64]
    stamps: npt.NDArray[np.int64]
    without_stamp: npt.NDArray[np.bool_]

    def of(self, name: str) -> npt.NDArray[np.int64]:
        """Return the numbers of the messages of one topic."""
        return np.flatnonzero(self.topics == self.names.index(name))

    def order(self) -> tuple[npt.NDArray[np.int64], bool]:
        """Return the numbers of the messages in the order of their stamps, and True.

        In the order of the recording, and False, where stamps jump back so far (a clock was set,
        the bag holds several drives) that too many messages would have to wait.
        """
        by_stamp = np.argsort(self.stamps, kind='stable')
        recorded = np.arange(len(by_stamp))
        if not len(by_stamp):
            return recorded, True
        waiting = np.maximum.accumulate(by_stamp) - recorded
        fits = int(waiting.max()) <= MAX_WAITING
        return (by_stamp, True) if fits else (recorded, False)


def usual_rate_hz(stamps: npt.NDArray[np.int64]) -> float:
    """Return the usual rate of a camera by its stamps in ns, 10 if it cannot be told."""
    periods = np.diff(stamps)
    periods = periods[periods > 0]
    return float(np.clip(1e9 / np.median(periods), 1, 240)) if len(periods) else 10.0


def in_order(
    messages: Iterable[RawMessage], order: npt.NDArray[np.int64]
) -> Iterator[tuple[int, RawMessage]]:
    """Yield messages by their numbers in `messages`, in this order; others are passed over.

    Those that come before their turn wait in memory (see `MAX_WAITING`).
    """
    is_wanted = np.zeros(order.max(initial=-1) + 1, np.bool_)
    is_wanted[order] = True
    waiting: dict[int, RawMessage] = {}
    numbered = enumerate(messages)
    for number in order.tolist():
        while number not in waiting:
            came, message = next(numbered)
            if is_wanted[came]:
                waiting[came] = message
        yield number, waiting.pop(number)
