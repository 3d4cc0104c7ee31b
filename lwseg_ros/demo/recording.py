"""What a demo leaves behind: an MCAP of inputs and outputs, an overlay video, and figures.

Colour pictures are kept as JPEG, label images and masks as they came.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from lwseg_ros.bags.messages import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    TYPESTORE,
    image_message,
    jpeg_message,
    stamp_of,
)
from lwseg_ros.errors import DataError, FrameError
from lwseg_ros.evaluation.metrics import ConfusionMatrix, figure
from lwseg_ros.image_messages import ImageDecoder
from lwseg_ros.label_space import IGNORE_ID, LabelSpace
from lwseg_ros.live.frames import PlayableFrame

TRUTH_TOPIC = '/ground_truth/labels'
DEFER_BYTES = 384 << 20
"""Up to this much is kept in memory and written after playing, so as not to disturb the timing."""
LIMIT_BYTES = 2 * DEFER_BYTES
"""Playing pauses while more than this waits to be written."""


class Accuracy:
    """Compares the node's masks with the truth, a label image of the space 'camvid'."""

    def __init__(self, model_space: LabelSpace) -> None:
        self.truth_space = LabelSpace.load('camvid')
        try:
            self._ids: npt.NDArray[np.uint8] | None = model_space.lookup_table(self.truth_space)
        except DataError:
            self._ids = None
        self._classes = ConfusionMatrix(self.truth_space.num_classes)
        self._drivable = ConfusionMatrix(2)
        self._is_drivable = np.full(256, IGNORE_ID, np.uint8)
        for label in self.truth_space.classes:
            self._is_drivable[label.id] = label.drivable

    def add_mask(self, truth: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8]) -> None:
        """Compare a published mask, if its classes can be told in the truth's space."""
        if self._ids is not None:
            self._classes.update(truth, self._ids[mask])

    def add_drivable(self, truth: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8]) -> None:
        """Compare a published drivable mask 0/255."""
        self._drivable.update(self._is_drivable[truth], (mask == 255).astype(np.uint8))

    def figures(self) -> dict[str, Any]:
        """Return mIoU, the IoU of each class and of the drivable area; None where unknown."""
        iou = {
            name: figure(value)
            for name, value in zip(self.truth_space.names, self._classes.iou(), strict=True)
        }
        return {
            'miou': figure(self._classes.mean_iou()),
            'iou': iou if any(value is not None for value in iou.values()) else None,
            'drivable_iou': figure(self._drivable.iou()[1]),
            'false_drivable_rate': figure(self._drivable.false_rate([1])),
        }


class Recorder:
    """Takes everything that is played and answered, and writes it into a folder, in one thread.

    Leaves `bag/` (MCAP, stamped by the headers) and `overlay.mp4` in `folder` when closed.
    """

    def __init__(
        self,
        folder: Path,
        image_topic: str,
        image_type: str,
        info_topic: str | None,
        node_name: str,
        accuracy: Accuracy,
    ) -> None:
        self.drivable_shares: list[float] = []
        """The share of drivable pixels of each drivable mask."""
        self._topics = (image_topic, image_type, info_topic, node_name)
        self._accuracy = accuracy
        self._writer = Writer(folder / 'bag', version=8, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._connections: dict[str, Any] = {}
        self._video = _OverlayVideo(folder / 'overlay.mp4')
        self._decoder = ImageDecoder()
        self._truth: dict[int, npt.NDArray[np.uint8]] = {}
        self._jobs: deque[tuple[int, Callable[[], None]]] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._draining = self._closed = False
        self._error: Exception | None = None
        self._writer.open()
        self._thread = threading.Thread(target=self._work, name='recorder', daemon=True)
        self._thread.start()

    def add_input(self, frame: PlayableFrame, play_s: float) -> None:
        """Take one frame that is about to be played, `play_s` seconds after the first."""
        message, stamp_ns, truth = frame.message, frame.stamp_ns, frame.truth
        self._video.add_input(stamp_ns, play_s)
        if truth is not None:
            self._truth[stamp_ns] = truth

        def write() -> None:
            topic, kind, info_topic, _ = self._topics
            if kind == COMPRESSED_IMAGE:
                self._write(topic, kind, stamp_ns, frame.image)
            else:
                self._write_picture(topic, message)
            if frame.info is not None and info_topic is not None:
                self._write(info_topic, CAMERA_INFO, stamp_ns, frame.info)
            if truth is not None:
                labels = image_message(truth, 'mono8', stamp_ns)
                labels.header.frame_id = message.header.frame_id
                data = bytes(TYPESTORE.serialize_cdr(labels, IMAGE))
                self._write(TRUTH_TOPIC, IMAGE, stamp_ns, data)

        self._put(len(frame.image), write)

    def add_output(self, output: str, stamp_ns: int, serialized: bytes) -> None:
        """Take one image that the node has published on `~/output`."""
        topic = f'{self._topics[3]}/{output}'

        def write() -> None:
            message = TYPESTORE.deserialize_cdr(serialized, IMAGE)
            if output == 'overlay':
                self._video.add(stamp_ns, self._write_picture(topic, message))
                return
            self._write(topic, IMAGE, stamp_ns, serialized)
            self._measure(output, stamp_ns, message)

        self._put(len(serialized), write)

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be written that playing had better pause."""
        return self._waiting_bytes > LIMIT_BYTES

    def close(self, progress: Callable[[int, int], None]) -> None:
        """Write what waits and close the files; `progress(done, total)` is called now and then."""
        total = len(self._jobs)
        with self._changed:
            self._draining = True
            self._changed.notify_all()
        while self._thread.is_alive():
            progress(total - len(self._jobs), total)
            self._thread.join(0.1)
        self._raise_error()
        self._video.close()
        self._writer.close()
        self._closed = True

    def abort(self) -> None:
        """Stop writing and give the files up, unless they are closed."""
        if self._closed:
            return
        with self._changed:
            self._jobs.clear()
            self._draining = True
            self._changed.notify_all()
        self._thread.join()
        self._video.release()
        self._writer.abort()

    def _put(self, size: int, job: Callable[[], None]) -> None:
        self._raise_error()
        with self._changed:
            self._jobs.append((size, job))
            self._waiting_bytes += size
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._draining or self._waiting_bytes > DEFER_BYTES)
                if not self._jobs:
                    return
                size, job = self._jobs.popleft()
            try:
                job()
            except Exception as error:
                self._error = error
                return
            with self._changed:
                self._waiting_bytes -= size

    def _raise_error(self) -> None:
        if self._error is not None:
            raise DataError(f'the results cannot be written: {self._error}') from self._error

    def _write(self, topic: str, kind: str, stamp_ns: int, serialized: bytes) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=TYPESTORE
            )
        self._writer.write(self._connections[topic], stamp_ns, serialized)

    def _write_picture(self, topic: str, message: Any) -> Any:
        """Write a colour image as JPEG and return it, RGB; as it came, and None, if malformed."""
        stamp_ns = stamp_of(message)
        try:
            picture = self._decoder.decode(message)
        except FrameError:
            self._write(topic, IMAGE, stamp_ns, bytes(TYPESTORE.serialize_cdr(message, IMAGE)))
            return None
        jpeg = jpeg_message(picture, stamp_ns, message.header.frame_id)
        data = TYPESTORE.serialize_cdr(jpeg, COMPRESSED_IMAGE)
        self._write(f'{topic}/compressed', COMPRESSED_IMAGE, stamp_ns, bytes(data))
        return picture

    def _measure(self, output: str, stamp_ns: int, message: Any) -> None:
        pixels = message.data.reshape(message.height, message.step)[:, : message.width]
        if output == 'drivable_mask':
            self.drivable_shares.append(float(np.mean(pixels == 255)))
        truth = self._truth.get(stamp_ns)
        if truth is None or truth.shape != pixels.shape:
            return
        if output == 'mask':
            self._accuracy.add_mask(truth, pixels)
        elif output == 'drivable_mask':
            self._accuracy.add_drivable(truth, pixels)


class _OverlayVideo:
    """An mp4 at the input's rate; a frame that was dropped shows the overlay before it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._numbers: dict[int, int] = {}
        self._last_play_s = 0.0
        self._writer: Any = None
        self._size = (0, 0)
        self._shown: Any = None
        self._written = 0

    def add_input(self, stamp_ns: int, play_s: float) -> None:
        self._numbers[stamp_ns] = len(self._numbers)
        self._last_play_s = play_s

    def add(self, stamp_ns: int, picture: Any) -> None:
        """Show an overlay, RGB, from its frame on."""
        number = self._numbers.get(stamp_ns)
        if picture is None or number is None or number < self._written:
            return
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        if self._writer is None:
            self._open(picture)
        if (picture.shape[1], picture.shape[0]) != self._size:
            picture = cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA)
        self._hold_until(number, picture if self._shown is None else self._shown)
        self._hold_until(number + 1, picture)
        self._shown = picture

    def close(self) -> None:
        if self._writer is not None:
            self._hold_until(len(self._numbers), self._shown)
        self.release()

    def release(self) -> None:
        if self._writer is not None:
            self._writer.release()

    def _open(self, picture: Any) -> None:
        rate_hz = 10.0
        if self._last_play_s > 0:
            rate_hz = (len(self._numbers) - 1) / self._last_play_s
        self._size = (picture.shape[1] // 2 * 2, picture.shape[0] // 2 * 2)
        code = cv2.VideoWriter.fourcc(*'mp4v')
        self._writer = cv2.VideoWriter(
            str(self._path), code, min(max(rate_hz, 1.0), 240.0), self._size
        )
        if not self._writer.isOpened():
            raise DataError(f'OpenCV cannot write an mp4 video to {self._path}')

    def _hold_until(self, number: int, picture: Any) -> None:
        while self._written < number:
            self._writer.write(picture)
            self._written += 1
