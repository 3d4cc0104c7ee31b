"""Training samples: random crops of several data sets, in one label space.

Sample k of a run depends on the seed and k alone, so that a resumed run sees what an uninterrupted
one would have seen, whatever the number of workers and however much of the data is in memory.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lwseg_ros.datasets.dataset import Pair, open_dataset, read_pair
from lwseg_ros.datasets.shares import ClassShares
from lwseg_ros.errors import DataError
from lwseg_ros.label_space import IGNORE_ID, LabelSpace
from lwseg_ros.training.recipe import Recipe, Source

Image = npt.NDArray[np.uint8]
RGB = tuple[float, float, float]
Track = Callable[[Iterable[Any]], Iterable[Any]]

GENERATED_DRIVE = 'generated_drive'
DRIVE_SEEDS_START = 1000
"""Seeds below this are left to demos and tests, which training must never have seen."""
FRAMES_PER_DRIVE = 4
KEEP_BYTES = 1 << 30
"""Decoded bytes of a data set that stay in memory; what is beyond is decoded when it is drawn.

Each worker of a DataLoader holds them too. Our choice.
"""


@dataclass(frozen=True)
class LoadedSource:
    """A data set to draw from: its first pairs in memory, the others read when they are drawn.

    `kept` are images uint8 `[H, W, 3]` with labels uint8 `[H, W]`; `unread` are the files of the
    others. `allowed` is int64 `[256]`: for each label the set of the target's classes, one bit
    each. `class_shares` are of what was read.
    """

    source: Source
    kept: list[tuple[Image, Image]]
    unread: tuple[Pair, ...]
    allowed: npt.NDArray[np.int64]
    class_shares: ClassShares

    def __len__(self) -> int:
        return len(self.kept) + len(self.unread)

    def pair(self, index: int) -> tuple[Image, Image]:
        """Return an image uint8 `[H, W, 3]` and its labels uint8 `[H, W]`."""
        if index < len(self.kept):
            return self.kept[index]
        return read_pair(self.unread[index - len(self.kept)])


def load_source(
    source: Source,
    space: LabelSpace,
    root: Path | None,
    track: Track = iter,
    keep_bytes: int = KEEP_BYTES,
) -> LoadedSource:
    """Open a recipe's data set and read pairs into memory until they take `keep_bytes`."""
    kept: list[tuple[Image, Image]] = []
    unread: tuple[Pair, ...] = ()
    if source.data == GENERATED_DRIVE:
        kept, data_space = _render_drives(source.images, track)
        shares = ClassShares(GENERATED_DRIVE, data_space)
        for _, labels in kept:
            shares.add(labels)
    else:
        data = open_dataset(source.data, source.split, root)
        data_space, left = data.label_space, keep_bytes
        shares = ClassShares(data.name, data_space)
        for pair in track(data.pairs):
            image, labels = read_pair(pair)
            shares.add(labels)
            left -= image.nbytes + labels.nbytes
            if left < 0:
                break
            kept.append((image, labels))
        unread = data.pairs[len(kept) :]
    return LoadedSource(source, kept, unread, allowed_bits(data_space, space), shares)


def check_classes(sources: Iterable[LoadedSource], space: LabelSpace) -> None:
    """Raise DataError if what is labelled cannot teach: see `ClassShares.check_unlabelled`.

    Nor can one class alone. One that stands for any class says nothing, and does not count.
    """
    any_class = sum(1 << c.id for c in space.classes)
    told: set[int] = set()
    for loaded in sources:
        sets = {int(loaded.allowed[label]) for label in loaded.class_shares.labelled}
        if sets != {any_class}:
            loaded.class_shares.check_unlabelled()
        told |= sets
    told.discard(0)
    if len(told) < 2 and any_class not in told:
        raise DataError(
            'nothing but one class is labelled in the data to train on, or none: look at the '
            f'label files, and at what the classes stand for in {space.name}'
        )


