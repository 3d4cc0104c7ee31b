"""What the pictures of an image topic hold: a scene, or the ids and colours of a mask."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros.errors import FrameError
from lwseg_ros.image_messages import image_from_message

_NO_PICTURE = re.compile(r'16UC1|16SC\d|8SC\d|32[SF]C\d|64FC\d')
_CHANNELS = {
    **dict.fromkeys(('mono8', '8UC1', 'mono16'), 1),
    **dict.fromkeys(('rgb8', 'bgr8', '8UC3'), 3),
    **dict.fromkeys(('rgba8', 'bgra8', '8UC4'), 4),
}
# All our choice. Label spaces have fewer classes; the noise of a camera makes neighbours differ,
# in the dark, too, and where it is filtered out they differ by 1; what is as dark as the first few
# ids shows nothing.
_MAX_VALUES = 40
_MAX_ID = 64
_FIRST_IDS = 5
_VOID_ID = 255
_LEAST_EQUAL = 0.8
_LEAST_STEPS = 0.3
_ROWS = 128
_NO_ID = 1 << 24


def is_no_picture(message: Any) -> bool:
    """Tell whether an image message is encoded as distances (REP 118) or other numbers are."""
    kind = message.encoding if hasattr(message, 'encoding') else message.format
    return _NO_PICTURE.match(kind) is not None


def holds_ids(messages: Sequence[Any], or_colors: bool) -> bool:
    """Tell whether the pictures of a topic, some messages of it, are of class ids.

    These are few small numbers, each over whole areas, in one channel or equal in all. With
    `or_colors` few values or colours of any size count, too: painted masks, and 0 and 255.
    """
    pictures = [_values(message) for message in messages]
    if not pictures or any(picture is None for picture in pictures):
        return False
    samples = [_one_channel(p[:: max(1, len(p) // _ROWS)]) for p in pictures if p is not None]
    values = np.unique(np.concatenate([sample.reshape(-1) for sample in samples]))
    if not 2 <= len(values) <= _MAX_VALUES:
        return False
    before = np.concatenate([sample[:, :-1].reshape(-1) for sample in samples])
    after = np.concatenate([sample[:, 1:].reshape(-1) for sample in samples])
    differs = before != after
    if differs.mean() > 1 - _LEAST_EQUAL:
        return False
    steps = np.abs(after[differs] - before[differs]) > 1
    is_stepped = np.count_nonzero(steps) >= _LEAST_STEPS * len(steps)
    ids = values[values != _VOID_ID]
    if len(ids) > 1 and ids[-1] < _MAX_ID:
        return bool(is_stepped or ids[-1] < _FIRST_IDS)
    return bool(is_stepped and or_colors)


def _values(message: Any) -> npt.NDArray[np.int64] | None:
    """Return the values `[H, W]` or `[H, W, C]` of a message, None if no mask has such."""
    if not hasattr(message, 'encoding'):
        data = bytes(message.data)
        if not data.startswith(b'\x89PNG'):
            return None
        try:
            image_from_message(message)  # refuses what is damaged
        except FrameError:
            return None
        picture: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        return np.asarray(picture, np.int64)
    channels = _CHANNELS.get(message.encoding)
    if channels is None:
        return None
    kind: np.dtype[Any] = np.dtype(np.uint8)
    if message.encoding == 'mono16':
        kind = np.dtype('>u2' if message.is_bigendian else '<u2')
    height, width, step = message.height, message.width, message.step
    row = width * channels * kind.itemsize
    stored = np.frombuffer(message.data, np.uint8)
    if min(height, width) < 2 or step < row or stored.size < height * step:
        return None
    rows = stored[: height * step].reshape(height, step)[:, :row]
    pixels = np.ascontiguousarray(rows).view(kind).astype(np.int64)
    return pixels if channels == 1 else pixels.reshape(height, width, channels)


def _one_channel(picture: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return a picture `[H, W]`: the channel that has ids, or a number for each colour."""
    if picture.ndim == 2:
        return picture
    channels = [picture[..., i] for i in range(min(3, picture.shape[2]))]
    if all((channel == channels[0]).all() for channel in channels):
        return channels[0]
    used = [channel for channel in channels if channel.any()]
    if len(used) == 1:  # as CARLA has ids
        return used[0]
    colors = sum(channel << 8 * place for place, channel in enumerate(channels))
    return np.asarray(colors + _NO_ID, np.int64)
