"""One camera's frames: a subscription that fits its publisher."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any, NamedTuple

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from lwseg_ros.ros.frame_slot import FrameSlots
from lwseg_ros.ros.publisher_match import why_no_frames
from lwseg_ros.ros.subscription import MatchedSubscription

TRANSPORTS = {
    'raw': (Image, '', 'sensor_msgs/msg/Image'),
    'compressed': (CompressedImage, '/compressed', 'sensor_msgs/msg/CompressedImage'),
}


_HAND_OVER_S = 1e-5
"""A pause as short as there is; see where it is used."""


class Frame(NamedTuple):
    """A camera message and the steady time, in seconds, at which it came."""

    message: Any
    received: float


class FrameCounts:
    """What became of the frames: received = processed + dropped + refused + those in progress.

    Those lost between the camera and here were never received.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, what: str, number: int = 1) -> None:
        """Count `lost`, `received`, `processed`, `refused`, or a reason: `dropped: REASON`."""
        with self._lock:
            self._counts[what] += number

    def snapshot(self) -> dict[str, int]:
        """Return lost, received, processed, refused, dropped, then each reason of dropping."""
        with self._lock:
            counts = dict(self._counts)
        reasons = {what: n for what, n in sorted(counts.items()) if what.startswith('dropped: ')}
        totals = {
            what: counts.get(what, 0) for what in ('lost', 'received', 'processed', 'refused')
        }
        return {**totals, 'dropped': sum(reasons.values()), **reasons}


class CameraInput:
    """Subscribes to one camera while it is open, and keeps its newest frame in `slots`.

    `camera_info` is its newest calibration, None as long as there is none.

    Its topics begin with `prefix`, its place in `slots` has the name `camera`. Nothing is
    subscribed before a publisher is seen: then the quality of service can be the publisher's own.
    """

    def __init__(
        self,
        node: Node,
        camera: str,
        prefix: str,
        counts: FrameCounts,
        slots: FrameSlots[Frame],
    ) -> None:
        self._node = node
        self._camera = camera
        self._slots = slots
        message_type, suffix, type_name = TRANSPORTS[self._value('input.transport')]
        # As image_transport does it, a remapping of `image` moves `image/compressed` with it.
        image = node.resolve_topic_name(prefix + 'image')
        self.topic = node.resolve_topic_name(image + suffix)
        self._counts = counts
        self._subscription = MatchedSubscription(
            node,
            message_type,
            type_name,
            self.topic,
            self._receive,
            lambda number: counts.add('lost', number),
        )
        self._next_frame = 0.0
        self._paused = False
        self.last_frame = time.monotonic()
        self.camera_info: CameraInfo | None = None
        self._camera_info_subscription = node.create_subscription(
            CameraInfo,
            prefix + 'camera_info',
            self._receive_camera_info,
            QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
        )

    @property
    def is_open(self) -> bool:
        """Whether frames are wanted: not after `pause` or `close`."""
        return not self._paused

    def match_publisher(self) -> None:
        """Subscribe, or subscribe anew, as the publishers of the topic ask for. Call it often."""
        if self._paused:
            return
        was_subscribed = self._subscription.asked is not None
        if self._subscription.match() and not was_subscribed:
            self.last_frame = time.monotonic()

    def pause(self) -> None:
        """Unsubscribe and drop the frame that waits, until `resume`."""
        self._paused = True
        self._subscription.drop()
        self._counts.add('dropped: stopped', self._slots.clear(self._camera))

    def resume(self) -> None:
        """Take frames again."""
        self._paused = False
        self.match_publisher()

    def close(self) -> None:
        """Pause for ever."""
        self.pause()
        self._node.destroy_subscription(self._camera_info_subscription)

    @property
    def silent_s(self) -> float:
        """Return the seconds since the last frame, or since frames could be expected."""
        return time.monotonic() - self.last_frame

    def silence(self) -> str:
        """Return why no frame comes, as far as can be seen, and the remedy."""
        own_outputs = dict(
            self._node.get_publisher_names_and_types_by_node(
                self._node.get_name(), self._node.get_namespace()
            )
        )
        return why_no_frames(
            self.topic,
            self._subscription.type_name,
            self._node.get_publishers_info_by_topic(self.topic),
            self._subscription.asked,
            self._subscription.events.mismatch,
            self._subscription.events.lost,
            {
                name: types
                for name, types in self._node.get_topic_names_and_types()
                if name not in own_outputs and self._node.count_publishers(name)
            },
        )

    def _receive(self, message: Any) -> None:
        now = self.last_frame = time.monotonic()
        self._subscription.events.clear()
        self._counts.add('received')
        if not self._is_due(now):
            self._counts.add('dropped: rate limit')
        elif not self._slots.put(self._camera, Frame(message, now)):
            self._counts.add('dropped: newer frame')
        # The executor goes on in Python for half a millisecond: let the worker have the
        # interpreter first, which can then take the frame at once.
        time.sleep(_HAND_OVER_S)

    def _receive_camera_info(self, message: CameraInfo) -> None:
        self.camera_info = message

    def _is_due(self, now: float) -> bool:
        """Tell whether a frame at this time keeps the mean rate below the limit."""
        limit = self._value('input.max_rate_hz')
        if limit <= 0:
            return True
        if now < self._next_frame:
            return False
        self._next_frame = max(self._next_frame, now - 0.5 / limit) + 1 / limit
        return True

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value
