"""A camera as its calibration describes it: where it sees a direction, and where a pixel looks.

Optical frame: x right, y down, z forward; a direction is (right, down) at z = 1. Pixels: the
middle of the first one is at (0, 0). The lens models are those of sensor_msgs/CameraInfo, as
OpenCV's calibration defines them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lwseg_ros.errors import LwsegError

DISTORTION_MODELS = ('plumb_bob', 'rational_polynomial')

_COEFFICIENTS = (0, 4, 5, 8, 12, 14)
_SHAPE_TOLERANCE = 0.01
_MAX_RADIUS = 10.0
_MAX_RAY_ERROR = 0.1
_RAY_STEPS = 12
_TINY = 1e-7


class Intrinsics(NamedTuple):
    """A camera: the size of its image, `k` (9 numbers, row by row) and the lens's distortion.

    `distortion` are the coefficients of `model`, one of DISTORTION_MODELS; empty: no distortion.
    """

    width: int
    height: int
    k: tuple[float, ...]
    model: str = 'plumb_bob'
    distortion: tuple[float, ...] = ()

    def check(self) -> None:
        """LwsegError, with what is wrong, if this is no calibration of a camera."""
        if not (self.width > 0 and self.height > 0):
            raise LwsegError(
                f'the camera info is of {self.width}x{self.height} pixels: it must give the size '
                'of the image that its K describes'
            )
        values = np.array([*self.k, *self.distortion])
        if len(self.k) != 9 or not np.isfinite(values).all() or min(self.k[0], self.k[4]) <= 0:
            raise LwsegError(
                f'the camera info has the focal lengths {self.k[0]:g} and {self.k[4]:g} in K: '
                'calibrate the camera'
            )
        if self.model not in DISTORTION_MODELS and (self.model or any(self.distortion)):
            raise LwsegError(
                f'the camera info has the distortion model {self.model!r}: wanted one of '
                f'{", ".join(DISTORTION_MODELS)}; rectify the image before'
            )
        if len(self.distortion) not in _COEFFICIENTS:
            raise LwsegError(
                f'the camera info has {len(self.distortion)} distortion coefficients: '
                f'wanted one of {", ".join(map(str, _COEFFICIENTS))}'
            )

    def check_image(self, size: tuple[int, int]) -> None:
        """LwsegError if this cannot be the calibration of images of `size` (height, width)."""
        self.check()
        height, width = size
        if not same_shape(size, (self.height, self.width)):
            raise LwsegError(
                f'the camera info is of {self.width}x{self.height} pixels, '
                f'the image has {width}x{height}: give the camera info of this camera'
            )

    def resized(self, size: tuple[int, int]) -> Intrinsics:
        """Return the camera of the same view in pictures of `size` (height, width)."""
        height, width = size
        x, y = width / self.width, height / self.height
        fx, skew, cx, _, fy, cy, *last = self.k
        k = (fx * x, skew * x, (cx + 0.5) * x - 0.5, 0.0, fy * y, (cy + 0.5) * y - 0.5, *last)
        return self._replace(width=width, height=height, k=k)


def same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Tell whether pictures of two sizes (height, width) can show one view, but for rounding."""
    return abs(size[0] * other[1] / (size[1] * other[0]) - 1) <= _SHAPE_TOLERANCE


def projected(camera: Intrinsics, right: NDArray[Any], down: NDArray[Any]) -> NDArray[Any]:
    """Return u and v, `[2, n]`, of directions `[n]`, in their float type.

    Nothing is said of whether the lens sees them: see `view_radius`.
    """
    if any(camera.distortion):
        right, down = _distorted(camera.distortion, right, down)
    fx, _, cx, _, fy, cy = camera.k[:6]
    return np.stack([fx * right + cx, fy * down + cy])


