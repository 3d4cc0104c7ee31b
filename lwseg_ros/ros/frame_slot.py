"""A place for one frame: the newest replaces the one that waits."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar('T')


class FrameSlot(Generic[T]):
    """Hands the newest frame from the thread that receives to the one that works.

    Memory stays flat and the frame that is taken is never older than one period of the camera,
    however slow the worker is.
    """

    def __init__(self) -> None:
        self._frame: T | None = None
        self._closed = False
        self._changed = threading.Condition()

    def put(self, frame: T) -> bool:
        """Store the newest frame; return False if another one is lost by that.

        The lost one is the frame that waited, or this one when the slot is closed.
        """
        with self._changed:
            if self._closed:
                return False
            kept_all = self._frame is None
            self._frame = frame
            self._changed.notify()
            return kept_all

    def take(self) -> T | None:
        """Wait for a frame and empty the slot; None once the slot is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._frame is not None)
            frame, self._frame = self._frame, None
            return frame

    def clear(self) -> bool:
        """Empty the slot; return whether a frame was lost by that."""
        with self._changed:
            lost = self._frame is not None
            self._frame = None
            return lost

    def close(self) -> bool:
        """Empty the slot and end the waiting for ever; return whether a frame was lost by that."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        return self.clear()
