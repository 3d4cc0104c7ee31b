"""What stands along a generated street: houses, plants, fences, lamps, signs, bridges."""

from __future__ import annotations

import numpy as np

from lwseg_ros.synthetic import meshes, plants, signs, walls
from lwseg_ros.synthetic.layout import LENGTH, MEDIAN, Layout
from lwseg_ros.synthetic.meshes import Polygon
from lwseg_ros.synthetic.painting import Image, pyramid
from lwseg_ros.synthetic.paving import Paving
from lwseg_ros.synthetic.scene import (
    BUILDING,
    FENCE,
    HALF_WIDTH,
    POLE,
    SIGN,
    TREE,
    Billboard,
    Material,
    Panel,
    Solid,
)
from lwseg_ros.synthetic.shadows import Shadows


class Roadside:
    """What is beside and above the road: `items` and, under bridges, `tunnels`, `(s0, s1)`.

    It paves parks, and casts the shadows of what it puts up.
    """

    def __init__(
        self, rng: np.random.Generator, layout: Layout, paving: Paving, shadows: Shadows
    ) -> None:
        self.items: list[Billboard | Panel | Solid] = []
        self.tunnels: list[tuple[float, float]] = []
        self._rng, self._layout, self._paving, self._shadows = rng, layout, paving, shadows

    def furnish(self) -> None:
        """Put up buildings, fences, trees, lamps and signs on both sides."""
        rng, lay = self._rng, self._layout
        self._trees = [pyramid(plants.tree(rng, lay.season)) for _ in range(6)]
        self._bushes = [pyramid(plants.bush(rng, lay.season)) for _ in range(4)]
        for side in (-1, 1):
            if lay.kind == 'city':
                self._terrace(side)
            elif lay.kind == 'suburb':
                self._houses(side)
            self._greenery(side)
            self._street_furniture(side)
        if lay.kind == 'highway':
            self._barriers()
        elif lay.kind == 'rural' and rng.random() < 0.6:
            start = rng.uniform(20, 200)
            side = int(rng.choice([-1, 1]))
            self._along(
                side * (lay.half + 0.8),
                start,
                start + rng.uniform(40, 140),
                0.75,
                pyramid(walls.guard_rail(rng)),
                FENCE,
            )
        if rng.random() < (0.75 if lay.kind == 'highway' else 0.22):
            self._bridge(
                rng.uniform(70, 300),
                rng.uniform(8, 16) if rng.random() < 0.6 else rng.uniform(30, 60),
            )

    def _along(
        self, d: float, s0: float, s1: float, height: float, pictures: list[Image], label: int
    ) -> None:
        for s in np.arange(s0, s1 - 3.9, 4.0):
            gain = float(self._rng.uniform(0.93, 1.05))
            self.items.append(
                Panel(float(s), d, float(s) + 4.0, d, 0, height, pictures, label, gain)
            )
        self._shadows.cast(s0, s1, d, d, height)

    def _sun_gain(self, ds: float, dd: float) -> float:
        lit = max(0.0, float(self._layout.sun[0]) * ds + float(self._layout.sun[1]) * dd)
        return 0.72 + 0.42 * lit

    def _box(
        self,
        s0: float,
        s1: float,
        side: int,
        front: float,
        depth: float,
        height: float,
        pictures: list[Image],
        flank: list[Image],
    ) -> None:
        d0, d1 = side * front, side * (front + depth)
        # panels no longer than 10 m keep the drawing order right
        parts = max(1, round((s1 - s0) / 10))
        edges = np.linspace(s0, s1, parts + 1)
        width = pictures[0].shape[1]
        for part in range(parts):
            cut = [
                p[:, p.shape[1] * part // parts : p.shape[1] * (part + 1) // parts]
                for p in pictures
                if width > 40
            ]
            self.items.append(
                Panel(
                    float(edges[part]),
                    d0,
                    float(edges[part + 1]),
                    d0,
                    0,
                    height,
                    cut or pictures,
                    BUILDING,
                    self._sun_gain(0, -side),
                )
            )
        self.items.append(Panel(s0, d1, s0, d0, 0, height, flank, BUILDING, self._sun_gain(-1, 0)))
        self._shadows.cast(s0, s1, d0, d1, height)

    def _terrace(self, side: int) -> None:
        rng, lay = self._rng, self._layout
        fronts = []
        for _ in range(7):
            width, height = rng.uniform(9, 20), rng.uniform(7, 17)
            fronts.append(
                (
                    width,
                    height,
                    pyramid(walls.facade(rng, width, height, bool(rng.random() < 0.6))),
                )
            )
        flank = pyramid(walls.wall(rng))
        s, gap_left = 0.0, 0.0
        while True:
            width, height, pictures = fronts[int(rng.integers(len(fronts)))]
            if s + width > LENGTH - 4:
                break
            if self._paving.at_junction(s - 1, s + width + 1, side):
                s += 2.0
                continue
            if gap_left <= 0 and rng.random() < 0.1:
                self._park(side, s, s + 18)
                s += 18
                gap_left = 60
                continue
            self._box(
                s,
                s + width,
                side,
                lay.facade + rng.choice([0, 0, 0.6]),
                11,
                height,
                pictures,
                flank,
            )
            gap_left -= width
            s += width

    def _park(self, side: int, s0: float, s1: float) -> None:
        rng, lay = self._rng, self._layout
        self._paving.strip(side * lay.facade, side * HALF_WIDTH, Material.GRASS, s0, s1)
        for s in rng.uniform(s0 + 2, s1 - 2, 7):
            self._plant(float(s), side * (lay.facade + rng.uniform(2, 16)), rng.uniform(5, 11))
        kind = walls.fence(rng) if rng.random() < 0.6 else walls.wall(rng)
        self._along(
            side * lay.facade,
            s0,
            s1,
            rng.uniform(0.9, 1.8),
            pyramid(kind),
            FENCE if kind.shape[0] == 80 else BUILDING,
        )

    def _houses(self, side: int) -> None:
        rng, lay = self._rng, self._layout
        fronts = []
        for _ in range(5):
            width, height = rng.uniform(7, 13), rng.uniform(3.2, 6.2)
            fronts.append((width, height, pyramid(walls.facade(rng, width, height, False))))
        flank = pyramid(walls.wall(rng))
        barrier = int(rng.integers(4))
        skin = (
            walls.fence(rng),
            plants.hedge(rng, lay.season),
            walls.wall(rng),
            walls.fence(rng),
        )[barrier]
        border, label = pyramid(skin), (FENCE, TREE, BUILDING, FENCE)[barrier]
        border_height = float(rng.uniform(0.8, 1.8))
        edge = lay.half + lay.sidewalk + 2.1
        s = rng.uniform(1, 6)
        while s < LENGTH - 16:
            width, height, pictures = fronts[int(rng.integers(len(fronts)))]
            if self._paving.at_junction(s - 3, s + width + 3, side):
                s += 3
                continue
            front = lay.facade + rng.uniform(0, 3)
            self._box(s, s + width, side, front, 8, height, pictures, flank)
            tiles = meshes.tinted(
                rng,
                ((120, 62, 48), (84, 76, 74), (70, 62, 60), (150, 80, 60))[int(rng.integers(4))],
            )
            roof = meshes.gable_roof(
                width, 8, height, height + rng.uniform(1.8, 3.4), tiles, lay.sun
            )
            if side < 0:
                roof = [
                    Polygon(
                        np.ascontiguousarray((p.points * np.array([1, -1, 1], np.float32))[::-1]),
                        p.color,
                    )
                    for p in roof
                ]
            self.items.append(Solid(s, side * front, roof, BUILDING, (0, 0)))
            if rng.random() < 0.75:
                self._along(side * edge, s + 3, s + width + 2, border_height, border, label)
            s += width + rng.uniform(2, 12)

    def _plant(self, s: float, d: float, size: float) -> None:
        if size > 2.5:
            pictures = self._trees[int(self._rng.integers(len(self._trees)))]
            self.items.append(Billboard(s, d, -0.1, size * 0.95, size, pictures, TREE))
            self._shadows.cast_crown(s, d, size)
        else:
            pictures = self._bushes[int(self._rng.integers(len(self._bushes)))]
            self.items.append(Billboard(s, d, -0.05, size * 1.4, size, pictures, TREE))

    def _greenery(self, side: int) -> None:
        rng, lay = self._rng, self._layout
        if lay.kind == 'city':
            if rng.random() < 0.6 and lay.sidewalk > 2:
                for s in np.arange(rng.uniform(0, 12), LENGTH, rng.uniform(8, 22)):
                    if not self._paving.at_junction(s - 1, s + 1, side) and rng.random() < 0.8:
                        self._plant(float(s), side * (lay.half + 0.9), rng.uniform(4.5, 9))
            return
        inner = lay.half + (lay.sidewalk + 2.5 if lay.kind == 'suburb' else rng.uniform(2, 6))
        dense = 0.9 if rng.random() < 0.4 else rng.uniform(0.15, 0.6)
        for s in np.arange(0, LENGTH, 3.2):
            if self._paving.at_junction(s - 1, s + 1, side) or rng.random() > dense:
                continue
            far = rng.uniform(0, 16)
            size = rng.uniform(4, 12) if rng.random() < 0.55 else rng.uniform(0.6, 2.4)
            if lay.kind == 'highway' and side == (1 if lay.keeps_right else -1):
                far += 2 * lay.half + MEDIAN + 2
            self._plant(
                float(s), side * min(inner + far + 0.3 * size, HALF_WIDTH + 8), float(size)
            )

    def _street_furniture(self, side: int) -> None:
        rng, lay = self._rng, self._layout
        d = side * (lay.half + (0.6 if lay.sidewalk else 1.6))
        if lay.kind != 'rural' or rng.random() < 0.4:
            height, lamp_phase = rng.uniform(5, 9), rng.uniform(0, 20)
            for s in np.arange(lamp_phase, LENGTH, rng.uniform(22, 42)):
                self._lamp(float(s), d, float(height), -side)
        spacing = 26 if lay.kind == 'city' else 45
        for s in np.arange(rng.uniform(0, 30), LENGTH, spacing):
            if rng.random() < 0.75:
                plate = pyramid(signs.sign(rng))
                size, base = rng.uniform(0.6, 0.95), rng.uniform(1.9, 2.6)
                place = float(s + rng.uniform(0, 8))
                self._pole(place, d, base + size / 2, 0.08)
                self.items.append(Billboard(place - 0.06, d, base, size, size, plate, SIGN))
        for s, _, which in self._paving.junctions:
            if which == side and rng.random() < 0.6 and lay.kind == 'city':
                head = pyramid(signs.traffic_light(rng))
                self._pole(s - 3, d, 3.3, 0.12)
                self.items.append(Billboard(s - 3.1, d, 2.3, 0.36, 0.95, head, SIGN))
        for _ in range(2 if lay.kind == 'highway' else 1):
            if rng.random() < 0.6:
                s = rng.uniform(20, LENGTH - 20)
                picture = pyramid(signs.board(rng))
                low = rng.uniform(2.2, 3.2)
                for offset in (-0.9, 0.9):
                    self._pole(s + 0.1, d + side * 2.0 + offset, low + 1.0, 0.14)
                self.items.append(Billboard(s, d + side * 2.0, low, 3.4, 1.7, picture, SIGN))

    def _pole(self, s: float, d: float, height: float, width: float) -> None:
        shade = np.linspace(1.25, 0.55, 8)[None, :, None] * np.asarray(
            meshes.tinted(self._rng, (104, 106, 108))
        )
        rgb = np.broadcast_to(np.clip(shade, 0, 255), (32, 8, 3))
        picture = np.asarray(np.dstack([rgb, np.full((32, 8), 255)]), np.uint8)
        self.items.append(Billboard(s, d, 0, width, height, [picture], POLE))

    def _lamp(self, s: float, d: float, height: float, toward: int) -> None:
        self._pole(s, d, height, 0.17)
        arm = np.full((8, 32, 4), (96, 98, 100, 255), np.uint8)
        self.items.append(
            Billboard(s - 0.05, d + toward * 0.9, height - 0.15, 1.9, 0.16, [arm], POLE)
        )

    def _barriers(self) -> None:
        rng, lay = self._rng, self._layout
        rail = pyramid(walls.guard_rail(rng))
        other = 1 if lay.keeps_right else -1
        self._along(other * (lay.half + 1.6), 0, LENGTH, 0.8, rail, FENCE)
        if rng.random() < 0.7:
            self._along(-other * (lay.half + 0.8), 0, LENGTH, 0.75, rail, FENCE)
        if rng.random() < 0.4:
            start = rng.uniform(0, 150)
            noise_wall = pyramid(walls.wall(rng))
            self._along(
                -other * (lay.half + 3),
                start,
                start + rng.uniform(60, 180),
                rng.uniform(2, 4),
                noise_wall,
                BUILDING,
            )

    def _bridge(self, s0: float, length: float) -> None:
        rng, lay = self._rng, self._layout
        s1 = min(s0 + length, LENGTH - 8)
        skin = pyramid(walls.concrete(rng))
        clear, deck = rng.uniform(4.8, 6), rng.uniform(1.0, 2.2)
        right, left = -(lay.half + lay.sidewalk + 1.2), lay.half + lay.sidewalk + 1.2
        if lay.kind == 'highway':
            right, left = (
                (right, left + 2 * lay.half + 4)
                if lay.keeps_right
                else (right - 2 * lay.half - MEDIAN, left)
            )
        for item in list(self.items):
            if (
                s0 - 6 < item.s < s1 + 2
                if not isinstance(item, Panel)
                else s0 < item.s1 and item.s0 < s1
            ):
                tall = item.z1 if isinstance(item, Panel) else getattr(item, 'height', 9.0)
                if tall > 2.6 or isinstance(item, Solid):
                    self.items.remove(item)
        self.items.append(
            Panel(
                s0,
                left + 14,
                s0,
                right - 14,
                clear,
                clear + deck,
                skin,
                BUILDING,
                self._sun_gain(-1, 0),
            )
        )
        for s in np.arange(s0, s1 - 0.1, 4.0):
            end = min(float(s) + 4.0, s1)
            for d in (left, right):
                self.items.append(Panel(float(s), d, end, d, 0, clear + 0.1, skin, BUILDING, 0.42))
            slab = np.array(
                [
                    [0, right, clear],
                    [0, left, clear],
                    [end - s, left, clear],
                    [end - s, right, clear],
                ]
            )
            ceiling = [
                Polygon(np.ascontiguousarray(slab, np.float32), (44, 43, 42)),
                Polygon(np.ascontiguousarray(slab[::-1], np.float32), (44, 43, 42)),
            ]
            self.items.append(Solid(float(s), 0, ceiling, BUILDING, (0, 0)))
        for d in (left, right):
            self.items.append(
                Panel(
                    s0,
                    d,
                    s0,
                    d + np.sign(d) * 14,
                    0,
                    clear + 0.1,
                    skin,
                    BUILDING,
                    self._sun_gain(-1, 0),
                )
            )
        self._shadows.cast(s0, s1, left + 14, right - 14, clear)
        self.tunnels.append((s0, s1))
