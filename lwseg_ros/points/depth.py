"""From a depth image to points: where in space each pixel of the mask lies, and what it is.

Depth is along the camera's optical axis, as depth cameras and ROS (REP 118) have it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lwseg_ros.camera_model import Intrinsics, rays
from lwseg_ros.errors import FrameError
from lwseg_ros.points.field import FLOAT32, UINT8, Field

Plane = NDArray[np.float32]

POINT_STEP = 16
POINT_FIELDS = [
    *(Field(name, 4 * place, FLOAT32) for place, name in enumerate('xyz')),
    *(Field(name, 12 + place, UINT8) for place, name in enumerate(('label', 'confidence'))),
]
"""What is in the bytes of a point; the last two are nothing."""

NEAREST = 0.01
"""Depths below this many metres are no measurement (our choice)."""


class DepthEncoding(NamedTuple):
    """How depths lie in an Image message, and how many metres one of its units is."""

    dtype: str
    metres: float


DEPTH_ENCODINGS = {
    '16UC1': DepthEncoding('u2', 0.001),
    'mono16': DepthEncoding('u2', 0.001),
    '32FC1': DepthEncoding('f4', 1.0),
}
"""The encodings of REP 118, and what some drivers call the first."""


def depth_from_message(message: Any) -> Plane:
    """Return the depth of a sensor_msgs/Image in metres, float32 `[h, w]`, as it is given.

    What was not measured (0, NaN, infinity, less than 0) is still in it. FrameError names the
    field that is wrong.
    """
    encoding = DEPTH_ENCODINGS.get(message.encoding)
    if encoding is None:
        raise FrameError(
            f'the depth image has encoding {message.encoding!r}: wanted one of '
            f'{", ".join(DEPTH_ENCODINGS)}'
        )
    order = '>' if message.is_bigendian else '<'
    dtype = np.dtype(order + encoding.dtype)
    height, width, step = message.height, message.width, message.step
    if not (height > 0 and width > 0):
        raise FrameError(f'the depth image has {width}x{height} pixels')
    if step < width * dtype.itemsize:
        raise FrameError(
            f'the depth image has step {step}: {width} pixels of {message.encoding} take '
            f'{width * dtype.itemsize} bytes'
        )
    data = np.frombuffer(message.data, np.uint8)
    needed = step * (height - 1) + width * dtype.itemsize
    if data.size < needed:
        raise FrameError(
            f'the depth image has {data.size} bytes of data: {width}x{height} pixels with step '
            f'{step} take {needed}'
        )
    values: Any = np.ndarray((height, width), dtype, data.data, strides=(step, dtype.itemsize))
    if order == '>':
        values = values.astype(dtype.newbyteorder('<'))
    if encoding.metres == 1:
        return np.asarray(values, np.float32)
    factor: Any = encoding.metres  # OpenCV's stubs know no scalars
    metres = cv2.multiply(np.ascontiguousarray(values), factor, dtype=cv2.CV_32F)
    return np.asarray(metres, np.float32)


def measured(depth: Plane, max_range: float) -> Plane:
    """Return a copy of depths with NaN for all that are not from NEAREST to `max_range`."""
    # A copy whose comparison with NaN and infinity is false, in three passes of OpenCV's.
    known = cv2.inRange(depth, NEAREST, max_range)
    result = np.full_like(depth, np.nan)
    cv2.copyTo(depth, known, result)
    return result


class DepthView:
    """Turns the depths and labels of one camera's masks into points.

    `camera` is that of the mask, which shows all of the camera's image (`Intrinsics.resized`).
    Making it takes long where the lens is bent; it keeps where each pixel looks, and room for what
    lies between.
    """

    def __init__(self, camera: Intrinsics) -> None:
        camera.check()
        self.size = (camera.height, camera.width)
        self._rays = rays(camera)
        self._sides = np.empty_like(self._rays)
        self._nothing = np.zeros(self.size, np.uint8)
        self._marks = np.empty((*self.size, 4), np.uint8)

    def points(
        self,
        depth: Plane,
        labels: NDArray[np.uint8],
        confidence: NDArray[np.uint8],
        max_range: float,
        out: NDArray[np.float32],
    ) -> None:
        """Write the points of one frame into `out`, float32 `[H, W, 4]`: POINT_STEP bytes each.

        `depth` are metres of the same view in any size: of the nearest is taken, so that none is
        between two things. Labels and confidence are uint8 `[H, W]`. Where the depth is not
        known, or beyond `max_range`, x, y and z are NaN; label and confidence stay.
        """
        if depth.shape != self.size:
            depth = resized_depth(depth, self.size)
        depth = measured(depth, max_range)
        right, down = (
            cv2.multiply(ray, depth, side)
            for ray, side in zip(self._rays, self._sides, strict=True)
        )
        cv2.merge([labels, confidence, self._nothing, self._nothing], self._marks)
        marks = self._marks.view(np.float32)[..., 0]
        cv2.merge([right, down, depth, marks], out)


def resized_depth(depth: Plane, size: tuple[int, int]) -> Plane:
    """Return depth `[h, w]` at another size: that of the nearest pixel."""
    resized = cv2.resize(depth, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.float32)
