"""Picture files as other people's tools write them, byte by byte."""

import struct
import zlib

import numpy as np
import numpy.typing as npt

VOC_PALETTE = np.array(
    [
        [sum((i >> 3 * k + channel & 1) << 7 - k for k in range(3)) for channel in range(3)]
        for i in range(256)
    ],
    np.uint8,
)
"""The colour map of PASCAL VOC, which many tools write into every palette."""


def png(
    values: npt.NDArray[np.integer], bits: int, palette: npt.NDArray[np.uint8] | None = None
) -> bytes:
    """Return a PNG of one channel `[H, W]` of 1 to 16 bits, or of a palette's indices."""
    rows = np.unpackbits(values[..., None].astype('>u2').view(np.uint8), axis=-1)[..., -bits:]
    lines = b''.join(b'\0' + np.packbits(row.reshape(-1)).tobytes() for row in rows)
    height, width = values.shape
    kind = 0 if palette is None else 3
    chunks = [(b'IHDR', struct.pack('>IIBBBBB', width, height, bits, kind, 0, 0, 0))]
    if palette is not None:
        chunks += [(b'PLTE', palette.tobytes()), (b'tRNS', bytes(len(palette)))]
    packed = zlib.compress(lines)
    chunks += [(b'IDAT', packed[:5]), (b'IDAT', packed[5:]), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(body)) + name + body + struct.pack('>I', zlib.crc32(name + body))
        for name, body in chunks
    )


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """Return a JPEG whose EXIF asks viewers to turn it: 3 by half a turn, 6 by a quarter."""
    tag = struct.pack('<HHII', 0x0112, 3, 1, orientation)
    exif = b'Exif\0\0II*\0' + struct.pack('<IH', 8, 1) + tag + bytes(4)
    return jpeg[:2] + b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif + jpeg[2:]