def _distorted(
    coefficients: Sequence[float], x: NDArray[Any], y: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return where a lens shows directions, in the formulas of OpenCV's calibration."""
    given = [*coefficients, *(0.0,) * (14 - len(coefficients))]
    k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4, tilt_x, tilt_y = given
    xx, yy, xy = x * x, y * y, x * y
    r2 = xx + yy
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    if k4 or k5 or k6:
        radial = radial / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    u = x * radial + 2 * p1 * xy + p2 * (r2 + 2 * xx)
    v = y * radial + p1 * (r2 + 2 * yy) + 2 * p2 * xy
    if s1 or s2 or s3 or s4:
        u = u + r2 * (s1 + r2 * s2)
        v = v + r2 * (s3 + r2 * s4)
    if tilt_x or tilt_y:
        u, v = _tilted(tilt_x, tilt_y, u, v)
    return u, v


def _tilted(
    tilt_x: float, tilt_y: float, u: NDArray[Any], v: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    sin_x, cos_x, sin_y, cos_y = np.sin(tilt_x), np.cos(tilt_x), np.sin(tilt_y), np.cos(tilt_y)
    about_x = np.array([[1, 0, 0], [0, cos_x, sin_x], [0, -sin_x, cos_x]])
    about_y = np.array([[cos_y, 0, -sin_y], [0, 1, 0], [sin_y, 0, cos_y]])
    turn = about_y @ about_x
    onto_sensor = np.array([[turn[2, 2], 0, -turn[0, 2]], [0, turn[2, 2], -turn[1, 2]], [0, 0, 1]])
    a, b, c = (onto_sensor @ turn).tolist()
    scale = c[0] * u + c[1] * v + c[2]
    return (a[0] * u + a[1] * v + a[2]) / scale, (b[0] * u + b[1] * v + b[2]) / scale


def view_radius(camera: Intrinsics) -> float:
    """Return the length of the directions from which on the lens's polynomial turns back.

    What lies farther out would be shown in the image a second time, where it is not.
    """
    radius = np.linspace(0, _MAX_RADIUS, 2000)
    outward = np.diff(projected(camera, radius, np.zeros_like(radius))[0]) > 0
    return _MAX_RADIUS if outward.all() else float(radius[int(np.argmin(outward))])


def directions(camera: Intrinsics, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where pixels (u, v) `[2, n]` look, float64 `[2, n]`: right and down.

    NaN where the calibration says of no direction that it is seen there.
    """
    k = np.reshape(camera.k, (3, 3))
    looks: NDArray[np.float64] = (pixels - k[:2, 2:]) / k[[0, 1], [0, 1], np.newaxis]
    if not any(camera.distortion):
        return looks
    with np.errstate(all='ignore'):
        looks = _undistorted(camera.distortion, looks)
        wrong = ~(np.abs(projected(camera, *looks) - pixels).max(axis=0) < _MAX_RAY_ERROR)
        looks[:, wrong | (np.hypot(*looks) >= view_radius(camera))] = np.nan
    return looks


def _undistorted(coefficients: Sequence[float], shown: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the directions `[2, n]` that a lens shows at `shown`, by Newton's method."""
    looks = shown.copy()
    for _ in range(_RAY_STEPS):
        x, y = looks
        here = np.stack(_distorted(coefficients, x, y))
        by_x = (np.stack(_distorted(coefficients, x + _TINY, y)) - here) / _TINY
        by_y = (np.stack(_distorted(coefficients, x, y + _TINY)) - here) / _TINY
        off = here - shown
        determinant = by_x[0] * by_y[1] - by_y[0] * by_x[1]
        step = np.stack([by_y[1] * off[0] - by_y[0] * off[1], by_x[0] * off[1] - by_x[1] * off[0]])
        looks -= step / determinant
        if np.nanmax(np.abs(off), initial=0) < _TINY:
            break
    return looks


def rays(camera: Intrinsics) -> NDArray[np.float32]:
    """Return where each pixel of the image looks, float32 `[2, H, W]`; see `directions`.

    It takes long where the lens is bent: keep it.
    """
    pixels = np.stack(np.meshgrid(np.arange(camera.width), np.arange(camera.height)))
    looks = directions(camera, pixels.reshape(2, -1).astype(np.float64))
    return looks.reshape(pixels.shape).astype(np.float32)


def view_bounds(camera: Intrinsics) -> tuple[float, float]:
    """Return how far to a side, and how far up or down, the edges of the image look at most.

    Both in the directions' measure; infinity where that cannot be known.
    """
    columns, rows = np.arange(camera.width) + 0.0, np.arange(camera.height) + 0.0
    edges = [
        np.stack(np.broadcast_arrays(u, v))
        for u, v in (
            (columns, -0.5),
            (columns, camera.height - 0.5),
            (-0.5, rows),
            (camera.width - 0.5, rows),
        )
    ]
    right, down = np.nan_to_num(
        np.abs(directions(camera, np.concatenate(edges, axis=1))), nan=np.inf
    ).max(axis=1)
    return float(right), float(down)
