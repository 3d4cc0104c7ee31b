"""Losses on logits."""

from __future__ import annotations

import torch
from torch import Tensor


def label_set_loss(logits: Tensor, allowed: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return minus the mean log of the probability that falls on each pixel's allowed classes.

    `logits` is float `[N, C, H, W]`, C <= 62. `allowed` is int64 `[N, H, W]`: bit c is set when
    class c may be the pixel's, 0 means unlabelled. With one bit it is cross-entropy; a coarse
    label, which allows several classes, trains the log of the sum of their probabilities (our
    choice, for training on several label spaces together).

    `class_weights` float `[C]` weighs the pixels of the mean; a set weighs as its lightest class.
    0 when no pixel is labelled.
    """
    bits = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
    is_allowed = (allowed.unsqueeze(1) >> bits) & 1 == 1
    labelled = allowed != 0
    # An unlabelled pixel has no allowed class: allow all, so that its loss and gradient are 0.
    is_allowed |= ~labelled.unsqueeze(1)
    allowed_logits = logits.masked_fill(~is_allowed, float('-inf'))
    loss = torch.logsumexp(logits, 1) - torch.logsumexp(allowed_logits, 1)
    weights = labelled.to(logits.dtype)
    if class_weights is not None:
        lightest = class_weights.view(1, -1, 1, 1).where(is_allowed, float('inf')).amin(1)
        weights = weights * lightest
    return (loss * weights).sum() / weights.sum().clamp(min=1)


def soft_jaccard_loss(logits: Tensor, allowed: Tensor) -> Tensor:
    """Return 1 minus the mean soft IoU of the classes that the batch holds.

    Arguments as in `label_set_loss`; looks at the pixels with one allowed class only, all of the
    batch together. soft IoU = sum(p y) / sum(p + y - p y), p the softmax and y the one-hot truth
    (Rahman and Wang 2016). It weighs a thin class as much as a large one. 0 without such pixels.
    """
    single = (allowed > 0) & (allowed & (allowed - 1) == 0)
    probability = logits.softmax(1).movedim(1, -1)[single]
    bits = torch.arange(logits.shape[1], device=logits.device)
    truth = ((allowed[single].unsqueeze(1) >> bits) & 1).to(probability.dtype)
    hits = (probability * truth).sum(0)
    union = (probability + truth).sum(0) - hits
    present = truth.sum(0) > 0
    if not present.any():
        return logits.sum() * 0
    return 1 - (hits[present] / union[present]).mean()
