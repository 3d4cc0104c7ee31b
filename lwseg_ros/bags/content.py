"""What the pictures of an image topic hold: a scene, or the ids and colours of a mask."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lwseg_ros.errors import FrameError
from lwseg_ros.image_messages import stored_from_message

_NO_PICTURE = re.compile(r'16UC1|16SC\d|8SC\d|32[SF]C\d|64FC\d')
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


def is_no_picture(message: Any) -> bool:
    """Tell whether an image message is encoded as distances (REP 118) or other numbers are."""
    kind = message.encoding if hasattr(message, 'encoding') else message.format
    return _NO_PICTURE.match(kind) is not None


def holds_ids(messages: Sequence[Any], or_colors: bool) -> bool:
    """Tell whether the pictures of a topic, some messages of it, are of class ids.

    These are few small numbers, each over whole areas, in one channel or equal in all. With
    `or_colors` few values or colours of any size count, too: painted masks, and 0 and 255.
    """
    samples: list[npt.NDArray[np.int64]] = []
    for message in messages:
        picture = _values(message)
        if picture is None or (samples and picture.shape[1:] != samples[0].shape[1:]):
            return False
        samples.append(picture)
    if not samples:
        return False
    rows = _telling(np.concatenate(samples))
    values = np.unique(_numbers(rows))
    if not 2 <= len(values) <= _MAX_VALUES:
        return False
    differences = np.abs(np.diff(rows, axis=1)).max(axis=2).reshape(-1)
    edges = differences[differences > 0]
    if len(edges) > (1 - _LEAST_EQUAL) * len(differences):
        return False
    is_stepped = np.count_nonzero(edges > 1) >= _LEAST_STEPS * len(edges)
    ids = values[values != _VOID_ID]
    if rows.shape[2] == 1 and len(ids) > 1 and ids[-1] < _MAX_ID:
        return bool(is_stepped or ids[-1] < _FIRST_IDS)
    return bool(is_stepped and or_colors)


def _values(message: Any) -> npt.NDArray[np.int64] | None:
    """Return values `[rows, W]` or `[rows, W, C]` of some rows, None if no mask has such."""
    try:
        values = stored_from_message(message).values
    except FrameError:
        return None
    if min(values.shape[:2]) < 2:
        return None
    return np.asarray(values[:: max(1, len(values) // _ROWS)], np.int64)


def _telling(picture: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the channels `[H, W, C]` of a picture that tell something: the one that has ids."""
    if picture.ndim == 2:
        return picture[..., None]
    colors = picture[..., :3]
    if (colors == colors[..., :1]).all():
        return colors[..., :1]
    used = colors.any(axis=(0, 1))
    return colors[..., used] if used.sum() == 1 else colors  # as CARLA has ids


def _numbers(picture: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return a number `[H, W]` for each value or colour."""
    shifts = 16 * np.arange(picture.shape[2])
    return np.asarray((picture << shifts).sum(axis=2), np.int64)
