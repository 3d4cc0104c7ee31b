"""The sky over a generated street, and the skyline that closes the view."""

from __future__ import annotations

import numpy as np

from lwseg_ros.synthetic.painting import Image, jittered, smooth_noise
from lwseg_ros.synthetic.scene import BUILDING, TREE, Skyline


def sky(rng: np.random.Generator, mood: float) -> Image:
    """A sky `[256, 1024, 3]` RGB that wraps sideways, horizon on the last row.

    `mood` runs from 0 (overcast) over 0.5 (blue with clouds) to 1 (dusk).
    """
    rows = np.linspace(0, 1, 256, dtype=np.float32)[:, None, None]
    if mood < 0.25:
        high, low, cloud, cover = (176, 182, 190), (216, 218, 220), (236, 238, 240), 0.5
    elif mood < 0.8:
        high, low, cloud, cover = (
            (70, 118, 184),
            (188, 208, 226),
            (244, 244, 246),
            rng.uniform(-0.8, 0.6),
        )
    else:
        high, low, cloud, cover = (
            (84, 96, 138),
            (244, 188, 138),
            (226, 160, 140),
            rng.uniform(-0.6, 0.3),
        )
    base = (
        np.asarray(jittered(rng, high, 8)) * (1 - rows**0.8)
        + np.asarray(jittered(rng, low, 6)) * rows**0.8
    )
    shape = (
        smooth_noise(rng, 1024, 256, (260, 120, 50, 22), wrap=True).T
        + smooth_noise(rng, 256, 1024, (40,)) * 0.1
    )
    amount = np.clip((shape + cover) * 0.9, 0, 1)[..., None] * (0.35 + 0.65 * (1 - rows))
    return np.asarray(np.clip(base * (1 - amount) + np.asarray(cloud) * amount, 0, 255), np.uint8)


def skyline(rng: np.random.Generator, city: bool) -> Skyline:
    """Far trees, or far houses, mostly in a city."""
    heights = smooth_noise(rng, 16, 1024, (120, 30, 6))[8]
    urban = city and rng.random() < 0.7
    if urban:
        heights = np.repeat(heights[::24], 24)[:1024]
    scale = rng.uniform(0.004, 0.03 if urban else 0.014)
    return Skyline(
        np.asarray(scale * (1.2 + heights), np.float32),
        BUILDING if urban else TREE,
        (118, 116, 116) if urban else (66, 84, 60),
    )
