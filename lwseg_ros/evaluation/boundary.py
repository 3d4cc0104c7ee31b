"""Boundary F1: how well the borders of classes and of areas lie where they truly are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros.evaluation.metrics import ratio
from lwseg_ros.label_space import IGNORE_ID

TOLERANCE = 0.0075
"""How far a border may be off, as a share of the image diagonal (Csurka et al. 2013)."""

Bits = npt.NDArray[Any]
"""Unsigned integers: bit i of a pixel tells whether it is of area i."""


class BoundaryCounts:
    """Counts border pixels of areas, int64 `[areas, 4]`, over images.

    An area is a set of classes (a class alone, or all drivable ones). Its border pixels are its
    pixels with a neighbour (of four) outside it. Columns: true border pixels, those of them with
    a predicted border pixel of the area within `tolerance` times the image diagonal (at least one
    pixel); predicted border pixels, those of them with such a true one.

    Void (truth 255 or outside the classes) has no border, and a predicted border pixel in it or
    within the tolerance of it is not counted: the true border may run there.

    Csurka, Larlus, Perronnin, "What is a good evaluation measure for semantic segmentation?",
    BMVC 2013; the F measure of Perazzi et al., "A benchmark dataset and evaluation methodology
    for video object segmentation", CVPR 2016. Both average over images; to add up the pixels of
    all images, as IoU does, is our choice.
    """

    def __init__(
        self, areas: Sequence[Iterable[int]], num_classes: int, tolerance: float = TOLERANCE
    ) -> None:
        self.counts = np.zeros((len(areas), 4), np.int64)
        self._num_classes = num_classes
        self._tolerance = tolerance
        self._inside = [_membership(areas[i : i + 64]) for i in range(0, len(areas), 64)]

    def update(self, truth: npt.NDArray[np.uint8], prediction: npt.NDArray[np.uint8]) -> None:
        """Add one image: two label images uint8 `[H, W]`."""
        radius = max(1.0, self._tolerance * math.hypot(*truth.shape))
        labelled = np.arange(256) < self._num_classes
        labelled[IGNORE_ID] = False
        void: Any = cv2.LUT(truth, ~labelled.view(np.uint8) & 1)
        for number, inside in enumerate(self._inside):
            outside = ~inside
            predicted = judged = _borders(prediction, inside, outside)
            outside[~labelled] = 0
            true = _borders(truth, inside, outside)
            if void.any():
                is_judged = _near(void, predicted.places, radius) == 0
                judged = _Borders(predicted.places[is_judged], predicted.bits[is_judged])
            for first, border, other in ((0, true, predicted), (2, judged, true)):
                others = np.zeros(truth.shape, inside.dtype)
                others.ravel()[other.places] = other.bits
                bits = border.bits
                found = bits & _near(others, border.places, radius, bits)
                for area in range(64 * number, min(64 * (number + 1), len(self.counts))):
                    bit = inside.dtype.type(1 << area % 64)
                    self.counts[area, first] += np.count_nonzero(bits & bit)
                    self.counts[area, first + 1] += np.count_nonzero(found & bit)

    def precision(self) -> npt.NDArray[np.float64]:
        """Return per area the share of predicted border pixels that are near a true one."""
        return ratio(self.counts[:, 3], self.counts[:, 2])

    def recall(self) -> npt.NDArray[np.float64]:
        """Return per area the share of true border pixels that are near a predicted one."""
        return ratio(self.counts[:, 1], self.counts[:, 0])

    def f1(self) -> npt.NDArray[np.float64]:
        """Return per area 2PR / (P + R): NaN without a true border, 0 if nothing was found."""
        precision, recall = np.nan_to_num(self.precision()), self.recall()
        f1 = ratio(2 * precision * recall, precision + recall)
        f1[precision + recall == 0] = 0
        return f1


def _membership(areas: Sequence[Iterable[int]]) -> Bits:
    """Return for each label the areas it belongs to, bits `[256]`."""
    bits = np.zeros(256, np.min_scalar_type((1 << len(areas)) - 1))
    for i, classes in enumerate(areas):
        bits[list(classes)] |= bits.dtype.type(1 << i)
    return bits


class _Borders(NamedTuple):
    """Border pixels: their places (flat indices), and the areas whose borders they are on."""

    places: npt.NDArray[np.intp]
    bits: Bits


def _borders(labels: npt.NDArray[np.uint8], inside: Bits, outside: Bits) -> _Borders:
    """Return the pixels that are in an area and one of their neighbours out of it."""
    height, width = labels.shape
    differs = np.zeros(labels.shape, np.bool_)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    for here, difference in (
        (differs[:, 1:], across),
        (differs[:, :-1], across),
        (differs[1:], down),
        (differs[:-1], down),
    ):
        here |= difference
    places = np.flatnonzero(differs)
    rows, columns = np.divmod(places, width)
    flat = labels.ravel()
    bits = outside.take(flat.take(places - (columns > 0)))
    bits |= outside.take(flat.take(places + (columns < width - 1)))
    bits |= outside.take(flat.take(places - width * (rows > 0)))
    bits |= outside.take(flat.take(places + width * (rows < height - 1)))
    bits &= inside.take(flat.take(places))
    is_border = bits != 0
    return _Borders(places[is_border], bits[is_border])


def _near(
    bits: Bits, places: npt.NDArray[np.intp], radius: float, sought: Bits | None = None
) -> Bits:
    """Return the OR over the disk around each place (a flat index) of `bits` `[H, W]`.

    Row by row of the disk: a run of any length is covered by two runs of a power of two, and those
    are made for the whole image once. Of what is not `sought` at a place, some may be missing.
    """
    height, width = bits.shape
    reach = int(radius)
    stride = width + 4 * reach + 2
    runs = [np.zeros((height + 2 * reach) * stride, bits.dtype)]
    runs[0].reshape(-1, stride)[reach : reach + height, reach : reach + width] = bits
    while 1 << len(runs) <= 2 * reach + 1:
        step = 1 << (len(runs) - 1)
        longer = np.empty_like(runs[-1])
        np.bitwise_or(runs[-1][:-step], runs[-1][step:], out=longer[:-step])
        longer[-step:] = runs[-1][-step:]
        runs.append(longer)
    rows, columns = np.divmod(places, width)
    centers = (rows + reach) * stride + columns + reach
    near = np.zeros(len(places), bits.dtype)
    left = np.arange(len(places))
    for number, dy in enumerate(sorted(range(-reach, reach + 1), key=abs)):
        half = math.isqrt(int(radius**2 - dy**2))
        length = 2 * half + 1
        size = length.bit_length() - 1
        first = centers + (dy * stride - half)
        near[left] |= runs[size].take(first) | runs[size].take(first + (length - (1 << size)))
        if sought is not None and number % 4 == 0:
            left = left[sought[left] & ~near[left] != 0]
            centers = (rows[left] + reach) * stride + columns[left] + reach
    return near
