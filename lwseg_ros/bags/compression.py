"""What recorders compress: chunks of a file, messages, whole files."""

from __future__ import annotations

import bz2
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'

_STEP = 1 << 14
_PART = 1 << 20


class _Compression(NamedTuple):
    whole: Callable[[bytes], bytes]
    """Takes all of it; raises an error of its own where bytes are missing or damaged."""
    steps: Callable[[], Any]
    """Makes an object whose `decompress` takes one part after the other."""


# rosbags needs both libraries itself, so they are there.
def _zstd_module() -> Any:
    return import_module('compression.zstd' if sys.version_info >= (3, 14) else 'backports.zstd')


def _zstd() -> _Compression:
    zstd = _zstd_module()
    return _Compression(zstd.decompress, zstd.ZstdDecompressor)


def _lz4() -> _Compression:
    frame = import_module('lz4.frame')
    return _Compression(frame.decompress, frame.LZ4FrameDecompressor)


_COMPRESSIONS: dict[str, Callable[[], _Compression]] = {
    'zstd': _zstd,
    'lz4': _lz4,
    'bz2': lambda: _Compression(bz2.decompress, bz2.BZ2Decompressor),
}


def decompressed(compression: str, content: bytes) -> bytes:
    """Return as much of a compressed chunk as its bytes give; KeyError if it is not known how."""
    if compression in ('', 'none'):
        return content
    whole, steps = _COMPRESSIONS[compression]()
    try:
        return whole(content)
    except Exception:  # each library has errors of its own
        return _beginning(steps(), content)


def message_data(data: bytes) -> bytes:
    """Return a serialised message, also of a bag whose messages are compressed one by one.

    No message that we read begins as zstd does: CDR begins with 0, ROS 1 with the number of the
    message, which would have to be above four thousand million.
    """
    return decompressed('zstd', data) if data.startswith(ZSTD_MAGIC) else data


def unpack(source: Path, target: Path) -> bool:
    """Decompress a zstd file into another one; False if it is cut off or damaged.

    What comes before the damage is in `target`. OSError if that cannot be written.
    """
    with source.open('rb') as content, target.open('wb') as out:
        parts = _parts(content)
        while True:
            try:
                part = next(parts, None)
            except Exception:  # as above
                return False
            if part is None:
                return True
            out.write(part)


def _parts(file: BinaryIO) -> Iterator[bytes]:
    """Decompress a file of zstd frames in small parts; EOFError where it is cut off."""
    new = _zstd_module().ZstdDecompressor
    decompressor = new()
    content = file.read(_STEP)
    while content:
        yield decompressor.decompress(content, _PART)
        while not (decompressor.eof or decompressor.needs_input):
            yield decompressor.decompress(b'', _PART)
        content = decompressor.unused_data or file.read(_STEP)
        if decompressor.eof:
            decompressor = new()
        elif not content:
            raise EOFError


def _beginning(decompressor: Any, content: bytes) -> bytes:
    parts = []
    # Small steps: one that fails takes nothing with it that came before.
    for at in range(0, len(content), _STEP):
        try:
            parts.append(decompressor.decompress(content[at : at + _STEP]))
        except Exception:  # as above
            break
    return b''.join(parts)
