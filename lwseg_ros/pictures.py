"""Picture files and compressed messages to pixels: the one place that decodes them.

JPEG, PNG, BMP, PNM, TIFF and WebP. Pixels are as they are stored, as the camera saw them and as
label files have them: a rotation that EXIF asks for is never applied. What is cut off is refused.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros.errors import DataError

Image = npt.NDArray[np.uint8]
Values = npt.NDArray[np.integer[Any]]

Allow = Callable[[int, int], None]
"""Is called with width and height of a JPEG or PNG, and raises if they are not wanted."""

PICTURE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')

JPEG, PNG = b'\xff\xd8', b'\x89PNG\r\n\x1a\n'
"""What the files start with."""

_DEPTHS = (8, 10, 12, 14, 16)
_READ_RGB: int | None = getattr(cv2, 'IMREAD_COLOR_RGB', None)
"""What decodes to RGB at once, not by way of BGR, from OpenCV 4.11 on."""


class Depth:
    """The bits that the 16-bit pictures of one stream use: the most seen, never less again.

    Sensors of 10, 12 or 14 bits are sent in 16. A range taken anew from each picture would
    flicker; `bits` is one of 8, 10, 12, 14 and 16, or 0 before any picture.
    """

    def __init__(self, bits: int = 0) -> None:
        self.bits = bits

    def see(self, values: Values) -> None:
        """Take note of how many bits values of 16 bits use."""
        peak = int(values.max(initial=0))
        self.bits = max(self.bits, next(bits for bits in _DEPTHS if peak < 1 << bits))

    def eight_bits(self, values: Values) -> Image:
        """Return values of 16 bits stretched to 0..255, uint8 of the same shape."""
        self.see(values)
        values = values.astype(np.uint16, copy=False)
        scaled: Any = cv2.convertScaleAbs(values, alpha=255 / ((1 << self.bits) - 1))
        return np.asarray(scaled, np.uint8).reshape(values.shape)


class Stored(NamedTuple):
    """The values of a picture as its file stores them.

    `values` are uint8 or uint16, `[H, W]`, RGB `[H, W, 3]` or RGBA `[H, W, 4]`; with a `palette`,
    RGB uint8 `[N, 3]`, they are its indices `[H, W]`.
    """

    values: Values
    palette: Image | None = None


def read_file(path: Path) -> bytes:
    """Return the bytes of a file; DataError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f'{path} cannot be read: {error.strerror}') from None


def rgb(data: bytes, what: str, depth: Depth | None = None, allow: Allow | None = None) -> Image:
    """Return a picture as RGB uint8 `[H, W, 3]`; of 16 bits, `depth` stretches it.

    `allow` may refuse it before it is decoded. DataError, which names `what`, if it is cut off,
    damaged or no picture.
    """
    _check(data, what, allow)
    # Of a TIFF of 16 bits, OpenCV's way straight to RGB makes noise.
    straight = _READ_RGB if data.startswith((JPEG, PNG)) else None
    order = cv2.IMREAD_COLOR if straight is None else straight
    flags = order | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = _decoded(data, flags, what)
    if pixels.dtype == np.uint16:
        pixels = (depth or Depth()).eight_bits(pixels)
    if straight is None:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
    image: Image = pixels
    return image


