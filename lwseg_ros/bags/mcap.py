"""MCAP files (mcap.dev/spec): closed or cut off, with their indexes or without.

The records are gone over once, past the content of chunks. Channels and counts come from the
summary where it has them; else the chunks are read for them.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import BinaryIO, NamedTuple

from lwseg_ros.bags.container import (
    READ_ERRORS,
    Channel,
    ChunkedFile,
    Piece,
    StoredMessage,
    ros_type,
)

MCAP_MAGIC = b'\x89MCAP0\r\n'

_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _MESSAGE_INDEX, _STATISTICS = (
    *(0x02, 0x03, 0x04, 0x05, 0x06),
    *(0x07, 0x0B),
)
_LOOSE_BYTES = 1 << 20
"""So many bytes of messages outside of chunks are read at once (our choice)."""
_ENCODINGS = {'ros1msg': 'ros1', 'ros2msg': 'cdr', 'ros2idl': 'cdr', 'omgidl': 'cdr'}
"""How messages are encoded whose channel does not say so, by the encoding of their schema."""


class _Schema(NamedTuple):
    name: str
    encoding: str
    data: str


class McapFile(ChunkedFile):
    """An MCAP file."""

    def _survey(self, file: BinaryIO, size: int) -> Counter[int]:
        self._schemas: dict[int, _Schema] = {}
        self._described: dict[int, tuple[str, str, int]] = {}
        promised: Counter[int] | None = None
        at = len(MCAP_MAGIC)
        loose_until = kind = -1
        while kind != _FOOTER:
            file.seek(at)
            head = file.read(9)
            kind, length = struct.unpack('<BQ', head) if len(head) == 9 else (0, 0)
            begin, at = at + 9, at + 9 + length
            if not kind or (at > size and kind != _CHUNK):
                self._note('it ends without its footer')
                break
            try:
                if kind == _CHUNK:
                    self._pieces.append(_chunk(file, begin, min(at, size)))
                elif kind == _MESSAGE:
                    is_next = loose_until == begin - 9
                    if not is_next or self._pieces[-1].length > _LOOSE_BYTES:
                        self._pieces.append(Piece(begin - 9, 0, channels=set()))
                    channel, _, log_ns = struct.unpack('<HIQ', file.read(14))
                    _append(self._pieces[-1], channel, log_ns, at)
                    loose_until = at
                elif kind == _MESSAGE_INDEX and self._pieces and length > 6:
                    channel = _number(file.read(2))
                    self._pieces[-1].channels = {channel, *(self._pieces[-1].channels or ())}
                elif kind == _STATISTICS:
                    content = file.read(length)
                    promised = Counter(dict(struct.iter_unpack('<HQ', content[46:])))
                elif kind in (_SCHEMA, _CHANNEL):
                    self._describe(kind, file.read(length))
            except READ_ERRORS:
                self._note(f'the record at byte {begin - 9} is damaged')
        else:
            file.seek(at)
            if file.read(len(MCAP_MAGIC)) != MCAP_MAGIC:
                self._note('its last bytes are missing')
        for before, piece in pairwise(self._pieces):
            # Some writers leave it out, and all such chunks would be read at once.
            piece.start_ns = piece.start_ns or before.start_ns
        return self._counts(file, promised)

    def _counts(self, file: BinaryIO, promised: Counter[int] | None) -> Counter[int]:
        if promised is not None and all(self._is_known(c) for c in +promised):
            return promised
        counts = self._count(file, self._pieces)
        if promised is not None and counts.total() < promised.total():
            self._note(f'it should hold {promised.total()} messages, not {counts.total()}')
        return counts

    def _is_known(self, channel: int) -> bool:
        return channel in self._described and self._described[channel][2] in {0, *self._schemas}

    def _channels(self, counts: Counter[int]) -> dict[int, Channel]:
        channels = {}
        for number, (topic, encoding, schema) in self._described.items():
            name, language, definition = self._schemas.get(schema, _Schema('', '', ''))
            encoding = encoding or _ENCODINGS.get(language, '')
            channels[number] = Channel(
                topic,
                ros_type(name, encoding),
                encoding,
                definition if language in ('ros1msg', 'ros2msg') else '',
                counts[number],
            )
        return channels

    def _records(self, raw: bytes, wanted: Collection[int] | None) -> Iterator[StoredMessage]:
        at = 0
        while at + 9 <= len(raw):
            kind, length = struct.unpack_from('<BQ', raw, at)
            at += 9 + length
            if at > len(raw):
                return
            if kind == _MESSAGE:
                channel, _, log_ns = struct.unpack_from('<HIQ', raw, at - length)
                if wanted is None:
                    yield StoredMessage(channel, log_ns, b'')
                elif channel in wanted:
                    yield StoredMessage(channel, log_ns, raw[at - length + 22 : at])
            elif kind in (_SCHEMA, _CHANNEL):
                self._describe(kind, raw[at - length : at])

    def _describe(self, kind: int, content: bytes) -> None:
        number = _number(content)
        if kind == _SCHEMA:
            name, at = _text(content, 2)
            encoding, at = _text(content, at)
            self._schemas[number] = _Schema(name, encoding, _text(content, at)[0])
        else:
            (schema,) = struct.unpack_from('<H', content, 2)
            topic, at = _text(content, 4)
            self._described[number] = (topic, _text(content, at)[0], schema)


def _chunk(file: BinaryIO, begin: int, end: int) -> Piece:
    """Return the chunk whose record has its content from `begin` to `end`, where the file ends.

    Of a chunk that is cut off neither size nor checksum can be held against it.
    """
    start_ns, _, size, checksum, letters = struct.unpack('<QQQII', file.read(32))
    compression = file.read(min(letters, 64)).decode()
    (length,) = struct.unpack('<Q', file.read(8))
    offset = begin + 40 + letters
    if offset + length > end:
        return Piece(offset, end - offset, start_ns, compression)
    return Piece(offset, length, start_ns, compression, size, checksum)


def _append(piece: Piece, channel: int, record_ns: int, end: int) -> None:
    """Add a message that lies outside of chunks to the piece of those before it."""
    piece.start_ns = min(piece.start_ns, record_ns) if piece.channels else record_ns
    piece.channels = {channel, *(piece.channels or ())}
    piece.length = end - piece.offset


def _number(content: bytes) -> int:
    (number,) = struct.unpack_from('<H', content)
    return int(number)


def _text(content: bytes, at: int) -> tuple[str, int]:
    """Return a string and where it ends."""
    (length,) = struct.unpack_from('<I', content, at)
    end = at + 4 + length
    # The schemas of some encodings are no text.
    return content[at + 4 : end].decode(errors='replace'), end
