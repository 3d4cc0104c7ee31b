"""The truth of a bag's frames: label topics of the bag, or a folder of PNG files.

Truth and frames are paired by their stamps before any frame is evaluated; not every frame needs
to have truth.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lwseg_ros.bags.messages import COMPRESSED_IMAGE, IMAGE
from lwseg_ros.bags.order import RawMessage, in_order
from lwseg_ros.bags.recording import Recording
from lwseg_ros.datasets.dataset import read_labels
from lwseg_ros.datasets.label_values import AS_IDS, Coding, colors_of, ids_of
from lwseg_ros.datasets.layouts import LABEL_SPACE_FILE
from lwseg_ros.errors import DataError, FrameError
from lwseg_ros.files import sha256
from lwseg_ros.image_messages import stored_from_message
from lwseg_ros.label_space import LabelSpace
from lwseg_ros.replay.figures import file_name

Labels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]
Fetch = Callable[[], Labels]

_STAMP_FROM = 10**9
"""A number in a file name from here on is a stamp in ns, a smaller one an index (our choice)."""
_NAME = re.compile(r'(\d+)[._](\d{9})|(?:.*\D)?(\d+)')


@dataclass
class Truth:
    """The truth of one camera; `labels` is asked for every frame of `frames`, in their order."""

    source: str
    frames: frozenset[int]
    """Numbers of the image messages that have truth."""
    unmatched: int
    digest: str
    """SHA-256 of what is not in the bag, else ''."""
    _fetch: Iterator[Fetch]

    def labels(self) -> Fetch:
        """Return what reads the labels uint8 `[H, W]` of the next frame; it raises FrameError."""
        return next(self._fetch)


def topic_truth(
    recording: Recording,
    topic: str,
    space: LabelSpace,
    frames: Numbers,
    stamps: Numbers,
    tolerance_ns: int,
) -> Truth:
    """Pair a label topic of ids or of the space's colours with frames, in order with stamps."""
    found = recording.topics.get(topic)
    if found is None or found.type not in (IMAGE, COMPRESSED_IMAGE):
        listing = ', '.join(str(t) for t in recording.topics.values())
        raise DataError(f'bag {recording.path} has no label topic {topic}: it holds {listing}')
    label_stamps = recording.index([topic]).stamps
    at = nearest(stamps, label_stamps, tolerance_ns)
    paired = at >= 0
    if not paired.any():
        raise DataError(_no_pair(f'bag {recording.path}', f'label topic {topic}', tolerance_ns))
    coding = truth_coding(space)

    def fetch() -> Iterator[Fetch]:
        def reading(message: RawMessage) -> Fetch:
            return lambda: labels_of(recording.decode(message), coding)

        for _, message in in_order(recording.messages([topic]), at[paired]):
            yield reading(message)

    unmatched = len(label_stamps) - int(np.count_nonzero(paired))
    return Truth(topic, frozenset(frames[paired].tolist()), unmatched, '', fetch())


def folder_truth(
    folder: Path,
    space: LabelSpace,
    frames: Numbers,
    stamps: Numbers,
    tolerance_ns: int,
) -> Truth:
    """Pair PNG files of ids, named by stamp or index, with frames, given in order with stamps.

    `1700000000123456789.png`, `1700000000.123456789.png` and `1700000000_123456789.png` are
    stamps; `12.png` and `frame_000012.png` are the frame of index 12, counted from 0.
    """
    files = sorted(folder.glob('*.png'))
    if not files:
        raise DataError(f'{folder} has no truth: wanted PNG files named by stamp or index')
    by_stamp: dict[int, Path] = {}
    by_index: dict[int, Path] = {}
    for file in files:
        match = _NAME.fullmatch(file.stem)
        if match is None:
            raise DataError(
                f'{file} is named neither by a stamp nor by an index: wanted SECONDS.NANOSECONDS, '
                'NANOSECONDS or the number of the frame'
            )
        seconds, nanoseconds, number = match.groups()
        value = int(number) if number else int(seconds) * 10**9 + int(nanoseconds)
        (by_index if number and value < _STAMP_FROM else by_stamp)[value] = file
    chosen: dict[int, Path] = {}
    label_stamps = np.array(sorted(by_stamp), np.int64)
    for place, label in enumerate(nearest(stamps, label_stamps, tolerance_ns).tolist()):
        if label >= 0:
            chosen[place] = by_stamp[int(label_stamps[label])]
    for index, file in by_index.items():
        if index < len(frames):
            chosen.setdefault(index, file)
    if not chosen:
        raise DataError(_no_pair(f'folder {folder}', 'truth', tolerance_ns))
    coding = truth_coding(space)

    def fetch() -> Iterator[Fetch]:
        def reading(file: Path) -> Fetch:
            return lambda: _read(file, coding)

        for place in sorted(chosen):
            yield reading(chosen[place])

    digest = hashlib.sha256()
    for file in files:
        digest.update(f'{file.name} {sha256(file)}\n'.encode())
    return Truth(
        str(folder),
        frozenset(int(frames[place]) for place in chosen),
        len(files) - len(chosen),
        digest.hexdigest(),
        fetch(),
    )


