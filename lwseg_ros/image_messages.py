"""Camera messages to RGB images, without copies where the encoding allows.

Works on the fields of sensor_msgs/Image and sensor_msgs/CompressedImage and imports no ROS
package, so messages read from a bag do as well. Nothing is allocated that the size of the
message's data does not justify.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lwseg_ros.errors import FrameError

Image = NDArray[np.uint8]


class Encoding(NamedTuple):
    """How the bytes of one encoding lie, and how they become RGB.

    `channels` bytes a pixel in the first plane; `rows` = (3, 2) when a half-size colour plane
    follows, so data has 3/2 × height rows; `even` names the fields that must be even; no side is
    shorter than `least`.
    """

    channels: int
    to_rgb: Callable[[Image], Any]
    rows: tuple[int, int] = (1, 1)
    even: tuple[str, ...] = ()
    least: int = 1


def _cvt(code: int) -> Callable[[Image], Any]:
    return lambda pixels: cv2.cvtColor(pixels, code)


def _sixteen_bits_to_rgb(pixels: Image, byte_order: str) -> Any:
    """Scale 0..65535 to 0..255, as cv_bridge does."""
    values = np.ascontiguousarray(pixels).view(byte_order + 'u2').astype(np.uint16, copy=False)
    return cv2.cvtColor(cv2.convertScaleAbs(values, alpha=255 / 65535), cv2.COLOR_GRAY2RGB)


_GRAY = Encoding(1, _cvt(cv2.COLOR_GRAY2RGB))
_BGR = Encoding(3, _cvt(cv2.COLOR_BGR2RGB))
_BGRA = Encoding(4, _cvt(cv2.COLOR_BGRA2RGB))
_GRAY16_LITTLE = Encoding(2, lambda pixels: _sixteen_bits_to_rgb(pixels, '<'))
_GRAY16_BIG = Encoding(2, lambda pixels: _sixteen_bits_to_rgb(pixels, '>'))
_UYVY = Encoding(2, _cvt(cv2.COLOR_YUV2RGB_UYVY), even=('width',))
_YUYV = Encoding(2, _cvt(cv2.COLOR_YUV2RGB_YUY2), even=('width',))


def _bayer(code: int) -> Encoding:
    return Encoding(1, _cvt(code), least=3)  # OpenCV makes a smaller mosaic a black image


# ROS names a Bayer pattern by the first two pixels of its first two rows, OpenCV by the second
# and third pixel of its second row: ROS's RGGB is OpenCV's BG.
ENCODINGS: dict[str, Encoding] = {
    'rgb8': Encoding(3, lambda pixels: pixels),
    'bgr8': _BGR,
    'rgba8': Encoding(4, _cvt(cv2.COLOR_RGBA2RGB)),
    'bgra8': _BGRA,
    'mono8': _GRAY,
    '8UC1': _GRAY,
    '8UC3': _BGR,
    '8UC4': _BGRA,
    'mono16': _GRAY16_LITTLE,
    '16UC1': _GRAY16_LITTLE,
    'yuv422': _UYVY,
    'uyvy': _UYVY,
    'yuv422_yuy2': _YUYV,
    'yuyv': _YUYV,
    'nv12': Encoding(1, _cvt(cv2.COLOR_YUV2RGB_NV12), (3, 2), ('width', 'height')),
    'nv21': Encoding(1, _cvt(cv2.COLOR_YUV2RGB_NV21), (3, 2), ('width', 'height')),
    'bayer_rggb8': _bayer(cv2.COLOR_BayerBG2RGB),
    'bayer_bggr8': _bayer(cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg8': _bayer(cv2.COLOR_BayerGR2RGB),
    'bayer_grbg8': _bayer(cv2.COLOR_BayerGB2RGB),
}
"""The encodings with a direct path; others go through cv_bridge where it is installed."""
_BIG_ENDIAN = {**ENCODINGS, 'mono16': _GRAY16_BIG, '16UC1': _GRAY16_BIG}

MAX_COMPRESSED_PIXELS = 100_000_000
_READ_RGB: int | None = getattr(cv2, 'IMREAD_COLOR_RGB', None)
"""What decodes to RGB at once, not by way of BGR, from OpenCV 4.11 on."""


def image_from_message(msg: Any) -> Image:
    """Return the picture of an Image or CompressedImage message, RGB uint8 `[H, W, 3]`.

    The result of an rgb8 message is a view of the message's data. FrameError names the field
    that is wrong.
    """
    if hasattr(msg, 'encoding'):
        return _raw_image(msg)
    return _compressed_image(msg)


def _raw_image(msg: Any) -> Image:
    encoding = (_BIG_ENDIAN if msg.is_bigendian else ENCODINGS).get(msg.encoding)
    if encoding is None:
        return _cv_bridge_image(msg)
    pixels = _pixels(msg, encoding)
    try:
        rgb: Image = encoding.to_rgb(pixels)
    except cv2.error as error:
        raise FrameError(
            f'{msg.width}x{msg.height} {msg.encoding} cannot be converted: {error.err}'
        ) from None
    return rgb


def _pixels(msg: Any, encoding: Encoding) -> Image:
    """Return a view uint8 `[rows, W]` or `[rows, W, channels]` of the data, honouring `step`."""
    height, width, step = msg.height, msg.width, msg.step
    _check_size(msg, encoding.least)
    for field in encoding.even:
        if getattr(msg, field) % 2:
            raise FrameError(f'{field} is {getattr(msg, field)}: {msg.encoding} needs it even')
    row_bytes = width * encoding.channels
    if step < row_bytes:
        raise FrameError(
            f'step is {step}: a row of {width} {msg.encoding} pixels has {row_bytes} bytes'
        )
    rows = height * encoding.rows[0] // encoding.rows[1]
    data = np.frombuffer(msg.data, np.uint8)
    if data.size < step * rows:
        raise FrameError(
            f'data has {data.size} bytes: step {step} x {rows} rows of {msg.encoding} '
            f'need {step * rows}'
        )
    pixels = np.lib.stride_tricks.as_strided(
        data, (rows, width, encoding.channels), (step, encoding.channels, 1), writeable=False
    )
    return pixels[..., 0] if encoding.channels == 1 else pixels


def _check_size(msg: Any, least: int = 1) -> None:
    if min(msg.width, msg.height) < least:
        raise FrameError(
            f'width x height is {msg.width}x{msg.height}: {msg.encoding} needs {least}x{least} '
            'or more'
        )


def _cv_bridge_image(msg: Any) -> Image:
    _check_size(msg)
    about = f'encoding is {msg.encoding!r}'
    try:
        from cv_bridge import CvBridge
    except ImportError:
        raise FrameError(
            f'{about}: send one of {", ".join(ENCODINGS)}, or install cv_bridge for others'
        ) from None
    try:
        rgb: Image = CvBridge().imgmsg_to_cv2(msg, 'rgb8')
    except Exception as error:  # its own, NumPy's or OpenCV's
        reason = ' '.join(str(error).split())
        raise FrameError(f'{about}: cv_bridge refuses it: {reason}') from None
    if rgb.shape != (msg.height, msg.width, 3):  # it does not compare step and width
        raise FrameError(
            f'step is {msg.step}: cv_bridge finds an image of {list(rgb.shape)} in it, not of '
            f'{msg.width}x{msg.height} {msg.encoding} pixels'
        )
    return rgb


def _compressed_image(msg: Any) -> Image:
    data = bytes(msg.data)
    about = f'data ({len(data)} bytes, format {msg.format!r})'
    compression = next((c for c in _COMPRESSIONS if data.startswith(c.magic)), None)
    if compression is None:
        raise FrameError(f'{about} is neither JPEG nor PNG')
    size = compression.size(data)
    if size is None:
        raise FrameError(f'{about} is cut off or damaged')
    width, height = size
    most = min(MAX_COMPRESSED_PIXELS, compression.max_pixels_a_byte * len(data))
    if not 0 < width * height <= most:
        raise FrameError(
            f'data tells of {width}x{height} pixels in {len(data)} bytes: not a camera image'
        )
    # The mask lies over the pixels as they are stored, so an EXIF rotation is not applied.
    order = cv2.IMREAD_COLOR if _READ_RGB is None else _READ_RGB
    flags = order | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        picture: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        picture = None
    if picture is None:
        raise FrameError(f'{about} cannot be decoded')
    if _READ_RGB is None:
        picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=picture)
    rgb: Image = picture
    return rgb


_PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
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
    at = len(_PNG_SIGNATURE)
    if data[at + 4 : at + 8] != b'IHDR':
        return None
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], 'big')
        checksum = int.from_bytes(data[end : end + 4], 'big')
        if end + 4 > len(data) or zlib.crc32(memoryview(data)[at + 4 : end]) != checksum:
            return None
        if data[at + 4 : at + 8] == b'IEND':
            width, height = (int.from_bytes(data[i : i + 4], 'big') for i in (16, 20))
            return width, height
        at = end + 4
    return None


class Compression(NamedTuple):
    """A file format: its first bytes, its (width, height) if whole, how dense it can be."""

    magic: bytes
    size: Callable[[bytes], tuple[int, int] | None]
    max_pixels_a_byte: int


# The densest that a camera can send: a JPEG of one colour spends 6 bits on 16x16 pixels, deflate
# turns 1032 bytes of a grey PNG into one.
_COMPRESSIONS = (
    Compression(b'\xff\xd8', _jpeg_size, 512),
    Compression(_PNG_SIGNATURE, _png_size, 1032),
)
