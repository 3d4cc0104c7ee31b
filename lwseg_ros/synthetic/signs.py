"""Paint traffic signs, direction boards and traffic lights: see `painting`."""

from __future__ import annotations

import cv2
import numpy as np

from lwseg_ros.synthetic.painting import Color, Image, one_of


def sign(rng: np.random.Generator) -> Image:
    """The plate of a traffic sign, 96x96: prohibition, warning, mandatory, stop or information."""
    canvas = np.zeros((96, 96, 4), np.uint8)
    white, red, blue = (232, 232, 228, 255), (186, 32, 36, 255), (30, 74, 156, 255)
    kind = int(rng.integers(6))
    if kind == 0:
        cv2.circle(canvas, (48, 48), 46, red, -1, cv2.LINE_AA)
        cv2.circle(canvas, (48, 48), 34, white, -1, cv2.LINE_AA)
        _letters(canvas, str(rng.choice([30, 40, 50, 60])), (24, 60), 1.2, (20, 20, 20), 5)
    elif kind == 1:
        cv2.fillPoly(canvas, [np.array([[48, 4], [94, 90], [2, 90]])], red, cv2.LINE_AA)
        cv2.fillPoly(canvas, [np.array([[48, 26], [77, 80], [19, 80]])], white, cv2.LINE_AA)
        cv2.line(canvas, (48, 42), (48, 70), (20, 20, 20, 255), 7)
    elif kind == 2:
        cv2.circle(canvas, (48, 48), 46, blue, -1, cv2.LINE_AA)
        cv2.arrowedLine(canvas, (30, 66), (66, 30), white, 8, cv2.LINE_AA, 0, 0.4)
    elif kind == 3:
        angle = np.pi / 8 + np.arange(8) * np.pi / 4
        octagon = np.stack([48 + 46 * np.cos(angle), 48 + 46 * np.sin(angle)], axis=1).astype(
            np.int32
        )
        cv2.fillPoly(canvas, [octagon], red, cv2.LINE_AA)
        _letters(canvas, 'STOP', (12, 58), 0.9, white[:3], 4)
    elif kind == 4:
        cv2.rectangle(canvas, (4, 4), (92, 92), blue, -1)
        _letters(canvas, 'P', (26, 76), 2.2, white[:3], 9)
    else:
        cv2.fillPoly(
            canvas,
            [np.array([[48, 2], [94, 48], [48, 94], [2, 48]])],
            (224, 176, 40, 255),
            cv2.LINE_AA,
        )
        cv2.polylines(
            canvas,
            [np.array([[48, 14], [82, 48], [48, 82], [14, 48]])],
            True,
            (20, 20, 20, 255),
            4,
        )
    return canvas


def board(rng: np.random.Generator) -> Image:
    """A direction board or a billboard, 96x192."""
    paint: tuple[Color, ...] = ((24, 98, 66), (30, 70, 150), (226, 226, 220), (214, 170, 40))
    ground = one_of(rng, paint)
    ink = (238.0, 238.0, 236.0) if sum(ground) < 360 else (24.0, 24.0, 28.0)
    canvas = np.full((96, 192, 4), 255, np.uint8)
    canvas[..., :3] = np.asarray(ground, np.uint8)
    cv2.rectangle(canvas, (4, 4), (187, 91), (*ink, 255), 2)
    for line in range(2):
        text = ''.join(chr(int(c)) for c in rng.integers(65, 91, int(rng.integers(4, 8))))
        _letters(canvas, text, (14, 40 + 36 * line), 0.95, ink, 3)
    return canvas


def traffic_light(rng: np.random.Generator) -> Image:
    """A signal head, 96x40, one lamp lit."""
    canvas = np.zeros((96, 40, 4), np.uint8)
    cv2.rectangle(canvas, (2, 0), (37, 95), (26, 28, 28, 255), -1)
    lit = int(rng.integers(3))
    for lamp, color in enumerate(((236, 52, 40), (240, 176, 40), (60, 226, 140))):
        gain = 1.0 if lamp == lit else 0.22
        cv2.circle(
            canvas, (20, 17 + 31 * lamp), 11, (*(gain * c for c in color), 255), -1, cv2.LINE_AA
        )
    return canvas


def _letters(
    canvas: Image, text: str, place: tuple[int, int], scale: float, color: Color, thick: int
) -> None:
    """Write on a plate without touching its outline."""
    rgb = np.ascontiguousarray(canvas[..., :3])
    cv2.putText(rgb, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, color, thick, cv2.LINE_AA)
    canvas[..., :3] = rgb
