"""Is the answer the same whatever the camera sees? What is wrong then makes all of it drivable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SHARE = 0.999
"""So much of a picture under one label is all of it: a few pixels at its edges may differ."""

LEAST_CHANGE = 1.0
"""Two pictures differ by so many grey levels in the mean, more than a copy (our choice)."""

_GRID = 32  # rows and columns of a picture that are looked at
_FEW_SHARE = 0.9  # of these; one row of pixels at the edge is more of them than of the picture


class SameAnswer:
    """Counts the pictures of one camera in a row that have one and the same label all over.

    Pictures that do not differ, as of a lens cap or a replay that is paused, count once. `frames`
    is their number, `label` the label, of no meaning while `frames` is 0.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.frames = 0
        self.label = 0
        self._picture: NDArray[np.int16] = np.empty(0, np.int16)

    def update(self, labels: NDArray[np.uint8], image: NDArray[np.uint8]) -> None:
        """Take in the answer, uint8 `[H, W]`, for an image uint8 `[H', W', 3]`."""
        label = _only_label(labels)
        if label is None:
            self.forget()
            return
        picture = _thinned(image).astype(np.int16)
        if label != self.label:
            self.forget()
        if self.frames and _change(picture, self._picture) < LEAST_CHANGE:
            return
        self.label, self.frames, self._picture = label, self.frames + 1, picture

    def sentence(self, names: Sequence[str]) -> str:
        """Say what is suspect and its likely causes; `names` are those of the ids from 0 on."""
        name = names[self.label] if self.label < len(names) else 'unlabelled'
        return (
            f'all of the last {self.frames} different pictures is {name}: the camera sees one '
            'thing only, or the model is not fed or read as it should be (input.scale, mean, std '
            'and output.kind of its description)'
        )

    def is_suspect(self, frames: int) -> bool:
        """Tell whether so many pictures, or more, had the same answer; never if `frames` is 0."""
        return 0 < frames <= self.frames


def _only_label(labels: NDArray[np.uint8]) -> int | None:
    """Return the label of nearly all pixels, None if they have several."""
    few = _thinned(labels)
    label = int(np.bincount(few.ravel()).argmax())
    if np.count_nonzero(few == label) < _FEW_SHARE * few.size:  # most answers end here
        return None
    return label if np.count_nonzero(labels == label) >= SHARE * labels.size else None


def _thinned(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    return picture[:: max(1, height // _GRID), :: max(1, width // _GRID)]


def _change(picture: NDArray[np.int16], before: NDArray[np.int16]) -> float:
    if picture.shape != before.shape:
        return np.inf
    return float(np.abs(picture - before).mean())
