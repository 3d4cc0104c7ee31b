"""All image topics of a bag at once, every message once, in the order of their header stamps.

What `bag.py` refuses is read as far as it goes: a bag that is cut off or damaged, of several files
without metadata.yaml. `Recording.damage` says so.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rosbags.typesys import Stores, get_typestore

from lwseg_ros.bags.images import (
    COMPRESSED_IMAGE,
    IMAGE,
    BagTopic,
    open_reader,
    reason,
    topics_of,
)
from lwseg_ros.bags.messages import TYPESTORE
from lwseg_ros.bags.recovery import ROS1_MAGIC, FoundMessage, recover
from lwseg_ros.errors import DataError, FrameError

BAG_SUFFIXES = ('.bag', '.active', '.mcap', '.db3')
MAX_WAITING = 64
"""How many messages may wait for an earlier one that was recorded later (our choice)."""


class RawMessage(NamedTuple):
    """A serialised message; `data` is CDR in a ROS 2 bag, ROS 1's own format in a ROS 1 bag."""

    topic: str
    type: str
    record_ns: int
    data: bytes


@dataclass(frozen=True)
class Index:
    """When the messages of some topics were taken, in the order of the recording.

    `topics` int `[n]` numbers each message's topic in `names`; `stamps` int64 `[n]` are header
    stamps in ns, the recorder's time where the header has none.
    """

    names: tuple[str, ...]
    topics: npt.NDArray[np.int64]
    stamps: npt.NDArray[np.int64]
    without_stamp: npt.NDArray[np.bool_]

    def of(self, name: str) -> npt.NDArray[np.int64]:
        """Return the numbers of the messages of one topic."""
        return np.flatnonzero(self.topics == self.names.index(name))

    def order(self) -> tuple[npt.NDArray[np.int64], bool]:
        """Return the numbers of the messages in the order of their stamps, and True.

        In the order of the recording, and False, where stamps jump back so far (a clock was set,
        the bag holds several drives) that too many messages would have to wait.
        """
        by_stamp = np.argsort(self.stamps, kind='stable')
        recorded = np.arange(len(by_stamp))
        if not len(by_stamp):
            return recorded, True
        waiting = np.maximum.accumulate(by_stamp) - recorded
        fits = int(waiting.max()) <= MAX_WAITING
        return (by_stamp, True) if fits else (recorded, False)


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
            reader = open_reader(path)
            self.topics = topics_of(reader)
            self.definitions = _definitions(reader.connections)
            reader.close()
        except DataError as error:
            cause = error.__context__
            why = reason(cause) if isinstance(cause, Exception) else 'it was not closed'
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

    def check(self, topics: Collection[str]) -> None:
        """Read all messages of some topics once; what is damaged is found, and `damage` says it.

        Do so before `index` and `messages`, whose order may be another after damage was found.
        """
        try:
            for _ in self._read(topics):
                pass
        # A damaged file makes the decoders below raise whatever its bytes lead them to.
        except Exception as error:
            why = reason(error)
            self._recover(why, DataError(f'bag {self.path} cannot be read: {why}'))

    def index(self, names: Sequence[str]) -> Index:
        """Read the stamps of all messages of some topics."""
        topics, stamps, without = array('q'), array('q'), bytearray()
        numbers = {name: number for number, name in enumerate(names)}
        for message in self._read(names):
            stamp = self._stamp(message.data)
            topics.append(numbers[message.topic])
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
                f'the message ({len(message.data)} bytes) is no {message.type}: {reason(error)}'
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
        reader = open_reader(self.path)
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


def in_order(
    messages: Iterable[RawMessage], order: npt.NDArray[np.int64]
) -> Iterator[tuple[int, RawMessage]]:
    """Yield messages by their numbers in `messages`, in this order; others are passed over.

    Those that come before their turn wait in memory (see `MAX_WAITING`).
    """
    is_wanted = np.zeros(order.max(initial=-1) + 1, np.bool_)
    is_wanted[order] = True
    waiting: dict[int, RawMessage] = {}
    numbered = enumerate(messages)
    for number in order.tolist():
        while number not in waiting:
            came, message = next(numbered)
            if is_wanted[came]:
                waiting[came] = message
        yield number, waiting.pop(number)


def _definitions(connections: Iterable[Any]) -> dict[str, str]:
    """Return the definitions of message types that a bag holds, as .msg files have them."""
    return {
        c.msgtype: c.msgdef.data
        for c in connections
        if c.msgdef.format.name == 'MSG' and c.msgdef.data
    }


def bag_files(path: Path) -> list[Path]:
    """Return the files that hold a bag's messages, in their order; DataError if it is no bag."""
    if not path.exists():
        raise DataError(f'there is no bag at {path}')
    if not path.is_dir():
        if path.suffix not in BAG_SUFFIXES:
            raise DataError(
                f'{path} is no bag: wanted a ROS 1 .bag, a ROS 2 bag folder, or an .mcap or .db3 '
                'file'
            )
        return [path]
    files = sorted(
        (file for file in path.iterdir() if file.suffix in ('.mcap', '.db3', '.zstd')),
        key=lambda file: [int(p) if p.isdigit() else p for p in re.split(r'(\d+)', file.name)],
    )
    if not files:
        raise DataError(f'{path} is no ROS 2 bag: it holds no .mcap or .db3 file')
    return files
