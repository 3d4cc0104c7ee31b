"""A picture of a model's worst images: camera, truth, prediction and errors side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros.datasets.dataset import LabelledImages, read_pair
from lwseg_ros.errors import DataError
from lwseg_ros.evaluation.evaluate import Comparison, Predict, image_names
from lwseg_ros.label_space import LabelSpace
from lwseg_ros.overlay import overlay

Picture = npt.NDArray[np.uint8]
Color = tuple[int, int, int]

COLUMNS = 3
PANEL_WIDTH, MAX_PANEL_HEIGHT = 320, 320
MARGIN, LINE = 12, 22

PAPER: Color = (28, 28, 30)
INK: Color = (240, 240, 240)
FAINT: Color = (165, 165, 170)
FALSE_DRIVABLE: Color = (255, 30, 60)
MISSED_DRIVABLE: Color = (40, 130, 255)
WRONG_CLASS: Color = (176, 138, 46)

ERRORS = {
    'false drivable': FALSE_DRIVABLE,
    'missed drivable': MISSED_DRIVABLE,
    'other wrong class': WRONG_CLASS,
    'no truth': (0, 0, 0),
}


def contact_sheet(
    predict: Predict,
    model_space: LabelSpace,
    data: LabelledImages,
    worst: Sequence[dict[str, Any]],
    title: str,
) -> Picture:
    """Return the sheet uint8 RGB `[height, width, 3]` of the images that `worst` names.

    `worst` comes from `worst_images`: the caption shows its figures. The images are read and
    segmented again. A cell is camera and truth, below them prediction and errors; labels are in
    the space of the comparison.
    """
    if not worst:
        raise DataError(f'no image of {data.name} has a figure to call it bad: no contact sheet')
    comparison = Comparison(model_space, data.label_space)
    names = image_names(data.pairs)
    pairs = {names[pair.image]: pair for pair in data.pairs}
    palette = comparison.space.palette
    cells, seen = [], np.zeros(256, np.bool_)
    for row in worst:
        image, labels = read_pair(pairs[row['name']])
        truth, prediction = comparison.in_common_space(labels, predict(image).labels)
        seen[truth] = seen[prediction] = True
        panels = {
            'camera': image,
            'truth': overlay(image, truth, palette, 0.6),
            'prediction': overlay(image, prediction, palette, 0.6),
            'errors': error_map(image, truth, prediction, comparison.space),
        }
        cells.append((row, panels))
    tallest = max(_fitted_height(panels['camera']) for _, panels in cells)
    grid = _grid([_cell(row, panels, min(tallest, MAX_PANEL_HEIGHT)) for row, panels in cells])
    width = grid.shape[1]
    classes = {c.name: c.color for c in comparison.space.classes if seen[c.id]}
    heading = _blank(LINE + MARGIN, width)
    _write(heading, title, MARGIN, LINE, INK, 0.65)
    return np.vstack([heading, _legend(ERRORS, width), grid, _legend(classes, width)])


def error_map(image: Picture, truth: Picture, prediction: Picture, space: LabelSpace) -> Picture:
    """Return the image uint8 `[H, W, 3]` in grey, dark without truth, with errors in `ERRORS`."""
    drivable = np.zeros(256, np.bool_)
    drivable[list(space.drivable_ids)] = True
    known = truth < space.num_classes
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    picture = np.asarray(grey // 2 + 40, np.uint8)
    picture[~known] //= 4
    wrong = known & (truth != prediction)
    picture[wrong] = WRONG_CLASS
    picture[wrong & ~drivable[truth] & drivable[prediction]] = FALSE_DRIVABLE
    picture[wrong & drivable[truth] & ~drivable[prediction]] = MISSED_DRIVABLE
    return picture


def _cell(row: dict[str, Any], panels: dict[str, Picture], height: int) -> Picture:
    caption = _blank(2 * LINE + 4, 2 * PANEL_WIDTH + 2)
    _write(caption, row['name'], 0, LINE - 6, INK, 0.55)
    figures = [
        f'{name} {row[key]:.3f}'
        for name, key in (
            ('drivable IoU', 'drivable_iou'),
            ('mIoU', 'miou'),
            ('false drivable', 'false_drivable_rate'),
            ('missed drivable', 'missed_drivable_rate'),
        )
        if row[key] is not None
    ]
    _write(caption, '   '.join(figures), 0, 2 * LINE - 6, FAINT, 0.45)
    fitted = [_panel(name, picture, height) for name, picture in panels.items()]
    across, down = _blank(height, 2), _blank(2, 2 * PANEL_WIDTH + 2)
    top, bottom = (np.hstack([fitted[i], across, fitted[i + 1]]) for i in (0, 2))
    return np.vstack([caption, top, down, bottom])


def _fitted_height(image: Picture) -> int:
    """Return the height of a panel that holds the whole image at `PANEL_WIDTH`."""
    height, width = image.shape[:2]
    return max(1, int(round(height * PANEL_WIDTH / width)))


def _panel(name: str, picture: Picture, height: int) -> Picture:
    """Return the picture, as large as it fits and centred, with its name in a corner."""
    scale = min(PANEL_WIDTH / picture.shape[1], height / picture.shape[0])
    w, h = (max(1, round(extent * scale)) for extent in picture.shape[1::-1])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    panel = _blank(height, PANEL_WIDTH)
    y, x = (height - h) // 2, (PANEL_WIDTH - w) // 2
    panel[y : y + h, x : x + w] = cv2.resize(picture, (w, h), interpolation=way)
    width = _width(name, 0.4) + 10
    panel[:18, :width] //= 4
    _write(panel, name, 5, 13, INK, 0.4)
    return panel


def _grid(cells: Sequence[Picture]) -> Picture:
    columns = min(COLUMNS, len(cells))
    height, width = cells[0].shape[:2]
    rows = -(-len(cells) // columns)
    grid = _blank(rows * (height + MARGIN), columns * (width + MARGIN) + MARGIN)
    for i, cell in enumerate(cells):
        y, x = (i // columns) * (height + MARGIN), MARGIN + (i % columns) * (width + MARGIN)
        grid[y : y + height, x : x + width] = cell
    return grid


def _legend(colors: dict[str, Color], width: int) -> Picture:
    """Return a strip with a swatch for each name, in as many lines as they need."""
    places, x, y = [], MARGIN, 0
    for name in colors:
        extent = LINE + _width(name, 0.5) + 2 * MARGIN
        if x > MARGIN and x + extent > width:
            x, y = MARGIN, y + LINE
        places.append((x, y))
        x += extent
    strip = _blank(y + LINE + MARGIN, width)
    for (name, color), (x, y) in zip(colors.items(), places, strict=True):
        cv2.rectangle(strip, (x, y + 4), (x + 14, y + 18), color, cv2.FILLED)
        cv2.rectangle(strip, (x, y + 4), (x + 14, y + 18), FAINT, 1)
        _write(strip, name, x + LINE, y + 16, INK, 0.5)
    return strip


def _blank(height: int, width: int) -> Picture:
    return np.full((height, width, 3), PAPER, np.uint8)


def _write(picture: Picture, text: str, x: int, y: int, color: Color, size: float) -> None:
    """Write a line with its baseline at y; what does not fit is cut out of its middle."""
    room = picture.shape[1] - x
    shown, keep = text, len(text)
    while keep > 2 and _width(shown, size) > room:
        keep -= 1
        shown = f'{text[: keep // 2]}...{text[len(text) - keep // 2 :]}'
    cv2.putText(picture, shown, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, color, 1, cv2.LINE_AA)


def _width(text: str, size: float) -> int:
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    return int(width)


def encode_png(picture: Picture) -> bytes:
    """Return an RGB picture uint8 `[H, W, 3]` as the bytes of a PNG file."""
    _, encoded = cv2.imencode('.png', cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return bytes(encoded.tobytes())
