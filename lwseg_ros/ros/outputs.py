"""What the node publishes of one camera's frames, and when it is worth making."""

from __future__ import annotations

import array
import copy
import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest

from lwseg_ros.drivable.mask import surely_not_drivable
from lwseg_ros.errors import LwsegError
from lwseg_ros.inference.segmenter import Segmentation
from lwseg_ros.label_space import IGNORE_ID, LabelSpace
from lwseg_ros.overlay import colorize, overlay
from lwseg_ros.ros.autoware_mask import autoware_ids, autoware_message
from lwseg_ros.ros.calibration import intrinsics
from lwseg_ros.ros.spatial_outputs import Answer, SpatialOutputs
from lwseg_ros.ros.transform_listener import TransformListener

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:
    LabelInfo = None

HAS_VISION_MSGS = LabelInfo is not None

NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class ReusedImage:
    """A sensor_msgs/Image that is filled again and again without allocating."""

    def __init__(self, encoding: str) -> None:
        self.message = Image(encoding=encoding)
        self._pixels: NDArray[Any] = np.empty(0, np.uint8)

    def fill(self, header: Any, pixels: NDArray[Any]) -> Image:
        """Return the message with this header and these pixels, `[H, W]` or `[H, W, 3]`.

        They are uint8, or float32 for 32FC1; rows are tight. The message is the same object at
        every call.
        """
        if self._pixels.shape != pixels.shape:
            # rosidl takes bytes one by one, an array.array quickly; some versions copy it, so the
            # view is of what the message holds.
            self.message.data = array.array('B', bytes(pixels.nbytes))
            self._pixels = np.frombuffer(self.message.data, pixels.dtype).reshape(pixels.shape)
            self.message.height, self.message.width = pixels.shape[:2]
            self.message.step = pixels.nbytes // pixels.shape[0]
        np.copyto(self._pixels, pixels)
        self.message.header = header
        return self.message


class Outputs:
    """The lifecycle publishers of one camera.

    `model_space` is what the network speaks, `space` what is published, restricted to the classes
    named in `publish_classes` (all if empty). `prefix` comes before each topic's name. `has_depth`
    says that the model predicts depth.

    LwsegError if what the parameters ask for cannot be published.
    """

    def __init__(
        self,
        node: LifecycleNode,
        model_space: LabelSpace,
        space: LabelSpace,
        publish_classes: list[str],
        prefix: str,
        transforms: TransformListener,
        has_depth: bool,
    ) -> None:
        self._node = node
        self._palette = space.palette
        published = [space.class_id(name) for name in publish_classes]
        self._classes = [c for c in space.classes if not published or c.id in published]
        self._ids = model_space.lookup_table(space)
        self._ids[~np.isin(self._ids, [c.id for c in self._classes])] = IGNORE_ID
        self._announced: float | None = None
        self._autoware_ids = (
            autoware_ids(model_space) if self._value('output.autoware_mask') else None
        )
        self.spatial = SpatialOutputs(node, prefix, NEWEST, LATCHED, transforms, has_depth)

        def publisher(message_type: Any, name: str, qos: QoSProfile = NEWEST) -> Any:
            return node.create_lifecycle_publisher(message_type, prefix + name, qos)

        self._mask = publisher(Image, 'mask')
        self._confidence = publisher(Image, 'confidence')
        self._drivable_mask = publisher(Image, 'drivable_mask')
        self._color_mask = publisher(Image, 'color_mask')
        self._overlay = publisher(Image, 'overlay')
        self._camera_info = publisher(CameraInfo, 'camera_info')
        self._timing = publisher(DiagnosticArray, 'timing')
        self._label_info = publisher(LabelInfo, 'label_info', LATCHED) if LabelInfo else None
        self._autoware_mask: Any = (
            publisher(Image, 'autoware_mask') if self._autoware_ids is not None else None
        )
        self._depth: Any = publisher(Image, 'depth') if has_depth else None
        self._metres = ReusedImage('32FC1')
        self._gray = [ReusedImage('mono8') for _ in range(3)]
        self._rgb = [ReusedImage('rgb8') for _ in range(2)]

    def destroy(self) -> None:
        """Take the topics from the graph."""
        for publisher in (
            self._mask,
            self._confidence,
            self._drivable_mask,
            self._color_mask,
            self._overlay,
            self._camera_info,
            self._timing,
            self._label_info,
            self._autoware_mask,
            self._depth,
        ):
            if publisher is not None:
                self._node.destroy_lifecycle_publisher(publisher)
        self.spatial.destroy()

    def announce(self) -> None:
        """Publish `label_info`, if vision_msgs is there: on activation and on change."""
        min_confidence = self._announced = self._value('output.min_confidence')
        if self._label_info is None:
            return
        message = LabelInfo(
            class_map=[VisionClass(class_id=c.id, class_name=c.name) for c in self._classes],
            threshold=min_confidence,
        )
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._label_info.publish(message)

    def publish(
        self,
        header: Any,
        image: NDArray[np.uint8],
        segmentation: Segmentation,
        drivable: NDArray[np.uint8],
        camera_info: CameraInfo | None,
    ) -> None:
        """Publish everything about one frame that somebody listens to, all with its header.

        `drivable` is the drivable mask 0/255 uint8 `[H, W]`, of the segmentation's size; `image`
        the camera's, RGB uint8 `[H', W', 3]`.
        """
        min_confidence = self._value('output.min_confidence')
        if min_confidence != self._announced:
            self.announce()
        mask = _sure_ids(segmentation, self._ids, min_confidence)
        self._mask.publish(self._gray[0].fill(header, mask))
        self._confidence.publish(self._gray[1].fill(header, segmentation.confidence))
        self._drivable_mask.publish(self._gray[2].fill(header, drivable))
        if self._color_mask.get_subscription_count():
            self._color_mask.publish(self._rgb[0].fill(header, colorize(mask, self._palette)))
        if self._overlay.get_subscription_count():
            alpha = self._value('output.overlay_alpha')
            painted = overlay(image, mask, self._palette, alpha)
            self._overlay.publish(self._rgb[1].fill(header, painted))
        if camera_info is not None and self._camera_info.get_subscription_count():
            height, width = mask.shape
            self._camera_info.publish(scaled_camera_info(camera_info, header, width, height))
        size = image.shape[:2]
        if self._autoware_ids is not None and self._autoware_mask.get_subscription_count():
            ids = _sure_ids(segmentation, self._autoware_ids, min_confidence)
            self._autoware_mask.publish(autoware_message(header, ids, size))
        depth = segmentation.depth
        if depth is not None and self._depth.get_subscription_count():
            self._depth.publish(self._metres.fill(header, depth))
        if self.spatial.is_wanted:
            self.spatial.add(
                Answer(
                    header,
                    size,
                    intrinsics(camera_info) if camera_info is not None else None,
                    mask,
                    segmentation.confidence,
                    drivable,
                    surely_not_drivable(segmentation, self._value('drivable.min_confidence')),
                    segmentation.depth,
                )
            )

    def withdraw(self) -> None:
        """Take back what late subscribers would still get: call it before deactivating."""
        self.spatial.withdraw()

    def publish_timing(self, header: Any, times_ms: Mapping[str, float]) -> None:
        """Publish the stage times of one frame, in milliseconds by name."""
        if self._timing.get_subscription_count():
            values = [KeyValue(key=f'{k}_ms', value=f'{v:.3f}') for k, v in times_ms.items()]
            status = DiagnosticStatus(name=f'{self._node.get_name()}: timing', values=values)
            self._timing.publish(DiagnosticArray(header=header, status=[status]))

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value


