"""One place for a frame of each camera: the newest replaces the one that waits."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar('T')


class FrameSlots(Generic[T]):
    """Hands the newest frame of each camera from the thread that receives to the one that works.

    Memory stays flat and a frame that is taken is never older than one period of its camera,
    however slow the worker is. Cameras are served in turn: a frame that replaces another keeps
    its place in the queue, so that a fast camera cannot keep the others waiting.
    """

    def __init__(self) -> None:
        self._frames: dict[str, T] = {}
        self._closed = False
        self._changed = threading.Condition()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def put(self, camera: str, frame: T) -> bool:
        """Store a camera's newest frame; return False if another one is lost by that.

        The lost one is the frame that waited, or this one after `close`.
        """
        with self._changed:
            if self._closed:
                return False
            kept_all = camera not in self._frames
            self._frames[camera] = frame
            self._changed.notify()
            return kept_all

    def take(self, most: int = 1) -> list[tuple[str, T]]:
        """Wait, then take up to `most` frames, the longest waiting first; none after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._frames)
            cameras = list(self._frames)[:most]
            return [(camera, self._frames.pop(camera)) for camera in cameras]

    def clear(self, camera: str) -> bool:
        """Empty a camera's place; return whether a frame was lost by that."""
        with self._changed:
            return self._frames.pop(camera, None) is not None

    def close(self) -> list[str]:
        """End the waiting for ever; return the cameras of which a frame was lost by that."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            lost = list(self._frames)
            self._frames.clear()
            return lost
