"""A generated drive: camera images of a street with exact labels, stamps and camera geometry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt

from lwseg_ros.errors import DataError
from lwseg_ros.synthetic.camera import Camera, Grade
from lwseg_ros.synthetic.canvas import Canvas
from lwseg_ros.synthetic.layout import KINDS, LENGTH
from lwseg_ros.synthetic.lidar import Lidar, RayCaster, Scan
from lwseg_ros.synthetic.painting import Image, pyramid, smooth_noise
from lwseg_ros.synthetic.road import Road
from lwseg_ros.synthetic.scene import MATERIAL_LABELS, Scene
from lwseg_ros.synthetic.street import build_scene

_FIRST_STAMP_NS = 1_700_000_000_000_000_000


class DriveFrame(NamedTuple):
    """One frame of a generated drive."""

    number: int
    stamp_ns: int
    image: Image
    """RGB uint8 `[H, W, 3]`."""
    labels: Image
    """uint8 `[H, W]`, class ids of the label space 'camvid', 255 where no class fits."""
    camera: Camera
    """The camera with its exact pitch in this frame."""
    ground_forward: npt.NDArray[np.float32]
    """float32 `[H]`: how far ahead, in metres, the ground seen in each row lies; NaN above it."""
    ground_up: npt.NDArray[np.float32]
    """float32 `[H]`: the height of that ground above the ground below the camera, metres."""


class GeneratedDrive(Sequence[DriveFrame]):
    """A drive of `frames` frames, which may be asked for in any order.

    Equal arguments give equal bytes (with the same versions of OpenCV and NumPy).

    Example: `frame = GeneratedDrive(7, 640, 360).frame(0)`.

    `kind` is one of `layout.KINDS` (city, suburb, rural, highway) or None, then the seed chooses.
    """

    def __init__(
        self,
        seed: int,
        width: int = 1280,
        height: int = 720,
        frames: int = 150,
        rate_hz: float = 15.0,
        kind: str | None = None,
    ) -> None:
        if kind is not None and kind not in KINDS:
            raise DataError(
                f'a generated drive cannot be {kind!r}: choose one of {", ".join(KINDS)}'
            )
        if min(width, height) < 32 or frames < 1 or not rate_hz > 0 or seed < 0:
            raise DataError(
                'a generated drive needs at least 32x32 pixels, one frame, a rate above 0 and a '
                'seed of at least 0; '
                f'got {width}x{height}, {frames} frames, {rate_hz} Hz, seed {seed}'
            )
        self.seed, self.frames, self.rate_hz = seed, frames, rate_hz
        rng = np.random.default_rng(seed)
        self.scene: Scene = build_scene(rng, kind)
        lay = self.scene.layout
        view = np.deg2rad(rng.uniform(52, 84))
        self.camera = Camera(
            width,
            height,
            float(width / 2 / np.tan(view / 2)),
            float(rng.uniform(1.15, 2.1)),
            float(np.deg2rad(rng.uniform(-2, 8))),
        )
        self._phases = rng.uniform(0, 2 * np.pi, 8)
        self._sway = float(rng.uniform(0.05, 0.35))
        self._shake = float(np.deg2rad(rng.uniform(0.05, 0.3)))
        self._bonnet = float(rng.uniform(0.03, 0.12)) if rng.random() < 0.22 else 0.0
        self._bonnet_color = rng.uniform(15, 120) * rng.uniform(0.85, 1.1, 3)
        self._grade = Grade.draw(rng, lay.mood, width, height)
        materials = self.scene.material
        self._textures = pyramid(self.scene.ground, 256)
        self._materials = MATERIAL_LABELS[materials]
        rough = 128 + rng.uniform(4, 11) * smooth_noise(rng, 512, 512, (5, 2.5, 1.5))
        self._grain = np.asarray(np.clip(rough, 0, 255), np.uint8)
        self._fog = np.asarray(self.scene.sky[-30:].mean(axis=(0, 1)), np.float64)

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.frames

    def __iter__(self) -> Iterator[DriveFrame]:
        """Render the frames in order."""
        return (self.frame(i) for i in range(self.frames))

    @overload
    def __getitem__(self, index: int) -> DriveFrame: ...

    @overload
    def __getitem__(self, index: slice) -> list[DriveFrame]: ...

    def __getitem__(self, index: int | slice) -> DriveFrame | list[DriveFrame]:
        """Render one frame, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self.frame(i) for i in range(*index.indices(self.frames))]
        if not -self.frames <= index < self.frames:
            raise IndexError(index)
        return self.frame(index % self.frames)

    def frame(self, i: int) -> DriveFrame:
        """Render frame `i`."""
        canvas, place = self._drawn(i)
        camera, road = canvas.camera, canvas.road
        rng = np.random.default_rng((self.seed, i))
        image = self._grade.apply(canvas.image, rng, place, self._shelter(place))
        stamp = _FIRST_STAMP_NS + round(i * 1e9 / self.rate_hz)
        return DriveFrame(i, stamp, image, canvas.labels, camera, road.row_forward, road.row_up)

    def depth(self, i: int) -> npt.NDArray[np.float32]:
        """Return the exact depth of frame `i`, float32 `[H, W]`, metres along the camera's axis.

        NaN in the sky, on the skyline and on the vehicle's own bonnet.
        """
        return self._drawn(i, measures=True)[0].depth

    def _drawn(self, i: int, measures: bool = False) -> tuple[Canvas, float]:
        """Draw frame `i`; return it with the place along the road."""
        time_s, place, camera, road = self._instant(i)
        canvas = Canvas(camera, road, self._fog, self.scene.layout.haze, measures)
        canvas.sky(self.scene, road.heading)
        canvas.ground(self._textures, self._materials, self._grain, place)
        canvas.objects(self.scene, time_s, place)
        if self._bonnet:
            canvas.bonnet(self._bonnet, self._bonnet_color)
        return canvas, place

    def scan(self, i: int, lidar: Lidar) -> Scan:
        """Return what a lidar on the vehicle measures in the instant of frame `i`."""
        time_s, place, camera, road = self._instant(i)
        caster = RayCaster(lidar, camera, road)
        return caster.scan(self.scene, self._materials, time_s, place)

    def _instant(self, i: int) -> tuple[float, float, Camera, Road]:
        """Return the time of frame `i`, the place along the road, the camera and the road."""
        time_s = i / self.rate_hz
        place = self.scene.layout.speed * time_s
        bump = (
            self._shake
            * np.sin(place * 0.9 + self._phases[5])
            * np.sin(place * 0.23 + self._phases[6])
        )
        camera = replace(self.camera, pitch=self.camera.pitch + float(bump))
        road = Road(self.scene.layout, self._phases, place, self._sway, camera)
        return time_s, place, camera, road

    def _shelter(self, place: float) -> float:
        """How much the exposure has to rise because the road ahead lies under a bridge, 0 to 1."""
        ahead = np.mod(place + np.arange(2, 26, 2.0), LENGTH)
        inside = [np.mean((ahead > s0) & (ahead < s1)) for s0, s1 in self.scene.tunnels]
        return float(max(inside, default=0.0))
