"""Paint label images: class ids to colours, and colours over the camera image."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lwseg_ros.errors import LwsegError
from lwseg_ros.label_space import IGNORE_ID


def colorize(labels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the RGB picture uint8 `[H, W, 3]` of a label image uint8 `[H, W]`.

    `palette` is uint8 `[256, 3]`, the RGB colour of every id (`LabelSpace.palette`).
    """
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise LwsegError(f'a label image is uint8 [H, W], not {labels.dtype} {labels.shape}')
    return _uint8(cv2.applyColorMap(labels, palette.reshape(256, 1, 3)))


def overlay(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    palette: NDArray[np.uint8],
    alpha: float = 0.5,
) -> NDArray[np.uint8]:
    """Return the image uint8 `[H, W, 3]` RGB with its labels painted over it.

    `alpha` is the share of the label's colour, 0 to 1. Pixels without a label (255) keep the
    camera's. Labels of another size are fitted to the image by nearest neighbour.
    """
    height, width = image.shape[:2]
    if labels.shape != (height, width):
        labels = _uint8(cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST))
    painted = _uint8(cv2.addWeighted(colorize(labels, palette), alpha, image, 1.0 - alpha, 0.0))
    unlabelled = cv2.inRange(labels, (IGNORE_ID,), (IGNORE_ID,))
    if cv2.countNonZero(unlabelled):
        cv2.copyTo(image, unlabelled, painted)
    return painted


def _uint8(picture: Any) -> NDArray[np.uint8]:
    """Tell the type checker what OpenCV's stubs leave open."""
    result: NDArray[np.uint8] = picture
    return result
