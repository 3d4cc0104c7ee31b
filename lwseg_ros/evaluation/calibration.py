"""Calibration of the confidence: whether pixels of confidence 0.8 are right 8 times in 10."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lwseg_ros.evaluation.metrics import pair_counts

BINS = 15
"""Bins of equal width; 15 as Guo et al. have, and 255 = 15 x 17."""

_BIN_OF = np.minimum(np.arange(256) * BINS // 255, BINS - 1)


class Calibration:
    """Counts labelled pixels by confidence, int64 `[3, BINS]`.

    Rows: pixels, those of them that are right, and the sum of 255 times their confidence.

    Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", ICML 2017, eq. 3.
    """

    def __init__(self) -> None:
        self.counts = np.zeros((3, BINS), np.int64)

    def update(self, confidence: npt.NDArray[np.uint8], right: npt.NDArray[Any]) -> None:
        """Add pixels: 255 times their confidence, uint8, and whether each is right, bool or uint8.

        Both are of one shape; a pixel whose `right` is neither 0 nor 1 is not counted. One of
        confidence c is in bin floor(15 c / 255), the last bin has c = 255 too.
        """
        wrong, hits = pair_counts(right.view(np.uint8), confidence)[:2]
        pixels = wrong + hits
        for counts, row in zip(self.counts, (pixels, hits, pixels * np.arange(256)), strict=True):
            np.add.at(counts, _BIN_OF, row)

    def error(self) -> float:
        """Return the expected calibration error, 0 (honest) to 1; NaN without a pixel."""
        pixels, right, confidence = self.counts
        total = pixels.sum()
        return float(np.abs(right - confidence / 255).sum() / total) if total else float('nan')

    def bins(self) -> list[dict[str, Any]]:
        """Return of each bin that has pixels: its range, count, mean confidence and accuracy."""
        return [
            {
                'from': round(i / BINS, 4),
                'to': round((i + 1) / BINS, 4),
                'pixels': pixels,
                'confidence': round(confidence / 255 / pixels, 6),
                'accuracy': round(right / pixels, 6),
            }
            for i, (pixels, right, confidence) in enumerate(self.counts.T.tolist())
            if pixels
        ]
