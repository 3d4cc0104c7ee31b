"""EfficientViT-Seg-B0 as published: a peer to compare with, and a teacher.

Cai, Li, Hu, Gan, Han; ICCV 2023; arXiv 2205.14756. Key names are those of the public weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from lwseg_ros.networks.backbones.efficientvit import (
    ConvLayer,
    EfficientViT,
    InvertedResidual,
    OpList,
    Residual,
)
from lwseg_ros.networks.layers import SegmentationNetwork, resize_like

HEAD_WIDTH = 32
FINAL_WIDTH = 128


class EfficientViTHead(nn.Module):
    """The maps of strides 32, 16 and 8 to one width, summed at stride 8; an inverted residual."""

    def __init__(self, channels: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        coarsest, coarse, finest = (
            ConvLayer(c, HEAD_WIDTH, 1, activation=False) for c in reversed(channels)
        )
        self.input_ops = nn.ModuleList([OpList(coarsest), OpList(coarse), finest])
        self.middle = OpList(Residual(InvertedResidual(HEAD_WIDTH, HEAD_WIDTH)))
        self.output_ops = nn.ModuleList(
            [
                OpList(
                    ConvLayer(HEAD_WIDTH, FINAL_WIDTH, 1),
                    ConvLayer(FINAL_WIDTH, num_classes, 1, norm=False, activation=False),
                )
            ]
        )

    def hidden(self, s8: Tensor, s16: Tensor, s32: Tensor) -> Tensor:
        """Return what is classified, `[N, FINAL_WIDTH, ceil(H/8), ceil(W/8)]`."""
        coarsest, coarse, finest = self.input_ops
        total = finest(s8)
        for op, x in ((coarse, s16), (coarsest, s32)):
            total = total + F.interpolate(op(x), size=total.shape[-2:], mode='bicubic')
        hidden: Tensor = self.get_submodule('output_ops.0.op_list.0')(self.middle(total))
        return hidden

    def classify(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.get_submodule('output_ops.0.op_list.1')(hidden)
        return logits


class EfficientViTSeg(SegmentationNetwork):
    """The published network of 0.7 M parameters: encoder B0 and a head at stride 8.

    Its logits are enlarged bilinearly to stride 4, where ours are.
    """

    decoded_channels = FINAL_WIDTH
    centred = True

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = EfficientViT()
        _, *channels = self.backbone.feature_channels
        self.head = EfficientViTHead((channels[0], channels[1], channels[2]), num_classes)

    def encode(self, x: Tensor) -> list[Tensor]:
        return self.backbone.features(x)

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the head's features, enlarged, `[N, FINAL_WIDTH, ceil(H/4), ceil(W/4)]`."""
        s4, *others = maps
        return resize_like(self.head.hidden(*others), s4, align_corners=False)

    def classify(self, decoded: Tensor) -> Tensor:
        return self.head.classify(decoded)

    def logits(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the logits, classified before they are enlarged: the same, but cheaper."""
        s4, *others = maps
        logits = self.head.classify(self.head.hidden(*others))
        return resize_like(logits, s4, align_corners=False)
