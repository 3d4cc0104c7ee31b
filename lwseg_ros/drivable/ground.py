"""From the image to the ground: which cells before the camera are drivable, and which are not.

Ground frame: x forward, y left, z up, metres; its origin is on the ground below the camera. The
ground is taken to be flat, and the camera to look along x without roll.

Each cell looks at the pixels that its square covers in the image, so what stands on the ground
covers, as seen, the cells behind it too. The rules are our choice.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lwseg_ros.errors import LwsegError

UNKNOWN, DRIVABLE, NOT_DRIVABLE = -1, 0, 100
"""The values of a cell, as nav_msgs/OccupancyGrid has them."""

MAX_CELLS = 1000
"""The most cells along a side of the grid."""

DISTORTION_MODELS = ('plumb_bob', 'rational_polynomial')

_NEAR = 0.05
_CONTACT_MARGIN = 1 / 200
_MAX_RADIUS = 10.0
_COEFFICIENTS = (0, 4, 5, 8, 12, 14)


class GroundPlane(NamedTuple):
    """How the camera looks at the ground, and the grid on it, square, with the frame's x axis.

    `camera_height` above the ground, `resolution` (side of a cell) and `extent` (side of the
    grid) are in metres; `camera_pitch` in radians, positive when the camera looks down.
    """

    camera_height: float
    camera_pitch: float
    resolution: float
    extent: float

    @property
    def cells(self) -> int:
        """The number of cells along a side; LwsegError if it is impossible."""
        number = round(self.extent / self.resolution)
        if not 1 <= number <= MAX_CELLS:
            raise LwsegError(
                f'a grid of {self.extent:g} m with cells of {self.resolution:g} m has {number} '
                f'cells along a side: wanted 1 to {MAX_CELLS}'
            )
        return number


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


class Ground(NamedTuple):
    """The ground as one frame shows it; both `[n, n]`, indexed by y, then x."""

    grid: NDArray[np.int8]
    """UNKNOWN, DRIVABLE or NOT_DRIVABLE."""
    contact: NDArray[np.bool_]
    """Cells not drivable that border the drivable area: curbs, and where obstacles stand."""


class GroundView:
    """Where the cells of the ground lie in a mask of `mask_size` (height, width).

    The mask covers the whole image of the camera. Making it costs tens of milliseconds, using it
    little. `centers` are the middles of the cells, metres, float32 `[n, n, 3]`, indexed by y,
    then x.

    LwsegError if the camera or the plane is impossible.
    """

    def __init__(self, plane: GroundPlane, camera: Intrinsics, mask_size: tuple[int, int]) -> None:
        camera.check()
        cells = plane.cells
        forward = plane.resolution * np.arange(cells + 1)
        left = plane.resolution * (np.arange(cells + 1) - cells / 2)
        middle = plane.resolution / 2
        self.centers: NDArray[np.float32] = np.zeros((cells, cells, 3), np.float32)
        self.centers[..., 0] = forward[np.newaxis, :-1] + middle
        self.centers[..., 1] = left[:-1, np.newaxis] + middle

        height, width = mask_size
        pixels = _image_of_ground(plane, camera, *np.meshgrid(forward, left))
        pixels = (pixels + 0.5) * [width / camera.width, height / camera.height]
        corners = np.stack([pixels[:-1, :-1], pixels[:-1, 1:], pixels[1:, :-1], pixels[1:, 1:]])
        low, high = corners.min(axis=0), corners.max(axis=0)  # NaN stays NaN
        self._seen = (low >= 0).all(axis=-1) & (high < [width, height]).all(axis=-1)
        begin = np.floor(low[self._seen]).astype(np.intp)
        end = np.floor(high[self._seen]).astype(np.intp) + 1
        self._top = int(begin[:, 1].min(initial=height - 1))
        grown = end - begin + max(1, round(height * _CONTACT_MARGIN))
        self._boxes = _Boxes(begin, end, self._top, width)
        self._surroundings = _Boxes(
            np.maximum(begin - grown, [0, self._top]),
            np.minimum(end + grown, [width, height]),
            self._top,
            width,
        )

    def ground(self, drivable: NDArray[np.uint8], not_drivable: NDArray[np.uint8]) -> Ground:
        """Return what the cells are, given uint8 `[H, W]` masks 0/255 of the size of this view.

        `not_drivable` says what is surely so. A cell is drivable if all its pixels are, not
        drivable if any is surely not, else unknown; so is every cell that the image does not
        show as a whole.
        """
        drivable_sums, not_drivable_sums = self._sums(drivable), self._sums(not_drivable)
        blocked = self._boxes.counts(not_drivable_sums) > 0
        free = self._boxes.counts(drivable_sums) == self._boxes.areas
        grid = np.full(self._seen.shape, UNKNOWN, np.int8)
        grid[self._seen] = np.select([blocked, free], [NOT_DRIVABLE, DRIVABLE], UNKNOWN)
        contact = np.zeros(self._seen.shape, bool)
        contact[self._seen] = blocked & (self._surroundings.counts(drivable_sums) > 0)
        return Ground(grid, contact)

    def _sums(self, mask: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Return the integral image of the part of the mask that shows the ground, flat."""
        sums: NDArray[np.int32] = np.asarray(cv2.integral(mask[self._top :] & 1))
        return sums.ravel()


class _Boxes:
    """Rectangles of pixels `[begin, end)`, (column, row), in an image without its `top` rows."""

    def __init__(
        self, begin: NDArray[np.intp], end: NDArray[np.intp], top: int, width: int
    ) -> None:
        self.areas = (end - begin).prod(axis=1)
        (left, upper), (right, lower) = begin.T, end.T
        upper, lower = (upper - top) * (width + 1), (lower - top) * (width + 1)
        self._corners = (upper + left, upper + right, lower + left, lower + right)

    def counts(self, sums: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return how many pixels are set in each, given the integral image, flat."""
        a, b, c, d = (sums[corner] for corner in self._corners)
        counts: NDArray[np.int32] = d - c - b + a
        return counts


def _image_of_ground(
    plane: GroundPlane,
    camera: Intrinsics,
    forward: NDArray[np.float64],
    left: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return u, v `[..., 2]` of points on the ground, NaN where the camera cannot see them."""
    sin, cos = np.sin(plane.camera_pitch), np.cos(plane.camera_pitch)
    depth = forward * cos + plane.camera_height * sin
    with np.errstate(divide='ignore', invalid='ignore'):
        right, down = -left / depth, (plane.camera_height * cos - forward * sin) / depth
    visible = (depth > _NEAR) & (np.hypot(right, down) < _fold(camera))
    pixels = np.full((*forward.shape, 2), np.nan)
    pixels[visible] = _projected(camera, right[visible], down[visible])
    return pixels


def _projected(
    camera: Intrinsics, right: NDArray[np.float64], down: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return u, v `[n, 2]` of directions (right, down, 1)."""
    if not right.size:
        return np.empty((0, 2))
    points = np.stack([right, down, np.ones_like(right)], axis=-1)
    k, distortion = np.reshape(camera.k, (3, 3)), np.asarray(camera.distortion, np.float64)
    pixels, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), k, distortion)
    result: NDArray[np.float64] = np.asarray(pixels, np.float64).reshape(-1, 2)
    return result


def _fold(camera: Intrinsics) -> float:
    """Return the radius from which on the distortion's polynomial turns back into the image."""
    radius = np.linspace(0, _MAX_RADIUS, 2000)
    outward = np.diff(_projected(camera, radius, np.zeros_like(radius))[:, 0]) > 0
    return _MAX_RADIUS if outward.all() else float(radius[int(np.argmin(outward))])
