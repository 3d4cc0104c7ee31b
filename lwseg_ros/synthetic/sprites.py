"""Paint the parts of the generated street: trees, people, signs, facades, fences and sky.

A sprite is premultiplied RGBA uint8 `[h, w, 4]`, row 0 at the top; a texture is the same with a
full alpha. Every painter draws from the generator it is given and from nothing else.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Noise = npt.NDArray[np.float32]
Color = tuple[float, float, float]


def smooth_noise(
    rng: np.random.Generator, height: int, width: int, cells: tuple[float, ...], wrap: bool = False
) -> Noise:
    """Return value noise `[height, width]` float32 of mean 0 and spread about 1.

    `cells` are the grain sizes in pixels, coarse to fine; each weighs as much as the others.
    With `wrap` the last row continues in the first.
    """
    total = np.zeros((height, width), np.float32)
    for cell in cells:
        rows, columns = max(2, round(height / cell)), max(2, round(width / cell))
        grid = rng.standard_normal((rows, columns), np.float32)
        if wrap:
            grid = np.vstack([grid[-1:], grid, grid[:1]])
            tall = round(height * (rows + 2) / rows)
            begin = round(height / rows)
            total += cv2.resize(grid, (width, tall), interpolation=cv2.INTER_LINEAR)[
                begin : begin + height
            ]
        else:
            total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(total / np.sqrt(len(cells)), np.float32)


def pyramid(image: Image, smallest: int = 6) -> list[Image]:
    """Return the image and its halvings (area averages), down to `smallest` pixels."""
    levels = [image]
    while min(levels[-1].shape[:2]) >= 2 * smallest:
        height, width = levels[-1].shape[:2]
        levels.append(
            np.asarray(
                cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA),
                np.uint8,
            )
        )
    return levels


def _rgba(rgb: npt.NDArray[np.floating], alpha: npt.NDArray[np.floating]) -> Image:
    alpha = np.clip(alpha, 0, 1)[..., None]
    rgba = np.concatenate([np.clip(rgb, 0, 255) * alpha, 255 * alpha], axis=-1)
    return np.asarray(rgba, np.uint8)


def _jitter(rng: np.random.Generator, color: Color, spread: float) -> Color:
    r, g, b = np.clip(
        np.asarray(color) + rng.normal(0, spread) + rng.normal(0, spread / 2, 3), 4, 250
    )
    return float(r), float(g), float(b)


def _blobs(
    rng: np.random.Generator,
    size: tuple[int, int],
    outline: tuple[tuple[float, float, float, float], ...],
    color: Color,
    count: int,
) -> Image:
    """Foliage: leaf clumps inside ellipses `(x, y, rx, ry)` in fractions, lit from above."""
    height, width = size
    rgb = np.zeros((height, width, 3), np.uint8)
    alpha = np.zeros((height, width), np.uint8)
    clumps = []
    for x, y, rx, ry in outline:
        radius = np.sqrt(rng.random(count)) * rng.uniform(0.8, 1.0, count)
        angle = rng.random(count) * 2 * np.pi
        px, py = x + rx * radius * np.cos(angle), y + ry * radius * np.sin(angle)
        light = 0.75 - 0.6 * (py - y) / max(ry, 1e-3) - 0.25 * (px - x) / max(rx, 1e-3)
        clumps.append(np.stack([px, py, light + rng.normal(0, 0.22, count)], axis=1))
    order = np.concatenate(clumps)
    for px, py, light in order[np.argsort(order[:, 2])]:
        center = (int(px * width), int(py * height))
        axes = (
            int(rng.uniform(0.01, 0.04) * width) + 2,
            int(rng.uniform(0.01, 0.035) * height) + 2,
        )
        shade = 0.42 + 0.4 * float(np.clip(light, -0.2, 1.6))
        tint = tuple(shade * c for c in _jitter(rng, color, 7))
        turn = float(rng.uniform(0, 180))
        cv2.ellipse(rgb, center, axes, turn, 0, 360, tint, -1)
        cv2.ellipse(alpha, center, axes, turn, 0, 360, 255, -1)
    leaves = smooth_noise(rng, height, width, (9, 4, 2))
    inside = cv2.GaussianBlur(alpha, (0, 0), 4).astype(np.float32) / 255
    ragged = np.clip((inside + 0.22 * leaves - 0.42) * 5, 0, 1) * (alpha > 0)
    return _rgba(rgb * (1 + 0.24 * leaves[..., None]), ragged)


def tree(rng: np.random.Generator, season: float) -> Image:
    """A broad-leaved tree or a conifer, 256x256; `season` 0 is spring green, 1 is autumn."""
    green: Color = (66 + 20 * season, 96 - 8 * season, 40)
    if season > 0.75 and rng.random() < 0.5:
        green = (150, 98, 38)
    green = _jitter(rng, green, 10)
    canvas = np.zeros((256, 256, 4), np.uint8)
    trunk = _jitter(rng, (74, 62, 50), 10)
    width = int(rng.integers(4, 10))
    lean = int(rng.integers(-10, 11))
    bark = np.array(
        [
            [128 - width, 255],
            [128 + width, 255],
            [128 + lean + width // 2, 90],
            [128 + lean - width // 2, 90],
        ]
    )
    cv2.fillPoly(canvas, [bark], (*trunk, 255))
    cv2.fillPoly(
        canvas,
        [bark[[1, 1, 2, 2]] - [[width, 0], [0, 0], [0, 0], [width // 2, 0]]],
        (*(0.7 * c for c in trunk), 255),
    )
    if rng.random() < 0.3:
        layers = tuple((0.5, y, 0.05 + 0.36 * y, 0.07) for y in np.linspace(0.08, 0.86, 9))
        crown = _blobs(
            rng, (256, 256), layers, (green[0] * 0.7, green[1] * 0.8, green[2] * 0.95), 26
        )
    else:
        low = rng.uniform(0.27, 0.38)
        parts = [(0.5, low, rng.uniform(0.28, 0.4), low * 0.82)]
        for _ in range(int(rng.integers(2, 5))):
            parts.append(
                (rng.uniform(0.28, 0.72), rng.uniform(0.2, 0.48), rng.uniform(0.12, 0.24), 0.14)
            )
        crown = _blobs(rng, (256, 256), tuple(parts), green, 130)
    return _over(canvas, crown)


def bush(rng: np.random.Generator, season: float) -> Image:
    """A bush or a clump of high grass, 128x192, rooted on its last row."""
    green = _jitter(rng, (70 + 30 * season, 98, 44), 12)
    parts = tuple(
        (
            rng.uniform(0.25, 0.75),
            rng.uniform(0.55, 0.8),
            rng.uniform(0.18, 0.3),
            rng.uniform(0.25, 0.4),
        )
        for _ in range(4)
    )
    return _blobs(rng, (128, 192), (*parts, (0.5, 0.9, 0.42, 0.16)), green, 45)


def _over(below: Image, above: Image) -> Image:
    keep = 255 - above[..., 3:].astype(np.uint16)
    return np.asarray(above + (below * keep + 127) // 255, np.uint8)


_CLOTHES: tuple[Color, ...] = (
    (28, 30, 38),
    (44, 52, 84),
    (92, 30, 34),
    (150, 146, 138),
    (196, 190, 180),
    (64, 84, 62),
    (170, 70, 40),
    (40, 92, 130),
    (206, 180, 60),
    (84, 66, 54),
    (110, 110, 116),
    (190, 80, 120),
)
_SKIN: tuple[Color, ...] = ((214, 172, 144), (186, 138, 108), (128, 88, 64), (86, 58, 44))


def _choice(rng: np.random.Generator, colors: tuple[Color, ...]) -> Color:
    return _jitter(rng, colors[int(rng.integers(len(colors)))], 8)


def _limb(canvas: Image, points: npt.ArrayLike, thickness: int, color: Color) -> None:
    path = np.round(np.asarray(points)).astype(np.int32)
    cv2.polylines(canvas, [path], False, (*color, 255), thickness, cv2.LINE_AA)


def person(rng: np.random.Generator, phase: float) -> Image:
    """A person, 224x112, feet on the last row; `phase` in [0, 1) is the step."""
    canvas = np.zeros((224, 112, 4), np.uint8)
    coat, trousers, skin = _choice(rng, _CLOTHES), _choice(rng, _CLOTHES[:6]), _choice(rng, _SKIN)
    hair = _jitter(rng, (50, 38, 28), 16)
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
            (*_choice(rng, _CLOTHES), 255),
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
    coat, trousers, skin = _choice(rng, _CLOTHES), _choice(rng, _CLOTHES[:6]), _choice(rng, _SKIN)
    frame, rubber = _choice(rng, _CLOTHES), (24.0, 24.0, 26.0)
    helmet = _choice(rng, ((30, 30, 32), (200, 60, 50), (220, 220, 220), (50, 38, 28)))
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


def _letters(
    canvas: Image, text: str, place: tuple[int, int], scale: float, color: Color, thick: int
) -> None:
    """Write on a plate without touching its outline."""
    rgb = np.ascontiguousarray(canvas[..., :3])
    cv2.putText(rgb, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, color, thick, cv2.LINE_AA)
    canvas[..., :3] = rgb


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
    ground = _choice(rng, paint)
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
    wall = np.asarray(_choice(rng, _WALLS), np.float32)
    rgb = wall * (1 + 0.06 * smooth_noise(rng, height, width, (90, 22, 3))[..., None])
    if rng.random() < 0.4:
        courses = (np.arange(height)[:, None] % 4 == 0) * 0.08
        rgb *= (1 - courses)[..., None]
    rgb *= np.linspace(1.03, 0.9, height, dtype=np.float32)[:, None, None]
    image = np.asarray(np.clip(rgb, 0, 255), np.uint8)
    storey = round(rng.uniform(2.8, 3.6) * scale)
    pitch = round(rng.uniform(1.9, 3.4) * scale)
    glass_w, glass_h = int(pitch * rng.uniform(0.38, 0.72)), int(storey * rng.uniform(0.42, 0.62))
    frame = _choice(rng, ((226, 224, 218), (60, 52, 48), (150, 142, 130)))
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
            _choice(rng, _CLOTHES),
            -1,
        )
    cv2.rectangle(image, (0, 0), (width, 8), tuple(float(c) for c in wall * 0.72), -1)
    cv2.rectangle(image, (0, 8), (width, 11), tuple(float(c) for c in wall * 0.5), -1)
    edge = np.asarray(image[:, :3] * 0.7, np.uint8)
    image[:, :3] = edge
    return np.asarray(np.dstack([image, np.full((height, width), 255, np.uint8)]), np.uint8)


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
        fascia = _choice(rng, _CLOTHES)
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


def fence(rng: np.random.Generator) -> Image:
    """Four metres of fence, 80x256: boards, railings, wire mesh or a steel guard rail."""
    canvas = np.zeros((80, 256, 4), np.uint8)
    kind = int(rng.integers(3))
    if kind == 0:
        color = _choice(rng, ((120, 92, 64), (178, 172, 160), (92, 80, 66)))
        for x in range(0, 256, 12):
            shade = rng.uniform(0.8, 1.1)
            cv2.rectangle(
                canvas, (x, 4), (x + 10, 79), (*(min(255.0, shade * c) for c in color), 255), -1
            )
        cv2.rectangle(canvas, (0, 16), (255, 22), (*(0.7 * c for c in color), 255), -1)
        canvas[..., 3] = np.maximum(canvas[..., 3], 255 * (np.arange(80)[:, None] > 8))
    else:
        color = _choice(rng, ((40, 44, 44), (150, 152, 150), (44, 74, 54)))
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
    steel = _jitter(rng, (168, 172, 174), 8)
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


def hedge(rng: np.random.Generator, season: float) -> Image:
    """Four metres of hedge, 96x256, closed below and ragged on top."""
    green = np.asarray(_jitter(rng, (60 + 20 * season, 88, 40), 10), np.float32)
    leaves = smooth_noise(rng, 96, 256, (20, 7, 3))
    rgb = green * (1 + 0.3 * leaves[..., None]) * np.linspace(1.2, 0.6, 96)[:, None, None]
    rows = np.arange(96, dtype=np.float32)[:, None]
    return _rgba(rgb, (rows - 6 - 4 * leaves) / 2)


def wall(rng: np.random.Generator) -> Image:
    """Four metres of garden, retaining or noise-protection wall, 96x256."""
    base = np.asarray(_choice(rng, _WALLS), np.float32)
    rgb = base * (1 + 0.08 * smooth_noise(rng, 96, 256, (60, 12, 3))[..., None])
    if rng.random() < 0.6:
        rgb[::8] *= 0.8
        for row in range(12):
            rgb[row * 8 : row * 8 + 8, (row % 2) * 8 :: 16] *= 0.8
    rgb[:5] = base * 1.1
    return _rgba(rgb, np.ones((96, 256)))


def concrete(rng: np.random.Generator) -> Image:
    """A plain concrete surface for bridges and tunnels, 128x256."""
    base = np.asarray(_jitter(rng, (146, 142, 134), 12), np.float32)
    rgb = base * (1 + 0.07 * smooth_noise(rng, 128, 256, (80, 30, 2))[..., None])
    rgb[:, ::64] *= 0.75
    rgb[::43] *= 0.85
    return _rgba(rgb, np.ones((128, 256)))


def sky(rng: np.random.Generator, mood: float) -> Image:
    """A sky `[256, 1024, 3]` RGB that wraps sideways, horizon on the last row.

    `mood` runs from 0 (overcast) over 0.5 (blue with clouds) to 1 (dusk).
    """
    rows = np.linspace(0, 1, 256, dtype=np.float32)[:, None, None]
    if mood < 0.25:
        high, low, cloud, cover = (176, 182, 190), (216, 218, 220), (236, 238, 240), 0.5
    elif mood < 0.8:
        high, low, cloud, cover = (
            (70, 118, 184),
            (188, 208, 226),
            (244, 244, 246),
            rng.uniform(-0.8, 0.6),
        )
    else:
        high, low, cloud, cover = (
            (84, 96, 138),
            (244, 188, 138),
            (226, 160, 140),
            rng.uniform(-0.6, 0.3),
        )
    base = (
        np.asarray(_jitter(rng, high, 8)) * (1 - rows**0.8)
        + np.asarray(_jitter(rng, low, 6)) * rows**0.8
    )
    shape = (
        smooth_noise(rng, 1024, 256, (260, 120, 50, 22), wrap=True).T
        + smooth_noise(rng, 256, 1024, (40,)) * 0.1
    )
    amount = np.clip((shape + cover) * 0.9, 0, 1)[..., None] * (0.35 + 0.65 * (1 - rows))
    return np.asarray(np.clip(base * (1 - amount) + np.asarray(cloud) * amount, 0, 255), np.uint8)
