"""What stands where along a generated street: ground, houses, plants, traffic and light.

Positions are road coordinates in metres: `s` along the road, `d` to the left of its axis, `z` up.
The street repeats after `LENGTH` metres, so a drive may be of any length. Everything is drawn from
one generator; the same seed gives the same street. All proportions are our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros.synthetic import meshes, sprites
from lwseg_ros.synthetic.meshes import Color, Points, Polygon
from lwseg_ros.synthetic.sprites import Image

LENGTH = 384.0
HALF_WIDTH = 32.0
TEXEL = 1 / 16
SHOULDER = 2.2
MEDIAN = 3.2
KINDS = ('city', 'suburb', 'rural', 'highway')

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)
UNLABELLED = 255


class Material(IntEnum):
    """What the ground is made of."""

    ASPHALT = 0
    PATCH = 1
    WHITE = 2
    YELLOW = 3
    KERB = 4
    SLABS = 5
    GRASS = 6
    DIRT = 7
    COBBLES = 8


MATERIAL_LABELS = np.array(
    [ROAD, ROAD, ROAD, ROAD, PAVEMENT, PAVEMENT, TREE, UNLABELLED, ROAD], np.uint8
)


class Billboard(NamedTuple):
    """An upright sprite that faces the camera; `z` is its foot; metres."""

    s: float
    d: float
    z: float
    width: float
    height: float
    pictures: list[Image]
    label: int


class Panel(NamedTuple):
    """An upright textured rectangle from `(s0, d0)` to `(s1, d1)`, seen from both sides."""

    s0: float
    d0: float
    s1: float
    d1: float
    z0: float
    z1: float
    pictures: list[Image]
    label: int
    gain: float


class Solid(NamedTuple):
    """Coloured polygons around `(s, d)`; `footprint` (length, width) casts a soft shadow."""

    s: float
    d: float
    polygons: list[Polygon]
    label: int
    footprint: tuple[float, float]


class Mover(NamedTuple):
    """Something that moves along the road at `speed` m/s; exactly one of the two shapes is set."""

    item: Billboard | Solid
    speed: float
    steps: Sequence[list[Image]]


@dataclass
class Layout:
    """The cross-section of a street and the mood of the hour.

    A highway has `lanes` in its one carriageway, other roads have as many in each direction.
    """

    kind: str
    keeps_right: bool
    lanes: int
    lane_width: float
    parking: float
    sidewalk: float
    facade: float
    speed: float
    turn: float
    hill: float
    mood: float
    season: float
    haze: float
    sun: Points
    marked: bool

    @property
    def half(self) -> float:
        """Distance from the road's axis to its edge, metres."""
        if self.kind == 'highway':
            return self.lanes * self.lane_width / 2 + SHOULDER
        return self.lanes * self.lane_width + self.parking + 0.3

    @property
    def ego_d(self) -> float:
        """Where the camera's lane is, metres to the left of the axis."""
        lane = self.lanes / 2 - 0.5 if self.kind == 'highway' else self.lanes - 0.5
        offset = lane * self.lane_width
        return -offset if self.keeps_right else offset


@dataclass
class Scene:
    """A street with everything on it."""

    layout: Layout
    material: Image
    ground: Image
    sky: Image
    skyline: npt.NDArray[np.float32]
    skyline_label: int
    skyline_color: Color
    static: list[Billboard | Panel | Solid] = field(default_factory=list)
    movers: list[Mover] = field(default_factory=list)
    tunnels: list[tuple[float, float]] = field(default_factory=list)

    def at(self, time_s: float) -> list[Billboard | Panel | Solid]:
        """Return everything with the movers where they are after `time_s` seconds."""
        moved: list[Billboard | Panel | Solid] = list(self.static)
        for number, mover in enumerate(self.movers):
            item = mover.item._replace(s=(mover.item.s + mover.speed * time_s) % LENGTH)
            if mover.steps and isinstance(item, Billboard):
                step = int(time_s * 2 * len(mover.steps) + number) % len(mover.steps)
                item = item._replace(pictures=mover.steps[step])
            moved.append(item)
        return moved


