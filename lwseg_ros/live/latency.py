"""How fast the node answered what was played to it, from times of sending and of arrival."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

PERCENTILES = {'p50': 50, 'p95': 95, 'p99': 99, 'max': 100}

_AGE_STEP_S = 0.001


class CameraTimes(NamedTuple):
    """What became of the frames of one camera; times are those of `time.monotonic()`, by stamp."""

    sent_s: Mapping[int, float]
    answered_s: Mapping[int, float]
    """Arrival of the answer; a frame that has none was dropped."""
    received: int | None = None
    """How many frames the node says it has received, None if it has not said."""
    refused: int | None = None
    """How many frames the node says it has refused as malformed."""

    def latencies_ms(self) -> list[float]:
        """Return the times from sending to arrival of the frames that were answered."""
        return [(at - self.sent_s[stamp]) * 1e3 for stamp, at in self.answers()]

    def ages_ms(self) -> npt.NDArray[np.float64]:
        """Return the age of the newest answer at hand, every millisecond (our choice).

        From the first arrival to the last. What a planner works with is not the answer's latency:
        it grows until the next answer comes.
        """
        answers = sorted((at, self.sent_s[stamp]) for stamp, at in self.answers())
        if len(answers) < 2:
            return np.empty(0)
        arrived, sent = np.array(answers).T
        # Of two answers that overtake each other, the one of the newer frame counts.
        sent = np.maximum.accumulate(sent)
        times = np.arange(arrived[0], arrived[-1], _AGE_STEP_S)
        newest = np.searchsorted(arrived, times, 'right') - 1
        return np.asarray((times - sent[newest]) * 1e3, np.float64)

    def answers(self) -> list[tuple[int, float]]:
        """Return stamp and arrival of the answers to frames that were sent."""
        return [(stamp, at) for stamp, at in self.answered_s.items() if stamp in self.sent_s]


def frame_figures(cameras: Sequence[CameraTimes]) -> dict[str, Any]:
    """Return what became of all frames, the percentiles of their latency, and the rates.

    The duration is that from the first frame sent to the last one sent or answered.
    """
    times = [at for camera in cameras for at in camera.sent_s.values()]
    ends = [at for camera in cameras for _, at in camera.answers()]
    duration_s = max(times + ends) - min(times)
    sent = sum(len(camera.sent_s) for camera in cameras)
    latencies = [ms for camera in cameras for ms in camera.latencies_ms()]
    received = _sum(camera.received for camera in cameras)
    return {
        'frames_in': sent,
        'frames_processed': len(latencies),
        'frames_dropped': sent - len(latencies),
        'dropped_share': round(1 - len(latencies) / sent, 6),
        'frames_refused_by_node': _sum(camera.refused for camera in cameras),
        'frames_not_received_by_node': None if received is None else max(0, sent - received),
        'latency_ms': percentiles(latencies),
        'fps': round(len(latencies) / duration_s, 2) if duration_s else None,
        'duration_s': round(duration_s, 2),
        'played_at_hz': _rate(times),
    }


def percentiles(values: npt.ArrayLike) -> dict[str, float | None]:
    """Return the `PERCENTILES` of some values, None where there are no values."""
    known = np.asarray(values, np.float64)
    if not known.size:
        return dict.fromkeys(PERCENTILES)
    found = np.percentile(known, list(PERCENTILES.values()))
    return {name: round(float(v), 2) for name, v in zip(PERCENTILES, found, strict=True)}


def _sum(counts: Iterable[int | None]) -> int | None:
    known = list(counts)
    return None if None in known else sum(count for count in known if count is not None)


def _rate(times_s: Sequence[float]) -> float | None:
    span = max(times_s) - min(times_s)
    return round((len(times_s) - 1) / span, 2) if span > 0 else None
