"""The cross-section of a generated street and the mood of the hour.

All proportions are our choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lwseg_ros.synthetic.meshes import Points

KINDS = ('city', 'suburb', 'rural', 'highway')
LENGTH = 384.0
"""Metres after which a street repeats, so that a drive may be of any length."""
SHOULDER = 2.2
MEDIAN = 3.2


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


def draw_layout(rng: np.random.Generator, kind: str) -> Layout:
    """Draw a street of the kind, one of `KINDS`."""
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
