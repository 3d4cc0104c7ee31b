"""Paint people on foot and on bicycles: see `painting`."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros.synthetic.painting import COLORS, Color, Image, jittered, one_of

_SKIN: tuple[Color, ...] = ((214, 172, 144), (186, 138, 108), (128, 88, 64), (86, 58, 44))


def person(rng: np.random.Generator, phase: float) -> Image:
    """A person, 224x112, feet on the last row; `phase` in [0, 1) is the step."""
    canvas = np.zeros((224, 112, 4), np.uint8)
    coat, trousers, skin = one_of(rng, COLORS), one_of(rng, COLORS[:6]), one_of(rng, _SKIN)
    hair = jittered(rng, (50, 38, 28), 16)
    stride = 20 * np.sin(2 * np.pi * phase)
    build = int(rng.integers(15, 22))
    dark = tuple(0.72 * c for c in coat)
    skirt = rng.random() < 0.25
    leg = skin if skirt else trousers
    for side, tint in ((-1, 0.75), (1, 1.0)):
        foot = 56 + side * (5 + stride)
        color = (leg[0] * tint, leg[1] * tint, leg[2] * tint)
        _limb(
            canvas,
            [(56 + side * 7, 118), (56 + side * (7 + stride * 0.35), 166), (foot, 214)],
            15,
            color,
        )
        _limb(canvas, [(foot - 3, 218), (foot + 8, 219)], 8, (26, 24, 24))
    _limb(
        canvas,
        [(56 - build, 58), (56 - build - 5, 92), (56 - build + 0.5 * stride, 122)],
        11,
        (dark[0], dark[1], dark[2]),
    )
    torso = np.array(
        [[56 - build, 50], [56 + build, 50], [56 + build - 2, 122], [56 - build + 2, 122]]
    )
    cv2.fillPoly(canvas, [torso], (*coat, 255), cv2.LINE_AA)
    cv2.fillPoly(
        canvas, [torso[[1, 1, 2, 2]] - [[9, 0], [0, 0], [0, 0], [9, 0]]], (*dark, 255), cv2.LINE_AA
    )
    if skirt:
        cv2.fillPoly(
            canvas,
            [np.array([[40, 116], [72, 116], [80, 162], [32, 162]])],
            (*trousers, 255),
            cv2.LINE_AA,
        )
    _limb(
        canvas,
        [(56 + build, 58), (56 + build + 4, 92), (56 + build - 0.5 * stride, 122)],
        11,
        coat,
    )
    if rng.random() < 0.4:
        cv2.rectangle(
            canvas,
            (56 + build - 4, 96),
            (56 + build + 14, 126),
            (*one_of(rng, COLORS), 255),
            -1,
        )
    _limb(canvas, [(56, 40), (56, 52)], 12, skin)
    cv2.ellipse(canvas, (56, 26), (14, 18), 0, 0, 360, (*skin, 255), -1, cv2.LINE_AA)
    cv2.ellipse(canvas, (56, 20), (15, 14), 0, 180, 360, (*hair, 255), -1, cv2.LINE_AA)
    if rng.random() < 0.5:
        cv2.ellipse(canvas, (56, 25), (15, 19), 0, 0, 360, (*hair, 255), -1, cv2.LINE_AA)
    return _soften(canvas)


def cyclist(rng: np.random.Generator, from_behind: bool) -> Image:
    """A rider on a bicycle or scooter, 224x208 from the side, 224x112 from behind or in front."""
    coat, trousers, skin = one_of(rng, COLORS), one_of(rng, COLORS[:6]), one_of(rng, _SKIN)
    frame, rubber = one_of(rng, COLORS), (24.0, 24.0, 26.0)
    helmet = one_of(rng, ((30, 30, 32), (200, 60, 50), (220, 220, 220), (50, 38, 28)))
    if from_behind:
        canvas = np.zeros((224, 112, 4), np.uint8)
        cv2.ellipse(
            canvas, (56, 172), (int(rng.integers(4, 9)), 50), 0, 0, 360, (*rubber, 255), -1
        )
        for side in (-1, 1):
            _limb(
                canvas,
                [
                    (56 + side * 10, 116),
                    (56 + side * 19, 150 + side * 6),
                    (56 + side * 12, 190 + side * 8),
                ],
                14,
                trousers,
            )
            _limb(
                canvas,
                [(56 + side * 18, 58), (56 + side * 30, 84), (56 + side * 26, 104)],
                10,
                coat,
            )
        _limb(canvas, [(26, 106), (86, 106)], 5, rubber)
        cv2.fillPoly(
            canvas,
            [np.array([[36, 50], [76, 50], [72, 124], [40, 124]])],
            (*coat, 255),
            cv2.LINE_AA,
        )
        cv2.rectangle(canvas, (50, 132), (62, 140), (190, 30, 30, 255), -1)
        head = (56, 30)
    else:
        canvas = np.zeros((224, 208, 4), np.uint8)
        for x in (46, 162):
            cv2.circle(canvas, (x, 176), 42, (*rubber, 255), 6, cv2.LINE_AA)
            for angle in np.arange(0, np.pi, np.pi / 4):
                dx, dy = int(40 * np.cos(angle)), int(40 * np.sin(angle))
                cv2.line(
                    canvas,
                    (x - dx, 176 - dy),
                    (x + dx, 176 + dy),
                    (120, 120, 124, 255),
                    1,
                    cv2.LINE_AA,
                )
        for path in (
            [(46, 176), (84, 120), (148, 118), (100, 178), (46, 176)],
            [(84, 120), (100, 178)],
            [(162, 176), (146, 106), (156, 98)],
        ):
            _limb(canvas, path, 6, frame)
        _limb(canvas, [(84, 116), (122, 138), (104, 190), (116, 192)], 15, trousers)
        _limb(canvas, [(84, 112), (118, 66)], 30, coat)
        _limb(canvas, [(120, 64), (134, 92), (154, 100)], 11, coat)
        head = (128, 32)
    cv2.circle(canvas, head, 16, (*skin, 255), -1, cv2.LINE_AA)
    cv2.ellipse(
        canvas, (head[0], head[1] - 3), (18, 15), 0, 175, 365, (*helmet, 255), -1, cv2.LINE_AA
    )
    return _soften(canvas)


def _limb(canvas: Image, points: npt.ArrayLike, thickness: int, color: Color) -> None:
    path = np.round(np.asarray(points)).astype(np.int32)
    cv2.polylines(canvas, [path], False, (*color, 255), thickness, cv2.LINE_AA)


def _soften(canvas: Image) -> Image:
    """Shade a flat drawing from the left and premultiply it."""
    height, width = canvas.shape[:2]
    alpha = canvas[..., 3].astype(np.float32) / 255
    light = np.linspace(1.12, 0.82, width, dtype=np.float32)[None, :, None]
    fold = cv2.GaussianBlur(canvas[..., :3], (0, 0), 1.5).astype(np.float32)
    # where the drawing is antialiased its colour is already scaled by its alpha
    return np.asarray(
        np.concatenate(
            [np.clip(fold * light, 0, 255) * alpha[..., None], canvas[..., 3:]], axis=-1
        ),
        np.uint8,
    )
