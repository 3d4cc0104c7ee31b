"""Where frames lie to each other, as /tf and /tf_static tell it: without tf2_ros, as on PyPI."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from lwseg_ros.transforms import Transform, TransformError, TransformTree

try:
    from tf2_msgs.msg import TFMessage
except ImportError:
    TFMessage = None

HAS_TRANSFORMS = TFMessage is not None

_DYNAMIC = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
_STATIC = QoSProfile(
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
_LOG_PERIOD_S = 30.0


def stamp_ns(stamp: Any) -> int:
    """Return a builtin_interfaces/Time in nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


class TransformListener:
    """Hears /tf and /tf_static from the moment that somebody needs them.

    Transforms come often, and each costs time: a node that needs none hears none.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._tree = TransformTree()
        self._subscriptions: list[Any] = []

    def open(self) -> None:
        """Listen from now on; call it in the executor's thread."""
        if self._subscriptions or TFMessage is None:
            return
        self._subscriptions = [
            self._node.create_subscription(TFMessage, '/tf', self._receive, _DYNAMIC),
            self._node.create_subscription(TFMessage, '/tf_static', self._receive_static, _STATIC),
        ]

    def close(self) -> None:
        """Listen no more, and forget."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
        self._tree = TransformTree()

    def lookup(self, target: str, source: str, at_ns: int) -> Transform:
        """Return what moves points from `source` to `target`: see `TransformTree.lookup`."""
        self._check()
        return self._tree.lookup(target, source, at_ns)

    def lookup_between(
        self, target: str, target_ns: int, source: str, source_ns: int, fixed: str
    ) -> Transform:
        """Return what moves points between two times: see `TransformTree.lookup_between`."""
        self._check()
        return self._tree.lookup_between(target, target_ns, source, source_ns, fixed)

    def _check(self) -> None:
        if TFMessage is None:
            raise TransformError(
                'there are no transforms without the package tf2_msgs: install it (ROS 2 has it), '
                'or give ground.camera_height and points.extrinsics'
            )

    def _receive(self, message: Any) -> None:
        self._note(message, is_static=False)

    def _receive_static(self, message: Any) -> None:
        self._note(message, is_static=True)

    def _note(self, message: Any, is_static: bool) -> None:
        for one in message.transforms:
            place, turn = one.transform.translation, one.transform.rotation
            try:
                self._tree.add(
                    one.header.frame_id,
                    one.child_frame_id,
                    stamp_ns(one.header.stamp),
                    (place.x, place.y, place.z),
                    (turn.x, turn.y, turn.z, turn.w),
                    is_static,
                )
            except TransformError as error:
                self._node.get_logger().warning(
                    f'{error}: it is left out', throttle_duration_sec=_LOG_PERIOD_S
                )
