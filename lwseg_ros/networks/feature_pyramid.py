"""Feature pyramid decoder with the Semantic FPN head, on any backbone, with or without context.

Feature Pyramid Networks: Lin et al., CVPR 2017, arXiv 1612.03144. The head: Kirillov et al.,
Panoptic Feature Pyramid Networks, CVPR 2019, arXiv 1901.02446, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from lwseg_ros.networks.backbones.efficientvit import EfficientViT
from lwseg_ros.networks.backbones.mobilenet_v2 import MobileNetV2
from lwseg_ros.networks.backbones.resnet import ResNet
from lwseg_ros.networks.backbones.van import VisualAttentionNetwork
from lwseg_ros.networks.layers import SegmentationNetwork, conv_bn_relu, resize_like

Backbone = EfficientViT | MobileNetV2 | ResNet | VisualAttentionNetwork


class FeaturePyramid(nn.Module):
    """Lateral 1x1 to one width, nearest up-sampling added from the top down, 3x3 per level.

    Takes maps of strides 4, 8, 16 and 32 and returns as many of their sizes, `width` channels.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        laterals = [layer(f) for layer, f in zip(self.lateral, features, strict=True)]
        for finer in range(len(laterals) - 2, -1, -1):
            size = laterals[finer].shape[-2:]
            above = F.interpolate(laterals[finer + 1], size=size, mode='nearest')
            laterals[finer] = laterals[finer] + above
        return [layer(x) for layer, x in zip(self.smooth, laterals, strict=True)]


class UpsamplingSteps(nn.Module):
    """3x3 convolution, norm, ReLU and bilinear resizing, once for each finer level."""

    def __init__(self, count: int, in_channels: int, width: int, centred: bool = False) -> None:
        super().__init__()
        self.centred = centred
        self.steps = nn.ModuleList(
            conv_bn_relu(width if step else in_channels, width, 3) for step in range(count)
        )

    def forward(self, x: Tensor, finer: Sequence[Tensor]) -> Tensor:
        """Bring `x` to the size of each of `finer` in turn; the next finer level comes first."""
        for step, reference in zip(self.steps, finer, strict=True):
            x = resize_like(step(x), reference, not self.centred)
        return x


class SemanticHead(nn.Module):
    """The sum of all levels at the finest one's size, stride 4.

    The level of stride 4 takes one 3x3 convolution with norm and ReLU, the others one for each
    doubling. The paper's group norm is a batch norm here, which backends fold away (our choice);
    each step resizes to the next finer level's size instead of by 2, so that odd sizes work.
    """

    def __init__(self, levels: int, in_channels: int, width: int, centred: bool = False) -> None:
        super().__init__()
        self.finest = conv_bn_relu(in_channels, width, 3)
        self.coarser = nn.ModuleList(
            UpsamplingSteps(count, in_channels, width, centred) for count in range(1, levels)
        )

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        total: Tensor = self.finest(pyramid[0])
        for level, steps in enumerate(self.coarser, start=1):
            total = total + steps(pyramid[level], pyramid[level - 1 :: -1])
        return total


class FeaturePyramidNetwork(SegmentationNetwork):
    """A backbone, context on its features, the pyramid of `width` and the head of `head_width`.

    `context` takes and returns the backbone's four maps without changing their shapes: a module
    of `context.py`, a `FeatureRefinementModule`, or None for a plain FPN. Example:
    `FeaturePyramidNetwork(VisualAttentionNetwork('b0'), num_classes=19)`.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        width: int = 256,
        head_width: int = 128,
        context: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.decoded_channels = head_width
        self.centred = backbone.centred
        self.backbone = backbone
        self.context = context
        self.pyramid = FeaturePyramid(backbone.feature_channels, width)
        levels = len(backbone.feature_channels)
        self.head = SemanticHead(levels, width, head_width, backbone.centred)
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(head_width, num_classes, 1)

    def encode(self, x: Tensor) -> list[Tensor]:
        return self.backbone.features(x)

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        if self.context is not None:
            maps = self.context(maps)
        decoded: Tensor = self.head(self.pyramid(maps))
        return decoded

    def classify(self, decoded: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(decoded))
        return logits
