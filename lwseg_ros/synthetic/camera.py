"""The camera of a generated drive: where it sees a point, what it delivers of a view."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros.synthetic.painting import Image


@dataclass(frozen=True)
class Camera:
    """A pinhole camera on a vehicle.

    Vehicle frame: x forward, y left, z up, metres, origin on the ground below the camera. Image
    frame: u to the right, v down, pixels, the centre of the first pixel at (0, 0). `pitch`
    (radians) is positive when the camera looks down.
    """

    width: int
    height: int
    focal: float
    mount_height: float
    pitch: float

    @property
    def center(self) -> tuple[float, float]:
        """The principal point (u, v)."""
        return (self.width - 1) / 2, (self.height - 1) / 2

    @property
    def k(self) -> npt.NDArray[np.float64]:
        """The intrinsic matrix `[3, 3]`; the lens has no distortion."""
        return np.array(
            [[self.focal, 0, self.center[0]], [0, self.focal, self.center[1]], [0, 0, 1]]
        )

    def project(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return u, v and depth along the axis, `[n, 3]`, of vehicle-frame points `[n, 3]`."""
        return self.image_of(self.optical(points))

    def optical(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return vehicle-frame points `[n, 3]` in the optical frame: right, down, forward."""
        x, y, z = np.asarray(points, np.float64).T
        sin, cos = np.sin(self.pitch), np.cos(self.pitch)
        z = z - self.mount_height
        return np.stack([-y, -x * sin - z * cos, x * cos - z * sin], axis=1)

    def image_of(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return u, v and depth, `[n, 3]`, of optical-frame points `[n, 3]`."""
        right, down, depth = points.T
        with np.errstate(divide='ignore', invalid='ignore'):
            u = self.center[0] + self.focal * right / depth
            v = self.center[1] + self.focal * down / depth
        return np.stack([u, v, depth], axis=1)


@dataclass
class Grade:
    """The camera's electronics: sharpness, exposure, colour balance and noise."""

    blur: float
    exposure: float
    gamma: float
    balance: npt.NDArray[np.float64]
    wobble: tuple[float, float]
    noise: npt.NDArray[np.int16]

    @classmethod
    def draw(cls, rng: np.random.Generator, mood: float, width: int, height: int) -> Grade:
        """Draw a camera; dusk (mood near 1) is darker, warmer and noisier."""
        dusk = max(0.0, mood - 0.75) * 4
        strength = float(rng.uniform(0.8, 3.5) + 4 * dusk * rng.random())
        grain = rng.standard_normal((height + 64, width + 64, 1), np.float32) * 0.8
        grain = grain + rng.standard_normal((height + 64, width + 64, 3), np.float32) * 0.5
        warm = float(rng.normal(0, 0.05) + 0.06 * dusk)
        return cls(
            blur=float(rng.uniform(0.35, 0.85) * width / 960),
            exposure=float(rng.uniform(0.8, 1.08) * (1 - 0.45 * dusk * rng.random())),
            gamma=float(rng.uniform(0.78, 1.12)),
            balance=np.array([1 + warm, 1.0, 1 - warm]),
            wobble=(float(rng.uniform(0, 0.14)), float(rng.uniform(0, 6))),
            noise=np.asarray(np.round(grain * strength), np.int16),
        )

    def apply(self, image: Image, rng: np.random.Generator, place: float, shelter: float) -> Image:
        """Return the picture that the camera delivers of a rendered image."""
        if self.blur > 0.4:
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), self.blur), np.uint8)
        gain = (
            self.exposure
            * (1 + self.wobble[0] * np.sin(place * 0.07 + self.wobble[1]))
            * (1 + 0.7 * shelter)
        )
        levels = np.arange(256)[:, None] / 255 * self.balance * gain
        curve = np.clip(255 * np.clip(levels, 0, None) ** self.gamma, 0, 255).astype(np.uint8)
        toned = cv2.LUT(image, curve[None])
        y, x = (int(n) for n in rng.integers(0, 64, 2))
        grain = self.noise[y : y + image.shape[0], x : x + image.shape[1]]
        return np.asarray(cv2.add(toned, grain, dtype=cv2.CV_8U), np.uint8)
