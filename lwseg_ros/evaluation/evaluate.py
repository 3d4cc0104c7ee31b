"""How well a model labels a data set: the same code for `lwseg evaluate` and for the trainer.

Every figure is defined in docs/metrics.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros.datasets.dataset import LabelledImages, Pair, read_pair
from lwseg_ros.evaluation.boundary import TOLERANCE, BoundaryCounts
from lwseg_ros.evaluation.calibration import Calibration
from lwseg_ros.evaluation.common_space import common_space
from lwseg_ros.evaluation.metrics import ConfusionMatrix, figure, pair_counts
from lwseg_ros.inference.segmenter import Segmentation
from lwseg_ros.label_space import LabelSpace

Labels = npt.NDArray[np.uint8]

Predict = Callable[[npt.NDArray[np.uint8]], Segmentation]
"""RGB uint8 `[H, W, 3]` to its segmentation; a `Segmenter` is one."""


class Accuracy:
    """How well some images are labelled, in one label space: sums of whole numbers."""

    def __init__(self, space: LabelSpace) -> None:
        self.space = space
        n = space.num_classes
        self.confusion = ConfusionMatrix(n)
        self.boundary = BoundaryCounts([*((i,) for i in range(n)), space.drivable_ids], n)
        self.calibration = Calibration()

    def add(self, other: Accuracy) -> None:
        """Add the images of another one in the same label space."""
        for mine, its in zip(self.counts(), other.counts(), strict=True):
            mine += its

    def counts(self) -> tuple[npt.NDArray[np.int64], ...]:
        """Return the counts of confusion, border and calibration, which may be written into."""
        return self.confusion.counts, self.boundary.counts, self.calibration.counts

    def figures(self) -> dict[str, float | None]:
        """Return the figures of areas; None where undefined."""
        confusion, drivable = self.confusion, self.space.drivable_ids
        return {
            'miou': figure(confusion.mean_iou()),
            'drivable_iou': figure(confusion.group_iou(drivable)) if drivable else None,
            'false_drivable_rate': figure(confusion.false_rate(drivable)) if drivable else None,
            'missed_drivable_rate': figure(confusion.missed_rate(drivable)) if drivable else None,
            'pixel_accuracy': figure(confusion.pixel_accuracy()),
        }

    def other_figures(self) -> dict[str, float | None]:
        """Return the figures of borders and of confidence; None where undefined."""
        f1 = self.boundary.f1()
        bordered = ~np.isnan(f1[:-1])
        return {
            'boundary_f1': figure(f1[:-1][bordered].mean()) if bordered.any() else None,
            'drivable_boundary_f1': figure(f1[-1]),
            'calibration_error': figure(self.calibration.error()),
        }

    def iou(self) -> dict[str, float | None]:
        """Return the IoU of each class that occurs in truth."""
        present, iou = self.confusion.counts.sum(1) > 0, self.confusion.iou()
        return {name: figure(iou[i]) for i, name in enumerate(self.space.names) if present[i]}

    def result(self) -> dict[str, Any]:
        """Return the metrics as JSON-able figures; None where undefined."""
        boundary = self.boundary
        f1, precision, recall = boundary.f1(), boundary.precision(), boundary.recall()
        borders = [
            {'f1': figure(f1[i]), 'precision': figure(precision[i]), 'recall': figure(recall[i])}
            for i in range(len(f1))
        ]
        return {
            'label_space': self.space.name,
            'pixels': int(self.confusion.counts.sum()),
            **self.figures(),
            **self.other_figures(),
            'iou': self.iou(),
            'boundary': {
                'tolerance': TOLERANCE,
                'drivable': borders[-1],
                'classes': {
                    name: borders[i]
                    for i, name in enumerate(self.space.names)
                    if not np.isnan(f1[i])
                },
            },
            'calibration': self.calibration.bins(),
        }


class Comparison:
    """Compares predictions in one label space with truth in another, in their `common_space`.

    A prediction without a counterpart there is wrong wherever truth has a class; a true class
    without one is unlabelled. DataError as `common_space` has it.
    """

    def __init__(self, model_space: LabelSpace, truth_space: LabelSpace) -> None:
        self.space = common_space(model_space, truth_space)
        self._sides = {'truth': truth_space, 'model': model_space}
        self._truth_table = truth_space.lookup_table(self.space)
        self._prediction_table = model_space.lookup_table(self.space)
        self.accuracy = Accuracy(self.space)
        self._pairs = np.zeros((256, 256), np.int64)

    def in_common_space(self, truth: Labels, prediction: Labels) -> tuple[Labels, Labels]:
        """Return both label images in the space of the comparison, `space`."""
        true: Any = cv2.LUT(truth, self._truth_table)
        predicted: Any = cv2.LUT(prediction, self._prediction_table)
        return true, predicted

    def measure(self, truth: Labels, segmentation: Segmentation) -> Accuracy:
        """Return the accuracy of one image; truth uint8 `[H, W]` in its own space."""
        truth, prediction = self.in_common_space(truth, segmentation.labels)
        one = Accuracy(self.space)
        one.confusion.update(truth, prediction)
        one.boundary.update(truth, prediction)
        right = (truth == prediction).view(np.uint8)
        right |= (~one.confusion.labelled(truth)).view(np.uint8) << 1
        one.calibration.update(segmentation.confidence, right)
        return one

    def update(self, truth: Labels, segmentation: Segmentation) -> dict[str, float | None]:
        """Add one image and return its own figures; truth uint8 `[H, W]` in its own space."""
        one = self.measure(truth, segmentation)
        self.accuracy.add(one)
        self._pairs += pair_counts(truth, segmentation.labels)
        return one.figures()

    def called_drivable(self) -> dict[str, float]:
        """Return of each true class the share of its pixels that the model calls drivable.

        By the truth's own classes and the model's own drivable ones, whatever is joined or left
        out elsewhere: what is missed of a road, and what is invented on a class that only says
        what it is not. Of the images of `update`; classes that occur in truth.
        """
        drivable = list(self._sides['model'].drivable_ids)
        pixels, called = self._pairs.sum(1), self._pairs[:, drivable].sum(1)
        return {
            c.name: round(float(called[c.id] / pixels[c.id]), 6)
            for c in self._sides['truth'].classes
            if drivable and pixels[c.id]
        }

    def result(self) -> dict[str, Any]:
        """Return the metrics over all images as JSON-able figures; None where undefined.

        Where classes were joined, `classes` has those of truth and model by the joined name, and
        `note` says so in words.
        """
        result = {**self.accuracy.result(), 'called_drivable': self.called_drivable()}
        if self.space in self._sides.values():
            return result
        classes = {
            name: {
                side: list(self.space.mappings[space.name][name])
                for side, space in self._sides.items()
            }
            for name in self.space.names
        }
        return {**result, 'classes': classes, 'note': self.space.description}


def evaluate(
    predict: Predict,
    model_space: LabelSpace,
    data: LabelledImages,
    track: Callable[[Iterable[Pair]], Iterable[Pair]] = iter,
    per_image: bool = False,
) -> dict[str, Any]:
    """Label every image of `data` and return the metrics (see `Comparison.result`).

    `track` wraps the pairs to show progress. With `per_image` the result has a list of that name,
    by file name: each image's `name` (see `image_names`) and its own figures.
    """
    comparison = Comparison(model_space, data.label_space)
    names = image_names(data.pairs)
    images = []
    for pair in track(data.pairs):
        image, truth = read_pair(pair)
        images.append({'name': names[pair.image], **comparison.update(truth, predict(image))})
    result = {'data': data.name, 'images': len(data.pairs), **comparison.result()}
    if per_image:
        result['per_image'] = sorted(images, key=lambda row: str(row['name']))
    return result


def worst_images(per_image: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return the `count` images of the lowest drivable IoU, the worst first.

    Of the lowest mIoU, if no image has anything drivable. Images without that figure are left
    out; among equals the file name decides.
    """
    by = 'miou' if all(row['drivable_iou'] is None for row in per_image) else 'drivable_iou'
    known = [row for row in per_image if row[by] is not None]
    return sorted(known, key=lambda row: (row[by], row['name']))[:count]


def image_names(pairs: Sequence[Pair]) -> dict[Path, str]:
    """Return of each image its path from the folder that holds them all, with `/` between."""
    folder = os.path.commonpath([pair.image.parent for pair in pairs]) if pairs else ''
    return {pair.image: pair.image.relative_to(folder).as_posix() for pair in pairs}
