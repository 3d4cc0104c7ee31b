"""From the stored values of a label picture to class ids, whatever it came in.

Files and messages, ids, colours and palettes alike: `ids_of` decides what the values mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros.datasets.layouts import Color
from lwseg_ros.errors import DataError
from lwseg_ros.label_space import IGNORE_ID, LabelSpace

Ids = npt.NDArray[np.uint8]
Values = npt.NDArray[Any]

STRAY_COLORS = 0.01
"""Share of a label image's pixels that may have unknown colours, and are unlabelled (our choice).

Official colour-coded sets have a few wrong pixels; a photograph instead of labels has many.
"""


@dataclass(frozen=True)
class Coding:
    """What label files hold: pairs of label and id, and pairs of RGB colour and id."""

    ids: tuple[tuple[int, int], ...]
    colors: tuple[tuple[Color, int], ...] = ()
    hint: str = ''


AS_IDS = Coding(tuple((i, i) for i in range(256)))


def coding_of(space: LabelSpace) -> Coding:
    """Return the coding of a label space's own ids and colours.

    255 is unlabelled, and so is black unless a class has it. If two classes share a colour, there
    are only ids.
    """
    ids = {c.id: c.id for c in space.classes} | {IGNORE_ID: IGNORE_ID}
    return Coding(tuple(ids.items()), tuple(colors_of(space).items()))


def colors_of(space: LabelSpace) -> dict[Color, int]:
    """Return the id of each colour of a label space (see `coding_of`)."""
    colors = {c.color: c.id for c in space.classes}
    if len(colors) < len(space.classes):
        return {}
    return {(0, 0, 0): IGNORE_ID, **colors}


def ids_of(values: Values, coding: Coding, what: str, palette: Ids | None = None) -> Ids:
    """Return the ids, uint8 `[H, W]`, that the values of a label picture stand for.

    `values` are whole numbers of any type: labels `[H, W]`, or RGB(A) `[H, W, 3 or 4]`; with a
    `palette`, RGB uint8 `[N, 3]`, its indices `[H, W]`. What fits every pixel first decides:

    1. the colours that `coding` knows, of the pixels or of the palette;
    2. the labels that it knows: in the one channel, in three that are equal, in red if green and
       blue are 0 (as CARLA has them), or as the indices of a palette;
    3. known colours but for a few pixels (`STRAY_COLORS`), which are unlabelled.

    Black alone, say, is unlabelled rather than the class 0. 65535 of 16 bits and -1 of signed
    numbers are unlabelled, as 255 is. DataError, which names `what`, if nothing fits.
    """
    if values.dtype.kind not in 'biu':
        raise DataError(f'{what} has values of type {values.dtype}: labels are whole numbers')
    labels = _one_channel(values)
    colors = values[..., :3] if values.ndim == 3 else None
    if palette is not None and labels is not None:
        colors = _of_palette(palette, labels)
    by_color, strange = None, np.ones(values.shape[:2], np.bool_)
    if colors is not None and coding.colors and colors.dtype == np.uint8:
        by_color, strange = _ids_of_colors(colors, coding)
    if by_color is not None and not strange.any():
        return by_color
    by_label = None if labels is None else _ids_of_labels(labels, coding)
    if by_label is not None and not isinstance(by_label, str):
        return by_label
    if by_color is not None and strange.mean() <= STRAY_COLORS:
        return by_color
    if by_label is not None:
        raise DataError(f'{what} has {by_label}')
    only_red = isinstance(_ids_of_labels(values[..., 0], coding), np.ndarray)
    hint = '; its red channel would do, saved alone' if only_red else ''
    if by_color is None or colors is None:
        raise DataError(f'{what} is a colour image: wanted one channel of class ids{hint}')
    raise DataError(
        f'{what}: {strange.mean():.0%} of its pixels have colours that stand for no class, such '
        f'as RGB {tuple(colors[strange][0].tolist())}{hint}'
    )


def _one_channel(values: Values) -> Values | None:
    """Return the only channel that says something, if there is one."""
    if values.ndim == 2:
        return values
    red, green, blue = (values[..., i] for i in range(3))
    if np.array_equal(green, blue) and (np.array_equal(red, green) or not green.any()):
        return red
    return None


def _of_palette(palette: Ids, indices: Values) -> Ids:
    """Return the colours of indices; those beyond the palette's end are black, as readers do."""
    full = np.zeros((256, 3), np.uint8)
    full[: len(palette)] = palette[:256]
    return full[indices]


def _ids_of_labels(labels: Values, coding: Coding) -> Ids | str:
    """Return the ids of labels, or in words which of them stand for no class."""
    if labels.dtype != np.uint8:
        kind = labels.dtype.kind
        void = -1 if kind == 'i' else np.iinfo(labels.dtype).max if kind == 'u' else None
        labels = np.where(labels == void, IGNORE_ID, labels)
        for wrong, where in ((labels.max(), 'above 255'), (labels.min(), 'below 0')):
            if not 0 <= wrong <= 255:
                return f'the label {wrong}, {where}: are these instance numbers?'
        labels = labels.astype(np.uint8)
    ids, known = _id_tables(coding)
    if cv2.LUT(labels, known).all():
        return np.asarray(cv2.LUT(labels, ids), np.uint8)
    unknown = sorted(set(np.unique(labels).tolist()) - {label for label, _ in coding.ids})
    return (
        f'labels {unknown[:8]} that stand for no class; those that do are '
        f'{_ranges(label for label, id_ in coding.ids if id_ != IGNORE_ID)}, and 255 is '
        f'unlabelled{coding.hint and "; " + coding.hint}'
    )


@lru_cache(maxsize=16)
def _id_tables(coding: Coding) -> tuple[Ids, Ids]:
    """Return the id of each label, and 1 for each known label, both uint8 `[256]`."""
    ids, known = np.full(256, IGNORE_ID, np.uint8), np.zeros(256, np.uint8)
    for label, id_ in coding.ids:
        ids[label], known[label] = id_, 1
    return ids, known


@lru_cache(maxsize=4)
def _color_table(coding: Coding) -> Ids:
    """Return uint8 `[2**24]`: for each colour 1 + its place in `coding.colors`, else 0."""
    table = np.zeros(1 << 24, np.uint8)
    for place, ((red, green, blue), _) in enumerate(coding.colors, 1):
        table[red << 16 | green << 8 | blue] = place
    return table


def _ids_of_colors(rgb: Ids, coding: Coding) -> tuple[Ids, npt.NDArray[np.bool_]]:
    """Return the ids of colours, and where a colour is unknown, which is unlabelled."""
    red, green, blue = (rgb[..., i].astype(np.uint32) for i in range(3))
    places = _color_table(coding)[red << 16 | green << 8 | blue]
    ids = np.array([IGNORE_ID, *(id_ for _, id_ in coding.colors)], np.uint8)
    return np.asarray(ids[places], np.uint8), places == 0


def _ranges(numbers: Iterable[int]) -> str:
    """Return sorted whole numbers in words: `0 to 3, 7`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ', '.join(f'{a} to {b}' if a < b else str(a) for a, b in runs)
