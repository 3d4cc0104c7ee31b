"""Camera frames to play to the node: ROS 2 messages, each with its stamp and its time."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lwseg_ros.bags.cameras import camera_info_topic
from lwseg_ros.bags.images import BagImage, BagImages
from lwseg_ros.bags.messages import (
    CAMERA_INFO,
    TYPESTORE,
    header,
    ros2_camera_info,
    ros2_image,
    stamp_of,
)

MAX_PAUSE_S = 5.0
"""Longer pauses between two frames of a recording are shortened to this (our choice)."""


class SourceFrame(NamedTuple):
    """One frame of a source."""

    message: Any
    """sensor_msgs/Image or CompressedImage; `stamp_of` tells its stamp."""
    play_s: float
    """When to play it, seconds after the first frame."""
    record_ns: int
    """When it was recorded."""
    truth: npt.NDArray[np.uint8] | None = None
    """Labels uint8 `[H, W]` of the label space 'camvid', if they are known."""
    stamp_ns: int = 0
    """When it was taken, for messages without a stamp; 0 if that is not known."""


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
    damage: str
    """What is wrong with the file, in a sentence, or ''."""
    notes: Sequence[str]
    """What is to be known of how it is read, in sentences."""
    unreadable: int
    """How many frames read so far were no messages that can be played."""

    def __iter__(self) -> Iterator[SourceFrame]:
        """Read the frames."""
        ...

    def close(self) -> None:
        """Close what was opened."""
        ...


class BagSource:
    """The images of one topic of a ROS 1 or ROS 2 bag, at the pace of their stamps."""

    def __init__(self, path: str | Path, topic: str | None = None) -> None:
        self._bag = BagImages(Path(path), topic)
        self.name = f'{path}, {self._bag.topic.name}'
        self.topic = self._bag.topic.name
        self.message_type = self._bag.topic.type
        self.frames: int | None = len(self._bag)
        self.damage = self._bag.recording.damage
        self.notes: Sequence[str] = self._bag.notes
        self.unreadable = 0
        info = self._bag.camera_info()
        self.camera_info: Any | None = None if info is None else ros2_camera_info(info)

    def __iter__(self) -> Iterator[SourceFrame]:
        """Read the images."""
        play_s = 0.0
        before: BagImage | None = None
        for entry in self._bag:
            if entry.message is None:
                self.unreadable += 1
                continue
            if before is not None:
                play_s += _pause_s(before, entry)
            before = entry
            message = ros2_image(entry.message)
            yield SourceFrame(message, play_s, entry.record_ns, stamp_ns=entry.stamp_ns)

    def close(self) -> None:
        """Nothing is open."""


class PlayableFrame(NamedTuple):
    """One frame that is ready to be published."""

    message: Any
    """sensor_msgs/Image or CompressedImage, with a stamp of its own."""
    stamp_ns: int
    play_s: float
    """When to play it, seconds after the first frame."""
    record_ns: int
    image: bytes
    """The message, serialised (CDR)."""
    info: bytes | None
    """The calibration with the message's header, serialised."""
    truth: npt.NDArray[np.uint8] | None


class PlayableFrames:
    """The frames of a source, each with a stamp of its own; iterate it once.

    A stamp that is missing is replaced by that of the source, one that was there before by the
    time of recording. `seconds` ends it early.
    """

    def __init__(self, source: Source, seconds: float | None = None) -> None:
        self.restamped = 0
        """How many stamps have been replaced."""
        self.expected = source.frames if seconds is None else None
        """How many frames to expect, None if that is not known."""
        self._source = source
        self._seconds = math.inf if seconds is None else seconds

    def __iter__(self) -> Iterator[PlayableFrame]:
        """Read and serialise the frames."""
        source = self._source
        seen: set[int] = set()
        for message, play_s, record_ns, truth, taken_ns in source:
            if play_s >= self._seconds:
                return
            stamp_ns = stamp_of(message)
            if not stamp_ns or stamp_ns in seen:
                self.restamped += 1
                stamp_ns = max(record_ns if stamp_ns else taken_ns, 1)
                while stamp_ns in seen:
                    stamp_ns += 1
                stamped = header(stamp_ns, message.header.frame_id)
                message = dataclasses.replace(message, header=stamped)
            seen.add(stamp_ns)
            image = bytes(TYPESTORE.serialize_cdr(message, source.message_type))
            info = None
            if source.camera_info is not None:
                stamped_info = dataclasses.replace(source.camera_info, header=message.header)
                info = bytes(TYPESTORE.serialize_cdr(stamped_info, CAMERA_INFO))
            yield PlayableFrame(message, stamp_ns, play_s, record_ns, image, info, truth)


class Pace:
    """Waits until a frame's time has come; the time starts with the first frame.

    `rate` is a factor on the frames' own speed.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._start_s: float | None = None

    def wait(self, play_s: float) -> None:
        """Wait until it is time for what is to be played at `play_s`."""
        now_s = time.monotonic()
        if self._start_s is None:
            self._start_s = now_s - play_s / self._rate
        time.sleep(max(0.0, self._start_s + play_s / self._rate - now_s))

    def pause(self, seconds: float) -> None:
        """Let time stand still for so long."""
        time.sleep(seconds)
        if self._start_s is not None:
            self._start_s += seconds


def info_topic_of(source: Source) -> str | None:
    """Return where the calibration of a source belongs, None without one."""
    return None if source.camera_info is None else camera_info_topic(source.topic)


def _pause_s(before: BagImage, after: BagImage) -> float:
    """Return the seconds between two frames by their stamps; by the recorder if those jump."""
    by_stamp = (after.stamp_ns - before.stamp_ns) / 1e9
    if 0 < by_stamp < MAX_PAUSE_S:
        return by_stamp
    return min(max((after.record_ns - before.record_ns) / 1e9, 0.0), MAX_PAUSE_S)
