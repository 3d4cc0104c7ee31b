"""A recorded drive, ROS 1 or ROS 2: the one reader that every command opens bags with.

Read with rosbags, so no ROS installation is needed; what the library refuses because it is cut
off, damaged, or of several files without metadata.yaml, is read as far as it goes, and
`Recording.damage` says so.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rosbags.rosbag1 import Reader as Ros1Reader
from rosbags.rosbag2 import Reader as Ros2Reader
from rosbags.typesys import Stores, get_typestore

from lwseg_ros.bags.files import bag_files
from lwseg_ros.bags.messages import COMPRESSED_IMAGE, IMAGE, TYPESTORE
from lwseg_ros.bags.order import Index, RawMessage
from lwseg_ros.bags.recovery import ROS1_MAGIC, FoundMessage, recover
from lwseg_ros.errors import DataError, FrameError


class BagTopic(NamedTuple):
    """A topic of a bag."""

    name: str
    type: str
    messages: int

    def __str__(self) -> str:
        """Return a short description, as error messages list it."""
        return f'{self.name} ({self.type.replace("/msg/", "/")}, {self.messages} messages)'


class Recording:
    """A bag that may be damaged.

    `topics` are all its topics, `damage` is a sentence or '', `definitions` are those of its
    message types that it holds itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = bag_files(path)
        self.damage = ''
        self.definitions: dict[str, str] = {}
        self._read: Callable[[Collection[str]], Iterator[RawMessage]] = self._indexed
        try:
            reader = _open(path)
            self.topics = _topics_of(reader)
            self.definitions = _definitions(reader.connections)
            reader.close()
        except DataError as error:
            cause = error.__context__
            why = _reason(cause) if isinstance(cause, Exception) else 'it was not closed'
            self._recover(why, error)
        if path.is_dir() and not (path / 'metadata.yaml').exists():
            self.damage = f'{path} has no metadata.yaml; what is whole in its files was read'
        with self.files[0].open('rb') as file:
            self.is_ros1 = file.read(len(ROS1_MAGIC)) == ROS1_MAGIC
        self.types = get_typestore(Stores.ROS1_NOETIC) if self.is_ros1 else TYPESTORE

    def image_topics(self) -> list[BagTopic]:
        """Return the topics that carry images and have messages, by name."""
        return [
            topic
            for topic in self.topics.values()
            if topic.type in (IMAGE, COMPRESSED_IMAGE) and topic.messages
        ]

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        """Read the messages of some topics in the order of the recording."""
        return self._read(topics)

    def index(self, names: Sequence[str], others: Collection[str] = ()) -> Index:
        """Read the stamps of all messages of some topics; what is damaged is found.

        Do so before `messages` of these topics and of `others`, which are read, too: their order
        may be another after damage was found. `damage` says it.
        """
        try:
            return self._index(names, others)
        # A damaged file makes the decoders below raise whatever its bytes lead them to.
        except Exception as error:
            why = _reason(error)
            self._recover(why, DataError(f'bag {self.path} cannot be read: {why}'))
            return self._index(names, others)

    def _index(self, names: Sequence[str], others: Collection[str]) -> Index:
        topics, stamps, without = array('q'), array('q'), bytearray()
        numbers = {name: number for number, name in enumerate(names)}
        for message in self._read({*names, *others}):
            number = numbers.get(message.topic)
            if number is None:
                continue
            stamp = self._stamp(message.data)
            topics.append(number)
            stamps.append(stamp or message.record_ns)
            without.append(not stamp)
        return Index(
            tuple(names),
            np.array(topics, np.int64),
            np.array(stamps, np.int64),
            np.array(without, np.bool_),
        )

    def decode(self, message: RawMessage) -> Any:
        """Return the fields of an image message; FrameError if its bytes are damaged."""
        deserialize = self.types.deserialize_ros1 if self.is_ros1 else self.types.deserialize_cdr
        try:
            return deserialize(message.data, message.type)
        except Exception as error:  # as above
            raise FrameError(
                f'the message ({len(message.data)} bytes) is no {message.type}: {_reason(error)}'
            ) from None

    def as_ros2(self, message: RawMessage) -> bytes:
        """Return a message of a type that ROS ships as CDR."""
        if not self.is_ros1:
            return message.data
        return bytes(TYPESTORE.ros1_to_cdr(message.data, message.type))

    def _stamp(self, data: bytes) -> int:
        """Return the header stamp of a serialised message, 0 if it has none."""
        if len(data) < 12:
            return 0
        little = self.is_ros1 or data[1] & 1
        seconds, nanoseconds = struct.unpack_from('<iI' if little else '>iI', data, 4)
        return int(max(0, seconds * 10**9 + nanoseconds))

    def _indexed(self, topics: Collection[str]) -> Iterator[RawMessage]:
        reader = _open(self.path)
        try:
            connections = [c for c in reader.connections if c.topic in topics]
            for connection, record_ns, data in reader.messages(connections) if connections else ():
                yield RawMessage(connection.topic, connection.msgtype, record_ns, bytes(data))
        finally:
            reader.close()

    def _recovered(self, topics: Collection[str]) -> Iterator[RawMessage]:
        for found in self._found():
            known = self.topics.get(found.topic)
            if found.topic in topics and known is not None and found.type == known.type:
                yield RawMessage(*found)

    def _found(self) -> Iterator[FoundMessage]:
        for file in self.files:
            try:
                yield from recover(file)
            except DataError:  # one of several files, with nothing in it
                continue

    def _recover(self, why: str, error: DataError) -> None:
        found: dict[str, BagTopic] = {}
        for message in self._found():
            topic = found.get(message.topic, BagTopic(message.topic, message.type, 0))
            found[message.topic] = topic._replace(messages=topic.messages + 1)
        if not found:
            raise error
        self.topics = dict(sorted(found.items()))
        self._read = self._recovered
        self.damage = f'{self.path} is damaged or cut off: {why}; what is whole in it was read'


def _open(path: Path) -> Ros1Reader | Ros2Reader:
    """Open a bag with rosbags; DataError if it is none, is cut off or damaged."""
    if path.is_dir() and not (path / 'metadata.yaml').exists():
        files = bag_files(path)
        if len(files) > 1:
            raise DataError(f'{path} holds {len(files)} files without metadata.yaml')
        path = files[0]
    try:
        reader = Ros1Reader(path) if path.suffix == '.bag' else Ros2Reader(path)
        reader.open()
    # A damaged file makes the decoders below raise whatever its bytes lead them to.
    except Exception as error:
        raise DataError(
            f'bag {path} cannot be read, it is damaged or cut off: {_reason(error)}'
        ) from None
    return reader


def _topics_of(reader: Ros1Reader | Ros2Reader) -> dict[str, BagTopic]:
    """Return the topics of an open bag by name."""
    counts: dict[tuple[str, str], int] = {}
    for connection in reader.connections:
        key = (connection.topic, connection.msgtype)
        counts[key] = counts.get(key, 0) + connection.msgcount
    return {name: BagTopic(name, type_, count) for (name, type_), count in sorted(counts.items())}


def _definitions(connections: Iterable[Any]) -> dict[str, str]:
    """Return the definitions of message types that a bag holds, as .msg files have them."""
    return {
        c.msgtype: c.msgdef.data
        for c in connections
        if c.msgdef.format.name == 'MSG' and c.msgdef.data
    }


def _reason(error: Exception) -> str:
    """Return what an exception says, in one line."""
    sentence = ' '.join(str(error).split()).rstrip('.')
    return sentence or type(error).__name__
