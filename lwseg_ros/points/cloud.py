"""Labels for the points of a cloud that something else than the camera has measured.

Works on the fields of sensor_msgs/PointCloud2 and imports no ROS package.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwseg_ros.camera_model import Intrinsics, projected, view_bounds, view_radius
from lwseg_ros.errors import FrameError
from lwseg_ros.label_space import IGNORE_ID
from lwseg_ros.points.field import DATATYPES, UINT8, Field

Bytes = NDArray[np.uint8]

MARKS = ('label', 'confidence')
ALIGNMENT = 4
"""A point's bytes are filled up to a multiple of this, as PCL has it."""

NEAREST = 0.1
"""Points nearer than this before the camera, in metres, are not looked up (our choice)."""

GRAZING = np.deg2rad(1.2)
"""Surfaces seen at less than this angle are taken for two (our choice)."""

_WIDTHS = (4, 2, 1)
_CELLS_ACROSS = 128
_REACH = 4
_STEP = 1.1
_SLACK = 1.001
_DEPTH_LEVELS = 1 << 16


class Cloud:
    """The points of a sensor_msgs/PointCloud2 message, without a copy.

    FrameError names the field of the message that is wrong.
    """

    def __init__(self, message: Any) -> None:
        self.fields = [Field(f.name, f.offset, f.datatype, f.count) for f in message.fields]
        self.shape = height, width = message.height, message.width
        self.point_step: int = message.point_step
        row_step = message.row_step
        if self.point_step < 1:
            raise FrameError(f'the cloud has point_step {self.point_step}')
        if height > 1 and row_step < width * self.point_step:
            raise FrameError(
                f'the cloud has row_step {row_step}: {width} points of {self.point_step} bytes '
                f'take {width * self.point_step}'
            )
        for field in self.fields:
            kind = DATATYPES.get(field.datatype)
            if kind is None:
                raise FrameError(
                    f'field {field.name!r} of the cloud has datatype {field.datatype}'
                )
            end = field.offset + np.dtype(kind).itemsize * max(field.count, 1)
            if end > self.point_step:
                raise FrameError(
                    f'field {field.name!r} of the cloud ends at byte {end} of points of '
                    f'{self.point_step}'
                )
        data = np.frombuffer(message.data, np.uint8)
        needed = row_step * (height - 1) + width * self.point_step if height and width else 0
        if data.size < needed:
            raise FrameError(
                f'the cloud has {data.size} bytes of data: {width}x{height} points of '
                f'{self.point_step} bytes take {needed}'
            )
        self._order = '>' if message.is_bigendian else '<'
        if needed == 0:
            self.points: Any = np.empty((0, self.point_step), np.uint8)
            return
        tight = row_step == width * self.point_step or height == 1
        shape = (height, width, self.point_step)
        strides = (row_step, self.point_step, 1)
        rows = np.ndarray(shape, np.uint8, data.data, strides=strides)
        self.points = (rows if tight else np.ascontiguousarray(rows)).reshape(-1, self.point_step)

    def xyz(self) -> NDArray[np.float32]:
        """Return x, y and z, float32 `[3, n]`; FrameError if the cloud lacks one."""
        by_name = {field.name: field for field in self.fields}
        result: NDArray[np.float32] = np.empty((3, len(self.points)), np.float32)
        for name, place in zip('xyz', result, strict=True):
            field = by_name.get(name)
            kind = DATATYPES[field.datatype] if field else ''
            if field is None or kind[0] != 'f':
                raise FrameError(
                    f'the cloud has {"no" if field is None else "a whole-numbered"} field {name}: '
                    f'its fields are {", ".join(by_name) or "none"}'
                )
            dtype = np.dtype(self._order + kind)
            shape, strides = (len(self.points),), (self.point_step,)
            if len(self.points):
                place[:] = np.ndarray(shape, dtype, self.points, field.offset, strides)
        return result


