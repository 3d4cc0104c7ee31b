"""The pixel contrastive term (Wang et al. 2021, arXiv 2101.11939), used in training only.

Pixels of one class are drawn together in a space of embeddings and pushed from those of others,
across the images of a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lwseg_ros.training.losses import Total, has_one_class, only_here

EMBEDDING = 256
TEMPERATURE = 0.1
BASE_TEMPERATURE = 0.07
MAX_ANCHORS = 1024
MAX_ANCHORS_PER_CLASS = 100
"""Of one class in one image. All settings are the paper's."""


class ProjectionHead(nn.Module):
    """1x1 convolution, BN, ReLU, 1x1 convolution, then unit length (the paper's section 3.3).

    Maps decoded features, float `[N, channels, h, w]`, to embeddings float `[N, 256, h, w]`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, EMBEDDING, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(self.layers(features).float(), dim=1)


def pixel_contrast(
    embeddings: Tensor,
    logits: Tensor,
    allowed: Tensor,
    generator: torch.Generator,
    total: Total = only_here,
) -> Tensor:
    """Return the contrastive loss of a batch.

    `embeddings` is float `[N, D, h, w]` of unit length, `logits` float `[N, C, h, w]`, `allowed`
    int64 `[N, h, w]` as in `label_set_loss`; only pixels of exactly one class count. `generator`
    is of the tensors' device.
    """
    labels = single_class(allowed)
    wrong = logits.detach().argmax(1) != labels
    anchors = sample_anchors(labels, wrong, generator)
    chosen = embeddings.movedim(1, -1).flatten(0, 2)[anchors]
    return contrastive_loss(chosen, labels.flatten()[anchors], total)


def single_class(allowed: Tensor) -> Tensor:
    """Return the class of each bit set that holds exactly one, else -1; int64, same shape."""
    # A float64 holds powers of two up to 2^62 exactly, and its log2 of them is exact.
    return torch.where(has_one_class(allowed), allowed.double().log2().round().long(), -1)


def sample_anchors(
    labels: Tensor,
    wrong: Tensor,
    generator: torch.Generator,
    max_anchors: int = MAX_ANCHORS,
    max_per_class: int = MAX_ANCHORS_PER_CLASS,
) -> Tensor:
    """Return the flat indices, int64 `[A]`, of the pixels that take part.

    `labels` is int64 `[N, h, w]`, -1 for none; `wrong` bool, which pixels the network labels
    otherwise. The classes of the images share `max_anchors` equally, each takes at most
    `max_per_class`: half hard pixels (wrong), half easy, more of one kind where the other lacks.
    """
    flat, hard = labels.flatten(), wrong.flatten()
    classes = int(flat.max()) + 1
    image = torch.arange(len(labels), device=flat.device).repeat_interleave(labels[0].numel())
    kind = 2 * (image * max(classes, 1) + flat) + hard
    pixels = (flat >= 0).nonzero()[:, 0]
    # A random order within each kind: shuffle all, then sort by kind and keep equals in order.
    order = torch.randperm(len(pixels), generator=generator, device=flat.device)
    pixels = pixels[order]
    kind, order = kind[pixels].sort(stable=True)
    pixels = pixels[order]

    available = torch.bincount(kind, minlength=2 * len(labels) * max(classes, 1)).view(-1, 2)
    groups = int((available.sum(1) > 0).sum())
    if not groups:
        return pixels
    share = min(max_anchors // groups, max_per_class)
    easy, difficult = available.unbind(1)
    take_hard = torch.minimum(difficult, (share - easy).clamp(min=share // 2))
    take = torch.stack((torch.minimum(easy, share - take_hard), take_hard), 1).flatten()
    starts = available.flatten().cumsum(0) - available.flatten()
    place = torch.arange(len(kind), device=kind.device) - starts[kind]
    return pixels[place < take[kind]]


def contrastive_loss(anchors: Tensor, labels: Tensor, total: Total = only_here) -> Tensor:
    """Return the mean InfoNCE loss of anchors, float `[A, D]` of unit length, classes `[A]`.

    L_i is the mean over the other anchors p of i's class of
    -log(exp(i.p/T) / (exp(i.p/T) + sum over n of other classes of exp(i.n/T))), scaled by T/0.07
    (the paper's equation 4). An anchor alone in its class takes no part in the mean; with none
    left the loss and its gradients are 0. Over several processes each contrasts its own anchors.
    """
    similarity = anchors @ anchors.T / TEMPERATURE
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    # The largest similarity is 1 / T: exp of the difference does not overflow.
    closeness = (similarity - 1 / TEMPERATURE).exp()
    strangers = (closeness * ~same).sum(1, keepdim=True)
    pair_loss = (closeness + strangers).log() - similarity + 1 / TEMPERATURE
    partners = positive.sum(1)
    loss = (pair_loss * positive).sum(1) / partners.clamp(min=1)
    count = total((partners > 0).sum().to(loss.dtype)).clamp(min=1)
    return total(loss.sum()) / count * (TEMPERATURE / BASE_TEMPERATURE)
