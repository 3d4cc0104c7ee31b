"""Camera images of ROS 1 and ROS 2 bags, read with rosbags: no ROS installation is needed.

Every message comes once, in the order of the recording. Only images and calibrations are decoded,
by the definitions that ROS ships, so foreign message types in a bag do not matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from lwseg_ros.errors import DataError

try:
    from rosbags.rosbag1 import Reader as Ros1Reader
    from rosbags.rosbag2 import Reader as Ros2Reader
    from rosbags.typesys import Stores, get_typestore
except ImportError:
    raise DataError('reading bags needs the rosbags package: pip install rosbags') from None

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'


class BagTopic(NamedTuple):
    """A topic of a bag."""

    name: str
    type: str
    messages: int

    def __str__(self) -> str:
        """Return a short description, as error messages list it."""
        return f'{self.name} ({self.type.replace("/msg/", "/")}, {self.messages} messages)'


class BagMessage(NamedTuple):
    """One message of a bag, its fields as ROS names them; NumPy arrays where ROS has arrays."""

    topic: str
    stamp_ns: int
    """Header stamp, 0 if the driver set none."""
    record_ns: int
    """When the recorder received it."""
    message: Any


class BagImages:
    """An open bag and the one image topic that was chosen; iterate it as often as you like.

    `len()` is the number of images. Close it, or use it as a context manager.
    """

    def __init__(self, path: Path, topic: str | None) -> None:
        self.path = path
        self._reader = open_reader(path)
        try:
            self.topics = topics_of(self._reader)
            self.topic = self._choose(topic)
        except BaseException:
            self.close()
            raise
        self._is_ros1 = isinstance(self._reader, Ros1Reader)
        self._types = get_typestore(Stores.ROS1_NOETIC if self._is_ros1 else Stores.ROS2_HUMBLE)

    def __enter__(self) -> BagImages:
        """Return the open bag."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the bag."""
        self.close()

    def close(self) -> None:
        """Close the bag."""
        self._reader.close()

    def __len__(self) -> int:
        """Return the number of images."""
        return self.topic.messages

    def __iter__(self) -> Iterator[BagMessage]:
        """Read the images; DataError where the file is damaged."""
        return self._messages(self.topic)

    @property
    def camera_info_topic(self) -> BagTopic | None:
        """The calibration that belongs to the images by the rules of image_transport, or None."""
        camera = self.topic.name.removesuffix('/compressed').rpartition('/')[0]
        info = self.topics.get(f'{camera}/camera_info')
        return info if info is not None and info.type == CAMERA_INFO and info.messages else None

    def camera_info(self) -> Any | None:
        """Return the first calibration message of the camera, None if the bag has none."""
        topic = self.camera_info_topic
        return None if topic is None else next(self._messages(topic)).message

    def _messages(self, topic: BagTopic) -> Iterator[BagMessage]:
        decode = self._types.deserialize_ros1 if self._is_ros1 else self._types.deserialize_cdr
        connections = [
            c
            for c in self._reader.connections
            if c.topic == topic.name and c.msgtype == topic.type
        ]
        number = 0
        try:
            for _, record_ns, data in self._reader.messages(connections):
                message: Any = decode(data, topic.type)
                stamp = message.header.stamp
                stamp_ns = stamp.sec * 10**9 + stamp.nanosec
                number += 1
                yield BagMessage(topic.name, stamp_ns, record_ns, message)
        # A damaged file makes the decoders below raise whatever its bytes lead them to.
        except Exception as error:
            raise DataError(
                f'bag {self.path} is damaged after {number} of {topic.messages} messages of '
                f'{topic.name}: {reason(error)}'
            ) from None

    def _choose(self, name: str | None) -> BagTopic:
        images = [t for t in self.topics.values() if t.type in (IMAGE, COMPRESSED_IMAGE)]
        listing = 'it holds ' + (', '.join(str(t) for t in self.topics.values()) or 'no topics')
        if name is not None:
            found = self.topics.get(name) or self.topics.get('/' + name)
            if found is None:
                raise DataError(f'bag {self.path} has no topic {name}: {listing}')
            if found not in images:
                raise DataError(f'topic {found} of bag {self.path} carries no images: {listing}')
            return found
        images = [t for t in images if t.messages] or images
        if not images:
            raise DataError(f'bag {self.path} has no image topic: {listing}')
        cameras = {t.name.removesuffix('/compressed') for t in images}
        if len(cameras) > 1:
            choices = ', '.join(str(t) for t in images)
            raise DataError(f'bag {self.path} has several image topics, choose one: {choices}')
        return min(images, key=lambda t: len(t.name))


def open_bag(path: str | Path, topic: str | None = None) -> BagImages:
    """Open a ROS 1 `.bag`, a ROS 2 bag folder (sqlite3 or MCAP), or an `.mcap` or `.db3` file.

    `topic` may be left out if the bag has one camera; its raw images are then preferred to its
    compressed ones. DataError for a file that is no bag or is cut off, and, with a list of the
    bag's topics, for a topic that it has not.
    """
    return BagImages(Path(path), topic)


def open_reader(path: Path) -> Ros1Reader | Ros2Reader:
    """Open a bag with rosbags; DataError if it is none, is cut off or damaged."""
    if not path.exists():
        raise DataError(f'there is no bag at {path}')
    if path.is_dir() and not (path / 'metadata.yaml').exists():
        files = [file for file in sorted(path.iterdir()) if file.suffix in ('.mcap', '.db3')]
        if len(files) != 1:
            raise DataError(
                f'{path} is no ROS 2 bag: it has neither metadata.yaml nor one .mcap or .db3 file'
            )
        path = files[0]
    elif not path.is_dir() and path.suffix not in ('.bag', '.mcap', '.db3'):
        raise DataError(
            f'{path} is no bag: wanted a ROS 1 .bag, a ROS 2 bag folder, or an .mcap or .db3 file'
        )
    try:
        reader = Ros1Reader(path) if path.suffix == '.bag' else Ros2Reader(path)
        reader.open()
    # A damaged file makes the decoders below raise whatever its bytes lead them to.
    except Exception as error:
        raise DataError(
            f'bag {path} cannot be read, it is damaged or cut off: {reason(error)}'
        ) from None
    return reader


def topics_of(reader: Ros1Reader | Ros2Reader) -> dict[str, BagTopic]:
    """Return the topics of an open bag by name."""
    counts: dict[tuple[str, str], int] = {}
    for connection in reader.connections:
        key = (connection.topic, connection.msgtype)
        counts[key] = counts.get(key, 0) + connection.msgcount
    return {name: BagTopic(name, type_, count) for (name, type_), count in sorted(counts.items())}


def reason(error: Exception) -> str:
    """Return what an exception says, in one line."""
    sentence = ' '.join(str(error).split()).rstrip('.')
    return sentence or type(error).__name__
