"""What people look at after a replay: an MCAP bag, overlay videos, pictures of chosen frames."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from lwseg_ros.bags.messages import COMPRESSED_IMAGE, IMAGE, TYPESTORE, image_message
from lwseg_ros.bags.order import RawMessage
from lwseg_ros.bags.recording import Recording
from lwseg_ros.errors import LwsegError
from lwseg_ros.inference.segmenter import Segmentation
from lwseg_ros.overlay import colorize
from lwseg_ros.overlay_video import OverlayVideo
from lwseg_ros.replay.figures import LOOK_FIRST, file_name, picture_path
from lwseg_ros.replay.result import HIGHER_IS_BETTER, LookFirst

Image = npt.NDArray[np.uint8]

OVERLAY_WIDTH = 640
"""Overlays are at most this wide: to draw and encode them larger takes time from the model."""
JPEG_QUALITY = 80


@dataclass(frozen=True)
class Shown:
    """A frame as it is shown."""

    message: RawMessage
    header: Any
    """Its header as one of ROS 2."""
    segmentation: Segmentation
    small: Image
    """The image as large as its overlay."""
    overlay: Image
    truth: Image | None

    @cached_property
    def overlay_jpeg(self) -> bytes:
        """The overlay as a file."""
        return _jpeg(self.overlay)


class ReplayBag:
    """An MCAP bag of camera images with what the model made of them, all with their stamps.

    Messages are recorded at the time of the camera's; `/segmentation/CAMERA` comes before
    `/mask`, `/confidence` (mono8) and `/overlay/compressed` (JPEG).
    """

    def __init__(self, folder: Path) -> None:
        self._writer = Writer(folder, version=8, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()
        self._connections: dict[str, Any] = {}

    def add(self, frame: Shown, image: bytes) -> None:
        """Write a camera image, given as CDR, and what belongs to it."""
        message = frame.message
        camera = f'/segmentation/{message.topic.removesuffix("/compressed").strip("/")}'
        self._write(message.topic, message.type, message.record_ns, image)
        for name in ('mask', 'confidence'):
            plane = frame.segmentation.labels if name == 'mask' else frame.segmentation.confidence
            picture = image_message(plane, 'mono8', 0)
            picture.header = frame.header
            data = TYPESTORE.serialize_cdr(picture, IMAGE)
            self._write(f'{camera}/{name}', IMAGE, message.record_ns, data)
        jpeg = TYPESTORE.types[COMPRESSED_IMAGE](
            header=frame.header,
            format='jpeg',
            data=np.frombuffer(frame.overlay_jpeg, np.uint8),
        )
        data = TYPESTORE.serialize_cdr(jpeg, COMPRESSED_IMAGE)
        self._write(f'{camera}/overlay/compressed', COMPRESSED_IMAGE, message.record_ns, data)

    def copy(self, message: RawMessage, data: bytes, store: Any) -> None:
        """Write a message of another topic, given as CDR; the store knows its type."""
        self._write(message.topic, message.type, message.record_ns, data, store)

    def close(self) -> None:
        """Complete the file."""
        self._writer.close()

    def abort(self) -> None:
        """Give the file up."""
        self._writer.abort()

    def _write(
        self, topic: str, kind: str, record_ns: int, data: Any, store: Any = TYPESTORE
    ) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, kind, typestore=store)
        self._writer.write(self._connections[topic], record_ns, data)


class OtherTopics:
    """Copies what else is in a recording, in time with its images; `unknown` are left out.

    A type counts as known if ROS ships it or the recording defines it.
    """

    def __init__(self, recording: Recording, images: list[str]) -> None:
        self._recording = recording
        self._store = get_typestore(Stores.ROS2_HUMBLE)
        self.unknown: list[str] = []
        names: list[str] = []
        for topic in recording.topics.values():
            if topic.name in images or not topic.messages:
                continue
            is_known = topic.is_readable and self._knows(topic.type)
            (names if is_known else self.unknown).append(topic.name)
        self._messages: Iterator[RawMessage] = recording.messages(names) if names else iter(())
        self._next = next(self._messages, None)

    def copy(self, bag: ReplayBag, until_ns: int | None) -> None:
        """Copy what was recorded until then, all that is left for None."""
        while self._next is not None and (until_ns is None or self._next.record_ns <= until_ns):
            data = self._recording.as_ros2(self._next, self._store)
            bag.copy(self._next, data, self._store)
            self._next = next(self._messages, None)

    def _knows(self, kind: str) -> bool:
        definition = self._recording.definitions.get(kind)
        if kind not in self._store.types and definition:
            try:
                found = get_types_from_msg(definition, kind)
                # Those of ROS 1 come with its own header, which is another in ROS 2.
                new = {
                    name: fields for name, fields in found.items() if name not in self._store.types
                }
                self._store.register(new)
            except Exception:  # the parser raises what a strange definition leads it to
                return False
        return kind in self._store.types


class Videos:
    """An overlay video of each camera; rates in Hz by topic."""

    def __init__(self, folder: Path, rates: Mapping[str, float]) -> None:
        self._videos = {
            topic: OverlayVideo(folder / f'overlay_{file_name(topic)}.mp4', rate)
            for topic, rate in rates.items()
        }

    def add(self, topic: str, picture: Image) -> None:
        """Append an overlay to the video of a camera."""
        self._videos[topic].add(picture)

    def close(self) -> None:
        """Complete the files."""
        for video in self._videos.values():
            video.close()

    def abort(self) -> None:
        """Give the files up."""
        for video in self._videos.values():
            video.abort()


class Pictures:
    """Keeps pictures of the frames that may be among those to look at first."""

    def __init__(self) -> None:
        self._kept: dict[str, list[tuple[tuple[float, str, int], int]]] = {}
        self._files: dict[str, dict[str, bytes]] = {}

    def offer(
        self,
        reasons: Mapping[str, float],
        block: int,
        topic: str,
        index: int,
        draw: Callable[[], dict[str, bytes]],
    ) -> None:
        """Take a frame that is the worst of its block so far, for these reasons and values."""
        for reason, value in reasons.items():
            kept = self._kept.setdefault(reason, [])
            kept[:] = [row for row in kept if (row[0][1], row[1]) != (topic, block)]
            key = (value if HIGHER_IS_BETTER[reason] else -value, topic, index)
            if len(kept) == LOOK_FIRST and key > kept[-1][0]:
                continue
            bisect.insort(kept, (key, block))
            del kept[LOOK_FIRST:]
            path = picture_path(topic, index)
            if path not in self._files:
                self._files[path] = draw()
        wanted = {picture_path(*key[1:]) for kept in self._kept.values() for key, _ in kept}
        self._files = {path: files for path, files in self._files.items() if path in wanted}

    def write(self, folder: Path, chosen: list[LookFirst]) -> None:
        """Write the pictures of the frames that were chosen."""
        for path in dict.fromkeys(row['picture'] for row in chosen):
            for name, data in self._files[path].items():
                file = folder / f'{path}_{name}.jpg'
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(data)


def pictures_of(frame: Shown, palette: Image) -> dict[str, bytes]:
    """Return JPEG files by what they show: input, overlay and truth, if there is one."""
    pictures = {'input': _jpeg(frame.small), 'overlay': frame.overlay_jpeg}
    if frame.truth is not None:
        size = frame.small.shape[1], frame.small.shape[0]
        truth: Any = cv2.resize(frame.truth, size, interpolation=cv2.INTER_NEAREST)
        pictures['truth'] = _jpeg(colorize(truth, palette))
    return pictures


def shown_size(image: Image) -> Image:
    """Return an image at the size of overlays, its sides even as video encoders want them."""
    height, width = image.shape[:2]
    scale = min(1.0, OVERLAY_WIDTH / width)
    size = max(2, round(width * scale) // 2 * 2), max(2, round(height * scale) // 2 * 2)
    small: Any = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(small, np.uint8)


def _jpeg(picture: Image) -> bytes:
    encoded, data = cv2.imencode(
        '.jpg', cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    if not encoded:
        raise LwsegError('OpenCV cannot encode a JPEG')
    return data.tobytes()
