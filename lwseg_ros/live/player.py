"""Play camera messages to the segmentation node over the real middleware and collect its answers.

Messages go out and come in serialised, so playing costs this process no conversion.
"""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from lwseg_ros.errors import LwsegError

IMAGE_TYPES = {
    'sensor_msgs/msg/Image': Image,
    'sensor_msgs/msg/CompressedImage': CompressedImage,
}
OUTPUTS = ('mask', 'confidence', 'drivable_mask', 'overlay')
"""The node's image topics that can be collected."""

_POLL_S = 0.02


class Answer(NamedTuple):
    """One image that the node has published."""

    output: str
    stamp_ns: int
    received_s: float
    """`time.monotonic()` at arrival."""
    data: bytes
    """The sensor_msgs/Image, serialised (CDR)."""


class Player:
    """The camera's side of the middleware, in a ROS context of its own; a context manager.

    `place` is what the camera's outputs stand under: the node's name, and that of the camera if
    the node has several. `on_answer` is called from another thread with every message of the
    `outputs`. Set the environment (`transport.apply_large_image_profile`) before; `domain_id` None
    takes the environment's.
    """

    def __init__(
        self,
        image_topic: str,
        image_type: str,
        info_topic: str | None,
        on_answer: Callable[[Answer], None],
        domain_id: int | None = None,
        place: str = '/segmentation',
        outputs: Sequence[str] = OUTPUTS,
    ) -> None:
        self.sent_s: dict[int, float] = {}
        """`time.monotonic()` of sending, by stamp."""
        self.answered: dict[str, dict[int, float]] = {output: {} for output in outputs}
        """`time.monotonic()` of arrival, by output and stamp."""
        self.stages_ms: dict[int, dict[str, float]] = {}
        """How long each stage of the node took, by stamp and name."""
        self.diagnostics: dict[str, str] = {}
        """The newest values of the node's diagnostics."""
        self._image_topic, self._image_type = image_topic, IMAGE_TYPES[image_type]
        self._info_topic = info_topic
        self._on_answer = on_answer
        self._domain_id = domain_id
        self._place = place
        self._changed = threading.Condition()

    def __enter__(self) -> Player:
        self._context = rclpy.Context()
        rclpy.init(
            context=self._context,
            domain_id=self._domain_id,
            signal_handler_options=SignalHandlerOptions.NO,
        )
        name = f'camera_player{self._place.replace("/", "_")}'
        self._node = rclpy.create_node(name, context=self._context)
        collect = QoSProfile(depth=30, reliability=ReliabilityPolicy.RELIABLE)
        for output in self.answered:
            self._node.create_subscription(
                Image, self._topic(output), self._receiver(output), collect, raw=True
            )
        self._node.create_subscription(DiagnosticArray, self._topic('timing'), self._time, collect)
        self._node.create_subscription(DiagnosticArray, '/diagnostics', self._diagnose, 10)
        camera = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        self._images = self._node.create_publisher(self._image_type, self._image_topic, camera)
        self._infos = (
            self._node.create_publisher(CameraInfo, self._info_topic, camera)
            if self._info_topic
            else None
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name='player', daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        rclpy.shutdown(context=self._context)
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()

    def wait_for_node(self, check: Callable[[], None], timeout_s: float) -> None:
        """Return once the node listens to the camera and all its outputs are connected.

        `check` is called again and again and may raise. LwsegError after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while not self._is_connected():
            check()
            if time.monotonic() > deadline:
                raise LwsegError(
                    f'the segmentation node has not subscribed to {self._image_topic} within '
                    f'{timeout_s:g} s'
                )
            with self._changed:
                self._changed.wait(_POLL_S)

    def publish(self, stamp_ns: int, image: bytes, info: bytes | None = None) -> None:
        """Send one serialised image, and the calibration with it."""
        if info is not None and self._infos is not None:
            self._infos.publish(info)
        self.sent_s[stamp_ns] = time.monotonic()
        self._images.publish(image)

    def wait_for_answers(self, check: Callable[[], None], timeout_s: float) -> bool:
        """Wait until every output of the frame sent last is there; False after `timeout_s`.

        The newest frame is never dropped for another, so it ends the node's work.
        """
        last = next(reversed(self.sent_s))
        return self._wait(
            lambda: all(last in stamps for stamps in self.answered.values()), check, timeout_s
        )

    def wait_for_counts(self, check: Callable[[], None], timeout_s: float) -> bool:
        """Wait until the node's diagnostics account for every frame that was answered."""
        answered = max(len(stamps) for stamps in self.answered.values())
        return self._wait(lambda: self.node_count('processed') == answered, check, timeout_s)

    def node_count(self, what: str) -> int | None:
        """Return how many frames the node says it has received, processed, dropped or refused."""
        value = self.diagnostics.get(f'frames {what}')
        return None if value is None else int(value)

    def _wait(
        self, condition: Callable[[], bool], check: Callable[[], None], timeout_s: float
    ) -> bool:
        deadline = time.monotonic() + timeout_s
        while not condition():
            check()
            if time.monotonic() > deadline:
                return False
            with self._changed:
                self._changed.wait(_POLL_S)
        return True

    def _topic(self, output: str) -> str:
        return f'{self._place}/{output}'

    def _is_connected(self) -> bool:
        return self._images.get_subscription_count() > 0 and all(
            self._node.count_publishers(self._topic(output)) for output in self.answered
        )

    def _receiver(self, output: str) -> Callable[[bytes], None]:
        def receive(data: bytes) -> None:
            received_s = time.monotonic()
            stamp_ns = cdr_stamp(data)
            self.answered[output][stamp_ns] = received_s
            self._on_answer(Answer(output, stamp_ns, received_s, data))
            with self._changed:
                self._changed.notify_all()

        return receive

    def _diagnose(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {item.key: item.value for item in status.values}
            if status.hardware_id == self._place and 'frames processed' in values:
                self.diagnostics = values
                with self._changed:
                    self._changed.notify_all()

    def _time(self, message: DiagnosticArray) -> None:
        stamp = message.header.stamp
        self.stages_ms[stamp.sec * 10**9 + stamp.nanosec] = {
            item.key.removesuffix('_ms'): float(item.value) for item in message.status[0].values
        }

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()


def cdr_stamp(data: bytes) -> int:
    """Return the stamp, in nanoseconds, of a serialised message that starts with a header."""
    sec, nanosec = struct.unpack_from('<iI' if data[1] & 1 else '>iI', data, 4)
    return int(sec) * 10**9 + int(nanosec)


def node_arguments(
    image_topic: str, image_type: str, info_topic: str | None, prefix: str = ''
) -> list[str]:
    """Return the node's ROS arguments that make it listen to these topics.

    `prefix` is the name of one camera of several, with a slash, as in 'front/'.
    """
    compressed = IMAGE_TYPES[image_type] is CompressedImage
    transport, name = ('compressed', 'image/compressed') if compressed else ('raw', 'image')
    arguments = ['-p', f'input.transport:={transport}', '-r', f'{prefix}{name}:={image_topic}']
    return [*arguments, '-r', f'{prefix}camera_info:={info_topic}'] if info_topic else arguments