def build_scene(rng: np.random.Generator, kind: str | None = None) -> Scene:
    """Lay out a street of the kind (one of `KINDS`; by default the generator chooses)."""
    layout = _layout(rng, kind or str(rng.choice(KINDS, p=[0.42, 0.24, 0.18, 0.16])))
    builder = _Builder(rng, layout)
    builder.pave()
    builder.furnish()
    builder.populate()
    return builder.finish()


def _layout(rng: np.random.Generator, kind: str) -> Layout:
    city, suburb, rural = kind == 'city', kind == 'suburb', kind == 'rural'
    elevation = np.deg2rad(rng.uniform(18, 65))
    azimuth = rng.uniform(0, 2 * np.pi)
    mood = float(rng.random())
    sun = np.array(
        [
            np.cos(azimuth) * np.cos(elevation),
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
        ],
        np.float32,
    )
    lanes = (
        int(rng.integers(1, 4)) if city else int(rng.integers(2, 5)) if kind == 'highway' else 1
    )
    sidewalk = rng.uniform(1.8, 5.5) if city else rng.uniform(1.2, 2.4) if suburb else 0.0
    half_parking = (
        2.1 if (city and rng.random() < 0.55) or (suburb and rng.random() < 0.4) else 0.0
    )
    width = rng.uniform(2.6, 3.6) if lanes < 3 or kind == 'highway' else rng.uniform(2.7, 3.1)
    road = lanes * width + half_parking + 0.3
    return Layout(
        kind=kind,
        keeps_right=bool(rng.random() < 0.5),
        lanes=lanes,
        lane_width=float(width if kind != 'highway' else rng.uniform(3.3, 3.75)),
        parking=half_parking,
        sidewalk=float(sidewalk),
        facade=float(road + sidewalk + (rng.uniform(0.2, 1.5) if city else rng.uniform(4, 9))),
        speed=float(
            rng.uniform(5, 10)
            if city
            else rng.uniform(7, 12)
            if suburb
            else rng.uniform(11, 17)
            if rural
            else rng.uniform(19, 27)
        ),
        turn=float(rng.uniform(0, 0.1) if kind == 'highway' else rng.uniform(0, 0.24)),
        hill=float(rng.uniform(0, 0.35 if city else 0.8)),
        mood=mood,
        season=float(rng.random()),
        haze=float(rng.choice([0.0006, 0.0015, 0.004], p=[0.4, 0.4, 0.2])),
        sun=sun,
        marked=bool(
            rng.random() < {'city': 0.88, 'suburb': 0.65, 'rural': 0.6, 'highway': 1.0}[kind]
        ),
    )


