"""Calibration of the confidence: whether pixels of confidence 0.8 are right 8 times in 10."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 15
"""Bins of equal width; 15 as Guo et al. have, and 255 = 15 x 17."""


class Calibration:
    """Counts labelled pixels and right ones at each confidence, int64 `[2, 256]`.

    Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", ICML 2017, eq. 3.
    """

    def __init__(self) -> None:
        self.counts = np.zeros((2, 256), np.int64)

    def update(self, confidence: npt.NDArray[np.uint8], right: npt.NDArray[np.bool_]) -> None:
        """Add labelled pixels: 255 times their confidence, uint8 `[n]`, and whether each is right.

        A pixel of confidence c is in bin floor(15 c / 255), the last bin has c = 255 too.
        """
        self.counts[0] += np.bincount(confidence, minlength=256)
        self.counts[1] += np.bincount(confidence[right], minlength=256)

    def error(self) -> float:
        """Return the expected calibration error, 0 (honest) to 1; NaN without a pixel."""
        pixels, right, confidence = self._binned()
        total = pixels.sum()
        return float(np.abs(right - confidence).sum() / total) if total else float('nan')

    def bins(self) -> list[dict[str, Any]]:
        """Return of each bin that has pixels: its range, count, mean confidence and accuracy."""
        rows = zip(*(row.tolist() for row in self._binned()), strict=True)
        return [
            {
                'from': round(i / BINS, 4),
                'to': round((i + 1) / BINS, 4),
                'pixels': pixels,
                'confidence': round(confidence / pixels, 6),
                'accuracy': round(right / pixels, 6),
            }
            for i, (pixels, right, confidence) in enumerate(rows)
            if pixels
        ]

    def _binned(
        self,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return per bin the pixels, the right ones, and the sum of confidences."""
        bin_of = np.minimum(np.arange(256) * BINS // 255, BINS - 1)
        pixels, right, confidence = (np.zeros(BINS, np.int64) for _ in range(3))
        np.add.at(pixels, bin_of, self.counts[0])
        np.add.at(right, bin_of, self.counts[1])
        np.add.at(confidence, bin_of, self.counts[0] * np.arange(256))
        return pixels, right, confidence / 255
