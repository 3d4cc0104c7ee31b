"""Losses on logits.

Each is a quotient of sums over the batch. `total` adds a sum up over the processes that share the
batch (see `Trainer`), so that the loss is the same however the batch is split.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Total = Callable[[Tensor], Tensor]


def only_here(value: Tensor) -> Tensor:
    """Return the sum of one process, as it is."""
    return value


def label_set_loss(
    logits: Tensor,
    allowed: Tensor,
    class_weights: Tensor | None = None,
    ohem_threshold: float = 1.0,
    ohem_min_kept: float = 0.0,
    total: Total = only_here,
) -> Tensor:
    """Return minus the mean log of the probability that falls on each pixel's allowed classes.

    `logits` is float `[N, C, H, W]`, C <= 62. `allowed` is int64 `[N, H, W]`: bit c is set when
    class c may be the pixel's, 0 means unlabelled, and so do all bits. With one bit it is
    cross-entropy; a coarse label, which allows several classes, trains the log of the sum of their
    probabilities (our choice, for training on several label spaces together).

    `class_weights` float `[C]` weighs the pixels of the mean; a set weighs as its lightest class.
    With `ohem_threshold` < 1 only hard pixels count (`hard_pixels`). 0 when no pixel is labelled.
    """
    is_allowed = _classes_of(allowed, logits.shape[1])
    # A pixel that may be anything has no loss, and would only make that of the others smaller.
    labelled = (allowed != 0) & (allowed != (1 << logits.shape[1]) - 1)
    # An unlabelled pixel has no allowed class: allow all, so that its loss and gradient are 0.
    is_allowed |= ~labelled.unsqueeze(1)
    allowed_logits = logits.masked_fill(~is_allowed, float('-inf'))
    loss = torch.logsumexp(logits, 1) - torch.logsumexp(allowed_logits, 1)
    if ohem_threshold < 1:
        labelled = hard_pixels(loss.detach(), labelled, ohem_threshold, ohem_min_kept)
    weights = labelled.to(logits.dtype)
    if class_weights is not None:
        lightest = class_weights.view(1, -1, 1, 1).where(is_allowed, float('inf')).amin(1)
        weights = weights * lightest
    return total((loss * weights).sum()) / total(weights.sum()).clamp(min=1)


def hard_pixels(loss: Tensor, labelled: Tensor, threshold: float, min_kept: float) -> Tensor:
    """Return, bool `[N, H, W]`, the labelled pixels to learn from: online hard example mining.

    Kept are those whose truth has a probability below `threshold`, i.e. a loss (float
    `[N, H, W]`) above -log(threshold), and at least the share `min_kept` of an image's labelled
    pixels, its hardest. After Shrivastava et al. 2016, arXiv 1604.03540; that the least number is
    a share of each image, not of the batch, is our choice: so an image's pixels do not depend on
    which others share its batch.
    """
    hardest_first = (
        loss.masked_fill(~labelled, float('-inf')).flatten(1).sort(descending=True).values
    )
    count = (labelled.flatten(1).sum(1) * min_kept).ceil().long().clamp(min=1)
    last_kept = hardest_first.gather(1, count.unsqueeze(1) - 1).unsqueeze(2)
    return labelled & ((loss > -math.log(threshold)) | (loss >= last_kept))


def soft_jaccard_loss(logits: Tensor, allowed: Tensor, total: Total = only_here) -> Tensor:
    """Return 1 minus the mean soft IoU of the classes that the batch holds.

    Arguments as in `label_set_loss`, all images of the batch together. soft IoU = sum(p y) /
    sum(p + y - p y), p the softmax and y the one-hot truth (Rahman and Wang 2016). It weighs a
    thin class as much as a large one. A pixel that may be several classes counts against all
    others (our choice). 0 when no pixel has one class.
    """
    probability = logits.softmax(1)
    single = has_one_class(allowed).unsqueeze(1)
    may_be = _classes_of(allowed, logits.shape[1])
    known = single | (~may_be & (allowed > 0).unsqueeze(1))
    truth = may_be & single
    hits = total((probability * truth).sum((0, 2, 3)))
    truth_pixels = total(truth.sum((0, 2, 3)).to(probability.dtype))
    union = total((probability * known).sum((0, 2, 3))) + truth_pixels - hits
    present = truth_pixels > 0
    if not present.any():
        return logits.sum() * 0
    return 1 - (hits[present] / union[present]).mean()


def _classes_of(allowed: Tensor, classes: int) -> Tensor:
    """Return, bool `[N, C, H, W]`, which classes the bit sets `[N, H, W]` hold."""
    return torch.stack([(allowed & (1 << c)) != 0 for c in range(classes)], 1)


def has_one_class(allowed: Tensor) -> Tensor:
    """Return, bool of the same shape, which bit sets hold exactly one class."""
    return (allowed > 0) & (allowed & (allowed - 1) == 0)
