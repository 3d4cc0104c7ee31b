"""Images of our own making, on which a network shows what it does."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_CHECK_IMAGES = 4
_PLAIN = (0, 255, 128)


def check_images(size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Return seeded images uint8 `[1, h, w, 3]`: coarse colours with noise on them."""
    random = np.random.default_rng(0)
    images = []
    for _ in range(_CHECK_IMAGES):
        coarse = random.integers(0, 224, (8, 12, 3), dtype=np.uint8)
        image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR)
        noise = random.integers(0, 32, image.shape, dtype=np.uint8)
        images.append((np.asarray(image, np.uint8) + noise)[np.newaxis])
    return images


def plain_images(size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Return a black, a white and a grey image, uint8 `[1, h, w, 3]`."""
    return [np.full((1, *size, 3), level, np.uint8) for level in _PLAIN]
