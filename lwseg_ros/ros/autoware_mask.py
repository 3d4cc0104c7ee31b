"""The label image as Autoware's segmentation fusion reads it: its ids, in run lengths."""

from __future__ import annotations

import array
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image

from lwseg_ros.errors import LwsegError
from lwseg_ros.label_space import IGNORE_ID, LabelSpace

RUN = np.dtype([('id', 'u1'), ('count', '<i4')])
"""One run of equal pixels, row by row over the whole image; five bytes."""

_UNKNOWN = 0


def autoware_ids(space: LabelSpace) -> NDArray[np.uint8]:
    """Return the table from the ids of a label space to Autoware's, uint8 `[256]`, 255 for none.

    LwsegError if the classes cannot be told there.
    """
    try:
        return space.lookup_table(LabelSpace.load('autoware'))
    except LwsegError as error:
        raise LwsegError(
            f'output.autoware_mask is set, but the model speaks {space.name}: {error}'
        ) from None


def autoware_message(header: Any, ids: NDArray[np.uint8], size: tuple[int, int]) -> Image:
    """Return the message of Autoware's ids uint8 `[h, w]` at the size (height, width).

    255, unlabelled, becomes UNKNOWN.
    """
    height, width = size
    if ids.shape != size:
        ids = np.asarray(
            cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8
        )
    message = Image(header=header, height=height, width=width, encoding='mono8', step=width)
    runs = run_lengths(ids)
    runs['id'][runs['id'] == IGNORE_ID] = _UNKNOWN
    message.data = array.array('B', runs.tobytes())
    return message


def run_lengths(ids: NDArray[np.uint8]) -> NDArray[Any]:
    """Return the runs of equal pixels of an image uint8 `[h, w]`, as RUN `[n]`."""
    pixels = ids.ravel()
    starts = np.append(0, np.flatnonzero(pixels[1:] != pixels[:-1]) + 1)
    runs = np.empty(len(starts), RUN)
    runs['id'] = pixels[starts]
    runs['count'] = np.diff(starts, append=pixels.size)
    return runs
