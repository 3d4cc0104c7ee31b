"""Validation while a network trains: as `lwseg evaluate` does it, in fp32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lwseg_ros.datasets.dataset import open_dataset, read_pair
from lwseg_ros.datasets.shares import ClassShares, class_shares
from lwseg_ros.errors import DataError
from lwseg_ros.evaluation.evaluate import Predict, evaluate
from lwseg_ros.inference.graph import ImageToLabels
from lwseg_ros.inference.model_info import IMAGENET_MEAN, IMAGENET_STD
from lwseg_ros.inference.segmenter import Segmentation, enlarged
from lwseg_ros.label_space import LabelSpace
from lwseg_ros.overlay import overlay
from lwseg_ros.training.recipe import Recipe

Image = npt.NDArray[np.uint8]

PICTURES = 2
"""Images of each validation set that are shown with their labels."""

LABEL_FILES = 100
"""Label files of each validation set that are looked at before the training (our choice)."""


class Validation:
    """The data sets that a recipe is validated on."""

    def __init__(
        self, recipe: Recipe, space: LabelSpace, root: Path | None, device: torch.device
    ) -> None:
        self._sets = recipe.validate
        self._size = recipe.input_size
        self._space, self._root, self._device = space, root, device

    def class_shares(self) -> Iterator[ClassShares]:
        """Give of each set the shares of its classes; DataError if it has no more than one.

        They are counted in `LABEL_FILES` files at even distances.
        """
        for one in self._sets:
            data = open_dataset(one.data, one.split, self._root)
            shares = class_shares(data, most=LABEL_FILES)
            yield shares
            shares.check_classes()

    def predictor(self, network: nn.Module) -> Predict:
        """Return what labels an image with these weights, at the model's default size."""
        graph = ImageToLabels(network, IMAGENET_MEAN, IMAGENET_STD).to(self._device).eval()
        vector = torch.from_numpy(self._space.drivable_vector()).to(self._device)

        @torch.inference_mode()
        def predict(image: Image) -> Segmentation:
            fitted = torch.from_numpy(cv2.resize(image, self._size[::-1]))
            planes = graph(fitted[None].to(self._device), vector)
            return enlarged([plane[0].cpu().numpy() for plane in planes], image.shape[:2])

        return predict

    def figures(self, predict: Predict) -> list[dict[str, Any]]:
        """Return the figures of each set; DataError if one has no mIoU."""
        sets = [
            evaluate(predict, self._space, open_dataset(one.data, one.split, self._root))
            for one in self._sets
        ]
        for figures in sets:
            if figures['miou'] is None:
                raise DataError(
                    f'there is no figure of {figures["data"]}: no labelled pixel has a '
                    f'counterpart among the classes of {self._space.name}'
                )
        return sets

    def pictures(self, predict: Predict) -> Iterator[dict[str, Image]]:
        """Give of each set a few images with their labels, RGB uint8 `[H, W, 3]` by name."""
        for one in self._sets:
            pictures = {}
            for pair in open_dataset(one.data, one.split, self._root).pairs[:PICTURES]:
                image, _ = read_pair(pair)
                pictures[pair.image.stem] = overlay(
                    image, predict(image).labels, self._space.palette
                )
            yield pictures
