"""How old a frame is by the node's clock, which may be simulated and jump."""

from __future__ import annotations

import time
from typing import Any

from rclpy.clock import Clock

CLOCK_FOLLOWS_S = 1.0
"""So long may simulated time take to follow frames that jumped back (our choice)."""


class FrameAges:
    """The ages of one camera's frames, in the order in which they come.

    A bag that starts anew sends its first frames before its clock, which is still at its end: by
    that clock they are as old as the bag is long. Until the clock can have followed, no age is
    known.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._newest = 0
        self._unknown_until = 0.0

    def has_jumped_back(self, stamp: Any) -> bool:
        """Tell whether this frame's stamp lies before that of the frame before."""
        stamp_ns = _nanoseconds(stamp)
        if stamp_ns <= 0:
            return False
        newest, self._newest = self._newest, stamp_ns
        if stamp_ns >= newest:
            return False
        if self._clock.ros_time_is_active:
            self._unknown_until = time.monotonic() + CLOCK_FOLLOWS_S
        return True

    def age_ms(self, stamp: Any) -> float:
        """Return the age of a stamp now; 0 if it is unknown, without a stamp or of the future."""
        stamp_ns = _nanoseconds(stamp)
        if stamp_ns <= 0 or time.monotonic() < self._unknown_until:
            return 0.0
        return max(0.0, (self._clock.now().nanoseconds - stamp_ns) / 1e6)


def _nanoseconds(stamp: Any) -> int:
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)