class MarkedLayout:
    """How a cloud's points lie once they have `label` and `confidence`, uint8 each.

    Fields of these names that are such already are used, others give up their names. `fields` are
    those of the marked cloud, `replaced` the names that the cloud had.
    """

    def __init__(self, cloud: Cloud) -> None:
        self.replaced = [field.name for field in cloud.fields if field.name in MARKS]
        kept = [
            field
            for field in cloud.fields
            if field.name not in MARKS or (field.datatype == UINT8 and field.count <= 1)
        ]
        end = cloud.point_step
        places = {field.name: field.offset for field in kept}
        for name in MARKS:
            if name not in places:
                kept.append(Field(name, end, UINT8))
                end += 1
        self.fields = kept
        self.point_step = -(-end // ALIGNMENT) * ALIGNMENT if end > cloud.point_step else end
        offsets = {field.name: field.offset for field in kept}
        self._places = [offsets[name] for name in MARKS]

    def write(self, cloud: Cloud, labels: Bytes, confidence: Bytes, out: Bytes) -> None:
        """Write the cloud's points and their marks, uint8 `[n]`, into `out` `[n, point_step]`."""
        step = cloud.point_step
        # Column by column, as wide as both fit: numpy is slow at short rows.
        wide = next(k for k in _WIDTHS if not (step % k or self.point_step % k))
        for begin in range(0, step, wide):
            piece = slice(begin, begin + wide)
            out[:, piece].view(f'u{wide}')[:] = cloud.points[:, piece].view(f'u{wide}')
        for place in range(step, self.point_step):
            out[:, place] = 0
        for place, mark in zip(self._places, (labels, confidence), strict=True):
            out[:, place] = mark


def marks_of(
    number: int,
    seen: tuple[NDArray[np.intp], NDArray[np.intp]],
    labels: Bytes,
    confidence: Bytes,
) -> tuple[Bytes, Bytes]:
    """Return the label and confidence of each of `number` points, uint8 `[n]`.

    `seen` is what `CloudView.seen` returns, labels and confidence are those of the mask, uint8
    `[H, W]`. What is not seen has 255 and 0.
    """
    places, pixels = seen
    point_labels = np.full(number, IGNORE_ID, np.uint8)
    point_confidence = np.zeros(number, np.uint8)
    point_labels[places] = labels.ravel()[pixels]
    point_confidence[places] = confidence.ravel()[pixels]
    return point_labels, point_confidence


class CloudView:
    """Finds the pixels of a mask at which points are seen, and what hides them.

    `camera` is that of the mask, which shows all of the camera's image (`Intrinsics.resized`).
    """

    def __init__(self, camera: Intrinsics) -> None:
        camera.check()
        self._camera = camera
        self._radius = view_radius(camera)
        self._bounds = [_SLACK * bound for bound in view_bounds(camera)]
        self._cell = max(1, round(camera.width / _CELLS_ACROSS))
        height, width = (-(-side // self._cell) for side in (camera.height, camera.width))
        self._cells = (height + 2 * _REACH, width)
        self._grazing = self._cell / (camera.k[4] * np.tan(GRAZING))

    def seen(self, points: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return which points the camera sees, and at which pixels of the mask, flat: `[seen]`.

        `points` are float32 `[3, n]` in the camera's optical frame. Not seen are those behind it,
        beside its image, or hidden by others (`hidden`).
        """
        x, y, depth = points
        # First what costs little, so that the rest is of few points.
        wide, high = self._bounds
        ahead = np.flatnonzero(
            (depth > NEAREST) & (np.abs(x) < wide * depth) & (np.abs(y) < high * depth)
        )
        x, y, depth = x[ahead], y[ahead], depth[ahead]
        right, down = x / depth, y / depth
        u, v = projected(self._camera, right, down)
        camera = self._camera
        inside = (u >= -0.5) & (v >= -0.5) & (u < camera.width - 0.5) & (v < camera.height - 0.5)
        inside &= right * right + down * down < self._radius**2
        shown = np.flatnonzero(inside)
        columns = (u[shown] + 0.5).astype(np.intp)
        rows = (v[shown] + 0.5).astype(np.intp)
        clear = ~self.hidden(columns, rows, depth[shown])
        return ahead[shown[clear]], rows[clear] * camera.width + columns[clear]

    def hidden(
        self, columns: NDArray[np.intp], rows: NDArray[np.intp], depth: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """Return, bool `[n]`, which points others hide, given their pixels and depths in metres.

        A z-buffer of cells, as wide as a 128th of the image, keeps the nearest point of each. In
        its column, within four cells, a point is hidden (our choice, for scanners whose lines lie
        that far apart):

        - if points a tenth nearer are both above and below it: what stands before it has both,
          while the ground before it is below only, and branches are above only;
        - if one is so much nearer that a surface between the two would be seen at less than
          GRAZING: then it is the edge of something, and which side of it is seen is not known.
        """
        height, width = self._cells
        cells = (rows // self._cell + _REACH) * width + columns // self._cell
        nearest = np.full(height * width, np.inf, np.float32)
        # The nearest of a cell is written last.
        level = np.minimum(np.log(depth / NEAREST) * (_DEPTH_LEVELS / 12), _DEPTH_LEVELS - 1)
        far_first = np.argsort(~level.astype(np.uint16), kind='stable')
        nearest[cells[far_first]] = depth[far_first]
        above, below = (np.full(len(cells), np.inf, np.float32) for _ in range(2))
        hidden: NDArray[np.bool_] = nearest[cells] * (1 + self._grazing) < depth
        for distance in range(1, _REACH + 1):
            edge = 1 + distance * self._grazing
            for side, step in ((above, -distance * width), (below, distance * width)):
                other = nearest[cells + step]
                np.minimum(side, other, out=side)
                hidden |= other * edge < depth
        return hidden | (np.maximum(above, below) * _STEP < depth)
