"""Where the demo's camera frames come from: a generated drive, a bag or a video.

Every source yields ROS 2 messages (as rosbags' dataclasses) with their stamps as they are found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.typesys import Stores, get_typestore

from lwseg_ros.demo.drive import GeneratedDrive
from lwseg_ros.errors import DataError
from lwseg_ros.evaluation.bag import COMPRESSED_IMAGE, IMAGE, BagMessage, open_bag

TYPESTORE = get_typestore(Stores.ROS2_HUMBLE)
"""Definitions and serialisers of ROS 2 messages; those of cameras are equal in all releases."""

CAMERA_TOPIC = '/camera/image_raw'
CAMERA_FRAME = 'camera'
MAX_PAUSE_S = 5.0
"""Longer pauses between two frames of a recording are shortened to this (our choice)."""

_FIRST_STAMP_NS = 1_700_000_000_000_000_000
_TYPES = TYPESTORE.types


class SourceFrame(NamedTuple):
    """One frame of a source."""

    message: Any
    """sensor_msgs/Image or CompressedImage; `stamp_of` tells its stamp."""
    play_s: float
    """When to play it, seconds after the first frame."""
    record_ns: int
    """When it was recorded, for frames without a stamp of their own."""
    truth: npt.NDArray[np.uint8] | None = None
    """Labels uint8 `[H, W]` of the label space 'camvid', if they are known."""


class Source(Protocol):
    """Camera frames in order; iterate it once."""

    name: str
    topic: str
    message_type: str
    """'sensor_msgs/msg/Image' or 'sensor_msgs/msg/CompressedImage'."""
    frames: int | None
    """How many frames to expect, None if that is not known."""
    camera_info: Any | None
    """sensor_msgs/CameraInfo, the same for all frames, or None."""

    def __iter__(self) -> Iterator[SourceFrame]:
        """Read the frames."""
        ...

    def close(self) -> None:
        """Close what was opened."""
        ...


class DriveSource:
    """The frames of a generated drive, all rendered beforehand: rendering is slower than playing.

    `track` wraps the range of frame numbers, to show progress.
    """

    message_type = IMAGE
    topic = CAMERA_TOPIC

    def __init__(self, drive: GeneratedDrive, track: Callable[[range], Any] = iter) -> None:
        self.name = f'generated drive, seed {drive.seed}'
        self.frames: int | None = len(drive)
        self.camera_info: Any | None = _drive_camera_info(drive)
        self._frames = [
            SourceFrame(
                image_message(frame.image, 'rgb8', frame.stamp_ns),
                i / drive.rate_hz,
                frame.stamp_ns,
                frame.labels,
            )
            for i, frame in ((i, drive.frame(i)) for i in track(range(len(drive))))
        ]

    def __iter__(self) -> Iterator[SourceFrame]:
        """Return the rendered frames."""
        return iter(self._frames)

    def close(self) -> None:
        """Nothing is open."""


class BagSource:
    """The images of one topic of a ROS 1 or ROS 2 bag, at the pace of their stamps."""

    def __init__(self, path: str | Path, topic: str | None = None) -> None:
        self._bag = open_bag(path, topic)
        self.name = f'{path}, {self._bag.topic.name}'
        self.topic = self._bag.topic.name
        self.message_type = self._bag.topic.type
        self.frames: int | None = len(self._bag)
        info = self._bag.camera_info()
        self.camera_info: Any | None = None if info is None else _ros2_camera_info(info)

    def __iter__(self) -> Iterator[SourceFrame]:
        """Read the images."""
        play_s = 0.0
        before: BagMessage | None = None
        for entry in self._bag:
            if before is not None:
                play_s += _pause_s(before, entry)
            before = entry
            yield SourceFrame(_ros2_image(entry.message), play_s, entry.record_ns)

    def close(self) -> None:
        """Close the bag."""
        self._bag.close()


class VideoSource:
    """The pictures of a video file, at its frame rate."""

    message_type = IMAGE
    topic = CAMERA_TOPIC
    camera_info: Any | None = None

    def __init__(self, path: str | Path) -> None:
        if not Path(path).is_file():
            raise DataError(f'there is no video at {path}')
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise DataError(f'{path} cannot be read: it is damaged or no video that OpenCV knows')
        rate_hz = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate_hz = rate_hz if math.isfinite(rate_hz) and 0 < rate_hz <= 1000 else 30.0
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frames: int | None = int(count) if math.isfinite(count) and count > 0 else None
        self.name = str(path)

    def __iter__(self) -> Iterator[SourceFrame]:
        """Decode the pictures; stamps count up from a fixed time."""
        number = 0
        while True:
            there, picture = self._capture.read()
            if not there:
                return
            stamp_ns = _FIRST_STAMP_NS + round(number * 1e9 / self.rate_hz)
            pixels: Any = picture
            yield SourceFrame(
                image_message(pixels, 'bgr8', stamp_ns), number / self.rate_hz, stamp_ns
            )
            number += 1

    def close(self) -> None:
        """Close the file."""
        self._capture.release()


def image_message(pixels: npt.NDArray[np.uint8], encoding: str, stamp_ns: int) -> Any:
    """Return a sensor_msgs/Image of pixels uint8 `[H, W]` or `[H, W, 3]` with tight rows."""
    height, width = pixels.shape[:2]
    return _TYPES[IMAGE](
        header=header(stamp_ns),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=pixels.size // height,
        data=np.ascontiguousarray(pixels).reshape(-1),
    )


def jpeg_message(picture: npt.NDArray[np.uint8], stamp_ns: int, frame_id: str) -> Any:
    """Return a sensor_msgs/CompressedImage of an RGB picture uint8 `[H, W, 3]`."""
    _, data = cv2.imencode(
        '.jpg', cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92]
    )
    return _TYPES[COMPRESSED_IMAGE](
        header=header(stamp_ns, frame_id), format='jpeg', data=data.reshape(-1)
    )


def header(stamp_ns: int, frame_id: str = CAMERA_FRAME) -> Any:
    """Return a std_msgs/Header."""
    sec, nanosec = divmod(stamp_ns, 10**9)
    time = _TYPES['builtin_interfaces/msg/Time'](sec=sec, nanosec=nanosec)
    return _TYPES['std_msgs/msg/Header'](stamp=time, frame_id=frame_id)


def stamp_of(message: Any) -> int:
    """Return the header stamp of a message in nanoseconds."""
    stamp = message.header.stamp
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def _pause_s(before: BagMessage, after: BagMessage) -> float:
    """Return the seconds between two frames by their stamps; by the recorder if those jump."""
    by_stamp = (after.stamp_ns - before.stamp_ns) / 1e9
    if before.stamp_ns and 0 < by_stamp < MAX_PAUSE_S:
        return by_stamp
    return min(max((after.record_ns - before.record_ns) / 1e9, 0.0), MAX_PAUSE_S)


def _ros2_image(message: Any) -> Any:
    """Return a ROS 1 or ROS 2 message as one of ROS 2."""
    head = header(stamp_of(message), message.header.frame_id)
    if not hasattr(message, 'encoding'):
        return _TYPES[COMPRESSED_IMAGE](header=head, format=message.format, data=message.data)
    return _TYPES[IMAGE](
        header=head,
        height=message.height,
        width=message.width,
        encoding=message.encoding,
        is_bigendian=message.is_bigendian,
        step=message.step,
        data=message.data,
    )


def _ros2_camera_info(message: Any) -> Any:
    """Return a ROS 1 calibration (D, K, R, P) or a ROS 2 one (d, k, r, p) as one of ROS 2."""
    matrices = {
        name: np.asarray(getattr(message, name, getattr(message, name.upper(), None)), np.float64)
        for name in 'dkrp'
    }
    roi = _TYPES['sensor_msgs/msg/RegionOfInterest'](
        x_offset=message.roi.x_offset,
        y_offset=message.roi.y_offset,
        height=message.roi.height,
        width=message.roi.width,
        do_rectify=message.roi.do_rectify,
    )
    return _TYPES['sensor_msgs/msg/CameraInfo'](
        header=header(stamp_of(message), message.header.frame_id),
        height=message.height,
        width=message.width,
        distortion_model=message.distortion_model,
        **matrices,
        binning_x=message.binning_x,
        binning_y=message.binning_y,
        roi=roi,
    )


def _drive_camera_info(drive: GeneratedDrive) -> Any:
    camera = drive.camera
    k = camera.k
    return _TYPES['sensor_msgs/msg/CameraInfo'](
        header=header(0),
        height=camera.height,
        width=camera.width,
        distortion_model='plumb_bob',
        d=np.zeros(5),
        k=k.reshape(-1),
        r=np.eye(3).reshape(-1),
        p=np.hstack([k, np.zeros((3, 1))]).reshape(-1),
        binning_x=0,
        binning_y=0,
        roi=_TYPES['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False),
    )
