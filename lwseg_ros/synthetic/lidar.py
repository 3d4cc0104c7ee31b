"""A scanning lidar in a generated drive: what its rays hit, and what that is.

The rays meet the same ground, sprites, panels and polygons that the camera's picture is painted
of, each at its own depth, so that the truth of a point does not come from the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lwseg_ros.synthetic.camera import Camera
from lwseg_ros.synthetic.canvas import (
    FAR,
    NEAR,
    ground_texel,
    nearest_of_plane,
    panel_ahead,
)
from lwseg_ros.synthetic.layout import LENGTH
from lwseg_ros.synthetic.painting import Image
from lwseg_ros.synthetic.road import Road
from lwseg_ros.synthetic.scene import UNLABELLED, Billboard, Panel, Scene, Solid

Vectors = npt.NDArray[np.float64]

_STEPS = 600


@dataclass(frozen=True)
class Lidar:
    """Rings of rays around a vertical axis; angles in radians, lengths in metres.

    `position` is in the vehicle frame, whose axes are the lidar's too. The rays of a ring lie from
    `-half_width` to `half_width`, left positive.
    """

    position: tuple[float, float, float] = (0.1, 0.6, 1.9)
    rings: int = 32
    lowest: float = -0.436
    highest: float = 0.174
    half_width: float = 1.05
    columns: int = 600
    max_range: float = 80.0

    @property
    def rays(self) -> Vectors:
        """The directions `[rings * columns, 3]`, of length 1, ring by ring."""
        up = np.linspace(self.lowest, self.highest, self.rings)[:, None]
        left = np.linspace(self.half_width, -self.half_width, self.columns)[None]
        flat = np.cos(up)
        directions = [
            flat * np.cos(left),
            flat * np.sin(left),
            np.broadcast_to(np.sin(up), (self.rings, self.columns)),
        ]
        return np.stack(directions, axis=-1).reshape(-1, 3)


class Scan(NamedTuple):
    """One turn of a lidar, only the rays that came back."""

    points: npt.NDArray[np.float32]
    """float32 `[n, 3]` in the lidar's frame."""
    labels: npt.NDArray[np.uint8]
    """uint8 `[n]`: the class of what each ray hit, 255 where no class fits."""


