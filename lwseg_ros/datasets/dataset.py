"""Labelled images by the layout of their data set, without PyTorch.

`open_dataset('camvid:PATH', 'val')` lists the pairs; `read_pair` reads one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lwseg_ros import pictures
from lwseg_ros.datasets.label_values import AS_IDS, Coding, colors_of, ids_of
from lwseg_ros.datasets.layouts import FORMATS, LABEL_SPACE_FILE, WITHOUT_PUBLIC_LABELS, Layout
from lwseg_ros.errors import DataError
from lwseg_ros.files import is_leftover
from lwseg_ros.label_space import IGNORE_ID, LabelSpace
from lwseg_ros.pictures import PICTURE_SUFFIXES, Depth

LABEL_SUFFIXES = tuple(suffix for suffix in PICTURE_SUFFIXES if suffix not in ('.jpg', '.jpeg'))
"""Of pictures that keep every value, as JPEG does not."""

DEPTH_IMAGES = 8
"""Images at even distances that tell how many bits those of 16 bits use (our choice)."""


class Pair(NamedTuple):
    """An image file, its label file, what that holds, and the depth of a 16-bit image."""

    image: Path
    labels: Path
    coding: Coding = AS_IDS
    bits: int = 8


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
            if not pairs:
                raise DataError(
                    f'{spec}: no images ({", ".join(PICTURE_SUFFIXES)}) of the split {split} in '
                    f'{folder}'
                )
            pairs.sort(key=_image)
            bits = _bits([pair.image for pair in pairs])
            name = space.name if format_ == 'folder' else format_
            pairs = [pair._replace(bits=bits) for pair in pairs]
            return LabelledImages(f'{name}/{split}', space, tuple(pairs))
        missing.append(problem)
    found = sorted(p.name for p in folder.iterdir())[:8] if folder.is_dir() else 'nothing'
    raise DataError(f'{spec}: {"; ".join(dict.fromkeys(missing))}; in {folder} is {found}')


def data_root(root: Path | None = None) -> Path:
    """Return the folder that relative data paths start from."""
    return root if root is not None else Path(os.environ.get('LWSEG_DATA', '.'))


def read_image(path: Path, bits: int = 8) -> npt.NDArray[np.uint8]:
    """Read an image file as RGB uint8 `[H, W, 3]`; DataError if it is none.

    16 bits are stretched from `bits`, or from more if the image has more.
    """
    return pictures.rgb(pictures.read_file(path), str(path), Depth(bits))


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
    """Read both files of a pair, pixels as they are stored; DataError if their sizes differ."""
    image = read_image(pair.image, pair.bits)
    labels = read_labels(pair.labels, pair.coding)
    if image.shape[:2] != labels.shape:
        turned = labels.shape == pictures.turned_shape(pictures.read_file(pair.image))
        raise DataError(
            f'{pair.labels} is {labels.shape}, its image is {image.shape[:2]}'
            + (
                ' as it is stored, and EXIF turns it when it is shown: turn its pixels '
                '(mogrify -auto-orient), for EXIF is left aside'
                if turned
                else ''
            )
        )
    return image, labels


def _bits(images: Sequence[Path]) -> int:
    """Return the depth of a set's images of 16 bits: the most that some of them use."""
    depth = Depth()
    for path in images[:: -(-len(images) // DEPTH_IMAGES)]:
        try:
            values = pictures.stored(pictures.read_file(path), str(path)).values
        except DataError:
            break  # whoever reads it is told
        if values.dtype != np.uint16:
            break
        depth.see(values)
    return depth.bits


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
    for pattern in (layout.images, layout.labels):
        pattern = _filled(layout, pattern, split)
        base, rest = _base(folder, pattern)
        if not base.is_dir():
            return f'there is no folder {base}'
        if not any(True for _ in _found(folder, pattern)):
            jpeg = any(path.suffix.lower() in ('.jpg', '.jpeg') for path in base.iterdir())
            hint = '; JPEG does not keep ids' if jpeg and pattern.endswith('.png') else ''
            return f'there are no files {rest} in {base}{hint}'
    return ''


def _pairs(layout: Layout, folder: Path, split: str, space: LabelSpace, spec: str) -> list[Pair]:
    images = _files(folder, _filled(layout, layout.images, split))
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
    if layout.ninth:
        keys = [key for key in keys if key[0].endswith('9') == (split == 'val')]
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
    return pairs


def _filled(layout: Layout, pattern: str, split: str) -> str:
    return pattern.format(split=layout.splits.get(split, split))


def _base(folder: Path, pattern: str) -> tuple[Path, str]:
    """Split a pattern into the folder before its first `*` and the rest."""
    parts = pattern.split('/')
    first = next(i for i, part in enumerate(parts) if '*' in part)
    return folder.joinpath(*parts[:first]), '/'.join(parts[first:])


def _files(folder: Path, pattern: str) -> dict[tuple[str, ...], Path]:
    """Return the files of a pattern by what stands for each `*`; DataError if it is not one."""
    files: dict[tuple[str, ...], Path] = {}
    for path, key in sorted(_found(folder, pattern)):
        other = files.setdefault(key, path)
        if other is not path:
            raise DataError(f'{other} and {path} are two files of one name: take one away')
    return files


def _found(folder: Path, pattern: str) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Give the files of a pattern in any order, with what stands for each `*`.

    A pattern that ends in `.png` is of label files of every kind that keeps values, one without
    an ending of images.
    """
    base, rest = _base(folder, pattern)
    stem, ending = (rest, '') if Path(rest).suffix not in ('.png', '.mat') else rest.rsplit('.', 1)
    suffixes = {'': PICTURE_SUFFIXES, 'png': LABEL_SUFFIXES, 'mat': ('.mat',)}[ending]
    regex = re.compile(re.escape(stem).replace(r'\*', '([^/]*)') + r'\.[^./]+')
    for path in base.glob(stem + '.*'):
        relative = path.relative_to(base)
        match = regex.fullmatch(relative.as_posix())
        if match and path.suffix.lower() in suffixes and not is_leftover(relative):
            yield path, match.groups()


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
