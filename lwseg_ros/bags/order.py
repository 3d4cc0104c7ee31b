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
    """A serialised message; `data` is CDR or ROS 1's own format, as `encoding` says."""

    topic: str
    type: str
    record_ns: int
    data: bytes
    encoding: str


@dataclass(frozen=True)
class Index:
    """When the messages of some topics were taken, in the order of the recording.

    `topics` int `[n]` numbers each message's topic in `names`; `stamps` int64 `[n]` are header
    stamps in ns, as `completed_stamps` has them for those of `without_stamp`.
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


def completed_stamps(
    topics: npt.NDArray[np.int64],
    header_ns: npt.NDArray[np.int64],
    record_ns: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Return the stamps of messages, also of those whose header has none (0).

    Theirs are in the clock of their neighbours: a simulated drive begins at 0, while the recorder
    goes by the clock on the wall. They lie between the stamps before and after as the recorder's
    times do; at an end they are as far from the next one. Neighbours are those of the same topic,
    of any where it has no stamps. Where no message has one, the recorder's times stand for them.
    """
    stamps = np.where(header_ns > 0, header_ns, record_ns)
    if not (header_ns > 0).any():
        return stamps
    for topic in np.unique(topics[header_ns <= 0]):
        own = topics == topic
        stamped = np.flatnonzero(own & (header_ns > 0))
        if not len(stamped):
            stamped = np.flatnonzero(header_ns > 0)
        missing = np.flatnonzero(own & (header_ns <= 0))
        place = np.searchsorted(stamped, missing)
        before, after = stamped[(place - 1).clip(0)], stamped[place.clip(max=len(stamped) - 1)]
        since = (record_ns[missing] - record_ns[before]).clip(0)
        until = (record_ns[after] - record_ns[missing]).clip(0)
        share = since / np.maximum(since + until, 1)
        between = header_ns[before] + np.round(share * (header_ns[after] - header_ns[before]))
        stamps[missing] = np.select(
            [place == 0, place == len(stamped)],
            [(header_ns[after] - until).clip(0), header_ns[before] + since],
            between.astype(np.int64),
        )
    return stamps


def stamp_note(topic: str, without_stamp: int, messages: int) -> str:
    """Return a sentence on a topic some of whose messages have no stamp, '' if all have one."""
    if not without_stamp:
        return ''
    if without_stamp == messages:
        return f'{topic}: no message has a stamp, the times of the recorder stand for them'
    return (
        f'{topic}: {without_stamp} of {messages} messages have stamp 0, theirs follow from the '
        'stamps of their neighbours and the times of the recorder'
    )


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
