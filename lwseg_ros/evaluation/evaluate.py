"""How well a model labels a data set: the same code for `lwseg evaluate` and for the trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from lwseg_ros.evaluation.dataset import LabelledImages, Pair, read_pair
from lwseg_ros.evaluation.metrics import ConfusionMatrix, figure
from lwseg_ros.inference.segmenter import Segmentation
from lwseg_ros.label_space import LabelSpace

Predict = Callable[[npt.NDArray[np.uint8]], Segmentation]
"""RGB uint8 `[H, W, 3]` to its segmentation; a `Segmenter` is one."""


class Comparison:
    """Compares predictions in one label space with truth in another.

    In the model's space where each true class has one counterpart there; else the truth is
    coarser, and predictions are remapped to its space. DataError if neither space maps one to one
    to the other.
    """

    def __init__(self, model_space: LabelSpace, truth_space: LabelSpace) -> None:
        identity = np.arange(256, dtype=np.uint8)
        self.truth_table = self.prediction_table = identity
        if truth_space.maps_one_to_one(model_space):
            self.space = model_space
            self.truth_table = truth_space.lookup_table(model_space)
        else:
            self.space = truth_space
            self.prediction_table = model_space.lookup_table(truth_space)
        self.confusion = ConfusionMatrix(self.space.num_classes)

    def update(self, truth: npt.NDArray[np.uint8], prediction: npt.NDArray[np.uint8]) -> None:
        """Add one image: labels uint8 `[H, W]` in their own spaces."""
        self.confusion.update(self.truth_table[truth], self.prediction_table[prediction])

    def result(self) -> dict[str, Any]:
        """Return the metrics over all images as JSON-able figures; None where undefined."""
        confusion = self.confusion
        present = confusion.counts.sum(1) > 0
        iou = confusion.iou()
        drivable = self.space.drivable_ids
        return {
            'label_space': self.space.name,
            'pixels': int(confusion.counts.sum()),
            'miou': figure(confusion.mean_iou()),
            'drivable_iou': figure(confusion.group_iou(drivable)) if drivable else None,
            'false_drivable_rate': figure(confusion.false_rate(drivable)) if drivable else None,
            'pixel_accuracy': figure(confusion.pixel_accuracy()),
            'iou': {name: figure(iou[i]) for i, name in enumerate(self.space.names) if present[i]},
        }


def evaluate(
    predict: Predict,
    model_space: LabelSpace,
    data: LabelledImages,
    track: Callable[[Iterable[Pair]], Iterable[Pair]] = iter,
) -> dict[str, Any]:
    """Label every image of `data` and return the metrics (see `Comparison.result`).

    `track` wraps the pairs to show progress.
    """
    comparison = Comparison(model_space, data.label_space)
    for pair in track(data.pairs):
        image, truth = read_pair(pair)
        comparison.update(truth, predict(image).labels)
    return {'data': data.name, 'images': len(data.pairs), **comparison.result()}
