"""What belongs together of two streams that are stamped but come at different times."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

Image = TypeVar('Image')
Other = TypeVar('Other')

KEPT = 8
"""How many of each stream wait for the other (our choice)."""


class _Stamped(NamedTuple):
    stamp_ns: int
    item: object


class Pairs(Generic[Image, Other]):
    """The newest images, the newest of another stream, and which of them are of one time.

    `by_image` says that each image is for one pair, else that each of the others is; of those
    `unpaired` counts the ones that got none. The order is that of coming, so that time may jump.
    """

    def __init__(self, by_image: bool) -> None:
        self._by_image = by_image
        self._images: deque[_Stamped] = deque()
        self._others: deque[_Stamped] = deque()
        self.unpaired = 0

    def add_image(self, stamp_ns: int, image: Image) -> None:
        """Take an image."""
        self._add(self._images, _Stamped(stamp_ns, image), self._by_image)

    def add_other(self, stamp_ns: int, other: Other) -> None:
        """Take one of the other stream."""
        self._add(self._others, _Stamped(stamp_ns, other), not self._by_image)

    def newest(self, max_gap_ns: int) -> Iterator[tuple[Image, Other]]:
        """Yield the pairs whose stamps are no farther apart, the newest other first.

        Each other comes with the nearest image. Take no pair after one that was `used`.
        """
        for other in reversed(list(self._others)):
            gaps = [abs(image.stamp_ns - other.stamp_ns) for image in self._images]
            if gaps and min(gaps) <= max_gap_ns:
                yield self._images[gaps.index(min(gaps))].item, other.item  # type: ignore[misc]

    def used(self, image: Image, other: Other) -> None:
        """Forget a pair, and what came before it: it is too late for that."""
        unpaired_others = _drop_until(self._others, other)
        if self._by_image:
            self.unpaired += _drop_until(self._images, image)
        else:
            self.unpaired += unpaired_others

    def nearest_ns(self) -> int | None:
        """Return how far apart the nearest two are, None if there are not two."""
        gaps = [abs(i.stamp_ns - o.stamp_ns) for i in self._images for o in self._others]
        return min(gaps, default=None)

    def clear(self) -> None:
        """Forget what waits."""
        self._images.clear()
        self._others.clear()

    def _add(self, queue: deque[_Stamped], new: _Stamped, counts: bool) -> None:
        if len(queue) == KEPT:
            queue.popleft()
            self.unpaired += counts
        queue.append(new)


def _drop_until(queue: deque[_Stamped], item: object) -> int:
    """Take the item and those before it out; return how many were before it."""
    before = next(i for i, one in enumerate(queue) if one.item is item)
    for _ in range(before + 1):
        queue.popleft()
    return before
