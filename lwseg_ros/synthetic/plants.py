"""Paint trees, bushes and hedges: see `painting`."""

from __future__ import annotations

import cv2
import numpy as np

from lwseg_ros.synthetic.painting import Color, Image, jittered, premultiplied, smooth_noise


def tree(rng: np.random.Generator, season: float) -> Image:
    """A broad-leaved tree or a conifer, 256x256; `season` 0 is spring green, 1 is autumn."""
    green: Color = (66 + 20 * season, 96 - 8 * season, 40)
    if season > 0.75 and rng.random() < 0.5:
        green = (150, 98, 38)
    green = jittered(rng, green, 10)
    canvas = np.zeros((256, 256, 4), np.uint8)
    trunk = jittered(rng, (74, 62, 50), 10)
    width = int(rng.integers(4, 10))
    lean = int(rng.integers(-10, 11))
    bark = np.array(
        [
            [128 - width, 255],
            [128 + width, 255],
            [128 + lean + width // 2, 90],
            [128 + lean - width // 2, 90],
        ]
    )
    cv2.fillPoly(canvas, [bark], (*trunk, 255))
    cv2.fillPoly(
        canvas,
        [bark[[1, 1, 2, 2]] - [[width, 0], [0, 0], [0, 0], [width // 2, 0]]],
        (*(0.7 * c for c in trunk), 255),
    )
    if rng.random() < 0.3:
        layers = tuple((0.5, y, 0.05 + 0.36 * y, 0.07) for y in np.linspace(0.08, 0.86, 9))
        crown = _blobs(
            rng, (256, 256), layers, (green[0] * 0.7, green[1] * 0.8, green[2] * 0.95), 26
        )
    else:
        low = rng.uniform(0.27, 0.38)
        parts = [(0.5, low, rng.uniform(0.28, 0.4), low * 0.82)]
        for _ in range(int(rng.integers(2, 5))):
            parts.append(
                (rng.uniform(0.28, 0.72), rng.uniform(0.2, 0.48), rng.uniform(0.12, 0.24), 0.14)
            )
        crown = _blobs(rng, (256, 256), tuple(parts), green, 130)
    return _over(canvas, crown)


def bush(rng: np.random.Generator, season: float) -> Image:
    """A bush or a clump of high grass, 128x192, rooted on its last row."""
    green = jittered(rng, (70 + 30 * season, 98, 44), 12)
    parts = tuple(
        (
            rng.uniform(0.25, 0.75),
            rng.uniform(0.55, 0.8),
            rng.uniform(0.18, 0.3),
            rng.uniform(0.25, 0.4),
        )
        for _ in range(4)
    )
    return _blobs(rng, (128, 192), (*parts, (0.5, 0.9, 0.42, 0.16)), green, 45)


def hedge(rng: np.random.Generator, season: float) -> Image:
    """Four metres of hedge, 96x256, closed below and ragged on top."""
    green = np.asarray(jittered(rng, (60 + 20 * season, 88, 40), 10), np.float32)
    leaves = smooth_noise(rng, 96, 256, (20, 7, 3))
    rgb = green * (1 + 0.3 * leaves[..., None]) * np.linspace(1.2, 0.6, 96)[:, None, None]
    rows = np.arange(96, dtype=np.float32)[:, None]
    return premultiplied(rgb, (rows - 6 - 4 * leaves) / 2)


def _blobs(
    rng: np.random.Generator,
    size: tuple[int, int],
    outline: tuple[tuple[float, float, float, float], ...],
    color: Color,
    count: int,
) -> Image:
    """Foliage: leaf clumps inside ellipses `(x, y, rx, ry)` in fractions, lit from above."""
    height, width = size
    rgb = np.zeros((height, width, 3), np.uint8)
    alpha = np.zeros((height, width), np.uint8)
    clumps = []
    for x, y, rx, ry in outline:
        radius = np.sqrt(rng.random(count)) * rng.uniform(0.8, 1.0, count)
        angle = rng.random(count) * 2 * np.pi
        px, py = x + rx * radius * np.cos(angle), y + ry * radius * np.sin(angle)
        light = 0.75 - 0.6 * (py - y) / max(ry, 1e-3) - 0.25 * (px - x) / max(rx, 1e-3)
        clumps.append(np.stack([px, py, light + rng.normal(0, 0.22, count)], axis=1))
    order = np.concatenate(clumps)
    for px, py, light in order[np.argsort(order[:, 2])]:
        center = (int(px * width), int(py * height))
        axes = (
            int(rng.uniform(0.01, 0.04) * width) + 2,
            int(rng.uniform(0.01, 0.035) * height) + 2,
        )
        shade = 0.42 + 0.4 * float(np.clip(light, -0.2, 1.6))
        tint = tuple(shade * c for c in jittered(rng, color, 7))
        turn = float(rng.uniform(0, 180))
        cv2.ellipse(rgb, center, axes, turn, 0, 360, tint, -1)
        cv2.ellipse(alpha, center, axes, turn, 0, 360, 255, -1)
    leaves = smooth_noise(rng, height, width, (9, 4, 2))
    inside = cv2.GaussianBlur(alpha, (0, 0), 4).astype(np.float32) / 255
    ragged = np.clip((inside + 0.22 * leaves - 0.42) * 5, 0, 1) * (alpha > 0)
    return premultiplied(rgb * (1 + 0.24 * leaves[..., None]), ragged)


def _over(below: Image, above: Image) -> Image:
    keep = 255 - above[..., 3:].astype(np.uint16)
    return np.asarray(above + (below * keep + 127) // 255, np.uint8)
