"""Labelled images by the layout of their data set, without PyTorch.

`open_dataset('camvid:PATH', 'val')` lists the pairs; `read_pair` reads one.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lwseg_ros import pictures
from lwseg_ros.datasets.label_values import AS_IDS, Coding, colors_of, ids_of
from lwseg_ros.datasets.layouts import FORMATS, LABEL_SPACE_FILE, WITHOUT_PUBLIC_LABELS, Layout
from lwseg_ros.errors import DataError
from lwseg_ros.label_space import IGNORE_ID, LabelSpace
from lwseg_ros.pictures import PICTURE_SUFFIXES


class Pair(NamedTuple):
    """An image file, its label file, and what the label file holds."""

    image: Path
    labels: Path
    coding: Coding = AS_IDS


@dataclass(frozen=True)
class LabelledImages:
    """The pairs of one split, and the label space of what `read_pair` returns."""

    name: str
    label_space: LabelSpace
    pairs: tuple[Pair, ...]


def open_dataset(spec: str, split: str, root: Path | None = None) -> LabelledImages:
    """List the labelled images of `spec`, which is `FORMAT:PATH`.

    A relative path is looked up below `root`, else below the folder that the environment variable
    `LWSEG_DATA` names, else from here. Images are in the order of their paths. DataError says
    what was looked for, layout by layout, and what was found.
    """
    format_, colon, path = spec.partition(':')
    if not colon or format_ not in FORMATS:
        raise DataError(f'data {spec!r} is not FORMAT:PATH with a format of {", ".join(FORMATS)}')
    _check_split(format_, split)
    folder = data_root(root) / path
    missing = []
    for layouts in FORMATS[format_]:
        problem = next(filter(None, (_missing(layout, folder, split) for layout in layouts)), '')
        if not problem:
            space = _label_space(layouts[0], folder)
            pairs = [p for layout in layouts for p in _pairs(layout, folder, split, space, spec)]
            name = space.name if format_ == 'folder' else format_
            return LabelledImages(f'{name}/{split}', space, tuple(sorted(pairs, key=_image)))
        missing.append(problem)
    found = sorted(p.name for p in folder.iterdir())[:8] if folder.is_dir() else 'nothing'
    raise DataError(f'{spec}: {"; ".join(dict.fromkeys(missing))}; in {folder} is {found}')


def data_root(root: Path | None = None) -> Path:
    """Return the folder that relative data paths start from."""
    return root if root is not None else Path(os.environ.get('LWSEG_DATA', '.'))


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Read an image file as RGB uint8 `[H, W, 3]`; DataError if it is none."""
    return pictures.rgb(pictures.read_file(path), str(path))


def read_labels(path: Path, coding: Coding = AS_IDS) -> npt.NDArray[np.uint8]:
    """Read a label file as ids uint8 `[H, W]` (see `ids_of`).

    A picture, or a .mat file of SBD. DataError if it is neither, or holds what `coding` does not
    know.
    """
    if path.suffix == '.mat':
        return ids_of(_read_mat(path), coding, str(path))
    values, palette = pictures.stored(pictures.read_file(path), str(path))
    return ids_of(values, coding, str(path), palette)