def stored(data: bytes, what: str, allow: Allow | None = None) -> Stored:
    """Return the values of a picture as they are stored.

    A palette's indices stay indices, and 1, 2 and 4 bits what they are. DataError, which names
    `what`, as of `rgb`; and if it is a TIFF or BMP with a palette or fewer than 8 bits.
    """
    _check(data, what, allow)
    palette, step = None, 1
    if data.startswith(PNG):
        data, palette, step = _indices_in_grey(data)
    values = _decoded(data, cv2.IMREAD_UNCHANGED, what)
    if _has_palette_or_few_bits(data):
        raise DataError(
            f'{what} has a palette or fewer than 8 bits, which are read of PNG alone: '
            'save it as PNG'
        )
    if values.ndim == 3:
        values = values[..., [2, 1, 0, 3][: values.shape[2]]]
    return Stored(values // step if step > 1 else values, palette)


def turned_shape(data: bytes) -> tuple[int, ...] | None:
    """Return (height, width) of a picture turned as EXIF asks; None if it cannot be decoded."""
    picture: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if picture is None else tuple(picture.shape[:2])


def _check(data: bytes, what: str, allow: Allow | None) -> None:
    """Refuse what is cut off or not allowed, before anything is allocated for it."""
    if not data:
        raise DataError(f'{what} is empty')
    # OpenCV's readers of other kinds miss what is not there.
    size_of = next((f for magic, f in _SIZE_IF_WHOLE.items() if data.startswith(magic)), None)
    if size_of is None:
        return
    size = size_of(data)
    if size is None:
        raise DataError(f'{what} is cut off or damaged')
    if allow is not None:
        allow(*size)


def _decoded(data: bytes, flags: int, what: str) -> Any:
    try:
        picture: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        picture = None
    if picture is None:
        known = data.startswith((JPEG, PNG))
        raise DataError(
            f'{what} cannot be '
            + ('decoded' if known else 'read as a picture: it is damaged or of an unknown kind')
        )
    if picture.dtype not in (np.uint8, np.uint16):
        raise DataError(f'{what} has values of type {picture.dtype}: wanted 8 or 16 bits')
    return picture


_PNG_GREY, _PNG_PALETTE = 0, 3
_JPEG_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_START_OF_SCAN, _JPEG_END_OF_IMAGE = 0xDA, b'\xff\xd9'
_MAX_JPEG_SCANS = 100  # encoders write a dozen; libjpeg goes over the whole picture for each


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a JPEG that is whole, else None.

    libjpeg fills a cut-off picture with grey and says nothing, so the end is looked for here.
    A JPEG has no checksum: damage between its start and its end shows in the picture only.
    """
    size = None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _JPEG_FRAME_HEADERS:
            height, width = (int.from_bytes(data[at + i : at + i + 2], 'big') for i in (5, 7))
            size = width, height
        if marker == _JPEG_START_OF_SCAN:
            whole = data.find(_JPEG_END_OF_IMAGE, at) > 0
            scans = data.count(bytes((0xFF, _JPEG_START_OF_SCAN)), at)
            return size if whole and scans <= _MAX_JPEG_SCANS else None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
    return None


def _png_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a PNG whose chunks are whole and unchanged, else None.

    OpenCV's reader allocates what a chunk's length says before it looks for the bytes, and writes
    a line of its own to stderr for every damaged frame.
    """
    chunks = _png_chunks(data)
    if not chunks or chunks[-1].kind != b'IEND' or data[8:16] != b'\0\0\0\rIHDR':
        return None
    width, height = (int.from_bytes(data[i : i + 4], 'big') for i in (16, 20))
    return width, height


class _Chunk(NamedTuple):
    """A part of a PNG: its kind, its body, and all of it, with length and checksum."""

    kind: bytes
    body: bytes
    whole: bytes


def _png_chunks(data: bytes) -> list[_Chunk]:
    """Return the chunks of a PNG up to its end, or to one that is cut off or changed."""
    chunks = []
    at, kind = len(PNG), b''
    while at + 12 <= len(data) and kind != b'IEND':
        kind, end = data[at + 4 : at + 8], at + 8 + int.from_bytes(data[at : at + 4], 'big')
        checksum = int.from_bytes(data[end : end + 4], 'big')
        if end + 4 > len(data) or zlib.crc32(memoryview(data)[at + 4 : end]) != checksum:
            break
        chunks.append(_Chunk(kind, data[at + 8 : end], data[at : end + 4]))
        at = end + 4
    return chunks


def _indices_in_grey(png: bytes) -> tuple[bytes, Image | None, int]:
    """Return a PNG with its palette's indices as greys, the palette, and the step of its values.

    Indices and greys are stored alike, only the header tells them apart. OpenCV stretches greys
    of 1, 2 and 4 bits to 0..255: then the step is above 1.
    """
    header, *chunks = _png_chunks(png)
    bits, kind = header.body[8:10]
    step = 255 // ((1 << bits) - 1) if bits < 8 else 1
    if kind != _PNG_PALETTE:
        return png, None, step
    body = header.body[:9] + bytes((_PNG_GREY,)) + header.body[10:]
    checksum = zlib.crc32(header.kind + body).to_bytes(4, 'big')
    grey = [PNG, header.whole[:8], body, checksum]
    grey += [chunk.whole for chunk in chunks if chunk.kind in (b'IDAT', b'IEND')]
    palette = b''.join(chunk.body for chunk in chunks if chunk.kind == b'PLTE')
    return b''.join(grey), np.frombuffer(palette, np.uint8).reshape(-1, 3), step


def _has_palette_or_few_bits(data: bytes) -> bool:
    """Tell it of a TIFF or BMP, whose palette OpenCV turns into colours."""
    if data.startswith(b'BM'):
        return int.from_bytes(data[28:30], 'little') <= 8 and not _is_grey_bmp(data)
    orders: dict[bytes, Literal['little', 'big']] = {b'II*\0': 'little', b'MM\0*': 'big'}
    order = orders.get(data[:4])
    if order is None:
        return False

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)

    first = number(4, 4)
    entries = [first + 2 + 12 * i for i in range(number(first, 2))]
    tags = {number(at, 2): number(at + 8, 2) for at in entries if number(at + 4, 4) == 1}
    channels = tags.get(_TIFF_CHANNELS, 1)
    few_bits = channels == 1 and tags.get(_TIFF_BITS, 1) < 8
    return few_bits or tags.get(_TIFF_KIND) in _TIFF_NOT_AS_STORED


def _is_grey_bmp(data: bytes) -> bool:
    """Tell whether a BMP has 8 bits and the palette of greys, so that an index is its grey."""
    start = 14 + int.from_bytes(data[14:18], 'little')
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1)
    palette = np.frombuffer(data[start : start + 1024], np.uint8)
    return (
        data[28] == 8
        and palette.size == 1024
        and np.array_equal(palette.reshape(256, 4)[:, :3], greys)
    )


_TIFF_BITS, _TIFF_KIND, _TIFF_CHANNELS = 258, 262, 277
_TIFF_NOT_AS_STORED = (0, 3)  # white is 0, palette


_SIZE_IF_WHOLE: dict[bytes, Callable[[bytes], tuple[int, int] | None]] = {
    JPEG: _jpeg_size,
    PNG: _png_size,
}
