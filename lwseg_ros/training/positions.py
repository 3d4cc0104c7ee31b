"""Where logits lie among the pixels of their image, and values of the ones at the others.

In each direction, of `pixels` and `logits` in a row: centred, a logit stands for the middle of its
cell of pixels, else the first and the last lie on the corners (see `SegmentationNetwork.centred`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def seen_at(pixels: int, logits: int, centred: bool) -> Tensor:
    """Return where among a row's `pixels` its `logits` lie, float64 `[logits]`."""
    places = torch.arange(logits, dtype=torch.float64)
    if centred:
        return (places + 0.5) * pixels / logits - 0.5
    return places * (pixels - 1) / max(logits - 1, 1)


def linear_weights(places: Tensor, pixels: int, logits: int, centred: bool) -> Tensor:
    """Return the weights, `[P, logits]`, of linear interpolation at P places among the pixels."""
    if centred:
        places = (places + 0.5) * logits / pixels - 0.5
    else:
        places = places * (logits - 1) / max(pixels - 1, 1)
    distance = places.clamp(0, logits - 1)[:, None] - torch.arange(logits)
    return (1 - distance.abs()).clamp(min=0)


def interpolated(
    planes: Tensor, places: Sequence[Tensor], size: Sequence[int], centred: bool
) -> Tensor:
    """Return planes float `[N, C, h, w]` of an image of `size` at places among its pixels.

    `places` are those of rows, `[P]`, and of columns, `[Q]`; the result is `[N, C, P, Q]`. What is
    not looked at is not computed: it is a product with the weights of these rows and one with
    those of these columns.
    """
    rows, columns = (
        linear_weights(at, pixels, logits, centred).to(planes)
        for at, pixels, logits in zip(places, size, planes.shape[2:], strict=True)
    )
    result: Tensor = rows @ (planes.contiguous() @ columns.T)
    return result


def at_logits(allowed: Tensor, size: Sequence[int], centred: bool) -> Tensor:
    """Return the bit sets, int64 `[N, H, W]`, of the pixels nearest to logits of `size`."""
    rows, columns = (
        seen_at(pixels, logits, centred).round().long().to(allowed.device)
        for pixels, logits in zip(allowed.shape[1:], size, strict=True)
    )
    return allowed[:, rows[:, None], columns]
