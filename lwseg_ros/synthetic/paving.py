"""What the ground of a generated street is made of: road, markings, side roads, pavements."""

from __future__ import annotations

import cv2
import numpy as np

from lwseg_ros.synthetic.layout import LENGTH, MEDIAN, SHOULDER, Layout
from lwseg_ros.synthetic.painting import smooth_noise
from lwseg_ros.synthetic.scene import COLUMNS, HALF_WIDTH, ROWS, TEXEL, Material


class Paving:
    """The `material` of the ground, `[rows, columns]`, once it is laid, and its junctions.

    A junction is `(s0, s1, side)`: its ends along the road, and 1 if it is on the left, else -1.
    """

    def __init__(self, rng: np.random.Generator, layout: Layout) -> None:
        self.junctions: list[tuple[float, float, int]] = []
        self._rng, self._layout = rng, layout
        self.material = np.full((ROWS, COLUMNS), Material.GRASS, np.uint8)

    def pave(self) -> None:
        """Lay road, kerbs, pavements, side roads and markings."""
        rng, lay = self._rng, self._layout
        half, kind = lay.half, lay.kind
        surface = Material.COBBLES if kind == 'city' and rng.random() < 0.08 else Material.ASPHALT
        if kind == 'city':
            self.strip(-HALF_WIDTH, HALF_WIDTH, Material.SLABS)
        for side in (-1, 1):
            if lay.sidewalk:
                verge = rng.uniform(0.8, 1.8) if rng.random() < 0.3 else 0.0
                inner, outer = half + 0.16 + verge, half + 0.16 + verge + lay.sidewalk
                self.strip(side * inner, side * outer, Material.SLABS)
                self.strip(side * half, side * (half + 0.16), Material.KERB)
            else:
                dirt = rng.uniform(0.2, 1.4)
                self.strip(side * half, side * (half + dirt), Material.DIRT)
        if kind == 'highway':
            other = 1 if lay.keeps_right else -1
            near = half + MEDIAN
            far = near + 2 * half
            self.strip(other * near, other * far, surface)
            self._line(other * (near + SHOULDER - 0.1))
            for lane in range(1, lay.lanes):
                self._line(other * (near + SHOULDER + lane * lay.lane_width), 6, 12)
        self.strip(-half, half, surface)
        self._wander()
        if kind in ('city', 'suburb'):
            self._cross_streets(surface)
        if kind == 'suburb':
            self._driveways()
        if lay.marked and surface == Material.ASPHALT:
            self._markings()
        for _ in range(int(rng.integers(0, 14))):
            s, d = rng.uniform(0, LENGTH - 12), rng.uniform(-half, half - 2)
            patch = self.material[
                round(s / TEXEL) : round((s + rng.uniform(1, 12)) / TEXEL),
                round((d + HALF_WIDTH) / TEXEL) : round(
                    (min(half, d + rng.uniform(0.5, 2.5)) + HALF_WIDTH) / TEXEL
                ),
            ]
            patch[patch == Material.ASPHALT] = Material.PATCH

    def strip(
        self, d0: float, d1: float, material: Material, s0: float = 0, s1: float = LENGTH
    ) -> None:
        """Cover the rectangle between `d0` and `d1` (in any order) and from `s0` to `s1`."""
        left, right = (max(0, round((d + HALF_WIDTH) / TEXEL)) for d in sorted((d0, d1)))
        self.material[max(0, round(s0 / TEXEL)) : round(s1 / TEXEL), left:right] = material

    def at_junction(self, s0: float, s1: float, side: int) -> bool:
        """Tell whether something from `s0` to `s1` on a side would stand in a junction."""
        return any(
            side == which and s0 < end and s1 > start for start, end, which in self.junctions
        )

    def _line(
        self,
        d: float,
        dash: float = 0,
        gap: float = 0,
        width: float = 0.14,
        material: Material = Material.WHITE,
    ) -> None:
        left = round((d - width / 2 + HALF_WIDTH) / TEXEL)
        right = left + max(2, round(width / TEXEL))
        along = np.arange(ROWS) * TEXEL
        rows = np.ones(ROWS, bool) if not dash else along % (dash + gap) < dash
        self.material[rows, left:right] = material

    def _wander(self) -> None:
        """Fray the edges of soil and grass."""
        fray = smooth_noise(self._rng, ROWS, COLUMNS, (24, 9), wrap=True)
        soil = self.material == Material.DIRT
        self.material[soil & (fray > 0.7)] = Material.GRASS
        if self._layout.kind == 'rural' and self._rng.random() < 0.5:
            band = (
                np.abs((np.arange(COLUMNS) + 0.5) * TEXEL - HALF_WIDTH) < self._layout.half + 2.5
            )
            self.material[band & (self.material == Material.GRASS) & (fray > 0.4)] = Material.DIRT

    def _cross_streets(self, surface: Material) -> None:
        rng, half = self._rng, self._layout.half
        s = rng.uniform(20, 60)
        while s < LENGTH - 30:
            width = rng.uniform(2.6, 5.5)
            for side in (-1, 1):
                if rng.random() < 0.7:
                    self.strip(side * half, side * HALF_WIDTH, surface, s - width, s + width)
                    self.junctions.append((s - width, s + width, side))
            if rng.random() < 0.6 and self._layout.marked:
                start = s - width - rng.uniform(4, 7)
                for d in np.arange(-half + 0.4, half - 0.6, 1.0):
                    self.strip(d, d + 0.5, Material.WHITE, start, start + 3)
                d0, d1 = (-half, 0.0) if self._layout.keeps_right else (0.0, half)
                self.strip(d0 + 0.3, d1 - 0.1, Material.WHITE, start - 1.8, start - 1.4)
            s += rng.uniform(45, 110)

    def _driveways(self) -> None:
        rng, half = self._rng, self._layout.half
        for s in np.arange(8, LENGTH - 8, 17.0):
            for side in (-1, 1):
                if rng.random() < 0.6 and not self.at_junction(s - 4, s + 4, side):
                    self.strip(
                        side * (half + 0.16),
                        side * (half + 13),
                        Material.SLABS,
                        s,
                        s + rng.uniform(2.5, 4),
                    )

    def _markings(self) -> None:
        rng, lay = self._rng, self._layout
        inner = lay.lanes * lay.lane_width
        dash, gap = ((6.0, 12.0), (3.0, 6.0), (4.0, 4.0), (2.0, 4.0))[int(rng.integers(4))]
        if lay.kind == 'highway':
            start = -lay.lanes * lay.lane_width / 2
            for lane in range(1, lay.lanes):
                self._line(start + lane * lay.lane_width, dash, gap, 0.15)
            for side in (-1, 1):
                self._line(side * (inner / 2 + 0.1), width=0.2)
            return
        center = Material.YELLOW if rng.random() < 0.25 else Material.WHITE
        if rng.random() < 0.35:
            self._line(-0.12, width=0.12, material=center)
            self._line(0.12, width=0.12, material=center)
        else:
            self._line(0, dash, gap, 0.14, center)
        for side in (-1, 1):
            for lane in range(1, lay.lanes):
                self._line(side * lane * lay.lane_width, dash, gap, 0.12)
            if lay.parking:
                self._line(side * (inner + 0.1), 0 if rng.random() < 0.5 else 1.0, 1.0, 0.12)
            elif lay.kind == 'rural' or rng.random() < 0.25:
                self._line(
                    side * (lay.half - 0.2),
                    width=0.12,
                    material=Material.YELLOW if rng.random() < 0.2 else Material.WHITE,
                )
        for s in rng.uniform(0, LENGTH - 8, int(rng.integers(0, 5))):
            self._arrow(float(s), lay.ego_d)

    def _arrow(self, s: float, d: float) -> None:
        shape = np.array(
            [[0, -0.08], [0, 0.08], [2.6, 0.08], [2.6, 0.45], [4.4, 0], [2.6, -0.45], [2.6, -0.08]]
        )
        rows, columns = (s + shape[:, 0]) / TEXEL, (d + shape[:, 1] + HALF_WIDTH) / TEXEL
        cv2.fillPoly(
            self.material,
            [np.stack([columns, rows], axis=1).astype(np.int32)],
            int(Material.WHITE),
        )
