"""Solid parts of the generated street as coloured polygons: vehicles, roofs and bridge decks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lwseg_ros.synthetic.painting import Color

Points = npt.NDArray[np.float32]

GLASS: Color = (46, 54, 64)
RUBBER: Color = (22, 22, 24)


class Polygon(NamedTuple):
    """A flat polygon seen from one side; `points` are metres (forward, left, up)."""

    points: Points
    color: Color


def outward(points: npt.ArrayLike, center: npt.ArrayLike) -> Points:
    """Order the corners so that the right-hand normal points away from `center`.

    The first three corners then turn the way the whole polygon does, even if it is not convex.
    """
    corners = np.asarray(points, np.float32)
    normal = np.cross(corners, np.roll(corners, -1, axis=0)).sum(axis=0)
    if float(normal @ (corners.mean(axis=0) - np.asarray(center, np.float32))) < 0:
        corners, normal = corners[::-1], -normal
    edges = np.roll(corners, -1, axis=0) - corners
    turns = np.cross(edges, np.roll(edges, -1, axis=0)) @ normal
    return np.ascontiguousarray(np.roll(corners, -int(turns.argmax()), axis=0))


def shaded(points: Points, color: Color, sun: Points) -> Polygon:
    """Light a polygon: 62 % from the sky, the rest from the sun `[3]` (unit vector towards it)."""
    normal = np.cross(points[1] - points[0], points[2] - points[1])
    normal = normal / (np.linalg.norm(normal) + 1e-9)
    gain = 0.55 + 0.13 * float(normal[2]) + 0.42 * max(0.0, float(normal @ sun))
    return Polygon(points, (color[0] * gain, color[1] * gain, color[2] * gain))


# Silhouettes seen from the left: (x, z) as fractions of length and height from the rear bumper's
# lower edge forwards, over the bonnet and the roof back; True marks an edge of glass.
_SILHOUETTES = {
    'hatchback': [
        (-0.5, 0.2, False),
        (0.5, 0.2, False),
        (0.5, 0.48, False),
        (0.43, 0.56, False),
        (0.21, 0.63, True),
        (0.02, 0.96, False),
        (-0.1, 1.0, False),
        (-0.38, 0.97, True),
        (-0.47, 0.64, False),
        (-0.5, 0.56, False),
    ],
    'saloon': [
        (-0.5, 0.2, False),
        (0.5, 0.2, False),
        (0.5, 0.5, False),
        (0.44, 0.57, False),
        (0.19, 0.64, True),
        (0.04, 0.97, False),
        (-0.08, 1.0, False),
        (-0.22, 0.97, True),
        (-0.36, 0.67, False),
        (-0.48, 0.64, False),
    ],
    'suv': [
        (-0.5, 0.22, False),
        (0.5, 0.22, False),
        (0.5, 0.55, False),
        (0.45, 0.62, False),
        (0.22, 0.66, True),
        (0.1, 0.96, False),
        (0.0, 1.0, False),
        (-0.44, 0.98, True),
        (-0.49, 0.62, False),
        (-0.5, 0.56, False),
    ],
    'van': [
        (-0.5, 0.14, False),
        (0.5, 0.14, False),
        (0.5, 0.4, False),
        (0.45, 0.5, True),
        (0.36, 0.9, False),
        (0.3, 1.0, False),
        (-0.48, 1.0, False),
        (-0.5, 0.96, False),
    ],
}
_SIZES = {
    'hatchback': (4.0, 1.75, 1.48),
    'saloon': (4.6, 1.82, 1.46),
    'suv': (4.6, 1.9, 1.72),
    'van': (5.4, 2.0, 2.3),
}
_PAINT: Sequence[Color] = (
    (214, 216, 218),
    (186, 188, 192),
    (58, 60, 64),
    (30, 31, 34),
    (110, 114, 120),
    (128, 24, 28),
    (30, 54, 110),
    (196, 190, 176),
    (66, 84, 66),
    (200, 150, 40),
    (90, 30, 30),
    (150, 170, 190),
)


def _wheel(
    x: float, y: float, radius: float, out: float
) -> list[tuple[npt.NDArray[np.float64], Color]]:
    angle = np.arange(14) * (2 * np.pi / 14)
    rings: list[tuple[npt.NDArray[np.float64], Color]] = []
    for size, color in ((1.0, RUBBER), (0.6, (126.0, 128.0, 132.0)), (0.18, (60.0, 60.0, 62.0))):
        rim = np.stack(
            [
                x + size * radius * np.cos(angle),
                np.full(14, y + out),
                radius + size * radius * np.sin(angle),
            ],
            axis=1,
        )
        rings.append((rim, color))
    return rings


def vehicle(rng: np.random.Generator, kind: str, sun: Points, reverse: bool) -> list[Polygon]:
    """A vehicle around its centre on the ground, in drawing order.

    `kind` is one of hatchback, saloon, suv, van, truck, bus; `reverse` makes it face backwards.
    """
    build = _large_vehicle if kind in ('truck', 'bus') else _small_vehicle
    parts = build(rng, kind)
    turn = np.array([-1.0, -1.0, 1.0]) if reverse else np.ones(3)
    polygons = []
    for corners, color, inner in parts:
        points = outward(np.asarray(corners) * turn, np.asarray(inner) * turn)
        polygons.append(shaded(points, color, sun))
    return polygons


Part = tuple[npt.NDArray[np.float64], Color, npt.NDArray[np.float64]]


def _small_vehicle(rng: np.random.Generator, kind: str) -> list[Part]:
    length, width, height = np.asarray(_SIZES[kind]) * rng.uniform(0.94, 1.06, 3)
    paint = tinted(rng, _PAINT[int(rng.integers(len(_PAINT)))])
    profile = _SILHOUETTES[kind]
    tumble = 0.14 if kind != 'van' else 0.05
    middle = np.array([0.0, 0.0, 0.45 * height])
    side = {
        y: np.array(
            [
                [
                    x * length,
                    y * (width / 2) * (1 - tumble * max(0.0, (z - 0.6) / 0.4)),
                    z * height,
                ]
                for x, z, _ in profile
            ]
        )
        for y in (-1, 1)
    }
    parts: list[Part] = []
    for x in (-0.42 * length, 0.42 * length):
        skirt = np.array(
            [
                [x, -0.46 * width, 0.04],
                [x, 0.46 * width, 0.04],
                [x, 0.46 * width, 0.3 * height],
                [x, -0.46 * width, 0.3 * height],
            ]
        )
        parts.append((skirt, (12, 12, 13), middle))
    for index, (_, _, glass) in enumerate(profile):
        after = (index + 1) % len(profile)
        quad = np.array([side[-1][index], side[1][index], side[1][after], side[-1][after]])
        parts.append((quad, GLASS if glass else paint, middle))
    for y in (-1, 1):
        parts.append((side[y], paint, middle))
        low = np.array(
            [
                [-0.5 * length, y * width / 2, 0.2 * height],
                [0.5 * length, y * width / 2, 0.2 * height],
                [0.5 * length, y * width / 2, 0.3 * height],
                [-0.5 * length, y * width / 2, 0.3 * height],
            ]
        )
        parts.append((low, (34, 34, 36), middle))
        parts.extend(
            (pane, GLASS, middle) for pane in _side_windows(kind, length, width, height, y, tumble)
        )
        radius = 0.215 * height if kind != 'van' else 0.15 * height
        for x in (-0.31 * length, 0.31 * length):
            parts.extend(
                (ring, color, middle) for ring, color in _wheel(x, y * width / 2, radius, y * 0.02)
            )
    parts.extend(_lights(length, width, height, kind))
    return parts


def _side_windows(
    kind: str, length: float, width: float, height: float, y: int, tumble: float
) -> list[npt.NDArray[np.float64]]:
    shapes = {
        'hatchback': [
            [(0.17, 0.66), (0.02, 0.66), (0.02, 0.92), (0.03, 0.92)],
            [(0.0, 0.66), (-0.24, 0.66), (-0.24, 0.93), (0.0, 0.94)],
            [(-0.26, 0.66), (-0.42, 0.68), (-0.36, 0.92), (-0.26, 0.93)],
        ],
        'saloon': [
            [(0.16, 0.67), (-0.03, 0.67), (-0.03, 0.94), (0.04, 0.93)],
            [(-0.05, 0.67), (-0.3, 0.69), (-0.21, 0.93), (-0.05, 0.94)],
        ],
        'suv': [
            [(0.19, 0.69), (0.02, 0.69), (0.02, 0.94), (0.1, 0.92)],
            [(0.0, 0.69), (-0.2, 0.69), (-0.2, 0.94), (0.0, 0.94)],
            [(-0.22, 0.69), (-0.43, 0.69), (-0.4, 0.93), (-0.22, 0.94)],
        ],
        'van': [[(0.42, 0.55), (0.2, 0.55), (0.2, 0.88), (0.33, 0.88)]],
    }[kind]
    panes = []
    for shape in shapes:
        panes.append(
            np.array(
                [
                    [
                        x * length,
                        y * ((width / 2) * (1 - tumble * max(0.0, (z - 0.6) / 0.4)) + 0.012),
                        z * height,
                    ]
                    for x, z in shape
                ]
            )
        )
    return panes


def _lights(length: float, width: float, height: float, kind: str) -> list[Part]:
    middle = np.zeros(3)
    low, high = (0.42, 0.53) if kind != 'van' else (0.28, 0.38)
    parts: list[Part] = []
    for x, color in (
        (0.503 * length, (236.0, 236.0, 226.0)),
        (-0.503 * length, (190.0, 26.0, 22.0)),
    ):
        for y in (-1, 1):
            box = np.array(
                [
                    [x, y * 0.28 * width, low * height],
                    [x, y * 0.48 * width, low * height],
                    [x, y * 0.48 * width, high * height],
                    [x, y * 0.28 * width, high * height],
                ]
            )
            parts.append((box, color, middle))
        plate = np.array(
            [
                [x, -0.26, 0.32 * height],
                [x, 0.26, 0.32 * height],
                [x, 0.26, 0.39 * height],
                [x, -0.26, 0.39 * height],
            ]
        )
        parts.append((plate, (214, 212, 200), middle))
        bumper = np.array(
            [
                [x, -0.47 * width, 0.2 * height],
                [x, 0.47 * width, 0.2 * height],
                [x, 0.47 * width, 0.29 * height],
                [x, -0.47 * width, 0.29 * height],
            ]
        )
        parts.append((bumper, (40, 40, 42), middle))
    return parts


def _box(x0: float, x1: float, half: float, z0: float, z1: float, color: Color) -> list[Part]:
    middle = np.array([(x0 + x1) / 2, 0.0, (z0 + z1) / 2])
    corner = {
        (i, j, k): np.array([x, y, z])
        for i, x in enumerate((x0, x1))
        for j, y in enumerate((-half, half))
        for k, z in enumerate((z0, z1))
    }
    faces = (
        [[(a, 0, 0), (a, 1, 0), (a, 1, 1), (a, 0, 1)] for a in (0, 1)]
        + [[(0, a, 0), (1, a, 0), (1, a, 1), (0, a, 1)] for a in (0, 1)]
        + [[(0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)]]
    )
    return [(np.array([corner[key] for key in face]), color, middle) for face in faces]


def _large_vehicle(rng: np.random.Generator, kind: str) -> list[Part]:
    paint = tinted(rng, _PAINT[int(rng.integers(len(_PAINT)))])
    parts: list[Part] = []
    half = 1.25
    if kind == 'bus':
        length, height = 11.5, 3.1
        parts += _box(-length / 2, length / 2, half, 0.35, height, paint)
        panes = np.arange(-length / 2 + 0.5, length / 2 - 1.2, 1.5)
    else:
        length, height = 8.5, 3.5
        cargo = tinted(
            rng,
            ((222, 222, 218), (60, 80, 130), (150, 40, 36), (180, 176, 160))[int(rng.integers(4))],
        )
        parts += _box(length / 2 - 2.1, length / 2, half - 0.05, 0.5, 2.8, paint)
        parts += _box(-length / 2, length / 2 - 2.3, half, 0.95, height, cargo)
        parts += _box(-length / 2 + 0.2, length / 2 - 2.3, half - 0.2, 0.5, 0.95, (30, 30, 32))
        panes = np.array([length / 2 - 1.5])
    middle = np.array([0.0, 0.0, 1.5])
    top = 2.5 if kind == 'bus' else 2.4
    for y in (-half - 0.01, half + 0.01):
        for x in panes:
            pane = np.array([[x, y, 1.5], [x + 1.3, y, 1.5], [x + 1.3, y, top], [x, y, top]])
            parts.append((pane, GLASS, middle))
        for x in (-length / 2 + 1.8, length / 2 - 1.6):
            parts.extend((ring, color, middle) for ring, color in _wheel(x, y, 0.48, 0.0))
    screen = np.array(
        [
            [length / 2 + 0.01, -1.1, 1.3],
            [length / 2 + 0.01, 1.1, 1.3],
            [length / 2 + 0.01, 1.1, top],
            [length / 2 + 0.01, -1.1, top],
        ]
    )
    parts.append((screen, GLASS, middle))
    if kind == 'bus':
        rear = screen * np.array([-1.0, 1.0, 1.0]) + np.array([0.0, 0.0, 0.3])
        parts.append((rear, GLASS, middle))
    for x, color in (
        (length / 2 + 0.02, (236.0, 236.0, 226.0)),
        (-length / 2 - 0.02, (190.0, 26.0, 22.0)),
    ):
        for y in (-0.95, 0.95):
            lamp = np.array(
                [[x, y - 0.2, 0.7], [x, y + 0.2, 0.7], [x, y + 0.2, 0.95], [x, y - 0.2, 0.95]]
            )
            parts.append((lamp, color, middle))
    return parts


def tinted(rng: np.random.Generator, color: Color) -> Color:
    """Vary a colour a little."""
    r, g, b = np.clip(np.asarray(color) + rng.normal(0, 6, 3), 8, 244)
    return float(r), float(g), float(b)


def gable_roof(
    length: float, depth: float, eaves: float, ridge: float, color: Color, sun: Points
) -> list[Polygon]:
    """A pitched roof over a house whose corner is at x = 0, y = 0 and that runs to +x and +y."""
    a, b = np.array([-0.3, -0.3, eaves]), np.array([length + 0.3, -0.3, eaves])
    c, d = np.array([length + 0.3, depth + 0.3, eaves]), np.array([-0.3, depth + 0.3, eaves])
    e, f = np.array([-0.3, depth / 2, ridge]), np.array([length + 0.3, depth / 2, ridge])
    middle = np.array([length / 2, depth / 2, eaves - 0.5])
    gable = (color[0] * 0.5 + 90, color[1] * 0.5 + 86, color[2] * 0.5 + 80)
    faces: Sequence[tuple[list[npt.NDArray[np.float64]], Color]] = (
        ([a, b, f, e], color),
        ([d, c, f, e], color),
        ([a, d, e], gable),
        ([b, c, f], gable),
    )
    return [shaded(outward(face, middle), tint, sun) for face, tint in faces]