def _sure_ids(
    segmentation: Segmentation, table: NDArray[np.uint8], min_confidence: float
) -> NDArray[np.uint8]:
    """Return the labels by the table, uint8 `[H, W]`: 255 where unlabelled or not confident."""
    ids: Any = cv2.LUT(segmentation.labels, table)
    least = math.ceil(min_confidence * 255)
    if least > 0:
        unsure = cv2.threshold(
            segmentation.confidence, least - 1, IGNORE_ID, cv2.THRESH_BINARY_INV
        )[1]
        cv2.bitwise_or(ids, unsure, dst=ids)
    return ids


def published_space(model_space: LabelSpace, name_or_path: str) -> LabelSpace:
    """Return the label space to publish in, the model's own if none is named.

    LwsegError if the model's classes cannot be told in it.
    """
    if not name_or_path:
        return model_space
    space = LabelSpace.load(name_or_path)
    try:
        model_space.lookup_table(space)
    except LwsegError as error:
        raise LwsegError(
            f'label_space.path is {name_or_path!r}, but the model speaks '
            f'{model_space.name}: {error}'
        ) from None
    return space


def scaled_camera_info(info: CameraInfo, header: Any, width: int, height: int) -> CameraInfo:
    """Return the calibration of the camera's image resized to width x height, with this header.

    An image that is binned or a region of the calibrated one gets a calibration of its own, with
    neither.
    """
    scaled = copy.deepcopy(info)
    scaled.header = header
    scaled.width, scaled.height = width, height
    scaled.binning_x = scaled.binning_y = 0
    roi, scaled.roi = info.roi, RegionOfInterest(do_rectify=info.roi.do_rectify)
    x = width / max(roi.width or info.width, 1)
    y = height / max(roi.height or info.height, 1)
    for matrix, columns in ((scaled.k, 3), (scaled.p, 4)):
        matrix[2] -= roi.x_offset
        matrix[columns + 2] -= roi.y_offset
        matrix[:columns] *= x
        matrix[columns : 2 * columns] *= y
    return scaled
