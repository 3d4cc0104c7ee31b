"""What is minimised: a recipe's losses on one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lwseg_ros.inference.model_info import IMAGENET_MEAN, IMAGENET_STD
from lwseg_ros.label_space import LabelSpace
from lwseg_ros.training.contrastive import ProjectionHead, pixel_contrast
from lwseg_ros.training.losses import (
    Total,
    label_set_loss,
    only_here,
    soft_jaccard_loss,
)
from lwseg_ros.training.positions import at_logits, interpolated
from lwseg_ros.training.recipe import Recipe
from lwseg_ros.training.samples import normalised
from lwseg_ros.training.teacher import Teacher, distillation_loss

if TYPE_CHECKING:
    from lwseg_ros.networks.layers import SegmentationNetwork

LOSS_STRIDE = 2
"""The loss looks at every second row and column, others at each step (our choice).

It makes a step a sixth faster on a CPU; looking at the same ones always would shift the labels.
"""


class Trainee(nn.Module):
    """A network and what trains with it: the projection head, which no model file holds."""

    def __init__(self, network: SegmentationNetwork, contrasts: bool) -> None:
        super().__init__()
        self.network = network
        self.head = ProjectionHead(network.decoded_channels) if contrasts else None

    def forward(self, x: Tensor, embed: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return logits and, if asked for, embeddings, both at stride 4."""
        if not embed or self.head is None:
            return self.network(x), None
        decoded = self.network.decoded(x)
        return self.network.classify(decoded), self.head(decoded)


class Objective:
    """The loss of a batch and its parts.

    `trainee` is a `Trainee` as it is called, in its precision and for its processes.
    """

    def __init__(
        self,
        recipe: Recipe,
        space: LabelSpace,
        trainee: Callable[[Tensor, bool], tuple[Tensor, Tensor | None]],
        teacher: Teacher | None = None,
        total: Total = only_here,
        centred: bool = False,
    ) -> None:
        self.recipe = recipe
        self.centred = centred
        self.trainee = trainee
        self.teacher = teacher
        self.total = total
        self.class_weights = torch.ones(space.num_classes)
        for name, weight in recipe.class_weights.items():
            self.class_weights[space.class_id(name)] = weight

    def __call__(
        self, images: Tensor, allowed: Tensor, iteration: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of iteration `iteration`, and the terms it is the weighted sum of.

        `images` is uint8 `[N, H, W, 3]`, `allowed` int64 `[N, H, W]`; `generator`, of the same
        device, draws what the contrast looks at.
        """
        recipe, total = self.recipe, self.total
        contrasts = recipe.contrastive_weight > 0 and iteration >= recipe.contrastive_warmup
        x = normalised(images, IMAGENET_MEAN, IMAGENET_STD)
        logits, embeddings = self.trainee(x, contrasts)
        logits = logits.float()
        row, column = divmod(iteration % LOSS_STRIDE**2, LOSS_STRIDE)
        labels = allowed[:, row::LOSS_STRIDE, column::LOSS_STRIDE]
        size = allowed.shape[1:]
        places = [
            torch.arange(start, pixels, LOSS_STRIDE, dtype=torch.float64)
            for start, pixels in zip((row, column), size, strict=True)
        ]
        at_pixels = interpolated(logits, places, size, self.centred)
        terms = {
            'cross_entropy': label_set_loss(
                at_pixels,
                labels,
                self.class_weights.to(images.device),
                recipe.ohem_threshold,
                recipe.ohem_min_kept,
                total,
            )
        }
        loss = terms['cross_entropy']
        if recipe.jaccard_weight:
            terms['jaccard'] = soft_jaccard_loss(at_pixels, labels, total)
            loss = loss + recipe.jaccard_weight * terms['jaccard']
        here = at_logits(allowed, logits.shape[2:], self.centred)
        if embeddings is not None:
            terms['contrast'] = pixel_contrast(embeddings, logits, here, generator, total)
            loss = loss + recipe.contrastive_weight * terms['contrast']
        if self.teacher is not None:
            terms['distillation'] = distillation_loss(
                logits,
                self.teacher(images, logits.shape[2:]),
                self.teacher.groups,
                here,
                recipe.distillation_temperature,
                recipe.teacher_confidence,
                total,
            )
            loss = loss + recipe.distillation_weight * terms['distillation']
        return loss, terms
