"""What the node publishes of one camera in space: labelled points, labelled clouds, the ground.

An answer, which is what the mask says of one image, and a measurement, a depth image or a cloud,
come at different times and by different threads; whichever of a pair comes last has it published.
"""

from __future__ import annotations

import array
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image, PointCloud2, PointField

from lwseg_ros.camera_model import Intrinsics, same_shape
from lwseg_ros.errors import LwsegError
from lwseg_ros.points.cloud import Cloud, CloudView, MarkedLayout, marks_of
from lwseg_ros.points.depth import POINT_FIELDS, POINT_STEP, DepthView, depth_from_message
from lwseg_ros.points.field import Field
from lwseg_ros.points.pairs import KEPT, Pairs
from lwseg_ros.ros.ground_outputs import GroundOutputs
from lwseg_ros.ros.subscription import MatchedSubscription
from lwseg_ros.ros.transform_listener import TransformListener, stamp_ns
from lwseg_ros.transforms import Transform, TransformError

GROUND_POINTS = 250_000
"""The ground is seen in about so many points of a depth image at most (our choice)."""

_LOG_PERIOD_S = 10.0


class Answer(NamedTuple):
    """What the masks say of one image.

    `camera` is the calibration of its camera, None as long as there is none; `image_size` the
    image's (height, width). The planes are uint8 `[H, W]`: the published label ids, confidence,
    and 255 where surely drivable, and surely not; `depth` is what the model predicts, float32
    `[H, W]` in metres, if it does.
    """

    header: Any
    image_size: tuple[int, int]
    camera: Intrinsics | None
    labels: NDArray[np.uint8]
    confidence: NDArray[np.uint8]
    drivable: NDArray[np.uint8]
    not_drivable: NDArray[np.uint8]
    depth: NDArray[np.float32] | None

    def calibrated(self, topic: str) -> Intrinsics:
        """Return the camera of the masks; LwsegError if its calibration is missing or wrong.

        `topic` is that of the camera infos.
        """
        if self.camera is None:
            raise LwsegError(f'no camera info has come on {topic}')
        try:
            self.camera.check_image(self.image_size)
        except LwsegError as error:
            raise LwsegError(f'{topic}: {error}') from None
        height, width = self.labels.shape
        return self.camera.resized((height, width))


