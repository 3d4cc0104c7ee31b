"""What the node publishes of the ground before one camera: a grid, and points for costmaps."""

from __future__ import annotations

import array
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from nav_msgs.msg import OccupancyGrid
from numpy.typing import NDArray
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from lwseg_ros.camera_model import Intrinsics
from lwseg_ros.drivable.ground import (
    DRIVABLE,
    UNKNOWN,
    GroundGrid,
    GroundView,
    mounted,
)
from lwseg_ros.drivable.measured_ground import measured_ground
from lwseg_ros.errors import LwsegError
from lwseg_ros.ros.parameter_table import chosen
from lwseg_ros.ros.transform_listener import HAS_TRANSFORMS, TransformListener, stamp_ns
from lwseg_ros.transforms import Transform

STALE_AFTER_S = 2.0
"""A grid that no frame renews for this long becomes all unknown (our choice)."""

_LOG_PERIOD_S = 10.0
_STILL = 1e-4


class GroundOutputs:
    """The grid and the points of one camera; they follow the `ground` parameters.

    A grid stays with late subscribers, so one that is not renewed is taken back. `trouble` says
    why the last frame shows no ground, and is empty if it does.

    LwsegError if the parameters cannot be used.
    """

    def __init__(
        self,
        node: LifecycleNode,
        prefix: str,
        newest: QoSProfile,
        latched: QoSProfile,
        transforms: TransformListener,
    ) -> None:
        self.trouble = ''
        self._node = node
        self._transforms = transforms
        height, pitch = self._value('ground.camera_height'), self._value('ground.camera_pitch')
        self._mounted = mounted(height, pitch) if height > 0 else None
        if self._mounted is None and not HAS_TRANSFORMS:
            raise LwsegError(
                'ground.enable is set, but ground.camera_height is not: give the height of the '
                'camera above the ground, in metres, or install tf2_msgs to have it from /tf'
            )
        self._frame = self._value('ground.frame')
        if self._mounted is not None and len(chosen(self._value('cameras'))) > 1:
            self._frame = f'{prefix.removeprefix("~/").rstrip("/")}_{self._frame}'
        self._grid = self._grid_before(mounted(1.0, 0.0))
        self._place = Transform.identity()
        self._view: GroundView | None = None
        self._seen_by: tuple[Any, ...] = ()
        self._message = OccupancyGrid()
        self._renewed = 0.0
        self._is_withdrawn = True
        self._lock = threading.Lock()
        self._publisher = node.create_lifecycle_publisher(
            OccupancyGrid, f'{prefix}drivable_grid', latched
        )
        self._drivable_points, self._obstacle_points = (
            node.create_lifecycle_publisher(PointCloud2, prefix + name, newest)
            for name in ('drivable_points', 'obstacle_points')
        )
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(STALE_AFTER_S / 4, self._expire, clock=steady)

    def destroy(self) -> None:
        """Take the topics from the graph."""
        self._node.destroy_timer(self._timer)
        for publisher in (self._publisher, self._drivable_points, self._obstacle_points):
            self._node.destroy_lifecycle_publisher(publisher)

    @property
    def needs_transforms(self) -> bool:
        """Whether the camera's place above the ground comes from /tf."""
        return self._mounted is None

    def publish_flat(
        self,
        header: Any,
        camera: Intrinsics,
        drivable: NDArray[np.uint8],
        not_drivable: NDArray[np.uint8],
    ) -> None:
        """Publish the ground of one frame, with its stamp, as if it were flat.

        `camera` is that of the image, the masks are 0/255 uint8 `[H, W]`; `not_drivable` says
        what is surely so.
        """
        with self._complaining():
            place, grid = self._geometry(header)
            seen_by = (id(place), grid, camera, drivable.shape)
            if self._view is None or self._seen_by != seen_by:
                self._view = GroundView(grid, place, camera, drivable.shape)
                self._seen_by = seen_by
            ground = self._view.ground(drivable, not_drivable)
            centers = self._view.centers
            self._publish(
                header,
                grid,
                ground.grid,
                centers[ground.grid == DRIVABLE],
                centers[ground.contact],
            )

    def publish_measured(
        self,
        header: Any,
        points: NDArray[np.float32],
        drivable: NDArray[np.bool_],
        not_drivable: NDArray[np.bool_],
    ) -> None:
        """Publish the ground of one frame, with its stamp, as measured points show it.

        `points` are float32 `[3, n]` in the camera's optical frame, NaN where nothing was
        measured; `drivable` and `not_drivable`, bool `[n]`, say what is surely so.
        """
        with self._complaining():
            place, grid = self._geometry(header)
            on_ground = place.apply(points)
            ground = measured_ground(
                on_ground,
                drivable,
                not_drivable,
                grid,
                self._value('ground.max_step'),
                self._value('ground.clearance'),
            )
            rows = on_ground.T
            self._publish(header, grid, ground.grid, rows[ground.drivable], rows[ground.obstacle])

    def complain(self, sentence: str) -> None:
        """Say why there is no ground, and take back what was said of it before."""
        self.trouble = f'no ground outputs: {sentence}'
        self._node.get_logger().error(self.trouble, throttle_duration_sec=_LOG_PERIOD_S)
        self.withdraw()

    def withdraw(self) -> None:
        """Say that the ground is unknown, in place of the grid published last, if there is one."""
        with self._lock:
            if self._is_withdrawn:
                return
            stamp = self._node.get_clock().now().to_msg()
            cells = self._grid.cells
            self._publish_grid(stamp, self._grid, np.full((cells, cells), UNKNOWN, np.int8))
            self._is_withdrawn = True

    def _expire(self) -> None:
        if time.monotonic() - self._renewed > STALE_AFTER_S:
            self.withdraw()

    @contextlib.contextmanager
    def _complaining(self) -> Iterator[None]:
        try:
            yield
        except LwsegError as error:
            self.complain(str(error))
        else:
            self.trouble = ''

    def _geometry(self, header: Any) -> tuple[Transform, GroundGrid]:
        """Return where the camera is in the ground's frame, and the grid before it.

        A place that has hardly changed is the one before, so that views are kept.
        """
        place = self._mounted
        if place is None:
            at_ns = stamp_ns(header.stamp)
            place = self._transforms.lookup(self._frame, header.frame_id, at_ns)
        if not all(
            np.allclose(new, old, atol=_STILL) for new, old in zip(place, self._place, strict=True)
        ):
            self._place = place
        return self._place, self._grid_before(self._place)

    def _grid_before(self, place: Transform) -> GroundGrid:
        resolution, extent = self._value('ground.resolution'), self._value('ground.extent')
        grid = GroundGrid.before(place, resolution, extent)
        _ = grid.cells  # LwsegError if that is impossible
        return grid

    def _publish(
        self,
        header: Any,
        grid: GroundGrid,
        cells: NDArray[np.int8],
        drivable: NDArray[np.float32],
        obstacles: NDArray[np.float32],
    ) -> None:
        with self._lock:
            self._publish_grid(header.stamp, grid, cells)
            self._renewed = time.monotonic()
            self._is_withdrawn = False
        own_header = Header(stamp=header.stamp, frame_id=self._frame)
        for publisher, points in (
            (self._drivable_points, drivable),
            (self._obstacle_points, obstacles),
        ):
            if publisher.get_subscription_count():
                publisher.publish(points_message(own_header, points))

    def _publish_grid(self, stamp: Any, grid: GroundGrid, cells: NDArray[np.int8]) -> None:
        self._grid = grid
        message = self._message
        message.header = Header(stamp=stamp, frame_id=self._frame)
        message.info.map_load_time = stamp
        message.info.resolution = grid.resolution
        message.info.width = message.info.height = grid.cells
        message.info.origin.position.x, message.info.origin.position.y = grid.corner
        message.info.origin.orientation.w = 1.0
        message.data = array.array('b', cells.tobytes())
        self._publisher.publish(message)

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value


def points_message(header: Header, points: NDArray[np.float32]) -> PointCloud2:
    """Return the message of points float32 `[n, 3]`: x, y, z."""
    message = PointCloud2(header=header, height=1, width=len(points), is_dense=True)
    message.fields = [
        PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
        for i, name in enumerate('xyz')
    ]
    message.point_step = 12
    message.row_step = 12 * len(points)
    message.data = array.array('B', points.astype('<f4', copy=False).tobytes())
    return message
