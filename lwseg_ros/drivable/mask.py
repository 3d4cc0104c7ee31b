"""The fail-safe drivable mask: what is not surely drivable is not drivable."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from lwseg_ros.errors import LwsegError
from lwseg_ros.inference.segmenter import DRIVABLE_FROM, Segmentation
from lwseg_ros.label_space import IGNORE_ID

_EGO_WIDTH = 1 / 3
_EGO_HEIGHT = 1 / 20


class DrivableArea:
    """The drivable mask of one camera's frames, which remembers the mask before.

    Example: `mask = DrivableArea().update(segmentation, min_confidence=0.5, hysteresis=0.2)`.
    """

    def __init__(self) -> None:
        self._last: NDArray[np.uint8] | None = None

    def update(
        self,
        segmentation: Segmentation,
        min_confidence: float = 0.5,
        min_region_fraction: float = 0.0,
        ego_connected: bool = False,
        hysteresis: float = 0.0,
    ) -> NDArray[np.uint8]:
        """Return uint8 `[H, W]`, 255 where a vehicle may drive, else 0; not to be written into.

        A pixel counts when its drivable score is at least 128 and the confidence of its label at
        least `min_confidence` (0 to 1). Every other argument only takes pixels away:

        - `hysteresis` (0 to 1): a pixel that was not drivable in the mask before must exceed
          `min_confidence` by this much, as far as 1 allows; then it stays drivable while it has
          `min_confidence`. With no mask before, or one of another size, no pixel was drivable.
        - `min_region_fraction`: connected regions (8 neighbours) smaller than this share of the
          image are dropped.
        - `ego_connected`: only regions that reach the ground before the vehicle stay, the middle
          third of the lowest twentieth of the image.

        These rules are our choice; keeping the road joined to the vehicle is reported to cut
        false drivable area by a fifth to a quarter. LwsegError if a share is not from 0 to 1.
        """
        _check_share('min_confidence', min_confidence)
        _check_share('min_region_fraction', min_region_fraction)
        _check_share('hysteresis', hysteresis)
        confidence = segmentation.confidence
        mask = _at_least(segmentation.drivable_score, DRIVABLE_FROM)
        if min_confidence > 0:
            mask &= _at_least(confidence, 255 * min_confidence)
        if hysteresis > 0:
            entering = _at_least(confidence, 255 * min(1.0, min_confidence + hysteresis))
            if self._last is not None and self._last.shape == mask.shape:
                entering |= self._last
            mask &= entering
        if min_region_fraction > 0 or ego_connected:
            mask = _regions(mask, min_region_fraction, ego_connected)
        self._last = mask
        return mask

    def forget(self) -> None:
        """Forget the mask before, for instance when a frame between has failed."""
        self._last = None


def drivable_mask(
    segmentation: Segmentation,
    min_confidence: float = 0.5,
    min_region_fraction: float = 0.0,
    ego_connected: bool = False,
) -> NDArray[np.uint8]:
    """Return the drivable mask of one image by itself: see `DrivableArea.update`."""
    return DrivableArea().update(segmentation, min_confidence, min_region_fraction, ego_connected)


def surely_not_drivable(
    segmentation: Segmentation, min_confidence: float = 0.5
) -> NDArray[np.uint8]:
    """Return uint8 `[H, W]`, 255 where the label is not drivable and as sure as asked, else 0."""
    _check_share('min_confidence', min_confidence)
    mask: NDArray[np.uint8] = ~segmentation.drivable
    if min_confidence > 0:
        mask &= _at_least(segmentation.confidence, 255 * min_confidence)
    mask[segmentation.labels == IGNORE_ID] = 0
    return mask


def _at_least(plane: NDArray[np.uint8], threshold: float) -> NDArray[np.uint8]:
    level = math.ceil(round(threshold, 6))  # 0.4 + 0.2 is a little more than 0.6
    _, mask = cv2.threshold(plane, level - 1, 255, cv2.THRESH_BINARY)
    result: NDArray[np.uint8] = np.asarray(mask, np.uint8)
    return result


def _regions(
    mask: NDArray[np.uint8], min_fraction: float, ego_connected: bool
) -> NDArray[np.uint8]:
    count, regions, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    kept = stats[:, cv2.CC_STAT_AREA] >= max(1.0, min_fraction * mask.size)
    if ego_connected:
        height, width = mask.shape
        rows = max(1, round(height * _EGO_HEIGHT))
        margin = round(width * (1 - _EGO_WIDTH) / 2)
        before_vehicle = np.zeros(count, bool)
        before_vehicle[np.unique(regions[height - rows :, margin : width - margin])] = True
        kept &= before_vehicle
    kept[0] = False  # the background
    table = np.where(kept, 255, 0).astype(np.uint8)
    result: NDArray[np.uint8] = table[regions]
    return result


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise LwsegError(f'{name} is {value}, but must be from 0 to 1')
