"""Who uses a generated street: vehicles that park and drive, people, cyclists."""

from __future__ import annotations

import numpy as np

from lwseg_ros.synthetic import meshes, people
from lwseg_ros.synthetic.layout import LENGTH, MEDIAN, SHOULDER, Layout
from lwseg_ros.synthetic.meshes import Polygon
from lwseg_ros.synthetic.painting import pyramid
from lwseg_ros.synthetic.paving import Paving
from lwseg_ros.synthetic.scene import BICYCLIST, CAR, PEDESTRIAN, Billboard, Mover, Solid


class Traffic:
    """The `parked` vehicles, and the `movers`, once the street is populated."""

    def __init__(self, rng: np.random.Generator, layout: Layout, paving: Paving) -> None:
        self.parked: list[Solid] = []
        self.movers: list[Mover] = []
        self._rng, self._layout, self._paving = rng, layout, paving
        self._fleet: dict[tuple[str, bool, int], list[Polygon]] = {}

    def populate(self) -> None:
        """Park cars and set vehicles, people and cyclists in motion."""
        rng, lay = self._rng, self._layout
        direction = -1 if lay.keeps_right else 1
        if lay.parking:
            for side in (-1, 1):
                for s in np.arange(rng.uniform(0, 6), LENGTH - 6, 6.3):
                    if rng.random() < 0.7 and not self._paving.at_junction(s - 4, s + 4, side):
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
        kind = str(self._rng.choice(kinds, p=chance))
        if s > LENGTH - 12 and kind in ('truck', 'bus'):
            kind = 'suv'
        model = (kind, reverse, int(self._rng.integers(3)))
        if model not in self._fleet:
            self._fleet[model] = meshes.vehicle(self._rng, kind, self._layout.sun, reverse)
        polygons = self._fleet[model]
        size = np.ptp(np.concatenate([p.points for p in polygons]), axis=0)
        solid = Solid(s, d, polygons, CAR, (float(size[0]), float(size[1])))
        if speed:
            self.movers.append(Mover(solid, speed, ()))
        else:
            self.parked.append(solid)

    def _people(self, direction: int) -> None:
        rng, lay = self._rng, self._layout
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
                    pyramid(people.person(np.random.default_rng(seed), phase))
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
            picture = pyramid(people.cyclist(rng, behind))
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
