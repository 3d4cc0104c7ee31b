"""From the image to the ground: which cells before the camera are drivable, and which are not.

Ground frame: x forward, y left, z up, metres; the ground is taken to be its flat z = 0.

Each cell looks at the pixels that its square covers in the image, so what stands on the ground
covers, as seen, the cells behind it too. The rules are our choice.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lwseg_ros.camera_model import Intrinsics, projected, view_radius
from lwseg_ros.errors import LwsegError
from lwseg_ros.transforms import Transform

UNKNOWN, DRIVABLE, NOT_DRIVABLE = -1, 0, 100
"""The values of a cell, as nav_msgs/OccupancyGrid has them."""

MAX_CELLS = 1000
"""The most cells along a side of the grid."""

_NEAR = 0.05
_CONTACT_MARGIN = 1 / 200


class GroundGrid(NamedTuple):
    """A square grid on the ground, along the axes of its frame.

    `resolution` (side of a cell), `extent` (side of the grid) and `corner` (the least x and y) are
    in metres; see `before`.
    """

    resolution: float
    extent: float
    corner: tuple[float, float]

    @classmethod
    def before(cls, camera: Transform, resolution: float, extent: float) -> GroundGrid:
        """Return the grid that begins at x = 0 and reaches as far to the left as to the right.

        For a camera (its place in the ground's frame) that looks to the left, to the right or
        back, it reaches there instead, from the other axis on.
        """
        x, y = camera.rotation[:2, 2].tolist()
        half = extent / 2
        if abs(x) >= abs(y):
            return cls(resolution, extent, (0.0 if x >= 0 else -extent, -half))
        return cls(resolution, extent, (-half, 0.0 if y > 0 else -extent))

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


def mounted(height: float, pitch: float) -> Transform:
    """Return where a camera is in the ground's frame that has its origin below it.

    `height` in metres; `pitch` in radians, positive when the camera looks down. It looks along x.
    """
    sin, cos = np.sin(pitch), np.cos(pitch)
    rotation = np.array([[0, -sin, cos], [-1, 0, 0], [0, -cos, -sin]], np.float64)
    return Transform(rotation, np.array([0, 0, height], np.float64))


class Ground(NamedTuple):
    """The ground as one frame shows it; both `[n, n]`, indexed by y, then x."""

    grid: NDArray[np.int8]
    """UNKNOWN, DRIVABLE or NOT_DRIVABLE."""
    contact: NDArray[np.bool_]
    """Cells not drivable that border the drivable area: curbs, and where obstacles stand."""


class GroundView:
    """Where the cells of the ground lie in a mask of `mask_size` (height, width).

    The mask covers the whole image of the camera, `place` is the camera's in the ground's frame.
    Making it costs tens of milliseconds, using it little. `centers` are the middles of the cells,
    metres, float32 `[n, n, 3]`, indexed by y, then x.

    LwsegError if the camera or the grid is impossible.
    """

    def __init__(
        self,
        grid: GroundGrid,
        place: Transform,
        camera: Intrinsics,
        mask_size: tuple[int, int],
    ) -> None:
        camera.check()
        cells = grid.cells
        forward, left = (start + grid.resolution * np.arange(cells + 1) for start in grid.corner)
        middle = grid.resolution / 2
        self.centers: NDArray[np.float32] = np.zeros((cells, cells, 3), np.float32)
        self.centers[..., 0] = forward[np.newaxis, :-1] + middle
        self.centers[..., 1] = left[:-1, np.newaxis] + middle

        height, width = mask_size
        pixels = _image_of_ground(place, camera, *np.meshgrid(forward, left))
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
    place: Transform,
    camera: Intrinsics,
    forward: NDArray[np.float64],
    left: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return u, v `[..., 2]` of points on the ground, NaN where the camera cannot see them."""
    ground = np.stack([forward, left, np.zeros_like(forward)]).reshape(3, -1)
    seen = place.inverse()
    x, y, depth = (seen.rotation @ ground + seen.translation[:, np.newaxis]).reshape(
        3, *forward.shape
    )
    with np.errstate(divide='ignore', invalid='ignore'):
        right, down = x / depth, y / depth
    visible = (depth > _NEAR) & (np.hypot(right, down) < view_radius(camera))
    pixels = np.full((*forward.shape, 2), np.nan)
    pixels[visible] = projected(camera, right[visible], down[visible]).T
    return pixels