def truth_folder(folder: Path, bag: str, topic: str, topics: Sequence[str]) -> Path:
    """Return where in a folder the truth of a camera is: FOLDER/BAG/TOPIC, each part if there.

    DataError if it is missing, or is one folder for several cameras.
    """
    if not folder.is_dir():
        raise DataError(f'there is no folder {folder} with truth')
    base = folder / bag if (folder / bag).is_dir() else folder
    own = base / file_name(topic)
    if own.is_dir():
        return own
    if len(topics) > 1:
        raise DataError(
            f'{base} has no folder {own.name}: with several cameras, the truth of each is in a '
            f'folder of its own ({", ".join(file_name(t) for t in topics)})'
        )
    return base


def truth_space(name: str | None, folder: Path | None, model_space: LabelSpace) -> LabelSpace:
    """Return the label space of truth: as named, as the folder's file says, or the model's."""
    if name is not None:
        return LabelSpace.load(name)
    if folder is not None and (folder / LABEL_SPACE_FILE).is_file():
        return LabelSpace.load(folder / LABEL_SPACE_FILE)
    return model_space


def nearest(stamps: Numbers, others: Numbers, tolerance_ns: int) -> Numbers:
    """Return of each stamp the place of the nearest other, -1 if none is within the tolerance.

    Both are the nearest of each other: nothing is paired twice.
    """
    result = np.full(len(stamps), -1, np.int64)
    if not len(stamps) or not len(others):
        return result
    there, back = _closest(stamps, others), _closest(others, stamps)
    places = np.arange(len(stamps))
    mutual = back[there] == places
    near = np.abs(others[there] - stamps) <= tolerance_ns
    result[mutual & near] = there[mutual & near]
    return result


def truth_coding(space: LabelSpace) -> Coding:
    """Return the coding of truth: any ids, those of no class being unlabelled, or colours."""
    return Coding(AS_IDS.ids, tuple(colors_of(space).items()))


def labels_of(message: Any, coding: Coding) -> Labels:
    """Return the ids uint8 `[H, W]` of a label message (see `ids_of`); FrameError if none."""
    values, palette = stored_from_message(message)
    what = getattr(message, 'encoding', None) or message.format
    try:
        return ids_of(values, coding, f'the label image ({what})', palette)
    except DataError as error:
        raise FrameError(str(error)) from None


def _no_pair(where: str, what: str, tolerance_ns: int) -> str:
    return (
        f'{where}: no {what} within {tolerance_ns / 1e6:g} ms of an image; give what their '
        'stamps are apart as --truth-tolerance-ms'
    )


def _read(file: Path, coding: Coding) -> Labels:
    try:
        return read_labels(file, coding)
    except DataError as error:
        raise FrameError(str(error)) from None


def _closest(stamps: Numbers, others: Numbers) -> Numbers:
    """Return of each stamp the place of the closest other, of equals the first."""
    order = np.argsort(others, kind='stable')
    ordered = others[order]
    right = np.searchsorted(ordered, stamps).clip(0, len(others) - 1)
    left = np.searchsorted(ordered, ordered[(right - 1).clip(0)])
    takes_left = np.abs(ordered[left] - stamps) <= np.abs(ordered[right] - stamps)
    return np.asarray(order[np.where(takes_left, left, right)], np.int64)