class _Builder:
    def __init__(self, rng: np.random.Generator, layout: Layout) -> None:
        self.rng = rng
        self.layout = layout
        self.rows = round(LENGTH / TEXEL)
        self.columns = round(2 * HALF_WIDTH / TEXEL)
        self.material = np.full((self.rows, self.columns), Material.GRASS, np.uint8)
        self.shade = np.full((self.rows // 4, self.columns // 4), 255, np.uint8)
        self.static: list[Billboard | Panel | Solid] = []
        self.movers: list[Mover] = []
        self.tunnels: list[tuple[float, float]] = []
        self.junctions: list[tuple[float, float, int]] = []
        self.fleet: dict[tuple[str, bool, int], list[Polygon]] = {}

    def _strip(
        self, d0: float, d1: float, material: Material, s0: float = 0, s1: float = LENGTH
    ) -> None:
        """Cover the rectangle between `d0` and `d1` (in any order) and from `s0` to `s1`."""
        left, right = (max(0, round((d + HALF_WIDTH) / TEXEL)) for d in sorted((d0, d1)))
        self.material[max(0, round(s0 / TEXEL)) : round(s1 / TEXEL), left:right] = material

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
        along = np.arange(self.rows) * TEXEL
        rows = np.ones(self.rows, bool) if not dash else along % (dash + gap) < dash
        self.material[rows, left:right] = material

    def pave(self) -> None:
        """Lay road, kerbs, pavements, side roads and markings."""
        rng, lay = self.rng, self.layout
        half, kind = lay.half, lay.kind
        surface = Material.COBBLES if kind == 'city' and rng.random() < 0.08 else Material.ASPHALT
        if kind == 'city':
            self._strip(-HALF_WIDTH, HALF_WIDTH, Material.SLABS)
        for side in (-1, 1):
            if lay.sidewalk:
                verge = rng.uniform(0.8, 1.8) if rng.random() < 0.3 else 0.0
                inner, outer = half + 0.16 + verge, half + 0.16 + verge + lay.sidewalk
                self._strip(side * inner, side * outer, Material.SLABS)
                self._strip(side * half, side * (half + 0.16), Material.KERB)
            else:
                dirt = rng.uniform(0.2, 1.4)
                self._strip(side * half, side * (half + dirt), Material.DIRT)
        if kind == 'highway':
            other = 1 if lay.keeps_right else -1
            near = half + MEDIAN
            far = near + 2 * half
            self._strip(other * near, other * far, surface)
            self._line(other * (near + SHOULDER - 0.1))
            for lane in range(1, lay.lanes):
                self._line(other * (near + SHOULDER + lane * lay.lane_width), 6, 12)
        self._strip(-half, half, surface)
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

    def _wander(self) -> None:
        """Fray the edges of soil and grass."""
        fray = sprites.smooth_noise(self.rng, self.rows, self.columns, (24, 9), wrap=True)
        soil = self.material == Material.DIRT
        self.material[soil & (fray > 0.7)] = Material.GRASS
        if self.layout.kind == 'rural' and self.rng.random() < 0.5:
            band = (
                np.abs((np.arange(self.columns) + 0.5) * TEXEL - HALF_WIDTH)
                < self.layout.half + 2.5
            )
            self.material[band & (self.material == Material.GRASS) & (fray > 0.4)] = Material.DIRT

    def _cross_streets(self, surface: Material) -> None:
        rng, half = self.rng, self.layout.half
        s = rng.uniform(20, 60)
        while s < LENGTH - 30:
            width = rng.uniform(2.6, 5.5)
            for side in (-1, 1):
                if rng.random() < 0.7:
                    self._strip(side * half, side * HALF_WIDTH, surface, s - width, s + width)
                    self.junctions.append((s - width, s + width, side))
            if rng.random() < 0.6 and self.layout.marked:
                start = s - width - rng.uniform(4, 7)
                for d in np.arange(-half + 0.4, half - 0.6, 1.0):
                    self._strip(d, d + 0.5, Material.WHITE, start, start + 3)
                d0, d1 = (-half, 0.0) if self.layout.keeps_right else (0.0, half)
                self._strip(d0 + 0.3, d1 - 0.1, Material.WHITE, start - 1.8, start - 1.4)
            s += rng.uniform(45, 110)

    def _driveways(self) -> None:
        rng, half = self.rng, self.layout.half
        for s in np.arange(8, LENGTH - 8, 17.0):
            for side in (-1, 1):
                if rng.random() < 0.6 and not self._at_junction(s - 4, s + 4, side):
                    self._strip(
                        side * (half + 0.16),
                        side * (half + 13),
                        Material.SLABS,
                        s,
                        s + rng.uniform(2.5, 4),
                    )

    def _markings(self) -> None:
        rng, lay = self.rng, self.layout
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

    def _at_junction(self, s0: float, s1: float, side: int) -> bool:
        return any(
            side == which and s0 < end and s1 > start for start, end, which in self.junctions
        )

    def furnish(self) -> None:
        """Put up buildings, fences, trees, lamps and signs on both sides."""
        rng, lay = self.rng, self.layout
        self.trees = [sprites.pyramid(sprites.tree(rng, lay.season)) for _ in range(6)]
        self.bushes = [sprites.pyramid(sprites.bush(rng, lay.season)) for _ in range(4)]
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
                sprites.pyramid(sprites.guard_rail(rng)),
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
            gain = float(self.rng.uniform(0.93, 1.05))
            self.static.append(
                Panel(float(s), d, float(s) + 4.0, d, 0, height, pictures, label, gain)
            )
        self._cast(s0, s1, d, d, height)

    def _cast(self, s0: float, s1: float, d0: float, d1: float, height: float) -> None:
        """Darken the ground where the sun does not reach behind a box."""
        sun = self.layout.sun
        reach = height / max(float(sun[2]), 0.25)
        ds, dd = -float(sun[0]) * reach, -float(sun[1]) * reach
        corners = np.array([[s, d] for s in (s0, s1) for d in (d0, d1)])
        hull = cv2.convexHull(np.concatenate([corners, corners + [ds, dd]]).astype(np.float32))[
            :, 0
        ]
        for shift in (-LENGTH, 0.0, LENGTH):
            points = np.stack([hull[:, 1] + HALF_WIDTH, hull[:, 0] + shift], axis=1) / (4 * TEXEL)
            cv2.fillPoly(self.shade, [points.astype(np.int32)], 0)

    def _cast_crown(self, s: float, d: float, size: float) -> None:
        sun = self.layout.sun
        reach = 0.6 * size / max(float(sun[2]), 0.3)
        for _ in range(14):
            ds, dd = self.rng.normal(0, 0.16 * size, 2)
            center = (
                (d + dd - float(sun[1]) * reach + HALF_WIDTH) / (4 * TEXEL),
                ((s + ds - float(sun[0]) * reach) % LENGTH) / (4 * TEXEL),
            )
            radius = max(1, round(self.rng.uniform(0.08, 0.17) * size / (4 * TEXEL)))
            cv2.circle(self.shade, (round(center[0]), round(center[1])), radius, 0, -1)

    def _sun_gain(self, ds: float, dd: float) -> float:
        lit = max(0.0, float(self.layout.sun[0]) * ds + float(self.layout.sun[1]) * dd)
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
            self.static.append(
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
        self.static.append(
            Panel(s0, d1, s0, d0, 0, height, flank, BUILDING, self._sun_gain(-1, 0))
        )
        self._cast(s0, s1, d0, d1, height)

    def _terrace(self, side: int) -> None:
        rng, lay = self.rng, self.layout
        fronts = []
        for _ in range(7):
            width, height = rng.uniform(9, 20), rng.uniform(7, 17)
            fronts.append(
                (
                    width,
                    height,
                    sprites.pyramid(sprites.facade(rng, width, height, bool(rng.random() < 0.6))),
                )
            )
        flank = sprites.pyramid(sprites.wall(rng))
        s, gap_left = 0.0, 0.0
        while True:
            width, height, pictures = fronts[int(rng.integers(len(fronts)))]
            if s + width > LENGTH - 4:
                break
            if self._at_junction(s - 1, s + width + 1, side):
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
        rng, lay = self.rng, self.layout
        self._strip(side * lay.facade, side * HALF_WIDTH, Material.GRASS, s0, s1)
        for s in rng.uniform(s0 + 2, s1 - 2, 7):
            self._plant(float(s), side * (lay.facade + rng.uniform(2, 16)), rng.uniform(5, 11))
        kind = sprites.fence(rng) if rng.random() < 0.6 else sprites.wall(rng)
        self._along(
            side * lay.facade,
            s0,
            s1,
            rng.uniform(0.9, 1.8),
            sprites.pyramid(kind),
            FENCE if kind.shape[0] == 80 else BUILDING,
        )

    def _houses(self, side: int) -> None:
        rng, lay = self.rng, self.layout
        fronts = []
        for _ in range(5):
            width, height = rng.uniform(7, 13), rng.uniform(3.2, 6.2)
            fronts.append(
                (width, height, sprites.pyramid(sprites.facade(rng, width, height, False)))
            )
        flank = sprites.pyramid(sprites.wall(rng))
        barrier = int(rng.integers(4))
        skin = (
            sprites.fence(rng),
            sprites.hedge(rng, lay.season),
            sprites.wall(rng),
            sprites.fence(rng),
        )[barrier]
        border, label = sprites.pyramid(skin), (FENCE, TREE, BUILDING, FENCE)[barrier]
        border_height = float(rng.uniform(0.8, 1.8))
        edge = lay.half + lay.sidewalk + 2.1
        s = rng.uniform(1, 6)
        while s < LENGTH - 16:
            width, height, pictures = fronts[int(rng.integers(len(fronts)))]
            if self._at_junction(s - 3, s + width + 3, side):
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
            self.static.append(Solid(s, side * front, roof, BUILDING, (0, 0)))
            if rng.random() < 0.75:
                self._along(side * edge, s + 3, s + width + 2, border_height, border, label)
            s += width + rng.uniform(2, 12)

    def _plant(self, s: float, d: float, size: float) -> None:
        if size > 2.5:
            pictures = self.trees[int(self.rng.integers(len(self.trees)))]
            self.static.append(Billboard(s, d, -0.1, size * 0.95, size, pictures, TREE))
            self._cast_crown(s, d, size)
        else:
            pictures = self.bushes[int(self.rng.integers(len(self.bushes)))]
            self.static.append(Billboard(s, d, -0.05, size * 1.4, size, pictures, TREE))

    def _greenery(self, side: int) -> None:
        rng, lay = self.rng, self.layout
        if lay.kind == 'city':
            if rng.random() < 0.6 and lay.sidewalk > 2:
                for s in np.arange(rng.uniform(0, 12), LENGTH, rng.uniform(8, 22)):
                    if not self._at_junction(s - 1, s + 1, side) and rng.random() < 0.8:
                        self._plant(float(s), side * (lay.half + 0.9), rng.uniform(4.5, 9))
            return
        inner = lay.half + (lay.sidewalk + 2.5 if lay.kind == 'suburb' else rng.uniform(2, 6))
        dense = 0.9 if rng.random() < 0.4 else rng.uniform(0.15, 0.6)
        for s in np.arange(0, LENGTH, 3.2):
            if self._at_junction(s - 1, s + 1, side) or rng.random() > dense:
                continue
            far = rng.uniform(0, 16) ** 1.0
            size = rng.uniform(4, 12) if rng.random() < 0.55 else rng.uniform(0.6, 2.4)
            if lay.kind == 'highway' and side == (1 if lay.keeps_right else -1):
                far += 2 * lay.half + MEDIAN + 2
            self._plant(
                float(s), side * min(inner + far + 0.3 * size, HALF_WIDTH + 8), float(size)
            )

    def _street_furniture(self, side: int) -> None:
        rng, lay = self.rng, self.layout
        d = side * (lay.half + (0.6 if lay.sidewalk else 1.6))
        if lay.kind != 'rural' or rng.random() < 0.4:
            height, lamp_phase = rng.uniform(5, 9), rng.uniform(0, 20)
            for s in np.arange(lamp_phase, LENGTH, rng.uniform(22, 42)):
                self._lamp(float(s), d, float(height), -side)
        spacing = 26 if lay.kind == 'city' else 45
        for s in np.arange(rng.uniform(0, 30), LENGTH, spacing):
            if rng.random() < 0.75:
                plate = sprites.pyramid(sprites.sign(rng))
                size, base = rng.uniform(0.6, 0.95), rng.uniform(1.9, 2.6)
                place = float(s + rng.uniform(0, 8))
                self._pole(place, d, base + size / 2, 0.08)
                self.static.append(Billboard(place - 0.06, d, base, size, size, plate, SIGN))
        for s, _, which in self.junctions:
            if which == side and rng.random() < 0.6 and lay.kind == 'city':
                head = sprites.pyramid(sprites.traffic_light(rng))
                self._pole(s - 3, d, 3.3, 0.12)
                self.static.append(Billboard(s - 3.1, d, 2.3, 0.36, 0.95, head, SIGN))
        for _ in range(2 if lay.kind == 'highway' else 1):
            if rng.random() < 0.6:
                s = rng.uniform(20, LENGTH - 20)
                picture = sprites.pyramid(sprites.board(rng))
                low = rng.uniform(2.2, 3.2)
                for offset in (-0.9, 0.9):
                    self._pole(s + 0.1, d + side * 2.0 + offset, low + 1.0, 0.14)
                self.static.append(Billboard(s, d + side * 2.0, low, 3.4, 1.7, picture, SIGN))

    def _pole(self, s: float, d: float, height: float, width: float) -> None:
        shade = np.linspace(1.25, 0.55, 8)[None, :, None] * np.asarray(
            meshes.tinted(self.rng, (104, 106, 108))
        )
        rgb = np.broadcast_to(np.clip(shade, 0, 255), (32, 8, 3))
        picture = np.asarray(np.dstack([rgb, np.full((32, 8), 255)]), np.uint8)
        self.static.append(Billboard(s, d, 0, width, height, [picture], POLE))

    def _lamp(self, s: float, d: float, height: float, toward: int) -> None:
        self._pole(s, d, height, 0.17)
        arm = np.full((8, 32, 4), (96, 98, 100, 255), np.uint8)
        self.static.append(
            Billboard(s - 0.05, d + toward * 0.9, height - 0.15, 1.9, 0.16, [arm], POLE)
        )

    def _barriers(self) -> None:
        rng, lay = self.rng, self.layout
        rail = sprites.pyramid(sprites.guard_rail(rng))
        other = 1 if lay.keeps_right else -1
        self._along(other * (lay.half + 1.6), 0, LENGTH, 0.8, rail, FENCE)
        if rng.random() < 0.7:
            self._along(-other * (lay.half + 0.8), 0, LENGTH, 0.75, rail, FENCE)
        if rng.random() < 0.4:
            start = rng.uniform(0, 150)
            noise_wall = sprites.pyramid(sprites.wall(rng))
            self._along(
                -other * (lay.half + 3),
                start,
                start + rng.uniform(60, 180),
                rng.uniform(2, 4),
                noise_wall,
                BUILDING,
            )

    def _bridge(self, s0: float, length: float) -> None:
        rng, lay = self.rng, self.layout
        s1 = min(s0 + length, LENGTH - 8)
        skin = sprites.pyramid(sprites.concrete(rng))
        clear, deck = rng.uniform(4.8, 6), rng.uniform(1.0, 2.2)
        right, left = -(lay.half + lay.sidewalk + 1.2), lay.half + lay.sidewalk + 1.2
        if lay.kind == 'highway':
            right, left = (
                (right, left + 2 * lay.half + 4)
                if lay.keeps_right
                else (right - 2 * lay.half - MEDIAN, left)
            )
        for item in list(self.static):
            if (
                s0 - 6 < item.s < s1 + 2
                if not isinstance(item, Panel)
                else s0 < item.s1 and item.s0 < s1
            ):
                tall = item.z1 if isinstance(item, Panel) else getattr(item, 'height', 9.0)
                if tall > 2.6 or isinstance(item, Solid):
                    self.static.remove(item)
        self.static.append(
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
                self.static.append(
                    Panel(float(s), d, end, d, 0, clear + 0.1, skin, BUILDING, 0.42)
                )
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
            self.static.append(Solid(float(s), 0, ceiling, BUILDING, (0, 0)))
        for d in (left, right):
            self.static.append(
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
        self._cast(s0, s1, left + 14, right - 14, clear)
        self.tunnels.append((s0, s1))

    def populate(self) -> None:
        """Park cars and set vehicles, people and cyclists in motion."""
        rng, lay = self.rng, self.layout
        direction = -1 if lay.keeps_right else 1
        if lay.parking:
            for side in (-1, 1):
                for s in np.arange(rng.uniform(0, 6), LENGTH - 6, 6.3):
                    if rng.random() < 0.7 and not self._at_junction(s - 4, s + 4, side):
                        self._vehicle(float(s), side * (lay.half - 1.15), 0.0, side != direction)
        lanes: list[tuple[float, float]] = []
        if lay.kind == 'highway':
            for lane in range(lay.lanes):
                lanes.append(
                    (
                        (lane - (lay.lanes - 1) / 2) * lay.lane_width,
                        lay.speed * rng.uniform(0.85, 1.25),
                    )
                )
                lanes.append(
                    (
                        -direction
                        * (lay.half + MEDIAN + SHOULDER + (lane + 0.5) * lay.lane_width),
                        -lay.speed * rng.uniform(0.9, 1.2),
                    )
                )
        else:
            for lane in range(lay.lanes):
                offset = (lane + 0.5) * lay.lane_width
                lanes.append((direction * offset, lay.speed * rng.uniform(0.9, 1.3)))
                lanes.append((-direction * offset, -lay.speed * rng.uniform(0.7, 1.2)))
        density = rng.uniform(0.004, 0.03)
        for d, speed in lanes:
            own = abs(d - lay.ego_d) < 1.5
            gap = rng.uniform(11, 45)
            for s in np.sort(rng.uniform(0, LENGTH, rng.poisson(density * LENGTH))):
                if s - gap < 12:
                    continue
                if own and (s > LENGTH - 25):
                    continue
                gap = float(s)
                self._vehicle(
                    float(s), d + rng.normal(0, 0.1), lay.speed if own else speed, speed < 0
                )
        if lay.kind != 'highway':
            self._people(direction)

    def _vehicle(self, s: float, d: float, speed: float, reverse: bool) -> None:
        kinds = ('hatchback', 'saloon', 'suv', 'van', 'truck', 'bus')
        chance = [0.32, 0.27, 0.2, 0.12, 0.06, 0.03] if speed else [0.4, 0.3, 0.2, 0.1, 0, 0]
        kind = str(self.rng.choice(kinds, p=chance))
        if s > LENGTH - 12 and kind in ('truck', 'bus'):
            kind = 'suv'
        model = (kind, reverse, int(self.rng.integers(3)))
        if model not in self.fleet:
            self.fleet[model] = meshes.vehicle(self.rng, kind, self.layout.sun, reverse)
        polygons = self.fleet[model]
        size = np.ptp(np.concatenate([p.points for p in polygons]), axis=0)
        solid = Solid(s, d, polygons, CAR, (float(size[0]), float(size[1])))
        if speed:
            self.movers.append(Mover(solid, speed, ()))
        else:
            self.static.append(solid)

    def _people(self, direction: int) -> None:
        rng, lay = self.rng, self.layout
        crowd = {
            'city': rng.uniform(20, 130),
            'suburb': rng.uniform(6, 40),
            'rural': rng.uniform(0, 8),
        }[lay.kind]
        cast = []
        for _ in range(7):
            seed = int(rng.integers(1 << 31))
            cast.append(
                [
                    sprites.pyramid(sprites.person(np.random.default_rng(seed), phase))
                    for phase in np.arange(6) / 6
                ]
            )
        for _ in range(int(crowd)):
            side = int(rng.choice([-1, 1]))
            reach = lay.sidewalk - 0.3 if lay.sidewalk else 1.2
            d = side * (lay.half + 0.5 + rng.uniform(0, max(reach, 0.4)))
            if rng.random() < 0.07:
                d = float(rng.uniform(-lay.half, lay.half))
                if abs(d - lay.ego_d) < 1.6:
                    continue
            steps = cast[int(rng.integers(len(cast)))]
            height = rng.uniform(1.5, 1.9) if rng.random() < 0.85 else rng.uniform(1.0, 1.4)
            walker = Billboard(
                float(rng.uniform(0, LENGTH)), d, 0, height / 2, height, steps[0], PEDESTRIAN
            )
            speed = (
                0.0 if rng.random() < 0.25 else float(rng.choice([-1, 1]) * rng.uniform(0.7, 1.6))
            )
            self.movers.append(Mover(walker, speed, steps if speed else ()))
        for _ in range(int(rng.integers(2, 30 if lay.kind == 'city' else 10))):
            behind = bool(rng.random() < 0.75)
            picture = sprites.pyramid(sprites.cyclist(rng, behind))
            side = int(rng.choice([-1, 1]))
            d = side * (lay.half - lay.parking - rng.uniform(0.2, 0.7))
            speed = (1 if side == direction else -1) * float(rng.uniform(3, 6)) if behind else 0.0
            width = 0.9 if behind else 1.65
            if not behind:
                d = side * (lay.half + 0.4)
            self.movers.append(
                Mover(
                    Billboard(
                        float(rng.uniform(0, LENGTH)), d, 0, width, 1.78, picture, BICYCLIST
                    ),
                    speed,
                    (),
                )
            )

    def finish(self) -> Scene:
        """Colour the ground and close the view with a sky and a skyline."""
        rng, lay = self.rng, self.layout
        grey = rng.uniform(84, 150)
        warm = rng.normal(0, 5)
        season = lay.season
        colors = np.array(
            [
                [grey + warm, grey, grey - warm],
                [grey * 0.8] * 3,
                [206, 206, 202],
                [204, 160, 60],
                [grey * 1.25 + 12] * 3,
                [grey * 1.2 + 16 + 2 * warm, grey * 1.2 + 14, grey * 1.2 + 8],
                [84 + 44 * season, 108 - 4 * season, 52],
                [132, 112, 88],
                [grey * 0.95] * 3,
            ],
            np.float32,
        )
        fine = sprites.smooth_noise(rng, self.rows, self.columns, (2.0,), wrap=True)
        broad = sprites.smooth_noise(rng, self.rows, self.columns, (160, 50, 12), wrap=True)
        grain = np.array([0.03, 0.03, 0.05, 0.05, 0.06, 0.05, 0.17, 0.13, 0.12], np.float32)
        stain = np.array([0.035, 0.04, 0.07, 0.07, 0.05, 0.06, 0.13, 0.13, 0.05], np.float32)
        worn = (broad + 0.8 * fine) > rng.uniform(0.9, 2.6)
        visible = self.material.copy()
        visible[worn & ((visible == Material.WHITE) | (visible == Material.YELLOW))] = (
            Material.ASPHALT
        )
        gain = 1 + grain[visible] * fine + stain[visible] * broad
        self._joints(visible, gain)
        self._tyre_tracks(gain)
        gain *= self._shadow()
        ground = np.empty((self.rows, self.columns, 3), np.uint8)
        for channel in range(3):
            ground[..., channel] = np.clip(colors[:, channel][visible] * gain, 0, 255)
        skyline = sprites.smooth_noise(rng, 16, 1024, (120, 30, 6))[8]
        urban = lay.kind == 'city' and rng.random() < 0.7
        if urban:
            skyline = np.repeat(skyline[::24], 24)[:1024]
        far: Color = (118, 116, 116) if urban else (66, 84, 60)
        scale = rng.uniform(0.004, 0.03 if urban else 0.014)
        return Scene(
            lay,
            self.material,
            ground,
            sprites.sky(rng, lay.mood),
            np.asarray(scale * (1.2 + skyline), np.float32),
            BUILDING if urban else TREE,
            far,
            self.static,
            self.movers,
            self.tunnels,
        )

    def _joints(self, visible: Image, gain: npt.NDArray[np.float32]) -> None:
        size = int(self.rng.integers(8, 20))
        lines = np.zeros((self.rows, self.columns), bool)
        lines[::size] = True
        lines[:, ::size] = True
        gain[lines & ((visible == Material.SLABS) | (visible == Material.KERB))] *= 0.8
        stones = np.zeros((self.rows, self.columns), bool)
        stones[::3] = True
        stones[:, ::3] = True
        gain[stones & (visible == Material.COBBLES)] *= 0.75
        for _ in range(int(self.rng.integers(0, 30))):
            s, d = (
                self.rng.uniform(0, LENGTH - 20),
                self.rng.uniform(-self.layout.half, self.layout.half),
            )
            steps = np.cumsum(
                self.rng.normal(0, 4, (24, 2)) + [self.rng.uniform(2, 10), 0], axis=0
            )
            path = (np.array([s, d + HALF_WIDTH]) / TEXEL + steps)[:, ::-1].astype(np.int32)
            cv2.polylines(gain, [path], False, 0.62, 1)

    def _tyre_tracks(self, gain: npt.NDArray[np.float32]) -> None:
        d = (np.arange(self.columns) + 0.5) * TEXEL - HALF_WIDTH
        lay = self.layout
        inside = np.abs(d) < lay.half
        phase = (d / lay.lane_width + (lay.lanes / 2 if lay.kind == 'highway' else 0)) % 1
        tracks = np.exp(-((phase - 0.25) ** 2) / 0.012) + np.exp(-((phase - 0.75) ** 2) / 0.012)
        gain *= np.where(inside, 1 + self.rng.uniform(-0.12, 0.05) * tracks, 1).astype(np.float32)

    def _shadow(self) -> npt.NDArray[np.float32]:
        depth = float(np.clip(np.sin(np.pi * min(1.0, self.layout.mood)) * 1.2, 0.05, 0.62))
        soft = cv2.GaussianBlur(self.shade, (0, 0), 1.0)
        lit = np.asarray(
            cv2.resize(soft, (self.columns, self.rows), interpolation=cv2.INTER_LINEAR), np.float32
        )
        sunlit = 1 - depth + depth * lit / 255
        d = (np.arange(self.columns) + 0.5) * TEXEL - HALF_WIDTH
        reach = self.layout.half + self.layout.sidewalk + 1.2
        for s0, s1 in self.tunnels:
            along = (np.arange(self.rows) + 0.5) * TEXEL
            inside = np.clip(np.minimum(along - s0, s1 - along) / 5, 0, 1)
            cover = (np.abs(d) < reach + 40).astype(np.float32)
            sunlit *= 1 - 0.62 * inside[:, None] * cover
        return np.asarray(sunlit, np.float32)
