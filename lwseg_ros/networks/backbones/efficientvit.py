"""EfficientViT-B0 encoder (Cai, Li, Hu, Gan, Han; ICCV 2023; arXiv 2205.14756).

Inverted residuals of depthwise convolutions, and in the two coarsest stages blocks of multi-scale
linear attention. Widths, depths and key names are those of the public weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lwseg_ros.networks.layers import InFloat32

STEM_CHANNELS = 8
STAGES = (
    # channels, blocks, attention
    (16, 2, False),
    (32, 2, False),
    (64, 2, True),
    (128, 2, True),
)
EXPANSION = 4
HEAD_CHANNELS = 16
_EPSILON = 1e-15  # as a least divisor: exporters drop the sum with so small a number


class ConvLayer(nn.Module):
    """Convolution that keeps the size (over `stride`), then batch norm and hard-swish if asked.

    It has a bias exactly where it has no norm, unless `bias` says otherwise.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        activation: bool = True,
        bias: bool | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=not norm if bias is None else bias,
        )
        self.norm = nn.BatchNorm2d(out_channels) if norm else None
        self.activation = nn.Hardswish() if activation else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


class DepthwiseSeparable(nn.Module):
    """Depthwise 3x3, then 1x1 without activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depth_conv = ConvLayer(channels, channels, 3, groups=channels)
        self.point_conv = ConvLayer(channels, channels, 1, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.point_conv(self.depth_conv(x))
        return projected


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1 without activation; the shortcut is outside.

    Without `norm`, the first two convolutions have biases instead of norms.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, norm: bool = True
    ) -> None:
        super().__init__()
        inner = in_channels * EXPANSION
        self.inverted_conv = ConvLayer(in_channels, inner, 1, norm=norm)
        self.depth_conv = ConvLayer(inner, inner, 3, stride, groups=inner, norm=norm)
        self.point_conv = ConvLayer(inner, out_channels, 1, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.point_conv(self.depth_conv(self.inverted_conv(x)))
        return projected


class MultiScaleLinearAttention(nn.Module):
    """ReLU linear attention at two scales (paper, section 3.1 and figure 2).

    Queries, keys and values are a 1x1 convolution of the input, and beside it a depthwise 5x5 and
    a grouped 1x1 of the same. In each head of 16 channels, over all positions j:

        out_i = (sum_j v_j relu(k_j)^T) relu(q_i) / (relu(q_i) . sum_j relu(k_j))
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = 3 * channels
        self.qkv = ConvLayer(channels, inner, 1, norm=False, activation=False, bias=False)
        self.aggreg = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(inner, inner, 5, padding=2, groups=inner, bias=False),
                    nn.Conv2d(inner, inner, 1, groups=inner // HEAD_CHANNELS, bias=False),
                )
            ]
        )
        self.attention = LinearAttention()
        self.proj = ConvLayer(2 * channels, channels, 1, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return an image of the shape of `x`, float `[N, C, H, W]`."""
        qkv = self.qkv(x)
        joined = torch.cat([qkv, *(scale(qkv) for scale in self.aggreg)], 1)
        attended = self.attention(joined).to(joined.dtype)
        projected: Tensor = self.proj(attended)
        return projected


class LinearAttention(InFloat32):
    """`[N, C, H, W]` of queries, keys and values `[N, 3 C, H, W]`, head by head.

    Means rather than sums: the quotient is the same, and they stay in range, whatever the number
    of positions (our choice).
    """

    def compute(self, *inputs: Tensor) -> Tensor:
        (qkv,) = inputs
        number, _, height, width = qkv.shape
        heads = qkv.reshape(number, -1, 3 * HEAD_CHANNELS, height * width)
        query, key, value = heads.chunk(3, 2)
        query, key = F.relu(query), F.relu(key) / (height * width)
        # A product of its own: as a row of ones under the values, exporters get it wrong.
        summed = torch.matmul(value, key.transpose(2, 3))
        divisor = torch.matmul(key.sum(3, keepdim=True).transpose(2, 3), query)
        attended = torch.matmul(summed, query) / divisor.clamp(min=_EPSILON)
        return attended.reshape(number, -1, height, width)


class Residual(nn.Module):
    """A module, added to its input."""

    def __init__(self, main: nn.Module) -> None:
        super().__init__()
        self.main = main

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.main(x)
        return added


class Unshortened(nn.Module):
    """A module without a shortcut, under the key name that it has with one."""

    def __init__(self, main: nn.Module) -> None:
        super().__init__()
        self.main = main

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.main(x)
        return result


class AttentionBlock(nn.Module):
    """Context by attention, then what is near by an inverted residual; both with shortcuts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.context_module = Residual(MultiScaleLinearAttention(channels))
        self.local_module = Residual(InvertedResidual(channels, channels, norm=False))

    def forward(self, x: Tensor) -> Tensor:
        near: Tensor = self.local_module(self.context_module(x))
        return near


class OpList(nn.Module):
    """Modules one after another, under the key name `op_list`."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.op_list = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        for module in self.op_list:
            x = module(x)
        return x


class EfficientViT(nn.Module):
    """The encoder B0, without its classifier.

    It was trained on images of even sizes whose maps are enlarged with centres kept: each of its
    cells stands for its middle. At sizes of 32 k it sees best; one pixel more costs much.
    """

    feature_strides = (4, 8, 16, 32)
    centred = True

    def __init__(self) -> None:
        super().__init__()
        self.feature_channels: Sequence[int] = tuple(channels for channels, *_ in STAGES)
        self.input_stem = OpList(
            ConvLayer(3, STEM_CHANNELS, 3, stride=2),
            Residual(DepthwiseSeparable(STEM_CHANNELS)),
        )
        stages = []
        before = STEM_CHANNELS
        for channels, blocks, attends in STAGES:
            first = InvertedResidual(before, channels, stride=2, norm=not attends)
            others: list[nn.Module] = (
                [AttentionBlock(channels) for _ in range(blocks)]
                if attends
                else [Residual(InvertedResidual(channels, channels)) for _ in range(blocks - 1)]
            )
            stages.append(OpList(Unshortened(first), *others))
            before = channels
        self.stages = nn.ModuleList(stages)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return one feature map for each of `feature_strides`, of `feature_channels` channels.

        `x` is float `[N, 3, H, W]`.
        """
        x = self.input_stem(x)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs
