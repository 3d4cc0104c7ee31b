"""Where frames lie to each other over time: what /tf and /tf_static say.

After tf2 (Foote 2013): a tree of frames, each link with its history, looked up by interpolation
and never beyond what is known. Stamps are whole nanoseconds.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lwseg_ros.errors import LwsegError

HISTORY_S = 10.0
"""What of a link is older than its newest stamp by more than this is forgotten, as in tf2."""

_HISTORY_NS = round(HISTORY_S * 1e9)
_TWIN = 1e-6


class TransformError(LwsegError):
    """A transform is not known, or not known at that time."""


class Transform(NamedTuple):
    """A motion of points: `rotation @ point + translation`, float64 `[3, 3]` and `[3]`, metres."""

    rotation: NDArray[np.float64]
    translation: NDArray[np.float64]

    @classmethod
    def of(cls, translation: ArrayLike, quaternion: ArrayLike) -> Transform:
        """Return that of a translation (x, y, z) and a quaternion (x, y, z, w) of any length.

        TransformError if the quaternion is none.
        """
        place, q = np.asarray(translation, np.float64), np.asarray(quaternion, np.float64)
        length = float(np.linalg.norm(q))
        if not (np.isfinite(place).all() and length > _TWIN and np.isfinite(length)):
            raise TransformError(
                f'a transform has translation {place.tolist()} and rotation {q.tolist()}'
            )
        x, y, z, w = q / length
        rotation = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
        return cls(rotation, place)

    @classmethod
    def identity(cls) -> Transform:
        """Return that which moves nothing."""
        return cls(np.eye(3), np.zeros(3))

    def after(self, first: Transform) -> Transform:
        """Return `first`, then this one."""
        return Transform(
            self.rotation @ first.rotation, self.rotation @ first.translation + self.translation
        )

    def inverse(self) -> Transform:
        """Return the way back."""
        back = self.rotation.T
        return Transform(back, -(back @ self.translation))

    def apply(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return points float32 `[3, n]` moved."""
        moved: NDArray[np.float32] = self.rotation.astype(np.float32) @ points
        moved += self.translation.astype(np.float32)[:, np.newaxis]
        return moved


class _Link:
    """A frame's place in its parent, at one stamp after the other."""

    def __init__(self, parent: str, is_static: bool) -> None:
        self.parent = parent
        self.is_static = is_static
        self._stamps: list[int] = []
        self._places: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []

    def add(
        self, stamp_ns: int, translation: NDArray[np.float64], quaternion: NDArray[np.float64]
    ) -> None:
        # A bag that begins anew jumps back.
        if self._stamps and (self.is_static or stamp_ns < self._stamps[-1] - _HISTORY_NS):
            self._stamps.clear()
            self._places.clear()
        place = bisect.bisect_left(self._stamps, stamp_ns)
        if place < len(self._stamps) and self._stamps[place] == stamp_ns:
            self._places[place] = (translation, quaternion)
            return
        self._stamps.insert(place, stamp_ns)
        self._places.insert(place, (translation, quaternion))
        old = bisect.bisect_left(self._stamps, self._stamps[-1] - _HISTORY_NS)
        del self._stamps[:old], self._places[:old]

    def at(self, stamp_ns: int, child: str) -> Transform:
        if self.is_static:
            return Transform.of(*self._places[0])
        first, last = self._stamps[0], self._stamps[-1]
        if not first <= stamp_ns <= last:
            late = stamp_ns > last
            away_ms = (stamp_ns - last if late else first - stamp_ns) / 1e6
            raise TransformError(
                f'the transform {self.parent} <- {child} is wanted {away_ms:.0f} ms '
                f'{"after the newest" if late else "before the oldest"} that has come'
            )
        after = bisect.bisect_left(self._stamps, stamp_ns)
        if self._stamps[after] == stamp_ns:
            return Transform.of(*self._places[after])
        (place_a, turn_a), (place_b, turn_b) = self._places[after - 1 : after + 1]
        begin, end = self._stamps[after - 1 : after + 1]
        share = (stamp_ns - begin) / (end - begin)
        return Transform.of(place_a + share * (place_b - place_a), _between(turn_a, turn_b, share))