class RayCaster:
    """Casts one lidar's rays into one instant of a street."""

    def __init__(self, lidar: Lidar, camera: Camera, road: Road) -> None:
        self.lidar, self.camera, self.road = lidar, camera, road
        self.eye = np.asarray(lidar.position, np.float64)
        self.rays = lidar.rays
        self.range = np.full(len(self.rays), np.inf)
        self.labels = np.full(len(self.rays), UNLABELLED, np.uint8)

    def scan(self, scene: Scene, materials: Image, time_s: float, place: float) -> Scan:
        """Return what comes back; `materials` are the labels of the ground's texels."""
        self._ground(materials, place)
        for item in scene.at(time_s):
            start = item.s0 if isinstance(item, Panel) else item.s
            x = float(np.mod(start - place + 40, LENGTH) - 40)
            if not -30 < x < FAR:
                continue
            if isinstance(item, Billboard):
                self._billboard(item, x)
            elif isinstance(item, Panel):
                self._panel(item, x)
            else:
                self._solid(item, x)
        back = np.flatnonzero(self.range < self.lidar.max_range)
        points = self.rays[back] * self.range[back, None]
        return Scan(points.astype(np.float32), self.labels[back])

    def _hit(self, rays: npt.NDArray[np.intp], distance: Vectors, label: npt.ArrayLike) -> None:
        """Note what some rays meet, where that is nearer than what they met before."""
        nearer = distance < self.range[rays]
        self.range[rays[nearer]] = distance[nearer]
        self.labels[rays[nearer]] = np.broadcast_to(label, distance.shape)[nearer]

    def _ground(self, materials: Image, place: float) -> None:
        distances = np.geomspace(0.8, self.lidar.max_range, _STEPS)
        for begin in range(0, len(self.rays), 4096):
            rays = self.rays[begin : begin + 4096]
            x = self.eye[0] + rays[:, :1] * distances
            above = self.eye[2] + rays[:, 2:] * distances
            above -= np.interp(x, self.road.x, self.road.up)
            below = above < 0
            first = below.argmax(axis=1)
            which = np.flatnonzero(below.any(axis=1) & (first > 0))
            after = first[which]
            a, b = above[which, after - 1], above[which, after]
            share = a / (a - b)
            distance = distances[after - 1] + share * (distances[after] - distances[after - 1])
            x, y, _ = (self.eye + rays[which] * distance[:, None]).T
            column, row = ground_texel(self.road, x, y, place)
            rows, columns = materials.shape
            at = (
                np.clip(np.round(row), 0, rows - 1).astype(np.intp),
                np.clip(np.round(column), 0, columns - 1).astype(np.intp),
            )
            self._hit(begin + which, distance, materials[at])

    def _toward(self, corners: Vectors) -> npt.NDArray[np.intp]:
        """Return the rays that may meet what lies within corners `[n, 3]` of the vehicle frame."""
        seen = corners - self.eye
        if seen[:, 0].max() < 0:
            return np.empty(0, np.intp)
        if seen[:, 0].min() < NEAR:
            return np.arange(len(self.rays))
        left = np.arctan2(seen[:, 1], seen[:, 0])
        up = np.arctan2(seen[:, 2], np.hypot(seen[:, 0], seen[:, 1]))
        ray_left = np.arctan2(self.rays[:, 1], self.rays[:, 0])
        ray_up = np.arcsin(self.rays[:, 2])
        margin = 0.05
        inside = (ray_left > left.min() - margin) & (ray_left < left.max() + margin)
        inside &= (ray_up > up.min() - margin) & (ray_up < up.max() + margin)
        return np.flatnonzero(inside)

    def _meet(
        self, rays: npt.NDArray[np.intp], plane: Vectors
    ) -> tuple[npt.NDArray[np.intp], Vectors, Vectors]:
        """Return the rays that meet a plane, how far off, and where in the vehicle frame.

        `plane` is its point nearest to the lidar (see `nearest_of_plane`).
        """
        with np.errstate(divide='ignore'):
            distance = (plane @ plane) / (self.rays[rays] @ plane)
        ahead = (distance > NEAR) & (distance < self.range[rays])
        rays, distance = rays[ahead], distance[ahead]
        return rays, distance, self.eye + self.rays[rays] * distance[:, None]

    def _opaque(self, picture: Image, along: Vectors, down: Vectors) -> npt.NDArray[np.bool_]:
        """Tell where a picture is opaque; `along` and `down` are from 0 to 1 within it."""
        height, width = picture.shape[:2]
        inside = (along >= 0) & (along < 1) & (down >= 0) & (down < 1)
        column = np.clip(along * width, 0, width - 1).astype(np.intp)
        row = np.clip(down * height, 0, height - 1).astype(np.intp)
        return np.asarray(inside & (picture[row, column, 3] > 127))

    def _billboard(self, item: Billboard, x: float) -> None:
        if x < 1.2:
            return
        camera = self.camera
        foot = self.road.place([x], [item.d], [item.z])
        right, down, depth = camera.optical(foot)[0]
        sin, cos = np.sin(camera.pitch), np.cos(camera.pitch)
        ahead, up = np.array([cos, 0, -sin]), np.array([sin, 0, cos])
        side = np.array([0, item.width / 2, 0])
        corners = np.concatenate([foot + side, foot - side])
        corners = np.concatenate([corners, corners + up * item.height])
        eye = np.array([0, 0, camera.mount_height])
        plane = ahead * (depth - ahead @ (self.eye - eye))
        rays, distance, where = self._meet(self._toward(corners), plane)
        optical = camera.optical(where)
        along = (optical[:, 0] - right) / item.width + 0.5
        high = (optical[:, 1] - down) / item.height + 1
        opaque = self._opaque(item.pictures[0], along, high)
        self._hit(rays[opaque], distance[opaque], item.label)

    def _panel(self, item: Panel, x: float) -> None:
        seen = panel_ahead(self.road, item, x)
        if seen is None:
            return
        corners, begin = seen
        rays, distance, where = self._meet(
            self._toward(corners), nearest_of_plane(corners - self.eye)
        )
        foot, far = corners[3], corners[2]
        run = (far - foot)[:2]
        along = (where[:, :2] - foot[:2]) @ run / (run @ run)
        height = where[:, 2] - foot[2] - along * (far[2] - foot[2])
        down = 1 - height / (item.z1 - item.z0)
        source = begin + along * (1 - begin)
        if item.d0 + item.d1 < 0:
            source = 1 - source
        opaque = self._opaque(item.pictures[0], source, down) & (along >= 0) & (along < 1)
        self._hit(rays[opaque], distance[opaque], item.label)

    def _solid(self, item: Solid, x: float) -> None:
        if not x > -12:
            return
        for points in self._facing(item, x):
            plane = nearest_of_plane(points - self.eye)
            rays, distance, where = self._meet(self._toward(points), plane)
            axes = np.argsort(-np.abs(plane))[1:]
            inside = _inside(points[:, axes], where[:, axes])
            self._hit(rays[inside], distance[inside], item.label)

    def _facing(self, item: Solid, x: float) -> Iterator[Vectors]:
        for polygon in item.polygons:
            local = polygon.points
            points = self.road.place(x + local[:, 0], item.d + local[:, 1], local[:, 2])
            normal = np.cross(points[1] - points[0], points[2] - points[1])
            if (self.eye - points[0]) @ normal > 0:
                yield points


def _inside(outline: Vectors, points: Vectors) -> npt.NDArray[np.bool_]:
    """Tell which points `[n, 2]` lie in a polygon `[m, 2]`, by counting crossings."""
    inside = np.zeros(len(points), bool)
    x, y = points.T
    for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        crosses = (y0 > y) != (y1 > y)
        if y0 != y1:
            inside ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside
