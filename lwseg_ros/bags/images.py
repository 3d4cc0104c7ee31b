"""The images of one camera of a recording, decoded, in the order of their stamps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lwseg_ros.bags.cameras import camera_info_topic, camera_topic, reading_notes
from lwseg_ros.bags.messages import CAMERA_INFO
from lwseg_ros.bags.order import in_order, usual_rate_hz
from lwseg_ros.bags.recording import Recording
from lwseg_ros.errors import DataError, FrameError


class BagImage(NamedTuple):
    """One image message, its fields as ROS names them; NumPy arrays where ROS has arrays."""

    stamp_ns: int
    """Header stamp; see `completed_stamps` for those that the driver did not set."""
    record_ns: int
    """When the recorder received it."""
    message: Any
    """None if its bytes are damaged; then `error` says why."""
    error: str = ''


class BagImages:
    """The images of one topic of a recording; iterate it as often as you like.

    `topic` may be left out if the bag has one camera. The messages are read once before, for
    their order and for what is damaged. `len()` is the number of images, `rate_hz` their usual
    rate. DataError if there is no bag or no such topic.
    """

    def __init__(self, path: Path, topic: str | None = None) -> None:
        self.recording = Recording(path)
        self.topic, passed_over = camera_topic(self.recording, topic)
        info = self._info_topic()
        index = self.recording.index([self.topic.name], [info] if info else [])
        if not len(index.stamps):
            raise DataError(f'bag {path} holds no images of {self.topic.name}')
        self._order, _ = index.order()
        self._stamps = index.stamps
        self.notes = reading_notes(self.recording, index, [] if topic else passed_over)
        """What is to be known of how they are read, in sentences."""
        self.rate_hz = usual_rate_hz(index.stamps[self._order])

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._order)

    def __iter__(self) -> Iterator[BagImage]:
        """Read the images."""
        messages = self.recording.messages([self.topic.name])
        for number, raw in in_order(messages, self._order):
            stamp_ns = int(self._stamps[number])
            try:
                message = self.recording.decode(raw)
            except FrameError as error:
                yield BagImage(stamp_ns, raw.record_ns, None, str(error))
            else:
                yield BagImage(stamp_ns, raw.record_ns, message)

    def camera_info(self) -> Any | None:
        """Return the first calibration of the camera, None if the bag has none."""
        topic = self._info_topic()
        for raw in self.recording.messages([topic] if topic else []):
            try:
                return self.recording.decode(raw)
            except FrameError:
                continue
        return None

    def _info_topic(self) -> str | None:
        """Return where the bag has the calibration, None without one."""
        info = self.recording.topics.get(camera_info_topic(self.topic.name))
        return info.name if info is not None and info.type == CAMERA_INFO else None
