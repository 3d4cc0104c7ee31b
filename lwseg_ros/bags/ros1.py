"""ROS 1 bag files (wiki.ros.org/Bags/Format/2.0): closed, or left by a recorder that was killed.

The records are gone over once, past the content of chunks. What the index at the end does not say
is read from the chunks.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Iterator
from typing import BinaryIO, NamedTuple

from lwseg_ros.bags.container import (
    READ_ERRORS,
    Channel,
    ChunkedFile,
    Piece,
    StoredMessage,
    ros_type,
)

ROS1_MAGIC = b'#ROSBAG V2.0\n'

_MESSAGE, _BAG, _INDEX, _CHUNK, _CHUNK_INFO, _CONNECTION = (
    *(b'\x02', b'\x03', b'\x04'),
    *(b'\x05', b'\x06', b'\x07'),
)
_MAX_HEADER = 1 << 24
"""No header of a record is as long (our choice)."""


class _Connection(NamedTuple):
    topic: str
    type: str
    definition: str


class Ros1File(ChunkedFile):
    """A ROS 1 bag file."""

    def _survey(self, file: BinaryIO, size: int) -> Counter[int]:
        self._connections: dict[int, _Connection] = {}
        chunks: dict[int, Piece] = {}
        counts: Counter[int] = Counter()
        counted: set[int] = set()
        at = len(ROS1_MAGIC)
        while at < size:
            place = at
            try:
                file.seek(at)
                head = _fields(file.read(min(_uint32(file.read(4)), _MAX_HEADER)))
                length = _uint32(file.read(4))
                at = file.tell() + length
                kind = head[b'op']
                if kind == _CHUNK:
                    chunks[place] = _chunk(head, at - length, at, size)
                elif kind == _INDEX and chunks:
                    piece = next(reversed(chunks.values()))
                    piece.channels = {_uint32(head[b'conn']), *(piece.channels or ())}
                elif kind == _CHUNK_INFO:
                    position = int.from_bytes(head[b'chunk_pos'], 'little')
                    chunks[position].start_ns = _time_ns(head[b'start_time'])
                    counts.update(dict(struct.iter_unpack('<II', file.read(length))))
                    counted.add(position)
                elif kind == _CONNECTION:
                    self._connect(head, file.read(length))
                elif kind == _BAG and not any(head[b'index_pos']):
                    self._note('it was not closed')
            except READ_ERRORS:
                self._note(f'it is damaged from byte {place} on')
                break
        if at > size:
            self._note(f'it ends at byte {size}, within a record')
        self._pieces = list(chunks.values())
        return counts + self._count(
            file, (piece for place, piece in chunks.items() if place not in counted)
        )

    def _channels(self, counts: Counter[int]) -> dict[int, Channel]:
        return {
            number: Channel(topic, type_, 'ros1', definition, counts[number])
            for number, (topic, type_, definition) in self._connections.items()
        }

    def _records(self, raw: bytes, wanted: Collection[int] | None) -> Iterator[StoredMessage]:
        at = 0
        while at + 4 <= len(raw):
            begin = at + 4
            at = begin + _uint32(raw, at)
            head, begin = _fields(raw[begin:at]), at + 4
            at = begin + _uint32(raw, at)
            if at > len(raw):
                return
            if head[b'op'] == _CONNECTION:
                self._connect(head, raw[begin:at])
            elif head[b'op'] == _MESSAGE:
                channel, record_ns = _uint32(head[b'conn']), _time_ns(head[b'time'])
                if wanted is None:
                    yield StoredMessage(channel, record_ns, b'')
                elif channel in wanted:
                    yield StoredMessage(channel, record_ns, raw[begin:at])

    def _connect(self, head: dict[bytes, bytes], content: bytes) -> None:
        fields = _fields(content)
        topic = '/'.join(part for part in head[b'topic'].decode().split('/') if part)
        self._connections[_uint32(head[b'conn'])] = _Connection(
            '/' * head[b'topic'].startswith(b'/') + topic,
            ros_type(fields[b'type'].decode(), 'ros1'),
            fields.get(b'message_definition', b'').decode(errors='replace'),
        )


def _chunk(head: dict[bytes, bytes], begin: int, end: int, file_size: int) -> Piece:
    size = _uint32(head[b'size']) if end <= file_size else None
    compression = head[b'compression'].decode()
    return Piece(begin, min(end, file_size) - begin, compression=compression, size=size)


def _fields(content: bytes) -> dict[bytes, bytes]:
    fields = {}
    at = 0
    while at < len(content):
        length = _uint32(content, at)
        name, _, value = content[at + 4 : at + 4 + length].partition(b'=')
        fields[name] = value
        at += 4 + length
    return fields


def _uint32(content: bytes, at: int = 0) -> int:
    (number,) = struct.unpack_from('<I', content, at)
    return int(number)


def _time_ns(content: bytes) -> int:
    seconds, nanoseconds = struct.unpack('<II', content)
    return int(seconds * 10**9 + nanoseconds)
