"""Messages of bag files that are cut off or damaged, read from the front without their index.

A recorder that is killed, or a disk that is full, leaves an MCAP without a footer, a ROS 1 bag
without an index or an SQLite file without its last pages. What is whole in them is read here:
chunk after chunk, the readable beginning of a chunk that is cut, and past chunks that are damaged.
Formats: mcap.dev/spec, wiki.ros.org/Bags/Format/2.0, rosbag2's SQLite schema.
"""

from __future__ import annotations

import bz2
import sqlite3
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from lwseg_ros.errors import DataError

MCAP_MAGIC = b'\x89MCAP0\r\n'
ROS1_MAGIC = b'#ROSBAG V2.0\n'
SQLITE_MAGIC = b'SQLite format 3\0'

_READ_ERRORS = (EOFError, LookupError, OSError, RuntimeError, ValueError, struct.error)
"""What taking apart damaged bytes raises."""


class FoundMessage(NamedTuple):
    """A message as it lies in the file."""

    topic: str
    type: str
    record_ns: int
    data: bytes


def recover(path: Path) -> Iterator[FoundMessage]:
    """Read what is whole in a ROS 1 bag, an `.mcap` or a `.db3` file, in the order of the file.

    DataError if it is none of these from its first bytes on.
    """
    with path.open('rb') as file:
        start = file.read(len(SQLITE_MAGIC))
    for magic, read in (
        (MCAP_MAGIC, _mcap_messages),
        (ROS1_MAGIC, _ros1_messages),
        (SQLITE_MAGIC, _sqlite_messages),
    ):
        if start.startswith(magic):
            return read(path)
    raise DataError(f'{path} is no bag, or its first bytes are damaged')


def _mcap_messages(path: Path) -> Iterator[FoundMessage]:
    schemas: dict[int, str] = {0: ''}
    channels: dict[int, tuple[str, str]] = {}

    def record(kind: int, content: bytes) -> Iterator[FoundMessage]:
        if kind == 0x03:
            (number,) = struct.unpack_from('<H', content)
            schemas[number] = _text(content, 2)[0]
        elif kind == 0x04:
            number, schema = struct.unpack_from('<HH', content)
            channels[number] = (_text(content, 4)[0], schemas.get(schema, ''))
        elif kind == 0x05:
            number, _, log_ns, _ = struct.unpack_from('<HIQQ', content)
            if number in channels:
                yield FoundMessage(*channels[number], log_ns, content[22:])

    def chunk(content: bytes, whole: bool) -> Iterator[FoundMessage]:
        size, checksum = struct.unpack_from('<QI', content, 16)
        compression, at = _text(content, 28)
        raw = _decompressed(compression, content[at + 8 :])
        if whole and (len(raw) != size or checksum and zlib.crc32(raw) != checksum):
            return
        at = 0
        while at + 9 <= len(raw):
            kind, length = struct.unpack_from('<BQ', raw, at)
            at += 9 + length
            if at > len(raw):
                return
            yield from record(kind, raw[at - length : at])

    with path.open('rb') as file:
        size = path.stat().st_size
        file.seek(len(MCAP_MAGIC))
        while len(head := file.read(9)) == 9:
            kind, length = struct.unpack('<BQ', head)
            if kind in (0x02, 0x0F):  # the footer, or the end of the data
                return
            whole = file.tell() + length <= size
            if kind == 0x06:
                yield from _tolerantly(chunk(file.read(length if whole else size), whole))
            elif whole and kind in (0x03, 0x04, 0x05):
                yield from _tolerantly(record(kind, file.read(length)))
            elif whole:
                file.seek(length, 1)
            if not whole:
                return


def _ros1_messages(path: Path) -> Iterator[FoundMessage]:
    connections: dict[bytes, tuple[str, str]] = {}

    def record(head: dict[bytes, bytes], content: bytes) -> Iterator[FoundMessage]:
        if head[b'op'] == b'\x07':
            kind = _ros1_fields(content)[b'type'].decode()
            package, _, name = kind.rpartition('/')
            topic = '/' * head[b'topic'].startswith(b'/') + '/'.join(
                part for part in head[b'topic'].decode().split('/') if part
            )
            connections[head[b'conn']] = (topic, f'{package}/msg/{name}')
        elif head[b'op'] == b'\x02' and head[b'conn'] in connections:
            seconds, nanoseconds = struct.unpack('<II', head[b'time'])
            yield FoundMessage(*connections[head[b'conn']], seconds * 10**9 + nanoseconds, content)

    def chunk(compression: str, content: bytes) -> Iterator[FoundMessage]:
        raw = _decompressed(compression, content)
        at = 0
        while at + 4 <= len(raw):
            parts = []
            for _ in range(2):
                (length,) = struct.unpack_from('<I', raw, at)
                parts.append(raw[at + 4 : at + 4 + length])
                at += 4 + length
            if at > len(raw):
                return
            yield from record(_ros1_fields(parts[0]), parts[1])

    with path.open('rb') as file:
        size = path.stat().st_size
        file.seek(len(ROS1_MAGIC))
        while True:
            try:
                (length,) = struct.unpack('<I', file.read(4))
                head = _ros1_fields(file.read(min(length, size)))
                (length,) = struct.unpack('<I', file.read(4))
            except _READ_ERRORS:
                return
            kind = head.get(b'op')
            if kind == b'\x05':
                content = file.read(min(length, size))
                yield from _tolerantly(chunk(head[b'compression'].decode(), content))
            elif kind == b'\x07':
                content = file.read(min(length, size))
                yield from _tolerantly(record(head, content))
            else:
                file.seek(length, 1)


def _sqlite_messages(path: Path) -> Iterator[FoundMessage]:
    last = None
    for message in _sqlite_rows(path):
        if last is not None:
            yield last
        last = message
    # Where a page is cut, its rest reads as zeros. Pages are filled in the order of the messages,
    # so only the last that can be read may end in such zeros.
    with path.open('rb') as file:
        size = int.from_bytes(file.read(18)[16:], 'big')
    cut_in_a_page = path.stat().st_size % (65536 if size == 1 else max(1, size)) != 0
    if last is not None and not (cut_in_a_page and last.data.endswith(b'\0')):
        yield last


def _sqlite_rows(path: Path) -> Iterator[FoundMessage]:
    # Pages beyond the cut cannot be read, so rows are asked for one by one. Who stops asking may
    # be another thread than the one that began.
    uri = f'{path.absolute().as_uri()}?immutable=1'
    with closing(sqlite3.connect(uri, uri=True, check_same_thread=False)) as base:
        try:
            base.execute('PRAGMA writable_schema = ON')  # or SQLite refuses a file that is cut
            topics = {row[0]: row[1:] for row in base.execute('SELECT id, name, type FROM topics')}
        except sqlite3.Error:
            return
        number = missed = 0
        while missed < 1000:
            number += 1
            missed += 1
            try:
                row: Any = base.execute(
                    'SELECT topic_id, timestamp, data FROM messages WHERE id = ?', (number,)
                ).fetchone()
            except sqlite3.Error:
                continue
            if row is not None and row[0] in topics:
                missed = 0
                name, kind = topics[row[0]]
                yield FoundMessage(name, kind, row[1], bytes(row[2]))


def _tolerantly(messages: Iterator[FoundMessage]) -> Iterator[FoundMessage]:
    try:
        yield from messages
    except _READ_ERRORS:
        return


def _text(content: bytes, at: int) -> tuple[str, int]:
    """Return an MCAP string and where it ends."""
    (length,) = struct.unpack_from('<I', content, at)
    end = at + 4 + length
    return content[at + 4 : end].decode(), end


def _ros1_fields(content: bytes) -> dict[bytes, bytes]:
    fields = {}
    at = 0
    while at < len(content):
        (length,) = struct.unpack_from('<I', content, at)
        name, _, value = content[at + 4 : at + 4 + length].partition(b'=')
        fields[name] = value
        at += 4 + length
    return fields


def _decompressed(compression: str, content: bytes) -> bytes:
    """Return as much of a compressed chunk as its bytes give."""
    decompressor = _DECOMPRESSORS[compression]()
    parts = []
    # Small steps: one that fails takes nothing with it that came before.
    for at in range(0, len(content), _STEP):
        try:
            parts.append(decompressor(content[at : at + _STEP]))
        except Exception:  # each library has errors of its own
            break
    return b''.join(parts)


_STEP = 1 << 14


# rosbags needs both libraries itself, so they are there.
def _zstd() -> Callable[[bytes], bytes]:
    name = 'compression.zstd' if sys.version_info >= (3, 14) else 'backports.zstd'
    return _bytes(import_module(name).ZstdDecompressor().decompress)


def _lz4() -> Callable[[bytes], bytes]:
    return _bytes(import_module('lz4.frame').LZ4FrameDecompressor().decompress)


def _bytes(decompress: Any) -> Callable[[bytes], bytes]:
    return lambda content: bytes(decompress(content))


def _identity() -> Callable[[bytes], bytes]:
    return lambda content: content


_DECOMPRESSORS: dict[str, Callable[[], Callable[[bytes], bytes]]] = {
    '': _identity,
    'none': _identity,
    'zstd': _zstd,
    'lz4': _lz4,
    'bz2': lambda: bz2.BZ2Decompressor().decompress,
}