def allowed_bits(source: LabelSpace, target: LabelSpace) -> npt.NDArray[np.int64]:
    """Return each source id's set of target classes as bits, int64 `[256]`; 0 = unlabelled."""
    if target.num_classes > 62:
        raise DataError(f'{target.name} has {target.num_classes} classes, more than 62')
    table = np.zeros(256, np.int64)
    for label, classes in source.label_sets(target).items():
        table[label] = sum(1 << c for c in classes)
    return table


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """All samples of a run: image uint8 `[h, w, 3]` and allowed classes int64 `[h, w]`."""

    def __init__(self, recipe: Recipe, sources: list[LoadedSource], first: int = 0) -> None:
        self.recipe = recipe
        self.sources = sources
        self.first = first
        shares = np.array([s.source.share for s in sources], float)
        self.shares = shares / shares.sum()
        self.rare = [_rare_labels(loaded, recipe) for loaded in sources]

    def __len__(self) -> int:
        return self.recipe.iterations * self.recipe.batch_size - self.first

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.recipe.seed, self.first + index))
        which = int(rng.choice(len(self.sources), p=self.shares))
        loaded = self.sources[which]
        seeks_rare = self.recipe.rare_crops and rng.random() < self.recipe.rare_crops
        image, labels = random_crop(
            *loaded.pair(int(rng.integers(len(loaded)))),
            self.recipe.crop_size,
            loaded.source.scale,
            self.recipe.aspect,
            rng,
            self.rare[which] if seeks_rare else None,
        )
        if self.recipe.photometric:
            image = photometric(image, self.recipe.photometric, rng)
        if self.recipe.sharpening and rng.random() < self.recipe.sharpening:
            image = sharpened(image, rng)
        return torch.from_numpy(image), torch.from_numpy(loaded.allowed[labels])


def normalised(images: Tensor, mean: RGB, std: RGB) -> Tensor:
    """Return images uint8 `[N, H, W, 3]` as a network takes them, float `[N, 3, H, W]`."""
    x = images.permute(0, 3, 1, 2).to(torch.float32) / 255
    x = (x - x.new_tensor(mean).view(1, 3, 1, 1)) / x.new_tensor(std).view(1, 3, 1, 1)
    return x.contiguous(memory_format=torch.channels_last)


def plainly(batches: Iterable[Any]) -> Iterator[Any]:
    """Give the batches of a DataLoader; a worker's DataError without the traceback around it."""
    try:
        yield from batches
    except DataError as error:
        raise DataError(str(error).rpartition('DataError: ')[2].strip()) from None


def start_worker(_number: int) -> None:
    """Prepare a DataLoader's worker: one thread, and Ctrl-C is left to the process that trains."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def random_crop(
    image: Image,
    labels: Image,
    crop_size: tuple[int, int],
    scale: tuple[float, float],
    aspect: float,
    rng: np.random.Generator,
    rare: npt.NDArray[np.bool_] | None = None,
) -> tuple[Image, Image]:
    """Return a randomly enlarged, stretched, flipped crop; outside the image it is unlabelled.

    The enlargement is log-uniform in `scale`, the stretch of the width in 1/aspect..aspect. With
    `rare`, bool `[256]`, the crop is of four drawn the one that shows most pixels of those labels.
    """
    height, width = labels.shape
    zoom = np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1])))
    stretch = np.exp(rng.uniform(-1, 1) * np.log(aspect) / 2)
    crop_height = round(crop_size[0] / (zoom / stretch))
    crop_width = round(crop_size[1] / (zoom * stretch))
    rows, columns = height - crop_height, width - crop_width
    tops = rng.integers(min(0, rows), max(0, rows) + 1, 1 if rare is None else 4)
    lefts = rng.integers(min(0, columns), max(0, columns) + 1, len(tops))
    boxes = [
        (slice(max(top, 0), top + crop_height), slice(max(left, 0), left + crop_width))
        for top, left in zip(tops.tolist(), lefts.tolist(), strict=True)
    ]
    best = 0 if rare is None else int(np.argmax([rare[labels[box]].sum() for box in boxes]))
    top, left = int(tops[best]), int(lefts[best])
    image, labels = image[boxes[best]], labels[boxes[best]]
    borders = (max(-top, 0), 0, max(-left, 0), 0)
    borders = (
        borders[0],
        crop_height - borders[0] - labels.shape[0],
        borders[2],
        crop_width - borders[2] - labels.shape[1],
    )
    if any(borders):
        grey = tuple(float(v) for v in image.reshape(-1, 3).mean(0))
        image = np.asarray(
            cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=grey), np.uint8
        )
        labels = np.asarray(
            cv2.copyMakeBorder(labels, *borders, cv2.BORDER_CONSTANT, value=IGNORE_ID), np.uint8
        )
    size = crop_size[1], crop_size[0]
    shrinks = crop_height > crop_size[0]
    image = np.asarray(
        cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR),
        np.uint8,
    )
    labels = np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(labels)


def photometric(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Return the image as another camera in another light might have taken it.

    Brightness, contrast, gamma and colour cast by one table a channel, now and then as dark as at
    night; then, each now and then, less or more saturation, a shadow, rain and haze, blur, noise
    and JPEG.
    """
    ramp = np.linspace(0, 1, 256)
    night = rng.random() < 0.06 * strength
    gamma = np.exp(rng.uniform(0.4, 0.8) if night else rng.normal(0, 0.2 * strength))
    contrast = 1.0 if night else np.exp(rng.normal(0, 0.2 * strength))
    brightness = 0.0 if night else rng.normal(0, 0.06 * strength)
    cast = np.exp(rng.normal(0, 0.06 * strength, 3))
    curve = (ramp**gamma - 0.5) * contrast + 0.5 + brightness
    table = np.clip(255 * curve[:, None] * cast, 0, 255).astype(np.uint8)
    image = np.asarray(cv2.LUT(image, table[None]), np.uint8)
    if rng.random() < 0.4 * strength:
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        amount = 1.0 if rng.random() < 0.2 else float(rng.uniform(-0.4, 0.9))
        image = np.asarray(cv2.addWeighted(image, 1 - amount, grey, amount, 0), np.uint8)
    if rng.random() < 0.15 * strength:
        image = _shadow(image, rng)
    if rng.random() < 0.1 * strength:
        image = _rain(image, rng)
    if rng.random() < 0.2 * strength:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.4)), np.uint8)
    if rng.random() < 0.25 * strength:
        noise = rng.standard_normal(image.shape, np.float32) * rng.uniform(1, 10)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.2 * strength:
        quality = int(rng.integers(25, 80))
        _, code = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)
    return image


