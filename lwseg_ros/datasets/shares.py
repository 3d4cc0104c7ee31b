"""How much of a data set each class has: what shows a wrong coding before any figure does."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from lwseg_ros.datasets.dataset import LabelledImages, Pair, read_labels
from lwseg_ros.errors import DataError
from lwseg_ros.label_space import IGNORE_ID, LabelSpace


class ClassShares:
    """The pixels of each class in the label images of one data set."""

    def __init__(self, name: str, space: LabelSpace) -> None:
        self._name, self._space = name, space
        self._pixels = np.zeros(256, np.int64)

    def add(self, labels: npt.NDArray[np.uint8]) -> None:
        """Count the pixels of one label image, uint8 `[H, W]`."""
        self._pixels += np.bincount(labels.reshape(-1), minlength=256)

    def of_labelled(self) -> dict[str, float]:
        """Return the share that each class has of the labelled pixels, the largest first."""
        labelled = max(1, self._pixels[:IGNORE_ID].sum())
        shares = {c.name: float(self._pixels[c.id] / labelled) for c in self._space.classes}
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    @property
    def labelled(self) -> set[int]:
        """The ids that occur."""
        return set(np.flatnonzero(self._pixels[:IGNORE_ID]).tolist())

    def __str__(self) -> str:
        """Return the shares in one line."""
        shares = [f'{name} {share:.1%}' for name, share in self.of_labelled().items() if share]
        never = [name for name, share in self.of_labelled().items() if not share]
        unlabelled = self._pixels[IGNORE_ID] / max(1, self._pixels.sum())
        return (
            f'{self._name}: of the labelled pixels {", ".join(shares) or "there are none"}'
            + (f'; never {", ".join(never)}' if never else '')
            + (f'; {unlabelled:.1%} of all pixels are unlabelled' if unlabelled else '')
        )

    def check_unlabelled(self) -> None:
        """Raise DataError if 255 seems to be a class: beside one id, while others are missing.

        A mask of 0 and 255 is the usual case.
        """
        missing = [c.name for c in self._space.classes if c.id not in self.labelled]
        if len(self.labelled) != 1 or not missing or not self._pixels[IGNORE_ID]:
            return
        (only,) = self.labelled
        raise DataError(
            f'{self._name}: its labels are {only} ({self._space.names[only]}) and 255 alone, and '
            f'255 is unlabelled, so that {", ".join(missing)} never occurs: write the ids of the '
            'classes, in a mask of two classes 0 and 1 rather than 0 and 255'
        )

    def check_classes(self) -> None:
        """Raise DataError if no more than one class is labelled (see `check_unlabelled`, too)."""
        self.check_unlabelled()
        if len(self.labelled) < 2:
            names = [self._space.names[only] for only in self.labelled]
            raise DataError(
                f'{self._name}: '
                + (f'every labelled pixel is {names[0]}' if names else 'no pixel is labelled')
                + ', which tells nothing of a model: look at the label files and the ids in '
                f'{self._space.name}'
            )


def class_shares(
    data: LabelledImages,
    track: Callable[[Iterable[Pair]], Iterable[Pair]] = iter,
    most: int | None = None,
) -> ClassShares:
    """Read the label files of a data set, or `most` of them at even distances."""
    shares = ClassShares(data.name, data.label_space)
    step = 1 if most is None else -(-len(data.pairs) // most)
    for pair in track(data.pairs[::step]):
        shares.add(read_labels(pair.labels, pair.coding))
    return shares
