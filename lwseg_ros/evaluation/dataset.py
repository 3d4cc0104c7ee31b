"""Labelled images by the layout of their data set, without PyTorch.

`open_dataset('camvid:PATH', 'val')` lists the pairs; reading is `read_image` and `read_labels`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros.errors import DataError
from lwseg_ros.label_space import LabelSpace

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.ppm')


class Pair(NamedTuple):
    """An image file and its label file."""

    image: Path
    labels: Path


@dataclass(frozen=True)
class LabelledImages:
    """The pairs of one split, and the label space of its label files."""

    name: str
    label_space: LabelSpace
    pairs: tuple[Pair, ...]


FORMATS = {
    # format: (label space, folder of images, folder of labels); {split} is filled in
    'camvid': ('camvid', 'images/{split}', 'labels/{split}'),
    'idd_lite': ('idd_level1', 'images/{split}', 'labels/{split}'),
    'cityscapes_label_ids': ('cityscapes_label_ids', 'images', 'labels'),
}
"""Layouts: images and labels in two folders, paired by file name without suffix.

A layout without `{split}` in its folders has one split, called `all`.
"""


def open_dataset(spec: str, split: str, root: Path | None = None) -> LabelledImages:
    """List the labelled images of `spec`, which is `FORMAT:PATH`.

    A relative path is looked up below `root`, else below the folder that the environment variable
    `LWSEG_DATA` names, else from here. DataError says what was looked for and what was found.
    """
    format_, colon, path = spec.partition(':')
    if not colon or format_ not in FORMATS:
        raise DataError(f'data {spec!r} is not FORMAT:PATH with a format of {", ".join(FORMATS)}')
    space, image_folder, label_folder = FORMATS[format_]
    one_split = '{split}' not in image_folder
    if one_split and split != 'all':
        raise DataError(f'data of format {format_} has one split, "all", not {split!r}')
    folder = data_root(root) / path
    images = folder / image_folder.format(split=split)
    labels = folder / label_folder.format(split=split)
    for wanted in (images, labels):
        if not wanted.is_dir():
            found = sorted(p.name for p in folder.iterdir())[:8] if folder.is_dir() else 'nothing'
            raise DataError(f'{spec}: there is no folder {wanted}; in {folder} is {found}')
    label_files = {p.stem: p for p in labels.glob('*.png')}
    pairs = []
    for image in sorted(p for p in images.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES):
        if image.stem not in label_files:
            raise DataError(f'{spec}: image {image.name} has no label file {image.stem}.png')
        pairs.append(Pair(image, label_files[image.stem]))
    if not pairs:
        raise DataError(f'{spec}: no images ({", ".join(IMAGE_SUFFIXES)}) in {images}')
    return LabelledImages(f'{format_}/{split}', LabelSpace.load(space), tuple(pairs))


def data_root(root: Path | None = None) -> Path:
    """Return the folder that relative data paths start from."""
    return root if root is not None else Path(os.environ.get('LWSEG_DATA', '.'))


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Read an image file as RGB uint8 `[H, W, 3]`; DataError if it is none."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise DataError(f'{path} cannot be read as an image')
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def read_labels(path: Path) -> npt.NDArray[np.uint8]:
    """Read a one-channel 8-bit label file as uint8 `[H, W]`; DataError if it is none."""
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.ndim != 2 or labels.dtype != np.uint8:
        raise DataError(f'{path} is not a one-channel 8-bit label image')
    return np.asarray(labels, np.uint8)


def read_pair(pair: Pair) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Read both files of a pair; DataError if their sizes differ."""
    image, labels = read_image(pair.image), read_labels(pair.labels)
    if image.shape[:2] != labels.shape:
        raise DataError(f'{pair.labels} is {labels.shape}, its image is {image.shape[:2]}')
    return image, labels
