"""What changes from frame to frame though the scene does not: no truth is needed.

The labels of the frame before are carried along by optical flow to where its pixels are now, and
compared with the labels of this frame.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros.inference.segmenter import Segmentation

Image = npt.NDArray[np.uint8]

GRID_WIDTH = 320
"""Motion is sought and labels are compared on a grid of at most this width (our choice)."""
MAX_PAUSE_NS = 500_000_000
"""Frames further apart are not compared (our choice)."""
MAX_DIFFERENCE = 12
"""A pixel whose brightness changed by more along its path was not followed (our choice).

It was covered or uncovered, left the image, or its motion was not found.
"""


class Change(NamedTuple):
    """Counts of pixels of the grid, and the median motion as a share of the diagonal."""

    compared: int
    changed: int
    drivable_both: int
    drivable_either: int
    moved: float


class _Seen(NamedTuple):
    stamp_ns: int
    size: tuple[int, ...]
    gray: Image
    labels: Image
    drivable: Image


class Stability:
    """Follows one camera; give it the frames in order.

    A pixel's label changed if nothing within one pixel of where it was on the grid had its label:
    half a pixel of error in the motion is no flicker (our choice). The motion is that of dense
    inverse search, Kroeger et al., "Fast optical flow using dense inverse search", ECCV 2016.
    """

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._before: _Seen | None = None

    def update(self, image: Image, segmentation: Segmentation, stamp_ns: int) -> Change | None:
        """Compare a frame, RGB uint8 `[H, W, 3]`, with the one before; None if there is none.

        None also if that one was of another size or too long before.
        """
        height, width = image.shape[:2]
        scale = min(1.0, GRID_WIDTH / width)
        grid = max(16, round(width * scale)), max(16, round(height * scale))
        small: Any = image
        if scale <= 0.5:  # OpenCV averages 2x2 pixels three times as fast as larger areas
            small = cv2.resize(small, (width // 2, height // 2), interpolation=cv2.INTER_LINEAR)
        small = cv2.resize(small, grid, interpolation=cv2.INTER_AREA)
        now = _Seen(
            stamp_ns,
            image.shape,
            _uint8(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)),
            _uint8(cv2.resize(segmentation.labels, grid, interpolation=cv2.INTER_NEAREST_EXACT)),
            _uint8(cv2.resize(segmentation.drivable, grid, interpolation=cv2.INTER_NEAREST_EXACT)),
        )
        before, self._before = self._before, now
        if (
            before is None
            or before.size != now.size
            or not 0 < stamp_ns - before.stamp_ns <= MAX_PAUSE_NS
        ):
            return None
        return self._compare(before, now)

    def _compare(self, before: _Seen, now: _Seen) -> Change:
        motion: Any = self._flow.calc(now.gray, before.gray, None)  # type: ignore[call-overload]
        height, width = now.gray.shape
        x = motion[..., 0] + np.arange(width, dtype=np.float32)
        y = motion[..., 1] + np.arange(height, dtype=np.float32)[:, None]
        was = _moved(before.gray, x, y, cv2.INTER_LINEAR)
        inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
        followed = inside & (cv2.absdiff(was, now.gray) <= MAX_DIFFERENCE)
        labels = np.pad(_moved(before.labels, x, y, cv2.INTER_NEAREST), 1, mode='edge')
        changed = followed.copy()
        for dx in range(3):
            for dy in range(3):
                changed &= labels[dy : dy + height, dx : dx + width] != now.labels
        was_drivable = _moved(before.drivable, x, y, cv2.INTER_NEAREST) > 0
        is_drivable = now.drivable > 0
        every_fourth = motion[::4, ::4]  # this preset finds a vector for every 4x4 pixels
        distance = np.hypot(every_fourth[..., 0], every_fourth[..., 1])
        return Change(
            compared=int(np.count_nonzero(followed)),
            changed=int(np.count_nonzero(changed)),
            drivable_both=int(np.count_nonzero(was_drivable & is_drivable & followed)),
            drivable_either=int(np.count_nonzero((was_drivable | is_drivable) & followed)),
            moved=round(float(np.median(distance)) / float(np.hypot(width, height)), 6),
        )


def _moved(plane: Image, x: Any, y: Any, interpolation: int) -> Image:
    return _uint8(cv2.remap(plane, x, y, interpolation, borderMode=cv2.BORDER_REPLICATE))


def _uint8(picture: Any) -> Image:
    """Tell the type checker what OpenCV's stubs leave open."""
    result: Image = picture
    return result
