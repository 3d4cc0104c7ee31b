"""The ground of a generated street as it looks: grain, stains, joints, tyre tracks, light."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros.synthetic.layout import LENGTH, Layout
from lwseg_ros.synthetic.painting import Image, Noise, smooth_noise
from lwseg_ros.synthetic.scene import COLUMNS, HALF_WIDTH, ROWS, TEXEL, Material


def ground_picture(
    rng: np.random.Generator, layout: Layout, material: Image, light: npt.NDArray[np.float32]
) -> Image:
    """Return the ground, RGB uint8 `[rows, columns, 3]`, of its materials under a gain `light`."""
    grey = rng.uniform(84, 150)
    warm = rng.normal(0, 5)
    season = layout.season
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
    fine = smooth_noise(rng, ROWS, COLUMNS, (2.0,), wrap=True)
    broad = smooth_noise(rng, ROWS, COLUMNS, (160, 50, 12), wrap=True)
    grain = np.array([0.03, 0.03, 0.05, 0.05, 0.06, 0.05, 0.17, 0.13, 0.12], np.float32)
    stain = np.array([0.035, 0.04, 0.07, 0.07, 0.05, 0.06, 0.13, 0.13, 0.05], np.float32)
    worn = (broad + 0.8 * fine) > rng.uniform(0.9, 2.6)
    visible = material.copy()
    visible[worn & ((visible == Material.WHITE) | (visible == Material.YELLOW))] = Material.ASPHALT
    gain = 1 + grain[visible] * fine + stain[visible] * broad
    _joints(rng, layout.half, visible, gain)
    _tyre_tracks(rng, layout, gain)
    gain *= light
    ground = np.empty((ROWS, COLUMNS, 3), np.uint8)
    for channel in range(3):
        ground[..., channel] = np.clip(colors[:, channel][visible] * gain, 0, 255)
    return ground


def _joints(rng: np.random.Generator, half: float, visible: Image, gain: Noise) -> None:
    size = int(rng.integers(8, 20))
    lines = np.zeros((ROWS, COLUMNS), bool)
    lines[::size] = True
    lines[:, ::size] = True
    gain[lines & ((visible == Material.SLABS) | (visible == Material.KERB))] *= 0.8
    stones = np.zeros((ROWS, COLUMNS), bool)
    stones[::3] = True
    stones[:, ::3] = True
    gain[stones & (visible == Material.COBBLES)] *= 0.75
    for _ in range(int(rng.integers(0, 30))):
        s, d = (
            rng.uniform(0, LENGTH - 20),
            rng.uniform(-half, half),
        )
        steps = np.cumsum(rng.normal(0, 4, (24, 2)) + [rng.uniform(2, 10), 0], axis=0)
        path = (np.array([s, d + HALF_WIDTH]) / TEXEL + steps)[:, ::-1].astype(np.int32)
        cv2.polylines(gain, [path], False, 0.62, 1)


def _tyre_tracks(rng: np.random.Generator, lay: Layout, gain: Noise) -> None:
    d = (np.arange(COLUMNS) + 0.5) * TEXEL - HALF_WIDTH
    inside = np.abs(d) < lay.half
    phase = (d / lay.lane_width + (lay.lanes / 2 if lay.kind == 'highway' else 0)) % 1
    tracks = np.exp(-((phase - 0.25) ** 2) / 0.012) + np.exp(-((phase - 0.75) ** 2) / 0.012)
    gain *= np.where(inside, 1 + rng.uniform(-0.12, 0.05) * tracks, 1).astype(np.float32)
