"""Segmentation metrics from one confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros.label_space import IGNORE_ID


class ConfusionMatrix:
    """Counts of pixels, int64 `[num_classes, num_classes + 1]`: rows truth, columns prediction.

    The last column counts predictions outside the classes (255, say): such a pixel is an error of
    its true class, never left out. Pixels whose truth is 255 or outside the classes count nowhere.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes, num_classes + 1), np.int64)

    def update(self, truth: npt.NDArray[np.uint8], prediction: npt.NDArray[np.uint8]) -> None:
        """Add one image: two label images uint8 of the same shape."""
        if truth.shape != prediction.shape:
            raise ValueError(f'truth is {truth.shape}, prediction is {prediction.shape}')
        n = self.num_classes
        counts = pair_counts(truth, prediction)
        counts[IGNORE_ID] = 0
        self.counts[:, :n] += counts[:n, :n]
        self.counts[:, n] += counts[:n, n:].sum(1)

    def labelled(self, truth: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        """Return which pixels of a true label image count: not 255, not outside the classes."""
        return np.asarray((truth < self.num_classes) & (truth != IGNORE_ID), np.bool_)

    def add(self, other: ConfusionMatrix) -> None:
        """Add the counts of another one of the same classes."""
        self.counts += other.counts

    def iou(self) -> npt.NDArray[np.float64]:
        """Return each class's intersection over union, NaN for one that occurs nowhere."""
        return ratio(self._hits(), self.counts.sum(1) + self._predicted() - self._hits())

    def mean_iou(self) -> float:
        """Return the mean of `iou` over the classes that occur in truth (NaN if none does)."""
        present = self.counts.sum(1) > 0
        return float(self.iou()[present].mean()) if present.any() else float('nan')

    def pixel_accuracy(self) -> float:
        """Return the share of labelled pixels that were right."""
        return float(ratio(self._hits().sum(), self.counts.sum()))

    def group_iou(self, classes: Iterable[int]) -> float:
        """Return the IoU of a union of classes against the rest (drivable area, say)."""
        ids = list(classes)
        hits = self.counts[np.ix_(ids, ids)].sum()
        union = self.counts[ids].sum() + self.counts[:, ids].sum() - hits
        return float(ratio(hits, union))

    def false_rate(self, classes: Iterable[int]) -> float:
        """Return the share of pixels truly outside a union of classes that were called inside.

        With the drivable classes: the false-drivable rate.
        """
        ids = list(classes)
        outside = [i for i in range(self.num_classes) if i not in ids]
        return float(ratio(self.counts[np.ix_(outside, ids)].sum(), self.counts[outside].sum()))

    def missed_rate(self, classes: Iterable[int]) -> float:
        """Return the share of pixels truly inside a union of classes that were called outside.

        With the drivable classes: the missed-drivable rate. A prediction outside the classes
        (255) is outside every union.
        """
        ids = list(classes)
        inside = self.counts[ids].sum()
        return float(ratio(inside - self.counts[np.ix_(ids, ids)].sum(), inside))

    def _hits(self) -> npt.NDArray[np.int64]:
        return np.diagonal(self.counts)

    def _predicted(self) -> npt.NDArray[np.int64]:
        return np.asarray(self.counts[:, : self.num_classes].sum(0))


def pair_counts(
    first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int64]:
    """Return how many pixels have each pair of values in two planes, int64 `[256, 256]`."""
    planes = first.reshape(-1), second.reshape(-1)
    counts = np.zeros((256, 256), np.int64)
    # OpenCV counts five times as fast as NumPy, but gives 32-bit floats, whole up to 2^24.
    for start in range(0, first.size, 1 << 24):
        part = [plane[start : start + (1 << 24)] for plane in planes]
        counts += cv2.calcHist(part, [0, 1], None, [256, 256], [0, 256, 0, 256]).astype(np.int64)
    return counts


def figure(value: float) -> float | None:
    """Return a metric as JSON holds it: rounded, None where it is undefined (NaN)."""
    return None if math.isnan(value) else round(float(value), 6)


def ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return part / whole, NaN where the whole is nothing."""
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.asarray(np.true_divide(part, whole))
