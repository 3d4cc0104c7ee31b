"""MCAP files record by record, as writers other than rosbag2's make them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import lz4.frame
from zstd_for_tests import zstd

MAGIC = b'\x89MCAP0\r\n'
_COMPRESS = {'': bytes, 'zstd': zstd.compress, 'lz4': lz4.frame.compress}


def text(content: str | bytes) -> bytes:
    content = content if isinstance(content, bytes) else content.encode()
    return struct.pack('<I', len(content)) + content


def record(kind: int, content: bytes) -> bytes:
    return struct.pack('<BQ', kind, len(content)) + content


def schema(number: int, name: str, encoding: str, data: str | bytes = '') -> bytes:
    return record(3, struct.pack('<H', number) + text(name) + text(encoding) + text(data))


def channel(number: int, schema_number: int, topic: str, encoding: str) -> bytes:
    head = struct.pack('<HH', number, schema_number)
    return record(4, head + text(topic) + text(encoding) + text(''))


def message(channel_number: int, at_ns: int, data: bytes) -> bytes:
    return record(5, struct.pack('<HIQQ', channel_number, 0, at_ns, at_ns) + bytes(data))


def chunk(records: bytes, compression: str = '', start_ns: int = 0, end_ns: int = 0) -> bytes:
    head = struct.pack('<QQQI', start_ns, end_ns, len(records), zlib.crc32(records))
    content = _COMPRESS[compression](records)
    return record(6, head + text(compression) + struct.pack('<Q', len(content)) + content)


def attachment() -> bytes:
    return record(9, bytes(40))


def statistics(counts: dict[int, int]) -> bytes:
    head = struct.pack('<QHIIIIQQ', sum(counts.values()), 1, len(counts), 0, 0, 0, 0, 0)
    entries = b''.join(struct.pack('<HQ', *entry) for entry in counts.items())
    return record(0x0B, head + text(entries))


def write_mcap(path: Path, data: bytes, summary: bytes = b'', profile: str = 'ros2') -> Path:
    content = MAGIC + record(1, text(profile) + text('test')) + data + record(0x0F, bytes(4))
    footer = record(2, struct.pack('<QQI', len(content) if summary else 0, 0, 0))
    path.write_bytes(content + summary + footer + MAGIC)
    return path
