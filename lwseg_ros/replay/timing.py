"""How long the stages of an evaluation take: timing.json."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np

from lwseg_ros.replay.result import Timing


class StageTimes:
    """The milliseconds of each frame's stages, and its inference by topic."""

    def __init__(self, topics: Iterable[str]) -> None:
        self._stages = {name: array('f') for name in ('decode', 'infer', 'measure')}
        self._infer_ms = {topic: array('f') for topic in topics}

    def add(self, topic: str, decode_ms: float, infer_ms: float, measure_ms: float) -> None:
        """Add a frame."""
        for times, value in zip(
            self._stages.values(), (decode_ms, infer_ms, measure_ms), strict=True
        ):
            times.append(value)
        self._infer_ms[topic].append(infer_ms)

    def timing(self, frames: int, seconds: float, cpu_seconds: float) -> Timing:
        """Return what timing.json holds, given the times of the whole evaluation."""
        return Timing(
            frames=frames,
            seconds=round(seconds, 3),
            cpu_seconds=round(cpu_seconds, 3),
            frames_a_second=round(frames / seconds, 2),
            milliseconds={
                stage: {
                    name: round(float(value), 2)
                    for name, value in zip(
                        ('p50', 'p95', 'p99', 'max', 'mean'),
                        (*np.percentile(times, [50, 95, 99, 100]), np.mean(times)),
                        strict=True,
                    )
                }
                for stage, times in self._stages.items()
                if len(times)
            },
            infer_ms={
                topic: [round(value, 2) for value in times]
                for topic, times in self._infer_ms.items()
            },
        )
