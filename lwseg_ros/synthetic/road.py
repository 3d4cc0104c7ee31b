"""Where a generated road lies before a camera in one instant, and what the camera sees of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lwseg_ros.synthetic.camera import Camera
from lwseg_ros.synthetic.layout import LENGTH, Layout

_STEP = 0.5


class Road:
    """The road ahead of the vehicle in one instant: where (s, d, z) lies in the vehicle frame."""

    def __init__(
        self,
        lay: Layout,
        phases: npt.NDArray[np.float64],
        place: float,
        sway: float,
        camera: Camera,
    ) -> None:
        turn = 2 * np.pi / LENGTH
        self.x = np.arange(-24, 420, _STEP)
        s = place + self.x

        def heading(at: npt.ArrayLike) -> npt.NDArray[np.float64]:
            at = np.asarray(at)
            return np.asarray(
                lay.turn
                * (np.sin(turn * at + phases[0]) + 0.5 * np.sin(2 * turn * at + phases[1]))
            )

        def height(at: npt.ArrayLike) -> npt.NDArray[np.float64]:
            at = np.asarray(at)
            return np.asarray(
                1.5
                * lay.hill
                * (np.sin(2 * turn * at + phases[2]) + 0.4 * np.sin(3 * turn * at + phases[3]))
            )

        weave = sway * np.sin(turn * 5 * place + phases[4])
        yaw = sway * turn * 5 * np.cos(turn * 5 * place + phases[4])
        self.heading = float(heading(place)) + float(yaw)
        relative = heading(s) - heading(place)
        slope = np.tan(relative)
        lateral = np.cumsum(slope) * _STEP
        self.ego_d = lay.ego_d + float(weave)
        self.lateral = lateral - np.interp(0, self.x, lateral) - self.ego_d - yaw * self.x
        self.cos = np.cos(relative)
        grade = float(height(place + 0.5) - height(place - 0.5))
        self.up = height(s) - height(place) - grade * self.x
        self._see(camera)

    def _see(self, camera: Camera) -> None:
        """Find the ground that each image row sees, and where crests hide what lies behind."""
        visible = self.x > 0.8
        x, up = self.x[visible], self.up[visible]
        rows = camera.project(np.stack([x, np.zeros_like(x), up], axis=1))[:, 1]
        skyline = np.minimum.accumulate(rows)
        self.crest = np.full(len(self.x), float(camera.height))
        self.crest[visible] = np.where(rows > skyline + 0.5, skyline, camera.height)
        every = np.arange(camera.height, dtype=np.float64)
        self.first_row = int(np.clip(np.ceil(skyline[-1]), 0, camera.height))
        # 1 / x is close to linear in the row, so it is what to interpolate
        inverse = np.interp(every, skyline[::-1], 1 / x[::-1])
        forward = 1 / inverse
        height = np.interp(forward, self.x, self.up)
        near = every > rows[0]
        slope = (every - camera.center[1]) / camera.focal
        sin, cos = np.sin(camera.pitch), np.cos(camera.pitch)
        flat = camera.mount_height * (cos - slope * sin) / np.maximum(sin + slope * cos, 1e-6)
        forward[near], height[near] = flat[near], 0.0
        forward[: self.first_row] = np.nan
        self.row_forward = np.asarray(forward, np.float32)
        self.row_up = np.asarray(np.where(np.isnan(forward), np.nan, height), np.float32)

    def place(
        self, x: npt.ArrayLike, d: npt.ArrayLike, z: npt.ArrayLike
    ) -> npt.NDArray[np.float64]:
        """Return vehicle-frame points `[n, 3]` of points on or above the road.

        `x` is ahead along the road, `d` to the left of its axis, `z` above it.
        """
        ahead = np.asarray(x, np.float64)
        y = np.interp(ahead, self.x, self.lateral) + np.asarray(d) / np.interp(
            ahead, self.x, self.cos
        )
        return np.stack([ahead, y, np.interp(ahead, self.x, self.up) + np.asarray(z)], axis=1)

    def hidden_below(self, x: float) -> int:
        """The image row from which a crest hides what stands `x` metres ahead."""
        return int(np.ceil(self.crest[min(len(self.crest) - 1, int((x - self.x[0]) / _STEP))]))
