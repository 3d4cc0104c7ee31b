"""What every format of bag files gives, and what MCAP and ROS 1 bags have in common: chunks."""

from __future__ import annotations

import heapq
import struct
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from lwseg_ros.bags.compression import decompressed

READ_ERRORS = (EOFError, LookupError, OSError, RuntimeError, ValueError, struct.error)
"""What taking apart damaged bytes raises."""


class Channel(NamedTuple):
    """A topic as one publisher recorded it."""

    topic: str
    type: str
    encoding: str
    """'cdr', 'ros1', or something that is not ours, as 'protobuf' or 'json'."""
    definition: str
    """The definition of the type as .msg files have it, '' where there is none."""
    messages: int


class StoredMessage(NamedTuple):
    """A message as it lies in the file."""

    channel: int
    record_ns: int
    data: bytes


class Container(Protocol):
    """A bag file: what is whole in it can be read, as often as one likes, also side by side.

    It is made from a path; OSError if there is nothing that can be read.
    """

    channels: dict[int, Channel]
    """By their numbers in the file."""
    damage: str
    """What is cut off or damaged, as far as has been seen, or ''."""

    def messages(self, channels: Collection[int]) -> Iterator[StoredMessage]:
        """Read the messages of some channels in the order of their recording."""
        ...


def ros_type(name: str, encoding: str) -> str:
    """Return the name of a message type as ROS 2 writes it: package/msg/Name."""
    package, slash, rest = name.partition('/')
    if encoding in ('cdr', 'ros1') and slash and '/' not in rest:
        return f'{package}/msg/{rest}'
    return name


@dataclass
class Piece:
    """Part of a file that is read at once: a chunk, or messages that lie outside of chunks."""

    offset: int
    length: int
    start_ns: int = 0
    """When its first message was recorded."""
    compression: str = ''
    size: int | None = None
    """What its decompressed bytes number and sum up to (CRC-32), if that is known."""
    checksum: int = 0
    channels: set[int] | None = None
    """The channels that it has messages of, None if that is not known."""


class ChunkedFile:
    """A file of chunks: the Container that MCAP and ROS 1 bags are.

    A format says where the pieces are (`_survey`), and what records decompressed bytes hold
    (`_records`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage = ''
        self.channels: dict[int, Channel] = {}
        self._pieces: list[Piece] = []
        with path.open('rb') as file:
            counts = self._survey(file, path.stat().st_size)
        self.channels = self._channels(counts)

    def messages(self, channels: Collection[int]) -> Iterator[StoredMessage]:
        """Read the messages of some channels in the order of their recording."""
        wanted = set(channels)
        pieces = sorted(
            (p for p in self._pieces if p.channels is None or not wanted.isdisjoint(p.channels)),
            key=lambda piece: (piece.start_ns, piece.offset),
        )
        # Chunks overlap a little in time: the messages of those that have begun wait here.
        waiting: list[tuple[int, int, int, StoredMessage]] = []
        with self.path.open('rb') as file:
            for piece in pieces:
                while waiting and waiting[0][0] < piece.start_ns:
                    yield heapq.heappop(waiting)[-1]
                for place, message in enumerate(self._load(file, piece, wanted)):
                    heapq.heappush(waiting, (message.record_ns, piece.offset, place, message))
        while waiting:
            yield heapq.heappop(waiting)[-1]

    def _survey(self, file: BinaryIO, size: int) -> Counter[int]:
        """Find the pieces; return how many messages each channel has."""
        raise NotImplementedError

    def _channels(self, counts: Counter[int]) -> dict[int, Channel]:
        raise NotImplementedError

    def _records(self, raw: bytes, wanted: Collection[int] | None) -> Iterator[StoredMessage]:
        """Take decompressed bytes apart; messages of channels that are not wanted are left out.

        What describes channels is noted. None wants all messages, but not their data.
        """
        raise NotImplementedError

    def _count(self, file: BinaryIO, pieces: Iterable[Piece]) -> Counter[int]:
        """Read pieces to learn when they begin, and count their messages by channel."""
        counts: Counter[int] = Counter()
        for piece in pieces:
            found = self._load(file, piece, None)
            counts.update(message.channel for message in found)
            piece.start_ns = min((message.record_ns for message in found), default=0)
            piece.channels = {message.channel for message in found}
        return counts

    def _load(
        self, file: BinaryIO, piece: Piece, wanted: Collection[int] | None
    ) -> list[StoredMessage]:
        file.seek(piece.offset)
        content = file.read(piece.length)
        try:
            raw = decompressed(piece.compression, content)
        except KeyError:
            self._note(f'a chunk is compressed as {piece.compression!r}, which is not known')
            return []
        if piece.size is not None and (
            len(raw) != piece.size or (piece.checksum and zlib.crc32(raw) != piece.checksum)
        ):
            self._note(f'the chunk at byte {piece.offset} is damaged')
            return []
        found = []
        try:  # what came before an error counts
            for message in self._records(raw, wanted):
                found.append(message)
        except READ_ERRORS:
            self._note(f'the records from byte {piece.offset} on are damaged')
        return found

    def _note(self, damage: str) -> None:
        self.damage = self.damage or damage