def read_pair(pair: Pair) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Read both files of a pair; DataError if their sizes differ."""
    image, labels = read_image(pair.image), read_labels(pair.labels, pair.coding)
    if image.shape[:2] != labels.shape:
        raise DataError(f'{pair.labels} is {labels.shape}, its image is {image.shape[:2]}')
    return image, labels


def _image(pair: Pair) -> Path:
    return pair.image


def _check_split(format_: str, split: str) -> None:
    layouts = [layout for joined in FORMATS[format_] for layout in joined]
    known = list(dict.fromkeys(name for layout in layouts for name in layout.splits))
    if split in known or not all(layout.splits for layout in layouts):
        return
    if split in WITHOUT_PUBLIC_LABELS.get(format_, ()):
        raise DataError(
            f'the labels of the {split} split of {format_} are not public: '
            f'take one of {", ".join(known)}'
        )
    if len(known) == 1:
        raise DataError(f'data of format {format_} has one split, "{known[0]}", not {split!r}')
    raise DataError(f'data of format {format_} has the splits {", ".join(known)}, not {split!r}')


def _label_space(layout: Layout, folder: Path) -> LabelSpace:
    if layout.label_space != LABEL_SPACE_FILE:
        return LabelSpace.load(layout.label_space)
    path = folder / LABEL_SPACE_FILE
    if not path.is_file():
        raise DataError(
            f'{path} is missing: it names the classes of the label files; '
            'docs/datasets.md shows one'
        )
    return LabelSpace.load(path)


def _missing(layout: Layout, folder: Path, split: str) -> str:
    """Return in words what of a layout is not there; '' when nothing is missing."""
    if layout.splits and split not in layout.splits:
        return f'images in {layout.images} have only the split {", ".join(layout.splits)}'
    for name in (*layout.names, *layout.without):
        path = folder / _filled(layout, name, split)
        if not path.is_file():
            return f'there is no list {path}'
    for pattern, suffix in ((layout.images, '.*'), (layout.labels, '')):
        base, rest = _base(folder, _filled(layout, pattern, split))
        if not base.is_dir():
            return f'there is no folder {base}'
        if not any(True for _ in base.glob(rest + suffix)):
            return f'there are no files {rest} in {base}'
    return ''


def _pairs(layout: Layout, folder: Path, split: str, space: LabelSpace, spec: str) -> list[Pair]:
    images = {
        key: path
        for key, path in _files(folder, _filled(layout, layout.images, split) + '.*').items()
        if path.suffix.lower() in PICTURE_SUFFIXES
    }
    labels = _files(folder, _filled(layout, layout.labels, split))
    keys = list(images)
    if layout.names:
        lists = (_names(folder / _filled(layout, name, split)) for name in layout.names)
        keys = [(name,) for name in dict.fromkeys(name for names in lists for name in names)]
    left_out = {(name,) for file in layout.without for name in _names(folder / file)}
    keys = [key for key in keys if key not in left_out]
    if layout.runs:
        runs = layout.runs[split]
        keys = [key for key in keys if any(first <= key[0] <= last for first, last in runs)]
    if layout.some_labelled:
        keys = [key for key in keys if key in labels]
    coding = _coding(layout, space)
    pairs = []
    for key in keys:
        if key not in images:
            raise DataError(f'{spec}: {key[0]} of {", ".join(layout.names)} has no image')
        if key not in labels:
            wanted = _filled(layout, layout.labels, split)
            for part in key:
                wanted = wanted.replace('*', part, 1)
            raise DataError(f'{spec}: image {images[key].name} has no label file {wanted}')
        pairs.append(Pair(images[key], labels[key], coding))
    if not pairs:
        raise DataError(
            f'{spec}: no images ({", ".join(PICTURE_SUFFIXES)}) of the split {split} in {folder}'
        )
    return pairs


def _filled(layout: Layout, pattern: str, split: str) -> str:
    return pattern.format(split=layout.splits.get(split, split))


def _base(folder: Path, pattern: str) -> tuple[Path, str]:
    """Split a pattern into the folder before its first `*` and the rest."""
    parts = pattern.split('/')
    first = next(i for i, part in enumerate(parts) if '*' in part)
    return folder.joinpath(*parts[:first]), '/'.join(parts[first:])


def _files(folder: Path, pattern: str) -> dict[tuple[str, ...], Path]:
    """Return the files of a pattern by what stands for each `*`; a last `.*` is a suffix."""
    base, rest = _base(folder, pattern)
    stem = re.escape(rest.removesuffix('.*')).replace(r'\*', '([^/]*)')
    regex = re.compile(stem + (r'\.[^./]+' if rest.endswith('.*') else ''))
    found = {}
    for path in sorted(base.glob(rest)):
        match = regex.fullmatch(path.relative_to(base).as_posix())
        if match:
            found[match.groups()] = path
    return found


def _names(path: Path) -> list[str]:
    """Return the first column of a list file, without folders and image suffixes."""
    lines = path.read_text(encoding='utf-8').splitlines()
    names = [Path(line.split()[0]) for line in lines if line.strip()]
    return [n.stem if n.suffix.lower() in PICTURE_SUFFIXES else n.name for n in names]


def _coding(layout: Layout, space: LabelSpace) -> Coding:
    ids = dict(layout.ids) or {c.id: c.id for c in space.classes}
    ids |= dict.fromkeys((*layout.void, IGNORE_ID), IGNORE_ID)
    colors = dict(layout.colors) | (colors_of(space) if layout.palette else {})
    return Coding(tuple(ids.items()), tuple(colors.items()), layout.hint)


def _read_mat(path: Path) -> npt.NDArray[np.uint8]:
    """Read the labels of a class file of SBD, `GTcls.Segmentation`."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise DataError(
            f'{path} is a MATLAB file, which scipy reads: pip install scipy, or use the '
            'SegmentationClassAug folder of PNG files'
        ) from None
    try:
        return np.asarray(loadmat(str(path))['GTcls']['Segmentation'][0, 0], np.uint8)
    except Exception as error:  # scipy's readers raise whatever a broken file leads to
        raise DataError(
            f'{path} is not a class file of SBD: {" ".join(str(error).split())}'
        ) from None
