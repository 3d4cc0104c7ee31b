"""Camera messages to RGB images, without copies where the encoding allows.

Works on the fields of sensor_msgs/Image and sensor_msgs/CompressedImage and imports no ROS
package, so messages read from a bag do as well. Nothing is allocated that the size of the
message's data does not justify.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lwseg_ros import pictures
from lwseg_ros.errors import DataError, FrameError
from lwseg_ros.pictures import Allow, Depth, Stored

Image = NDArray[np.uint8]


class Encoding(NamedTuple):
    """How the values of one encoding lie, and how they become RGB.

    `channels` values of `bits` a pixel in the first plane; `rows` = (3, 2) when a half-size
    colour plane follows, so data has 3/2 × height rows; `even` names the fields that must be
    even; no side is shorter than `least`. `to_rgb` takes 8 bits.
    """

    channels: int
    to_rgb: Callable[[Image], Any]
    rows: tuple[int, int] = (1, 1)
    even: tuple[str, ...] = ()
    least: int = 1
    bits: int = 8


def _cvt(code: int) -> Callable[[Image], Any]:
    return lambda pixels: cv2.cvtColor(pixels, code)


_GRAY = Encoding(1, _cvt(cv2.COLOR_GRAY2RGB))
_GRAY16 = _GRAY._replace(bits=16)
_BGR = Encoding(3, _cvt(cv2.COLOR_BGR2RGB))
_BGRA = Encoding(4, _cvt(cv2.COLOR_BGRA2RGB))
_UYVY = Encoding(2, _cvt(cv2.COLOR_YUV2RGB_UYVY), even=('width',))
_YUYV = Encoding(2, _cvt(cv2.COLOR_YUV2RGB_YUY2), even=('width',))


def _bayer(code: int) -> Encoding:
    return Encoding(1, _cvt(code), least=3)  # OpenCV makes a smaller mosaic a black image


# ROS names a Bayer pattern by the first two pixels of its first two rows, OpenCV by the second
# and third pixel of its second row: ROS's RGGB is OpenCV's BG.
_MOSAICS = {
    'bayer_rggb8': _bayer(cv2.COLOR_BayerBG2RGB),
    'bayer_bggr8': _bayer(cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg8': _bayer(cv2.COLOR_BayerGR2RGB),
    'bayer_grbg8': _bayer(cv2.COLOR_BayerGB2RGB),
}

ENCODINGS: dict[str, Encoding] = {
    'rgb8': Encoding(3, lambda pixels: pixels),
    'bgr8': _BGR,
    'rgba8': Encoding(4, _cvt(cv2.COLOR_RGBA2RGB)),
    'bgra8': _BGRA,
    'mono8': _GRAY,
    '8UC1': _GRAY,
    '8UC3': _BGR,
    '8UC4': _BGRA,
    'mono16': _GRAY16,
    '16UC1': _GRAY16,
    'yuv422': _UYVY,
    'uyvy': _UYVY,
    'yuv422_yuy2': _YUYV,
    'yuyv': _YUYV,
    'nv12': Encoding(1, _cvt(cv2.COLOR_YUV2RGB_NV12), (3, 2), ('width', 'height')),
    'nv21': Encoding(1, _cvt(cv2.COLOR_YUV2RGB_NV21), (3, 2), ('width', 'height')),
    **_MOSAICS,
}
"""The encodings with a direct path; others go through cv_bridge where it is installed."""

MAX_COMPRESSED_PIXELS = 100_000_000
# The densest there is: a JPEG of one colour spends 6 bits on 16x16 pixels; deflate turns 1032
# bytes of a PNG into one, each with 8 pixels of a mask of 1 bit.
_JPEG_PIXELS_A_BYTE, _PNG_PIXELS_A_BYTE = 512, 8 * 1032


_RGB, _BGR_ORDER, _RGBA, _BGRA_ORDER = (0, 1, 2), (2, 1, 0), (0, 1, 2, 3), (2, 1, 0, 3)
NUMBERS: dict[str, tuple[str, tuple[int, ...]]] = {
    **dict.fromkeys(('mono8', '8UC1', '8SC1'), ('u1', (0,))),
    **dict.fromkeys(('mono16', '16UC1'), ('u2', (0,))),
    **{'16SC1': ('i2', (0,)), '32SC1': ('i4', (0,))},
    **{'rgb8': ('u1', _RGB), 'rgba8': ('u1', _RGBA)},
    **dict.fromkeys(('bgr8', '8UC3'), ('u1', _BGR_ORDER)),
    **dict.fromkeys(('bgra8', '8UC4'), ('u1', _BGRA_ORDER)),
}
"""The encodings that hold whole numbers: of what type, and where red, green, blue, alpha lie.

