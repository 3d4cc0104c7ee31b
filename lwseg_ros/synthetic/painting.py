"""What the painters of the generated street share: sprites, noise and colours.

A sprite is premultiplied RGBA uint8 `[h, w, 4]`, row 0 at the top; a texture is the same with a
full alpha. Every painter draws from the generator it is given and from nothing else.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Noise = npt.NDArray[np.float32]
Color = tuple[float, float, float]

COLORS: tuple[Color, ...] = (
    (28, 30, 38),
    (44, 52, 84),
    (92, 30, 34),
    (150, 146, 138),
    (196, 190, 180),
    (64, 84, 62),
    (170, 70, 40),
    (40, 92, 130),
    (206, 180, 60),
    (84, 66, 54),
    (110, 110, 116),
    (190, 80, 120),
)
"""Colours of clothes, doors and shop fronts."""


def smooth_noise(
    rng: np.random.Generator, height: int, width: int, cells: tuple[float, ...], wrap: bool = False
) -> Noise:
    """Return value noise `[height, width]` float32 of mean 0 and spread about 1.

    `cells` are the grain sizes in pixels, coarse to fine; each weighs as much as the others.
    With `wrap` the last row continues in the first.
    """
    total = np.zeros((height, width), np.float32)
    for cell in cells:
        rows, columns = max(2, round(height / cell)), max(2, round(width / cell))
        grid = rng.standard_normal((rows, columns), np.float32)
        if wrap:
            grid = np.vstack([grid[-1:], grid, grid[:1]])
            tall = round(height * (rows + 2) / rows)
            begin = round(height / rows)
            total += cv2.resize(grid, (width, tall), interpolation=cv2.INTER_LINEAR)[
                begin : begin + height
            ]
        else:
            total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(total / np.sqrt(len(cells)), np.float32)


def pyramid(image: Image, smallest: int = 6) -> list[Image]:
    """Return the image and its halvings (area averages), down to `smallest` pixels."""
    levels = [image]
    while min(levels[-1].shape[:2]) >= 2 * smallest:
        height, width = levels[-1].shape[:2]
        levels.append(
            np.asarray(
                cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA),
                np.uint8,
            )
        )
    return levels


def premultiplied(rgb: npt.NDArray[np.floating], alpha: npt.NDArray[np.floating]) -> Image:
    """Return a sprite of colours `[h, w, 3]` from 0 to 255 and an alpha `[h, w]` from 0 to 1."""
    alpha = np.clip(alpha, 0, 1)[..., None]
    rgba = np.concatenate([np.clip(rgb, 0, 255) * alpha, 255 * alpha], axis=-1)
    return np.asarray(rgba, np.uint8)


def jittered(rng: np.random.Generator, color: Color, spread: float) -> Color:
    """Return a colour that differs a little."""
    r, g, b = np.clip(
        np.asarray(color) + rng.normal(0, spread) + rng.normal(0, spread / 2, 3), 4, 250
    )
    return float(r), float(g), float(b)


def one_of(rng: np.random.Generator, colors: tuple[Color, ...]) -> Color:
    """Return one of the colours, varied a little."""
    return jittered(rng, colors[int(rng.integers(len(colors)))], 8)
