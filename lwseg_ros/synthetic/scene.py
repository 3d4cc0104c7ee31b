"""A generated street as it is handed to whoever draws it: ground, sky, and what stands and moves.

Positions are road coordinates in metres: `s` along the road, `d` to the left of its axis, `z` up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lwseg_ros.synthetic.layout import LENGTH, Layout
from lwseg_ros.synthetic.meshes import Polygon
from lwseg_ros.synthetic.painting import Color, Image

HALF_WIDTH = 32.0
"""Metres of ground to each side of the axis."""
TEXEL = 1 / 16
"""Side of a square of ground, metres."""
ROWS, COLUMNS = round(LENGTH / TEXEL), round(2 * HALF_WIDTH / TEXEL)

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)
UNLABELLED = 255
"""Class ids of the label space 'camvid', and that of no class."""


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
    """Something that moves along the road at `speed` m/s; `steps` are the pictures of a walk."""

    item: Billboard | Solid
    speed: float
    steps: Sequence[list[Image]]


class Skyline(NamedTuple):
    """What closes the view: its heights, float32 `[1024]`, as wide as the sky."""

    heights: npt.NDArray[np.float32]
    label: int
    color: Color


@dataclass
class Scene:
    """A street with everything on it."""

    layout: Layout
    material: Image
    ground: Image
    sky: Image
    skyline: Skyline
    static: list[Billboard | Panel | Solid]
    movers: list[Mover]
    tunnels: list[tuple[float, float]]

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
