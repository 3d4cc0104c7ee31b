"""Camera frames of a generated drive and of a video, to play as those of a bag are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lwseg_ros.bags.messages import CAMERA_INFO, IMAGE, TYPESTORE, header, image_message
from lwseg_ros.errors import DataError
from lwseg_ros.live.frames import SourceFrame
from lwseg_ros.synthetic.drive import GeneratedDrive

CAMERA_TOPIC = '/camera/image_raw'

_FIRST_STAMP_NS = 1_700_000_000_000_000_000


class DriveSource:
    """The frames of a generated drive, all rendered beforehand: rendering is slower than playing.

    `track` wraps the range of frame numbers, to show progress.
    """

    message_type = IMAGE
    topic = CAMERA_TOPIC
    damage = ''
    notes: Sequence[str] = ()
    unreadable = 0

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


class VideoSource:
    """The pictures of a video file, at its frame rate."""

    message_type = IMAGE
    topic = CAMERA_TOPIC
    camera_info: Any | None = None
    damage = ''
    notes: Sequence[str] = ()
    unreadable = 0

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


def _drive_camera_info(drive: GeneratedDrive) -> Any:
    camera = drive.camera
    k = camera.k
    return TYPESTORE.types[CAMERA_INFO](
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
        roi=TYPESTORE.types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False),
    )
