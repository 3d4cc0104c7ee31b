"""Context modules on the last stage alone: what the Feature Refinement Module is compared with.

Each takes and returns the four maps of a backbone and changes the last, float `[N, C4, h, w]`,
keeping its shape, so that the decoder after it stays the same.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lwseg_ros.networks.feature_refinement import DisentangledNonLocal
from lwseg_ros.networks.layers import conv_bn_relu, resize_like


class LastStageContext(nn.Module):
    """Applies `refined` to the last of the maps."""

    @abstractmethod
    def refined(self, x: Tensor) -> Tensor:
        """Return the last map with context, of the shape of `x`."""

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [*features[:-1], self.refined(features[-1])]


class PyramidPooling(LastStageContext):
    """Pyramid pooling module (Zhao et al., PSPNet, CVPR 2017, section 3.2).

    Averages over 1x1, 2x2, 3x3 and 6x6 cells, each reduced to a quarter of the channels, joined
    with the map and fused by a 3x3 to C4 channels (512 in the paper). For comparison only: its
    pooling to fixed grids cannot be exported for every input size.
    """

    grids = (1, 2, 3, 6)

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = channels // len(self.grids)
        self.stages = nn.ModuleList(conv_bn_relu(channels, width, 1) for _ in self.grids)
        self.fuse = conv_bn_relu(channels + width * len(self.grids), channels, 3)

    def refined(self, x: Tensor) -> Tensor:
        maps = [x]
        for grid, stage in zip(self.grids, self.stages, strict=True):
            maps.append(resize_like(stage(F.adaptive_avg_pool2d(x, grid)), x, align_corners=False))
        fused: Tensor = self.fuse(torch.cat(maps, 1))
        return fused


class AtrousSpatialPyramidPooling(LastStageContext):
    """ASPP with image-level features (Chen et al., DeepLabv3, arXiv 1706.05587, section 3.3).

    A 1x1, three dilated 3x3 and the image's average, 256 channels each, fused by a 1x1 to C4
    channels (256 in the paper). The dilations are half of the paper's 6, 12 and 18, which are for
    output stride 16 (our choice: the same reach in pixels at stride 32).
    """

    width = 256
    dilations = (3, 6, 9)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                conv_bn_relu(channels, self.width, 1),
                *(conv_bn_relu(channels, self.width, 3, d) for d in self.dilations),
            ]
        )
        self.image = conv_bn_relu(channels, self.width, 1)
        self.fuse = conv_bn_relu(self.width * (len(self.branches) + 1), channels, 1)

    def refined(self, x: Tensor) -> Tensor:
        image = resize_like(self.image(x.mean((2, 3), keepdim=True)), x)
        fused: Tensor = self.fuse(torch.cat([*(branch(x) for branch in self.branches), image], 1))
        return fused


class NonLocalContext(LastStageContext):
    """The disentangled non-local block alone, pre-norm and residual as in the FRM (our choice)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.non_local = DisentangledNonLocal(channels)

    def refined(self, x: Tensor) -> Tensor:
        context: Tensor = self.non_local(self.norm(x))
        return x + context
