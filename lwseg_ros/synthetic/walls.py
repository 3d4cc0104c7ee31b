"""Paint upright surfaces: house fronts, walls, fences, guard rails, concrete; see `painting`."""

from __future__ import annotations

import cv2
import numpy as np

from lwseg_ros.synthetic.painting import (
    COLORS,
    Color,
    Image,
    jittered,
    one_of,
    premultiplied,
    smooth_noise,
)

_WALLS: tuple[Color, ...] = (
    (150, 92, 72),
    (176, 150, 118),
    (196, 184, 162),
    (120, 112, 106),
    (166, 164, 160),
    (204, 172, 120),
    (140, 74, 60),
    (182, 116, 92),
    (214, 208, 196),
    (104, 92, 84),
    (158, 172, 176),
    (190, 160, 160),
)


def facade(rng: np.random.Generator, width_m: float, height_m: float, shops: bool) -> Image:
    """The front of a house, 20 pixels a metre, with windows, and shops or a door below."""
    scale = 20
    width, height = round(width_m * scale), round(height_m * scale)
    wall = np.asarray(one_of(rng, _WALLS), np.float32)
    rgb = wall * (1 + 0.06 * smooth_noise(rng, height, width, (90, 22, 3))[..., None])
    if rng.random() < 0.4:
        courses = (np.arange(height)[:, None] % 4 == 0) * 0.08
        rgb *= (1 - courses)[..., None]
    rgb *= np.linspace(1.03, 0.9, height, dtype=np.float32)[:, None, None]
    image = np.asarray(np.clip(rgb, 0, 255), np.uint8)
    storey = round(rng.uniform(2.8, 3.6) * scale)
    pitch = round(rng.uniform(1.9, 3.4) * scale)
    glass_w, glass_h = int(pitch * rng.uniform(0.38, 0.72)), int(storey * rng.uniform(0.42, 0.62))
    frame = one_of(rng, ((226, 224, 218), (60, 52, 48), (150, 142, 130)))
    ground_floor = height - round(3.6 * scale) if shops else height - storey
    margin = (width - (width // pitch) * pitch + pitch - glass_w) // 2
    for top in range(round(0.9 * scale), ground_floor - glass_h, storey):
        for left in range(margin, width - glass_w, pitch):
            _window(rng, image, left, top, glass_w, glass_h, frame)
            if rng.random() < 0.06:
                cv2.rectangle(
                    image,
                    (left - 6, top + glass_h - 14),
                    (left + glass_w + 6, top + glass_h + 4),
                    tuple(0.6 * c for c in frame),
                    -1,
                )
    if shops:
        _shop_fronts(rng, image, ground_floor)
    else:
        door = int(rng.integers(margin, max(margin + 1, width - pitch)))
        for left in range(margin, width - glass_w, pitch):
            if abs(left - door) > pitch // 2:
                _window(rng, image, left, ground_floor + storey // 5, glass_w, glass_h, frame)
        cv2.rectangle(
            image,
            (door, height - round(2.2 * scale)),
            (door + scale, height),
            one_of(rng, COLORS),
            -1,
        )
    cv2.rectangle(image, (0, 0), (width, 8), tuple(float(c) for c in wall * 0.72), -1)
    cv2.rectangle(image, (0, 8), (width, 11), tuple(float(c) for c in wall * 0.5), -1)
    edge = np.asarray(image[:, :3] * 0.7, np.uint8)
    image[:, :3] = edge
    return np.asarray(np.dstack([image, np.full((height, width), 255, np.uint8)]), np.uint8)


def fence(rng: np.random.Generator) -> Image:
    """Four metres of fence, 80x256: boards, railings, wire mesh or a steel guard rail."""
    canvas = np.zeros((80, 256, 4), np.uint8)
    kind = int(rng.integers(3))
    if kind == 0:
        color = one_of(rng, ((120, 92, 64), (178, 172, 160), (92, 80, 66)))
        for x in range(0, 256, 12):
            shade = rng.uniform(0.8, 1.1)
            cv2.rectangle(
                canvas, (x, 4), (x + 10, 79), (*(min(255.0, shade * c) for c in color), 255), -1
            )
        cv2.rectangle(canvas, (0, 16), (255, 22), (*(0.7 * c for c in color), 255), -1)
        canvas[..., 3] = np.maximum(canvas[..., 3], 255 * (np.arange(80)[:, None] > 8))
    else:
        color = one_of(rng, ((40, 44, 44), (150, 152, 150), (44, 74, 54)))
        step, thick = (10, 3) if kind == 1 else (6, 1)
        for x in range(0, 256, step):
            cv2.line(canvas, (x, 4), (x, 79), (*color, 255), thick)
        for y in (6, 40, 74) if kind == 1 else range(4, 80, 6):
            cv2.line(canvas, (0, y), (255, y), (*color, 255), thick)
        cv2.rectangle(canvas, (0, 0), (6, 79), (*color, 255), -1)
        cv2.line(canvas, (0, 4), (255, 4), (*color, 255), 4)
    return canvas


def guard_rail(rng: np.random.Generator) -> Image:
    """Four metres of steel guard rail, 80x256."""
    canvas = np.zeros((80, 256, 4), np.uint8)
    steel = jittered(rng, (168, 172, 174), 8)
    for x in (20, 148):
        cv2.rectangle(canvas, (x, 20), (x + 10, 79), (*(0.6 * c for c in steel), 255), -1)
    profile = (0.8, 1.15, 0.9, 0.6, 0.95, 1.15, 0.8)
    for band, gain in enumerate(profile):
        cv2.rectangle(
            canvas,
            (0, 4 + 5 * band),
            (255, 8 + 5 * band),
            (*(min(255.0, gain * c) for c in steel), 255),
            -1,
        )
    return canvas


def wall(rng: np.random.Generator) -> Image:
    """Four metres of garden, retaining or noise-protection wall, 96x256."""
    base = np.asarray(one_of(rng, _WALLS), np.float32)
    rgb = base * (1 + 0.08 * smooth_noise(rng, 96, 256, (60, 12, 3))[..., None])
    if rng.random() < 0.6:
        rgb[::8] *= 0.8
        for row in range(12):
            rgb[row * 8 : row * 8 + 8, (row % 2) * 8 :: 16] *= 0.8
    rgb[:5] = base * 1.1
    return premultiplied(rgb, np.ones((96, 256)))


def concrete(rng: np.random.Generator) -> Image:
    """A plain concrete surface for bridges and tunnels, 128x256."""
    base = np.asarray(jittered(rng, (146, 142, 134), 12), np.float32)
    rgb = base * (1 + 0.07 * smooth_noise(rng, 128, 256, (80, 30, 2))[..., None])
    rgb[:, ::64] *= 0.75
    rgb[::43] *= 0.85
    return premultiplied(rgb, np.ones((128, 256)))


def _window(
    rng: np.random.Generator,
    image: Image,
    left: int,
    top: int,
    width: int,
    height: int,
    frame: Color,
) -> None:
    cv2.rectangle(image, (left - 2, top - 2), (left + width + 2, top + height + 2), frame, -1)
    tone = rng.uniform(0.25, 0.8)
    glass = image[top : top + height, left : left + width]
    rows = np.linspace(1.25, 0.6, glass.shape[0], dtype=np.float32)[:, None, None]
    glass[:] = np.clip(np.array([86, 98, 112]) * tone * rows * rng.uniform(0.7, 1.3), 0, 255)
    if rng.random() < 0.25:
        glass[: int(rng.uniform(0.2, 0.8) * height)] = np.asarray((206, 198, 184))
    cv2.line(image, (left + width // 2, top), (left + width // 2, top + height), frame, 2)
    cv2.line(
        image,
        (left - 4, top + height + 4),
        (left + width + 4, top + height + 4),
        tuple(0.55 * c for c in frame),
        3,
    )


def _shop_fronts(rng: np.random.Generator, image: Image, top: int) -> None:
    height, width = image.shape[:2]
    left = 0
    while left < width:
        right = min(width, left + int(rng.integers(70, 150)))
        fascia = one_of(rng, COLORS)
        cv2.rectangle(image, (left, top), (right, height), tuple(0.5 * c for c in fascia), -1)
        pane = image[top + 26 : height - 8, left + 5 : right - 5]
        shape = (pane.shape[0], pane.shape[1])
        if min(shape) > 8:
            pane[:] = np.clip(
                70 + 34 * smooth_noise(rng, *shape, (30, 9))[..., None] * [1, 0.9, 0.75], 8, 255
            )
        cv2.rectangle(image, (left + 2, top + 3), (right - 3, top + 22), fascia, -1)
        ink = (236, 232, 224) if sum(fascia) < 330 else (28, 26, 30)
        text = ''.join(chr(int(c)) for c in rng.integers(65, 91, 6))
        cv2.putText(image, text, (left + 8, top + 18), 0, 0.55, ink, 2, cv2.LINE_AA)
        if rng.random() < 0.3:
            awning = image[top + 22 : top + 42, left + 4 : right - 4]
            awning[:] = np.asarray(fascia)
            awning[:, (np.arange(awning.shape[1]) // 8) % 2 == 0] = (222, 218, 208)
        left = right
