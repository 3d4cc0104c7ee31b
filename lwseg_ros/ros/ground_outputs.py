"""What the node publishes of the ground before one camera: a grid, and points for costmaps."""

from __future__ import annotations

import array
import threading
import time
from typing import Any

import numpy as np
from nav_msgs.msg import OccupancyGrid
from numpy.typing import NDArray
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, PointCloud2, PointField
from std_msgs.msg import Header

from lwseg_ros.drivable.ground import (
    DRIVABLE,
    UNKNOWN,
    GroundPlane,
    GroundView,
    Intrinsics,
)
from lwseg_ros.drivable.mask import surely_not_drivable
from lwseg_ros.errors import LwsegError
from lwseg_ros.inference.segmenter import Segmentation
from lwseg_ros.ros.parameters import chosen

STALE_AFTER_S = 2.0
"""A grid that no frame renews for this long becomes all unknown (our choice)."""

_LOG_PERIOD_S = 10.0


class GroundOutputs:
    """The grid and the points of one camera; they follow the `ground` parameters.

    A grid stays with late subscribers, so one that is not renewed is taken back. `trouble` says
    why the last frame shows no ground, and is empty if it does.

    LwsegError if the parameters cannot be used.
    """

    def __init__(
        self, node: LifecycleNode, prefix: str, newest: QoSProfile, latched: QoSProfile
    ) -> None:
        self.trouble = ''
        self._node = node
        self._plane = GroundPlane(
            self._value('ground.camera_height'),
            self._value('ground.camera_pitch'),
            self._value('ground.resolution'),
            self._value('ground.extent'),
        )
        if not self._plane.camera_height > 0:
            raise LwsegError(
                'ground.enable is set, but ground.camera_height is not: give the height of the '
                'camera above the ground, in metres'
            )
        camera = prefix.removeprefix('~/')
        self._camera_info_topic = node.resolve_topic_name(f'{camera}camera_info')
        self._frame = self._value('ground.frame')
        if len(chosen(self._value('cameras'))) > 1:
            self._frame = f'{camera.rstrip("/")}_{self._frame}'
        self._view: GroundView | None = None
        self._seen_by: tuple[Any, ...] = ()
        self._grid_message = self._empty_grid()
        self._renewed = 0.0
        self._is_withdrawn = True
        self._lock = threading.Lock()
        self._grid = node.create_lifecycle_publisher(
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
        for publisher in (self._grid, self._drivable_points, self._obstacle_points):
            self._node.destroy_lifecycle_publisher(publisher)

    def publish(
        self,
        header: Any,
        image_size: tuple[int, int],
        segmentation: Segmentation,
        drivable: NDArray[np.uint8],
        camera_info: CameraInfo | None,
    ) -> None:
        """Publish the ground of one frame, with its stamp, if the camera's geometry is known.

        `image_size` (height, width) is the camera image's, `drivable` the mask 0/255 uint8
        `[H, W]`.
        """
        try:
            view = self._view_by(camera_info, image_size, drivable.shape)
        except LwsegError as error:
            self.trouble = f'no ground outputs: {error}'
            self._node.get_logger().error(self.trouble, throttle_duration_sec=_LOG_PERIOD_S)
            self.withdraw()
            return
        self.trouble = ''
        sure = surely_not_drivable(segmentation, self._value('drivable.min_confidence'))
        ground = view.ground(drivable, sure)
        own_header = Header(stamp=header.stamp, frame_id=self._frame)
        with self._lock:
            self._publish_grid(own_header, ground.grid)
            self._renewed = time.monotonic()
            self._is_withdrawn = False
        for publisher, cells in (
            (self._drivable_points, ground.grid == DRIVABLE),
            (self._obstacle_points, ground.contact),
        ):
            if publisher.get_subscription_count():
                publisher.publish(points_message(own_header, view.centers[cells]))

    def withdraw(self) -> None:
        """Say that the ground is unknown, in place of the grid published last, if there is one."""
        with self._lock:
            if self._is_withdrawn:
                return
            stamp = self._node.get_clock().now().to_msg()
            unknown = np.full((self._plane.cells,) * 2, UNKNOWN, np.int8)
            self._publish_grid(Header(stamp=stamp, frame_id=self._frame), unknown)
            self._is_withdrawn = True

    def _expire(self) -> None:
        if time.monotonic() - self._renewed > STALE_AFTER_S:
            self.withdraw()

    def _view_by(
        self, info: CameraInfo | None, image_size: tuple[int, int], mask_size: Any
    ) -> GroundView:
        if info is None:
            raise LwsegError(f'no camera info has come on {self._camera_info_topic}')
        camera = intrinsics(info)
        if self._view is None or self._seen_by != (camera, image_size, mask_size):
            camera.check()
            height, width = image_size
            if abs(camera.width * height / (camera.height * width) - 1) > 0.01:
                raise LwsegError(
                    f'{self._camera_info_topic} is of {camera.width}x{camera.height} pixels, '
                    f'the image has {width}x{height}: give the camera info of this camera'
                )
            self._view = GroundView(self._plane, camera, mask_size)
            self._seen_by = (camera, image_size, mask_size)
        return self._view

    def _publish_grid(self, header: Header, grid: NDArray[np.int8]) -> None:
        message = self._grid_message
        message.header = header
        message.info.map_load_time = header.stamp
        message.data = array.array('b', grid.tobytes())
        self._grid.publish(message)

    def _empty_grid(self) -> OccupancyGrid:
        message = OccupancyGrid()
        message.info.resolution = self._plane.resolution
        message.info.width = message.info.height = self._plane.cells
        message.info.origin.position.y = -self._plane.resolution * self._plane.cells / 2
        message.info.origin.orientation.w = 1.0
        return message

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value


def intrinsics(info: CameraInfo) -> Intrinsics:
    """Return the camera of an image, be it binned or a region of the calibrated one."""
    k, roi = info.k.tolist(), info.roi
    k[2] -= roi.x_offset
    k[5] -= roi.y_offset
    return Intrinsics(
        roi.width or info.width,
        roi.height or info.height,
        tuple(k),
        info.distortion_model,
        tuple(info.d),
    )


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
