"""Does a reduced precision still name the classes that fp32 names? On images of our own making."""

from __future__ import annotations

import numpy as np

from lwseg_ros.inference.backends.base import Backend
from lwseg_ros.inference.check_images import check_images
from lwseg_ros.inference.model_info import ModelInfo

LEAST_AGREEMENT = 0.99
"""The share of pixels on which a reduced precision must name the class that fp32 names."""


def label_agreement(
    first: Backend, second: Backend, info: ModelInfo, size: tuple[int, int]
) -> float:
    """Return the share of pixels on which two backends name the same class; NaN if one is broken.

    `size` is the network size (height, width) of both.

    Broken is a backend whose logits are not finite somewhere: `graph.py` gives such a pixel the
    confidence 0 and no other.
    """
    classes = info.label_space.drivable_vector()
    shares = []
    for images in check_images(size):
        planes = [backend.run(images, classes) for backend in (first, second)]
        if any(not plane.confidence.all() for plane in planes):
            return float('nan')
        shares.append(np.mean(planes[0].labels == planes[1].labels))
    return float(np.mean(shares))


def refusal(agreement: float) -> str:
    """Return why a reduced precision of this agreement must not be used, or '' if it may."""
    if np.isnan(agreement):
        return 'it gives NaN or infinity'
    if agreement < LEAST_AGREEMENT:
        return (
            f'it agrees with fp32 on {100 * agreement:.2f} % of the pixels, '
            f'{100 * LEAST_AGREEMENT:g} % are wanted'
        )
    return ''