def sharpened(image: Image, rng: np.random.Generator) -> Image:
    """Return the image with crisper edges, by unsharp masking of a random radius and amount.

    Enlarged pictures are soft, those of a camera that are reduced to network size are not (our
    choice).
    """
    soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.7, 1.6))
    amount = float(rng.uniform(0.5, 2.0))
    return np.asarray(cv2.addWeighted(image, 1 + amount, soft, -amount, 0), np.uint8)


def _shadow(image: Image, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    corners = rng.uniform(-0.2, 1.2, (4, 2)) * (width, height)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(corners.astype(np.int32)), 255)
    darker = (image * rng.uniform(0.35, 0.75)).astype(np.uint8)
    return np.where(mask[..., None] > 0, darker, image)


def _rain(image: Image, rng: np.random.Generator) -> Image:
    """Return the image behind a bright veil, thinner towards the bottom, and falling streaks."""
    height, width = image.shape[:2]
    veil = np.linspace(rng.uniform(0.15, 0.6), rng.uniform(0, 0.3), height, dtype=np.float32)
    drops = (rng.random((height, width), np.float32) < 0.002).astype(np.float32)
    length = int(rng.integers(5, 15))
    kernel = np.eye(length, dtype=np.float32) if rng.random() < 0.5 else np.ones((length, 1))
    streaks = cv2.filter2D(drops, -1, kernel.astype(np.float32)) * rng.uniform(0, 0.3)
    amount = np.clip(veil[:, None] + streaks, 0, 0.8)[..., None]
    return np.asarray(image * (1 - amount) + rng.uniform(120, 230) * amount, np.uint8)


def _rare_labels(loaded: LoadedSource, recipe: Recipe) -> npt.NDArray[np.bool_]:
    """Return, bool `[256]`, which labels stand for nothing but classes of more than weight 1."""
    space = LabelSpace.load(recipe.label_space)
    rare = sum(1 << space.class_id(n) for n, weight in recipe.class_weights.items() if weight > 1)
    allowed = loaded.allowed
    return np.asarray((allowed != 0) & (allowed & ~rare == 0), np.bool_)


def _render_drives(count: int, track: Track) -> tuple[list[tuple[Image, Image]], LabelSpace]:
    from lwseg_ros.synthetic.drive import GeneratedDrive

    frames = []
    for seed in track(range(-(-count // FRAMES_PER_DRIVE))):
        drive = GeneratedDrive(DRIVE_SEEDS_START + seed, 640, 360)
        for part in range(FRAMES_PER_DRIVE):
            frame = drive.frame((2 * part + 1) * len(drive) // (2 * FRAMES_PER_DRIVE))
            frames.append((frame.image, frame.labels))
    return frames[:count], LabelSpace.load('camvid')