class SpatialOutputs:
    """The lifecycle publishers of one camera that need to know where things are.

    A topic is subscribed to only while what comes of it is wanted. Without one the depth that the
    model predicts takes its place, if it does (`has_depth`).

    LwsegError if the parameters cannot be used.
    """

    def __init__(
        self,
        node: LifecycleNode,
        prefix: str,
        newest: QoSProfile,
        latched: QoSProfile,
        transforms: TransformListener,
        has_depth: bool,
    ) -> None:
        self._node = node
        self._transforms = transforms
        self._has_depth = has_depth
        self._extrinsics = _extrinsics(self._value('points.extrinsics'))
        self._ground = (
            GroundOutputs(node, prefix, newest, latched, transforms)
            if self._value('ground.enable')
            else None
        )
        self._points, self._labelled_cloud = (
            node.create_lifecycle_publisher(PointCloud2, prefix + name, newest)
            for name in ('points', 'labelled_cloud')
        )
        camera = prefix.removeprefix('~/')
        self._camera_info_topic = node.resolve_topic_name(f'{camera}camera_info')
        self._lock = threading.RLock()
        self._depth = _Source(
            node,
            f'{camera}depth',
            Image,
            Pairs(by_image=True),
            self._publish_depth,
            self._lock,
        )
        self._cloud = _Source(
            node,
            f'{camera}cloud',
            PointCloud2,
            Pairs(by_image=False),
            self._publish_cloud,
            self._lock,
        )
        self._trouble = ''
        self._point_message = _ReusedCloud()
        self._cloud_message = _ReusedCloud()
        self._depth_view: tuple[Intrinsics, DepthView] | None = None
        self._cloud_view: tuple[Intrinsics, CloudView] | None = None

    def destroy(self) -> None:
        """Take the topics from the graph."""
        self.stop()
        for publisher in (self._points, self._labelled_cloud):
            self._node.destroy_lifecycle_publisher(publisher)
        if self._ground is not None:
            self._ground.destroy()

    @property
    def is_wanted(self) -> bool:
        """Whether answers are of use."""
        return (
            self._ground is not None
            or self._depth.is_connected
            or self._cloud.is_connected
            or (self._has_depth and self._points.get_subscription_count() > 0)
        )

    def match(self) -> None:
        """Subscribe to what is wanted, and to no more; call it often, in the executor's thread."""
        for source, publisher in (
            (self._depth, self._points),
            (self._cloud, self._labelled_cloud),
        ):
            wanted = publisher.get_subscription_count() > 0
            urgent = wanted and not (self._has_depth and source is self._depth)
            source.follow(wanted or self._ground is not None, urgent)
        clouds_move = self._cloud.is_connected and self._extrinsics is None
        if clouds_move or (self._ground is not None and self._ground.needs_transforms):
            self._transforms.open()

    def stop(self) -> None:
        """Subscribe to nothing, and forget what waits."""
        for source in (self._depth, self._cloud):
            source.follow(False, False)

    def add(self, answer: Answer) -> None:
        """Publish what can be, now that there is this answer."""
        measured = [source for source in (self._depth, self._cloud) if source.is_connected]
        for source in measured:
            source.add_answer(answer)
        predicted = None if self._depth.is_connected else answer.depth
        if predicted is None and (self._ground is None or measured):
            return
        with self._lock:
            self._trouble = ''
            try:
                camera = answer.calibrated(self._camera_info_topic)
            except LwsegError as error:
                self._trouble = str(error)
                if self._ground is not None:
                    self._ground.complain(self._trouble)
                return
            if predicted is not None:
                self._publish_points(predicted, camera, answer, makes_ground=not measured)
            elif self._ground is not None:
                self._ground.publish_flat(
                    answer.header, camera, answer.drivable, answer.not_drivable
                )

    def withdraw(self) -> None:
        """Take back what late subscribers would still get."""
        if self._ground is not None:
            self._ground.withdraw()

    @property
    def troubles(self) -> list[str]:
        """What is wrong, one sentence each."""
        own = self._ground.trouble if self._ground is not None else self._trouble
        found = [own, self._depth.trouble, self._cloud.trouble]
        return [sentence for sentence in found if sentence]

    def figures(self) -> dict[str, str]:
        """Return what diagnostics tell of it, by name."""
        return {**self._depth.figures(), **self._cloud.figures()}

    def _publish_depth(self, message: Any, answer: Answer) -> None:
        camera = answer.calibrated(self._camera_info_topic)
        depth = depth_from_message(message)
        _check_same_view(message, answer)
        self._publish_points(depth, camera, answer, makes_ground=True)

    def _publish_points(
        self, depth: NDArray[np.float32], camera: Intrinsics, answer: Answer, makes_ground: bool
    ) -> None:
        is_heard = self._points.get_subscription_count() > 0
        if not is_heard and (self._ground is None or not makes_ground):
            return
        if self._depth_view is None or self._depth_view[0] != camera:
            self._depth_view = camera, DepthView(camera)
        shape = height, width = answer.labels.shape
        room = self._point_message.room(answer.header, shape, POINT_FIELDS, POINT_STEP)
        points = room.view(np.float32).reshape(height, width, POINT_STEP // 4)
        self._depth_view[1].points(
            depth, answer.labels, answer.confidence, self._value('points.max_range'), points
        )
        if is_heard:
            self._points.publish(self._point_message.message)
        if self._ground is not None and makes_ground:
            step = int(np.ceil(np.sqrt(height * width / GROUND_POINTS)))
            some = slice(None, None, step)
            self._ground.publish_measured(
                answer.header,
                points[some, some, :3].reshape(-1, 3).T,
                answer.drivable[some, some].ravel() > 0,
                answer.not_drivable[some, some].ravel() > 0,
            )

    def _publish_cloud(self, message: Any, answer: Answer) -> None:
        camera = answer.calibrated(self._camera_info_topic)
        place = self._place_of_cloud(message.header, answer.header)
        cloud = Cloud(message)
        points = place.apply(cloud.xyz())
        if self._cloud_view is None or self._cloud_view[0] != camera:
            self._cloud_view = camera, CloudView(camera)
        seen = self._cloud_view[1].seen(points)
        number = points.shape[1]
        if self._labelled_cloud.get_subscription_count():
            layout = MarkedLayout(cloud)
            if layout.replaced:
                self._node.get_logger().warning(
                    f'{self._cloud.topic} has {" and ".join(layout.replaced)} already: '
                    '~/labelled_cloud has ours instead',
                    once=True,
                )
            room = self._cloud_message.room(
                message.header, cloud.shape, layout.fields, layout.point_step
            )
            labels, confidence = marks_of(number, seen, answer.labels, answer.confidence)
            layout.write(cloud, labels, confidence, room.reshape(number, layout.point_step))
            self._cloud_message.message.is_dense = message.is_dense
            self._cloud_message.message.is_bigendian = message.is_bigendian
            self._labelled_cloud.publish(self._cloud_message.message)
        if self._ground is not None and not self._depth.is_connected:
            drivable, not_drivable = np.zeros(number, bool), np.zeros(number, bool)
            places, pixels = seen
            near = points[2, places] <= self._value('points.max_range')
            drivable[places] = near & (answer.drivable.ravel()[pixels] > 0)
            not_drivable[places] = answer.not_drivable.ravel()[pixels] > 0
            self._ground.publish_measured(answer.header, points, drivable, not_drivable)

    def _place_of_cloud(self, cloud: Any, image: Any) -> Transform:
        """Return what moves the cloud's points to the camera's frame, at the image's time."""
        if self._extrinsics is not None:
            return self._extrinsics
        cloud_ns, image_ns = stamp_ns(cloud.stamp), stamp_ns(image.stamp)
        fixed = self._value('points.fixed_frame')
        if fixed:
            return self._transforms.lookup_between(
                image.frame_id, image_ns, cloud.frame_id, cloud_ns, fixed
            )
        if cloud.frame_id == image.frame_id:
            return Transform.identity()
        return self._transforms.lookup(image.frame_id, cloud.frame_id, cloud_ns)

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value


class _Source:
    """One kind of measurement of one camera, and the answers that belong to it.

    `publish` is called with the newest pair; it raises TransformError if the pair must wait, and
    LwsegError if the measurement is of no use. `trouble` says what is wrong, or is empty.
    """

    def __init__(
        self,
        node: LifecycleNode,
        topic: str,
        message_type: Any,
        pairs: Pairs[Answer, Any],
        publish: Callable[[Any, Answer], None],
        lock: threading.RLock,
    ) -> None:
        self.topic = node.resolve_topic_name(topic)
        self.paired = 0
        self.refused = 0
        self._pairing_trouble = ''
        self._is_missed = False
        self._misses = 0
        self._node = node
        self._pairs = pairs
        self._publish = publish
        self._lock = lock
        self._subscription = MatchedSubscription(
            node,
            message_type,
            f'sensor_msgs/msg/{message_type.__name__}',
            self.topic,
            self._receive,
        )

    @property
    def is_connected(self) -> bool:
        """Whether it is wanted, and somebody publishes it."""
        return self._subscription.asked is not None

    @property
    def trouble(self) -> str:
        """What is wrong, in a sentence, or empty."""
        if (self._is_missed or self.is_connected) and not self._node.count_publishers(self.topic):
            return f'no publisher on {self.topic}: remap it to where that is published'
        return self._pairing_trouble

    def follow(self, wanted: bool, urgent: bool) -> None:
        """Subscribe if it is wanted and has a publisher, else not; `urgent`: it must have one."""
        self._is_missed = urgent
        if wanted:
            self._subscription.match()
        elif self.is_connected:
            self._subscription.drop()
            self._pairing_trouble = ''
            with self._lock:
                self._pairs.clear()

    def add_answer(self, answer: Answer) -> None:
        """Take an answer, and publish the newest pair, if there is a new one."""
        with self._lock:
            self._pairs.add_image(stamp_ns(answer.header.stamp), answer)
            self._publish_newest()

    def figures(self) -> dict[str, str]:
        """Return what diagnostics tell of it, by name; nothing if it was never used."""
        counts = {
            'paired': self.paired,
            'unpaired': self._pairs.unpaired,
            'refused': self.refused,
        }
        name = self.topic.rpartition('/')[2]
        return {f'{name} {k}': str(n) for k, n in counts.items()} if any(counts.values()) else {}

    def _receive(self, message: Any) -> None:
        with self._lock:
            self._pairs.add_other(stamp_ns(message.header.stamp), message)
            self._publish_newest()

    def _publish_newest(self) -> None:
        waiting = ''
        gap_ms = self._node.get_parameter('points.max_gap_ms').value
        for answer, message in self._pairs.newest(round(gap_ms * 1e6)):
            try:
                self._publish(message, answer)
            except TransformError as error:
                waiting = waiting or f'{self.topic}: {error}'  # an older pair may have its own
                continue
            except LwsegError as error:
                self.refused += 1
                self._complain(f'{self.topic}: {error}')
            else:
                self.paired += 1
                self._pairing_trouble = ''
            self._pairs.used(answer, message)
            self._misses = 0
            return
        self._misses += 1
        if waiting:
            self._complain(waiting)
        elif self._misses > 2 * KEPT:
            nearest = self._pairs.nearest_ns()
            self._complain(
                f'{self.topic} has a publisher, but nothing comes'
                if nearest is None
                else f'{self.topic}: the nearest to an image is {nearest / 1e6:.0f} ms off, '
                f'points.max_gap_ms is {gap_ms:g}'
            )

    def _complain(self, sentence: str) -> None:
        self._pairing_trouble = sentence
        self._node.get_logger().error(sentence, throttle_duration_sec=_LOG_PERIOD_S)


class _ReusedCloud:
    """A sensor_msgs/PointCloud2 that is filled again and again."""

    def __init__(self) -> None:
        self.message = PointCloud2()
        self._room: NDArray[np.uint8] = np.empty(0, np.uint8)

    def room(
        self, header: Any, shape: tuple[int, int], fields: Sequence[Field], point_step: int
    ) -> NDArray[np.uint8]:
        """Return the bytes, uint8, flat, of the message's points `[height, width]` to fill."""
        message, (height, width) = self.message, shape
        size = height * width * point_step
        if self._room.size != size or not size:
            message.data = array.array('B', bytes(size))
            self._room = np.frombuffer(message.data, np.uint8)
        message.header = header
        message.height, message.width = height, width
        message.fields = [
            PointField(name=f.name, offset=f.offset, datatype=f.datatype, count=f.count)
            for f in fields
        ]
        message.point_step, message.row_step = point_step, point_step * width
        return self._room


def _check_same_view(depth: Any, answer: Answer) -> None:
    """LwsegError if a depth image cannot show what the camera image shows."""
    frame, image_frame = depth.header.frame_id, answer.header.frame_id
    height, width = answer.image_size
    if not same_shape((depth.height, depth.width), answer.image_size):
        raise LwsegError(
            f'the depth image has {depth.width}x{depth.height} pixels, the camera image '
            f'{width}x{height}: give depth that is registered to the image'
        )
    if frame and image_frame and frame != image_frame:
        raise LwsegError(
            f'the depth image is of frame {frame!r}, the camera image of {image_frame!r}: give '
            'depth that is registered to the image'
        )


def _extrinsics(text: str) -> Transform | None:
    """Return what `points.extrinsics` says, None if nothing; LwsegError if it is wrong."""
    if not text.strip():
        return None
    try:
        numbers = [float(part) for part in text.replace(',', ' ').split()]
        if len(numbers) != 7:
            raise ValueError
        return Transform.of(numbers[:3], numbers[3:])
    except (ValueError, TransformError):
        raise LwsegError(
            f'points.extrinsics is {text!r}: wanted seven numbers, x y z qx qy qz qw'
        ) from None