A signed byte is taken for an id like any other: its -1 is 255, unlabelled.
"""


class ImageDecoder:
    """Decodes the messages of one stream.

    Values of 16 bits are stretched by the depth that the stream has shown so far (see `Depth`),
    `bits` of them.
    """

    def __init__(self, bits: int = 0) -> None:
        self._depth = Depth(bits)

    @property
    def bits(self) -> int:
        """The depth that the stream has shown so far, 0 if it has no pictures of 16 bits."""
        return self._depth.bits

    def decode(self, msg: Any) -> Image:
        """Return the picture of an Image or CompressedImage message, RGB uint8 `[H, W, 3]`.

        The result of an rgb8 message is a view of the message's data. FrameError names the field
        that is wrong.
        """
        if hasattr(msg, 'encoding'):
            return _raw_image(msg, self._depth)
        return _compressed_image(msg, self._depth)


def image_from_message(msg: Any) -> Image:
    """Return the picture of a message that belongs to no stream (see `ImageDecoder.decode`)."""
    return ImageDecoder().decode(msg)


def stored_from_message(msg: Any) -> Stored:
    """Return the numbers of a message as they are, as those of a label image.

    As `pictures.stored` has them, and int16 and int32 too. FrameError names the field that is
    wrong; a JPEG is refused, which changes the numbers.
    """
    if not hasattr(msg, 'encoding'):
        data, about, allow = _compressed(msg)
        if data.startswith(pictures.JPEG):
            raise FrameError(f'{about} is a JPEG, which changes labels: send PNG or raw images')
        try:
            return pictures.stored(data, about, allow)
        except DataError as error:
            raise FrameError(str(error)) from None
    if msg.encoding not in NUMBERS:
        raise FrameError(f'encoding is {msg.encoding!r}: labels are {", ".join(NUMBERS)}')
    kind, order = NUMBERS[msg.encoding]
    bits = 8 * np.dtype(kind).itemsize
    pixels = _pixels(msg, Encoding(len(order), lambda pixels: pixels, bits=bits))
    values = np.ascontiguousarray(pixels).view(('>' if msg.is_bigendian else '<') + kind)
    values = values[..., order[0]] if len(order) == 1 else values[..., order]
    return Stored(values.astype(kind, copy=False))


def _raw_image(msg: Any, depth: Depth) -> Image:
    encoding = ENCODINGS.get(msg.encoding)
    if encoding is None:
        return _cv_bridge_image(msg)
    pixels = _pixels(msg, encoding)
    if encoding.bits == 16:
        order = '>u2' if msg.is_bigendian else '<u2'
        pixels = depth.eight_bits(np.ascontiguousarray(pixels).view(order))
    if encoding.channels == 1:
        pixels = pixels[..., 0]
    try:
        rgb: Image = encoding.to_rgb(pixels)
    except cv2.error as error:
        raise FrameError(
            f'{msg.width}x{msg.height} {msg.encoding} cannot be converted: {error.err}'
        ) from None
    return rgb


def _pixels(msg: Any, encoding: Encoding) -> Image:
    """Return a view uint8 `[rows, W, bytes of a pixel]` of the data, honouring `step`."""
    height, width, step = msg.height, msg.width, msg.step
    _check_size(msg, encoding.least)
    for field in encoding.even:
        if getattr(msg, field) % 2:
            raise FrameError(f'{field} is {getattr(msg, field)}: {msg.encoding} needs it even')
    pixel_bytes = encoding.channels * encoding.bits // 8
    row_bytes = width * pixel_bytes
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
    return np.lib.stride_tricks.as_strided(
        data, (rows, width, pixel_bytes), (step, pixel_bytes, 1), writeable=False
    )


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


def _compressed(msg: Any) -> tuple[bytes, str, Allow]:
    """Return the data of a CompressedImage, what to call it, and what refuses absurd sizes."""
    data = bytes(msg.data)
    about = f'data ({len(data)} bytes, format {msg.format!r})'
    if not data.startswith((pictures.JPEG, pictures.PNG)):
        raise FrameError(f'{about} is neither JPEG nor PNG')
    densest = _JPEG_PIXELS_A_BYTE if data.startswith(pictures.JPEG) else _PNG_PIXELS_A_BYTE
    most = min(MAX_COMPRESSED_PIXELS, densest * len(data))

    def allow(width: int, height: int) -> None:
        if not 0 < width * height <= most:
            raise FrameError(
                f'data tells of {width}x{height} pixels in {len(data)} bytes: not a camera image'
            )

    return data, about, allow


def _compressed_image(msg: Any, depth: Depth) -> Image:
    data, about, allow = _compressed(msg)
    encoding = _inner_encoding(msg.format)
    try:
        if encoding is None:
            return pictures.rgb(data, about, depth, allow)
        values = pictures.stored(data, about, allow).values
        if values.ndim == 3:  # colours already, whatever the format says
            return pictures.rgb(data, about, depth, allow)
    except DataError as error:
        raise FrameError(str(error)) from None
    if min(values.shape) < encoding.least:
        raise FrameError(f'{about} is {values.shape[1]}x{values.shape[0]}: too small')
    if encoding.bits == 16 and data.startswith(pictures.JPEG):
        values = values.astype(np.uint16) << 8  # a JPEG has the upper 8 bits
    if values.dtype == np.uint16:
        values = depth.eight_bits(values)
    rgb: Image = encoding.to_rgb(np.asarray(values, np.uint8))
    return rgb


def _inner_encoding(format_: str) -> Encoding | None:
    """Return what the one channel of a compressed picture holds, where it is not 8-bit grey.

    image_transport writes `ORIGINAL; jpeg compressed TARGET`: an original mosaic is one still
    unless the target, which may be missing, is grey.
    """
    words = re.split(r'[;\s]+', format_.strip())
    original, target = words[0], words[-1]
    pattern = re.sub('16$', '8', original)
    bits = 8 if pattern == original else 16
    if pattern in _MOSAICS and not target.startswith('mono'):
        return _MOSAICS[pattern]._replace(bits=bits)
    if original in ('mono16', '16UC1') or (pattern in _MOSAICS and bits == 16):
        return _GRAY16
    return None
