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
