"""Where neither the sun nor the sky lights the ground of a generated street."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros.synthetic.layout import LENGTH, Layout
from lwseg_ros.synthetic.scene import COLUMNS, HALF_WIDTH, ROWS, TEXEL


class Shadows:
    """The shadows on the ground, at a quarter of its resolution until they are asked for."""

    def __init__(self, rng: np.random.Generator, layout: Layout) -> None:
        self._rng, self._layout = rng, layout
        self._shade = np.full((ROWS // 4, COLUMNS // 4), 255, np.uint8)

    def cast(self, s0: float, s1: float, d0: float, d1: float, height: float) -> None:
        """Darken the ground where the sun does not reach behind a box."""
        sun = self._layout.sun
        reach = height / max(float(sun[2]), 0.25)
        ds, dd = -float(sun[0]) * reach, -float(sun[1]) * reach
        corners = np.array([[s, d] for s in (s0, s1) for d in (d0, d1)])
        hull = cv2.convexHull(np.concatenate([corners, corners + [ds, dd]]).astype(np.float32))[
            :, 0
        ]
        for shift in (-LENGTH, 0.0, LENGTH):
            points = np.stack([hull[:, 1] + HALF_WIDTH, hull[:, 0] + shift], axis=1) / (4 * TEXEL)
            cv2.fillPoly(self._shade, [points.astype(np.int32)], 0)

    def cast_crown(self, s: float, d: float, size: float) -> None:
        """Darken the ground where the sun comes through a crown, in spots."""
        sun = self._layout.sun
        reach = 0.6 * size / max(float(sun[2]), 0.3)
        for _ in range(14):
            ds, dd = self._rng.normal(0, 0.16 * size, 2)
            center = (
                (d + dd - float(sun[1]) * reach + HALF_WIDTH) / (4 * TEXEL),
                ((s + ds - float(sun[0]) * reach) % LENGTH) / (4 * TEXEL),
            )
            radius = max(1, round(self._rng.uniform(0.08, 0.17) * size / (4 * TEXEL)))
            cv2.circle(self._shade, (round(center[0]), round(center[1])), radius, 0, -1)

    def light(self, tunnels: list[tuple[float, float]]) -> npt.NDArray[np.float32]:
        """Return the light on the ground as a gain, float32 `[rows, columns]`."""
        depth = float(np.clip(np.sin(np.pi * min(1.0, self._layout.mood)) * 1.2, 0.05, 0.62))
        soft = cv2.GaussianBlur(self._shade, (0, 0), 1.0)
        lit = np.asarray(
            cv2.resize(soft, (COLUMNS, ROWS), interpolation=cv2.INTER_LINEAR), np.float32
        )
        sunlit = 1 - depth + depth * lit / 255
        d = (np.arange(COLUMNS) + 0.5) * TEXEL - HALF_WIDTH
        reach = self._layout.half + self._layout.sidewalk + 1.2
        for s0, s1 in tunnels:
            along = (np.arange(ROWS) + 0.5) * TEXEL
            inside = np.clip(np.minimum(along - s0, s1 - along) / 5, 0, 1)
            cover = (np.abs(d) < reach + 40).astype(np.float32)
            sunlit *= 1 - 0.62 * inside[:, None] * cover
        return np.asarray(sunlit, np.float32)
