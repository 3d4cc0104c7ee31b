"""A recorded drive, ROS 1 or ROS 2: the one reader that every command opens bags with.

Our own readers take the files apart, sound and damaged ones in the same way; the message types are
those of rosbags, so no ROS installation is needed.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
import weakref
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rosbags.typesys import Stores, get_typestore

from lwseg_ros.bags.compression import ZSTD_MAGIC, message_data, unpack
from lwseg_ros.bags.container import Channel, Container
from lwseg_ros.bags.files import METADATA, bag_files, bags_at, read_metadata
from lwseg_ros.bags.mcap import MCAP_MAGIC, McapFile
from lwseg_ros.bags.messages import COMPRESSED_IMAGE, IMAGE, TYPESTORE
from lwseg_ros.bags.order import Index, RawMessage, completed_stamps
from lwseg_ros.bags.ros1 import ROS1_MAGIC, Ros1File
from lwseg_ros.bags.sqlite import SQLITE_MAGIC, SqliteFile, journals, merged
from lwseg_ros.errors import DataError, FrameError

_FORMATS: dict[bytes, Callable[[Path], Container]] = {
    MCAP_MAGIC: McapFile,
    ROS1_MAGIC: Ros1File,
    SQLITE_MAGIC: SqliteFile,
}
_ROS1 = get_typestore(Stores.ROS1_NOETIC)
_DESERIALIZERS = {'cdr': TYPESTORE.deserialize_cdr, 'ros1': _ROS1.deserialize_ros1}
"""By the encodings that are read; topics of others are listed only."""


class BagTopic(NamedTuple):
    """A topic of a bag."""

    name: str
    type: str
    messages: int
    encoding: str

    @property
    def is_readable(self) -> bool:
        """Whether its messages are encoded as ROS does."""
        return self.encoding in _DESERIALIZERS

    def __str__(self) -> str:
        """Return a short description, as error messages list it."""
        encoding = '' if self.is_readable else f'{self.encoding or "no encoding"}, not readable, '
        return (
            f'{self.name} ({self.type.replace("/msg/", "/")}, {encoding}{self.messages} messages)'
        )


class Recording:
    """A bag that may be damaged.

    `topics` are all its topics, `definitions` are those of its message types that it holds
    itself, `files` those that hold its messages.
    """

    def __init__(self, path: Path) -> None:
        meant = bags_at(path)
        self.path = meant[0] if len(meant) == 1 else path
        self.files = bag_files(self.path)
        self.notes: list[str] = []
        """What is to be known of how it is read, in sentences."""
        self._damage: list[str] = []
        self._copies: Path | None = None
        self._copied: dict[str, None] = {}
        """Why there are copies, each reason once."""
        self._containers: dict[str, Container] = {}
        """By the names of their files."""
        self._open()
        channels = [c for one in self._containers.values() for c in one.channels.values()]
        if not channels and (reasons := self._reasons()):
            raise DataError(f'bag {self.path} cannot be read: {reasons}')
        self.topics = _topics(channels)
        self.definitions = {c.type: c.definition for c in channels if c.definition}
        self._compare()

    @property
    def damage(self) -> str:
        """What is cut off, damaged or missing, as far as has been seen, in a sentence, or ''."""
        reasons = self._reasons()
        is_without = self.path.is_dir() and not (self.path / METADATA).exists()
        if is_without and not reasons:
            return f'{self.path} has no {METADATA}; what is whole in its files was read'
        if not reasons:
            return ''
        what = f'has no {METADATA} and is' if is_without else 'is'
        return f'{self.path} {what} damaged or cut off: {reasons}; what is whole in it was read'

    def image_topics(self) -> list[BagTopic]:
        """Return the topics that carry images and have messages, by name."""
        return [
            topic
            for topic in self.topics.values()
            if topic.type in (IMAGE, COMPRESSED_IMAGE) and topic.messages and topic.is_readable
        ]

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        """Read the messages of some topics in the order of the recording."""
        for container in self._containers.values():
            wanted = {
                number: channel
                for number, channel in container.channels.items()
                if channel.topic in topics and self._is_read(channel)
            }
            for number, record_ns, data in container.messages(wanted) if wanted else ():
                topic, kind, encoding, *_ = wanted[number]
                if encoding in _DESERIALIZERS:
                    data = message_data(data)
                yield RawMessage(topic, kind, record_ns, data, encoding)

    def index(self, names: Sequence[str], others: Collection[str] = ()) -> Index:
        """Read the stamps of all messages of some topics; what is damaged is found.

        Do so before `messages` of these topics and of `others`, which are read, too: `damage`
        then says what is missing of them.
        """
        topics, stamps, records = array('q'), array('q'), array('q')
        numbers = {name: number for number, name in enumerate(names)}
        found = Counter[str]()
        for message in self.messages({*names, *others}):
            found[message.topic] += 1
            number = numbers.get(message.topic)
            if number is not None:
                topics.append(number)
                stamps.append(_stamp(message))
                records.append(message.record_ns)
        for name in {*names, *others} & self.topics.keys():
            missing = self.topics[name].messages - found[name]
            if missing > 0:
                self._damage.append(f'{missing} messages of {name} are missing')
            self.topics[name] = self.topics[name]._replace(messages=found[name])
        topic_numbers, header_ns = np.array(topics, np.int64), np.array(stamps, np.int64)
        return Index(
            tuple(names),
            topic_numbers,
            completed_stamps(topic_numbers, header_ns, np.array(records, np.int64)),
            header_ns == 0,
        )

    def decode(self, message: RawMessage) -> Any:
        """Return the fields of an image message; FrameError if its bytes are damaged."""
        try:
            return _DESERIALIZERS[message.encoding](message.data, message.type)
        except Exception as error:  # damaged bytes make it raise whatever they lead it to
            raise FrameError(
                f'the message ({len(message.data)} bytes) is no {message.type}: {_reason(error)}'
            ) from None

    def as_ros2(self, message: RawMessage, store: Any = TYPESTORE) -> bytes:
        """Return a message of a type that `store` knows as CDR."""
        if message.encoding != 'ros1':
            return message.data
        return bytes(store.ros1_to_cdr(message.data, message.type))

    def _open(self) -> None:
        refused: list[str] = []
        for file in self.files:
            try:
                self._containers[file.name] = self._container(file)
            except DataError as error:
                refused.append(str(error))
        if not self._containers:
            raise DataError(f'bag {self.path} cannot be read: {refused[0]}')
        self._damage += refused
        if self._copied:
            self.notes.append(
                f'{self.path} {" and ".join(self._copied)}: it is read from a copy in the folder '
                'for temporary files'
            )

    def _container(self, file: Path) -> Container:
        """Open a file of the bag; DataError if it is none by its first bytes."""
        copy = file
        try:
            with file.open('rb') as content:
                start = content.read(len(SQLITE_MAGIC))
            if start.startswith(ZSTD_MAGIC):
                copy = self._folder_of_copies() / file.name.rpartition('.')[0]
                self._copied['is compressed'] = None
                if not unpack(file, copy):
                    self._damage.append(f'{file.name} cannot be decompressed to its end')
            elif start == SQLITE_MAGIC and journals(file):
                self._copied['was not closed and has a journal of SQLite beside it'] = None
                copy = merged(file, self._folder_of_copies())
            with copy.open('rb') as content:
                start = content.read(len(SQLITE_MAGIC))
            for magic, read in _FORMATS.items():
                if start.startswith(magic):
                    return read(copy)
        except OSError as error:
            where = f' (by way of a copy in {self._copies}, see TMPDIR)' if self._copies else ''
            raise DataError(f'{file} cannot be read: {error.strerror}{where}') from None
        raise DataError(f'{file} is no bag, or its first bytes are damaged')

    def _reasons(self) -> str:
        found = [*self._damage]
        for name, container in self._containers.items():
            if container.damage:
                found.append(f'{name}: ' * (len(self.files) > 1) + container.damage)
        return ', '.join(dict.fromkeys(found))

    def _folder_of_copies(self) -> Path:
        """Return a folder of its own for each copy; all are removed with the recording."""
        if self._copies is None:
            self._copies = Path(tempfile.mkdtemp(prefix='lwseg_bag_'))
            weakref.finalize(self, shutil.rmtree, self._copies, ignore_errors=True)
        return Path(tempfile.mkdtemp(dir=self._copies))

    def _compare(self) -> None:
        """Compare what is there with what metadata.yaml tells."""
        if not self.path.is_dir():
            return
        metadata = read_metadata(self.path)
        if metadata.error:
            self._damage.append(metadata.error)
        for name, promised in metadata.messages.items():
            found = self.topics[name].messages if name in self.topics else 0
            if found < promised:
                self._damage.append(
                    f'{METADATA} tells of {promised} messages of {name}, {found} are there'
                )

    def _is_read(self, channel: Channel) -> bool:
        """Tell whether a channel is of the type, and of an encoding, that its topic stands for."""
        topic = self.topics[channel.topic]
        return channel.type == topic.type and (
            channel.encoding == topic.encoding
            or (topic.is_readable and channel.encoding in _DESERIALIZERS)
        )


def _topics(channels: Sequence[Channel]) -> dict[str, BagTopic]:
    """Return the topics of a bag by name.

    Where several types were recorded under one name, that one counts which can be read, and of
    those the one with the most messages.
    """
    kinds: dict[tuple[str, str, bool], BagTopic] = {}
    for name, kind, encoding, _, messages in channels:
        key = (name, kind, encoding in _DESERIALIZERS)
        before = kinds.get(key, BagTopic(name, kind, 0, encoding))
        kinds[key] = before._replace(messages=before.messages + messages)
    ranked = sorted(kinds.values(), key=lambda t: (t.name, t.is_readable, t.messages))
    return {topic.name: topic for topic in ranked}


def _stamp(message: RawMessage) -> int:
    """Return the header stamp of a serialised message in ns, 0 if it has none."""
    data = message.data
    if len(data) < 12:
        return 0
    little = message.encoding == 'ros1' or data[1] & 1
    seconds, nanoseconds = struct.unpack_from('<iI' if little else '>iI', data, 4)
    return int(max(0, seconds * 10**9 + nanoseconds))


def _reason(error: Exception) -> str:
    """Return what an exception says, in one line."""
    sentence = ' '.join(str(error).split()).rstrip('.')
    return sentence or type(error).__name__
