"""Feature Refinement Module (Wang, Guo, Wang, Zheng, Qi; ICIP 2023; arXiv 2412.08670).

From the paper: the module extracts semantics from the multi-stage feature maps of the backbone
and captures non-local context by a transformer block. From a summary of it, as the full text is
not available to us: the stages are pooled to the size of the last and concatenated, and the block
is a disentangled non-local one. Everything else is our choice, marked where it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lwseg_ros.networks.layers import Softmax, resize_like


class DisentangledNonLocal(nn.Module):
    """Disentangled non-local block (Yin et al., ECCV 2020; arXiv 2006.06668), without residual.

    With queries q, keys k and values g of 1x1 convolutions over the positions of `x`:

        w_ij = softmax_j((q_i - mean(q))^T (k_j - mean(k))) + softmax_j(m_j),   m_j = W_m x_j
        y_i  = W_o sum_j w_ij g_j

    Our choices: one head of the full width; no biases in q, k and m, where they would cancel;
    weights of q and k that start so small that the products of normalised inputs have unit
    variance, whatever the width.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels, 1, bias=False)
        self.key = nn.Conv2d(channels, channels, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1)
        self.mask = nn.Conv2d(channels, 1, 1, bias=False)
        self.output = nn.Conv2d(channels, channels, 1)
        self.softmax = Softmax()
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=channels**-0.75)

    def attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pairwise map `[N, T, T]` and the unary one `[N, 1, T]`; T = H * W positions.

        Each row sums to 1. Both are float32 whatever the precision of `x`.
        """
        query, key = self.query(x).flatten(2), self.key(x).flatten(2)
        query = query - query.mean(2, keepdim=True)
        key = key - key.mean(2, keepdim=True)
        products = torch.matmul(query.transpose(1, 2), key)
        mask = self.mask(x).flatten(2)
        return self.softmax(products), self.softmax(mask)

    def forward(self, x: Tensor) -> Tensor:
        """Return y, of the shape of `x`, float `[N, C, H, W]`."""
        pairwise, unary = self.attention(x)
        value = self.value(x).flatten(2)
        pairwise, unary = pairwise.to(value.dtype), unary.to(value.dtype)
        # The unary term is the same for every position: one sum serves them all.
        gathered = torch.matmul(value, pairwise.transpose(1, 2))
        gathered = gathered + torch.matmul(value, unary.transpose(1, 2))
        y: Tensor = self.output(gathered.reshape(x.shape))
        return y


class FeatureRefinementModule(nn.Module):
    """Refine four feature maps by the context of all of them.

    With P_l the average of F_l over the cells of F4, C the sum of all channels:

        Fc = cat(P1, P2, P3, F4)          C channels   (a summary of the paper)
        Z  = Fc + DNL(norm(Fc))                        (the block: a summary; pre-norm: our choice)
        R  = Z + FFN(norm(Z))                          (our choice: 1x1 to 4 C, GELU, 1x1)

    Our choices too: batch norm, which backends fold away, and where R goes. `output='top'`: a 1x1
    of R to F4's channels replaces F4. `output='split'`: a 1x1 of R to C channels is split into
    the stages' shares, and each is resized bilinearly and added to its F_l.
    """

    def __init__(
        self,
        channels: Sequence[int],
        output: Literal['top', 'split'],
        expansion: int = 4,
        centred: bool = False,
    ) -> None:
        super().__init__()
        self.centred = centred
        self.channels = tuple(channels)
        self.output = output
        width = sum(channels)
        self.norm1 = nn.BatchNorm2d(width)
        self.non_local = DisentangledNonLocal(width)
        self.norm2 = nn.BatchNorm2d(width)
        self.expand = nn.Conv2d(width, expansion * width, 1)
        self.reduce = nn.Conv2d(expansion * width, width, 1)
        self.project = nn.Conv2d(width, channels[-1] if output == 'top' else width, 1)

    def context(self, features: Sequence[Tensor]) -> Tensor:
        """Return R, float `[N, C, H4, W4]`, for the four maps, each half as large as the last."""
        joined = torch.cat(_pooled(features), 1)
        mixed = joined + self.non_local(self.norm1(joined))
        refined: Tensor = mixed + self.reduce(F.gelu(self.expand(self.norm2(mixed))))
        return refined

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return four maps of the shapes of `features`, strides 4, 8, 16 and 32."""
        refined = self.project(self.context(features))
        if self.output == 'top':
            return [*features[:-1], refined]
        shares = refined.split(self.channels, 1)
        return [
            f + resize_like(shares[index], f, not self.centred) for index, f in enumerate(features)
        ]


def _pooled(features: Sequence[Tensor]) -> list[Tensor]:
    """Average each map over the cells of the last, in windows of 8x8, 4x4, 2x2 and 1x1.

    Each stage halves the size, rounded up, so windows that are cut at the lower and right border
    end in exactly the last map's size. Where the sizes divide, this is adaptive average pooling;
    elsewhere our choice, as adaptive pooling cannot be exported for every size.
    """
    pooled = []
    for index, feature in enumerate(features):
        window = 2 ** (len(features) - 1 - index)
        pooled.append(
            F.avg_pool2d(feature, window, ceil_mode=True, count_include_pad=False)
            if window > 1
            else feature
        )
    return pooled