def _between(a: NDArray[np.float64], b: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Return the quaternion between two of length 1 (Shoemake 1985: slerp), the shorter way."""
    cosine = float(a @ b)
    if cosine < 0:
        b, cosine = -b, -cosine
    angle = float(np.arccos(min(1.0, cosine)))
    if angle < _TWIN:
        return b
    turned: NDArray[np.float64] = (
        np.sin((1 - share) * angle) * a + np.sin(share * angle) * b
    ) / np.sin(angle)
    return turned


class TransformTree:
    """The frames that have been heard of, and how to get from one to another.

    It may be told and asked by different threads.
    """

    def __init__(self) -> None:
        self._links: dict[str, _Link] = {}
        self._lock = threading.Lock()

    def add(
        self,
        parent: str,
        child: str,
        stamp_ns: int,
        translation: ArrayLike,
        quaternion: ArrayLike,
        is_static: bool = False,
    ) -> None:
        """Note where `child` is in `parent`; quaternion (x, y, z, w).

        TransformError, and nothing noted, if that cannot be.
        """
        parent, child = parent.lstrip('/'), child.lstrip('/')
        if not (parent and child) or parent == child:
            raise TransformError(f'a transform goes from {child!r} to {parent!r}')
        Transform.of(translation, quaternion)  # or TransformError
        place = np.asarray(translation, np.float64)
        turn = np.asarray(quaternion, np.float64)
        turn = turn / np.linalg.norm(turn)
        with self._lock:
            link = self._links.get(child)
            if link is None or (link.parent, link.is_static) != (parent, is_static):
                link = self._links[child] = _Link(parent, is_static)
            link.add(stamp_ns, place, turn)

    def lookup(self, target: str, source: str, stamp_ns: int) -> Transform:
        """Return what moves points from frame `source` to frame `target` at that time.

        TransformError names the link that is missing or comes late.
        """
        target, source = target.lstrip('/'), source.lstrip('/')
        with self._lock:
            up, down = self._path(source), self._path(target)
            shared = next((frame for frame in up if frame in down), None)
            if shared is None:
                raise TransformError(self._no_way(target, source, up[-1], down[-1]))
            return (
                self._climb(down, shared, stamp_ns)
                .inverse()
                .after(self._climb(up, shared, stamp_ns))
            )

    def lookup_between(
        self, target: str, target_ns: int, source: str, source_ns: int, fixed: str
    ) -> Transform:
        """Return what moves points of `source` at `source_ns` to `target` at `target_ns`.

        `fixed` is a frame that does not move between the two, such as odom.
        """
        to_fixed = self.lookup(fixed, source, source_ns)
        return self.lookup(target, fixed, target_ns).after(to_fixed)

    def _path(self, frame: str) -> list[str]:
        """Return the frames from this one up to the root of its tree."""
        path = [frame]
        while (link := self._links.get(path[-1])) is not None:
            if link.parent in path:
                raise TransformError(f'the transforms go in a circle: {link.parent}, {path[-1]}')
            path.append(link.parent)
        return path

    def _climb(self, path: Sequence[str], end: str, stamp_ns: int) -> Transform:
        moved = Transform.identity()
        for frame in path[: path.index(end)]:
            moved = self._links[frame].at(stamp_ns, frame).after(moved)
        return moved

    def _no_way(self, target: str, source: str, source_root: str, target_root: str) -> str:
        known = self._links.keys() | {link.parent for link in self._links.values()}
        unknown = [frame for frame in (source, target) if frame not in known]
        sentence = f'there is no transform from {source!r} to {target!r}: '
        if unknown:
            return sentence + f'no transform has come of {" or of ".join(map(repr, unknown))}'
        return sentence + (
            f'their trees, from {source_root!r} and from {target_root!r}, are not connected'
        )
