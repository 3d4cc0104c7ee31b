"""Visual Attention Network encoders (Guo et al. 2022; arXiv 2202.09741), VAN-B0 to -B3.

Layout and key names are those of the public ImageNet checkpoints, without their classifier
`head`. Convolutions start as He's normal by fan-out (our choice, for training without them).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZES = {
    # channels, blocks of the four stages   (Table 2 of the paper)
    'b0': ((32, 64, 160, 256), (3, 3, 5, 2)),
    'b1': ((64, 128, 320, 512), (2, 2, 4, 2)),
    'b2': ((64, 128, 320, 512), (3, 3, 12, 3)),
    'b3': ((64, 128, 320, 512), (3, 5, 27, 3)),
}
MLP_RATIOS = (8, 8, 4, 4)
LAYER_SCALE = 1e-2


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, drop a residual branch per image.

    Branches that stay are scaled by 1 / (1 - `probability`); in evaluation nothing happens.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep) / keep


class LargeKernelAttention(nn.Module):
    """LKA (equation 1 and 2): a 21x21 receptive field from two depthwise convolutions and a 1x1.

    `x * conv1(conv_spatial(conv0(x)))`: 5x5, then 7x7 of dilation 3, then 1x1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.conv_spatial = nn.Conv2d(
            channels, channels, 7, padding=9, dilation=3, groups=channels
        )
        self.conv1 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        attention: Tensor = self.conv1(self.conv_spatial(self.conv0(x)))
        return x * attention


class Attention(nn.Module):
    """1x1, GELU, large kernel attention, 1x1, with a shortcut (figure 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(channels, channels, 1)
        self.spatial_gating_unit = LargeKernelAttention(channels)
        self.proj_2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gated = self.spatial_gating_unit(F.gelu(self.proj_1(x)))
        projected: Tensor = self.proj_2(gated)
        return x + projected


class DepthwiseConvolution(nn.Module):
    """Depthwise 3x3, in the module that the public key names need."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        convolved: Tensor = self.dwconv(x)
        return convolved


class Mlp(nn.Module):
    """1x1 to the hidden width, depthwise 3x3, GELU, 1x1 back."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv = DepthwiseConvolution(hidden)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.fc2(F.gelu(self.dwconv(self.fc1(x))))
        return projected


class Block(nn.Module):
    """Attention, then MLP: each after batch norm, scaled per channel, on a residual path."""

    def __init__(self, channels: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.attn = Attention(channels)
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = Mlp(channels, channels * mlp_ratio)
        self.layer_scale_1 = nn.Parameter(LAYER_SCALE * torch.ones(channels))
        self.layer_scale_2 = nn.Parameter(LAYER_SCALE * torch.ones(channels))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.layer_scale_1[:, None, None] * self.attn(self.norm1(x)))
        mixed: Tensor = self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x))
        dropped: Tensor = self.drop_path(mixed)
        return x + dropped


class PatchEmbedding(nn.Module):
    """Overlapping patches: a strided convolution and batch norm; sizes are divided upwards."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2
        )
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.norm(self.proj(x))
        return embedded


class VisualAttentionNetwork(nn.Module):
    """The encoder of `size` 'b0', 'b1', 'b2' or 'b3'.

    `drop_path` is the probability of the last block; it grows linearly from 0 at the first. The
    default is that of B0 and B1 in the paper.
    """

    feature_strides = (4, 8, 16, 32)
    centred = False

    def __init__(self, size: str = 'b0', drop_path: float = 0.1) -> None:
        super().__init__()
        channels, depths = SIZES[size]
        self.feature_channels = channels
        last = sum(depths) - 1
        probabilities = (drop_path * block / last for block in range(last + 1))
        previous = 3
        for index, (width, depth, ratio) in enumerate(
            zip(channels, depths, MLP_RATIOS, strict=True), start=1
        ):
            kernel_size, stride = (7, 4) if index == 1 else (3, 2)
            blocks = [Block(width, ratio, next(probabilities)) for _ in range(depth)]
            self.add_module(
                f'patch_embed{index}', PatchEmbedding(previous, width, kernel_size, stride)
            )
            self.add_module(f'block{index}', nn.Sequential(*blocks))
            self.add_module(f'norm{index}', nn.LayerNorm(width, eps=1e-6))
            previous = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return one map for each stride 4, 8, 16, 32 of `x` float `[N, 3, H, W]`.

        The maps have `feature_channels` channels, normalised over them.
        """
        outputs = []
        for index in range(1, 5):
            x = self.get_submodule(f'patch_embed{index}')(x)
            x = self.get_submodule(f'block{index}')(x)
            norm = self.get_submodule(f'norm{index}')
            x = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            outputs.append(x)
        return outputs
