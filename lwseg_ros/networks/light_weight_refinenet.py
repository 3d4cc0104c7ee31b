"""Light-Weight RefineNet (Nekrasov, Shen, Reid; BMVC 2018; arXiv 1810.03272).

The decoder of RefineNet with every 3x3 convolution of its chained residual pooling and fusion
blocks replaced by 1x1, and without its residual convolution units. Layout, key names and
activations follow the authors' release, so that its checkpoints load unchanged. The initial
decoder weights are PyTorch's defaults (our choice).

Every network takes float `[N, 3, H, W]` (normalised RGB, H and W >= 32, odd sizes too) and
returns logits at a quarter of the size: `[N, classes, ceil(H/4), ceil(W/4)]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lwseg_ros.networks.backbones.mobilenet_v2 import STAGES, MobileNetV2
from lwseg_ros.networks.backbones.resnet import ResNet
from lwseg_ros.networks.feature_pyramid import Backbone
from lwseg_ros.networks.layers import SegmentationNetwork, resize_like


def conv1x1(in_channels: int, out_channels: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=False)


class ChainedResidualPooling(nn.Module):
    """Four times: max-pool 5x5 (stride 1), 1x1 convolution, added to the running sum.

    The paper's CRP in its light form (section 3.2): no bias, norm or activation inside. `groups`
    is 1 in the paper; the joint variant's last block is depthwise.
    """

    pools = 4

    def __init__(self, channels: int, groups: int = 1) -> None:
        super().__init__()
        for index in range(1, self.pools + 1):
            self.add_module(f'{index}_outvar_dimred', conv1x1(channels, channels, groups))

    def forward(self, x: Tensor) -> Tensor:
        top = x
        for index in range(1, self.pools + 1):
            top = self.get_submodule(f'{index}_outvar_dimred')(_pooled(top))
            x = x + top
        return x


def _pooled(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 5, stride=1, padding=2)


def pooling_stage(channels: int, groups: int = 1) -> nn.Sequential:
    """One chained residual pooling, in the container that the authors' key names need."""
    return nn.Sequential(ChainedResidualPooling(channels, groups))


class _PoolingBeforeClassifier(nn.Module):
    """A chained residual pooling without its last convolution: the sum, and what that would get.

    Nothing pools its result, so a classifier may take both (see `merge_last_pooling`).
    """

    def __init__(self, convolutions: Sequence[nn.Module]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(convolutions)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        top = x
        for convolution in self.convolutions:
            top = convolution(_pooled(top))
            x = x + top
        return x, _pooled(top)


class _ClassifierOfBoth(nn.Module):
    """A classifier of `x + last(y)`, where `last` is a 1x1 convolution without bias."""

    def __init__(self, classifier: nn.Conv2d, last: nn.Conv2d) -> None:
        super().__init__()
        self.of_sum = classifier
        self.of_pooled = nn.Conv2d(
            last.in_channels, classifier.out_channels, 3, padding=1, bias=False
        )
        with torch.no_grad():
            weight = torch.einsum('omhw,mi->oihw', classifier.weight, last.weight[..., 0, 0])
            self.of_pooled.weight.copy_(weight)

    def forward(self, both: tuple[Tensor, Tensor]) -> Tensor:
        x, y = both
        logits: Tensor = self.of_sum(x) + self.of_pooled(y)
        return logits


def merge_last_pooling(stage: nn.Sequential, classifier: nn.Conv2d) -> nn.Module:
    """Take the last convolution out of a pooling stage and return a classifier that contains it.

    Nothing is between the two, so together they are one convolution, with the classifier's few
    channels: one of the four largest convolutions of the network less (our choice; the same
    logits but for rounding). With so many classes that it would cost more, nothing is changed.
    """
    *others, last = stage[0].children()
    assert isinstance(last, nn.Conv2d)
    if classifier.weight[0, 0].numel() * classifier.out_channels >= last.out_channels:
        return classifier
    stage[0] = _PoolingBeforeClassifier(others)
    return _ClassifierOfBoth(classifier, last)


class LightWeightRefineNetResNet(SegmentationNetwork, ResNet):
    """Light-Weight RefineNet on ResNet-50, -101 or -152 (paper, figure 1 and table 1).

    Example: `LightWeightRefineNetResNet(num_classes=21, depth=50)`.
    """

    decoded_channels = 256

    def __init__(self, num_classes: int, depth: int = 50) -> None:
        super().__init__(depth)
        self.dropout = nn.Dropout(0.5)
        self.p_ims1d2_outl1_dimred = conv1x1(2048, 512)
        self.mflow_conv_g1_pool = pooling_stage(512)
        self.mflow_conv_g1_b3_joint_varout_dimred = conv1x1(512, 256)
        self.p_ims1d2_outl2_dimred = conv1x1(1024, 256)
        self.adapt_stage2_b2_joint_varout_dimred = conv1x1(256, 256)
        self.mflow_conv_g2_pool = pooling_stage(256)
        self.mflow_conv_g2_b3_joint_varout_dimred = conv1x1(256, 256)
        self.p_ims1d2_outl3_dimred = conv1x1(512, 256)
        self.adapt_stage3_b2_joint_varout_dimred = conv1x1(256, 256)
        self.mflow_conv_g3_pool = pooling_stage(256)
        self.mflow_conv_g3_b3_joint_varout_dimred = conv1x1(256, 256)
        self.p_ims1d2_outl4_dimred = conv1x1(256, 256)
        self.adapt_stage4_b2_joint_varout_dimred = conv1x1(256, 256)
        self.mflow_conv_g4_pool = pooling_stage(256)
        self.clf_conv: nn.Module = nn.Conv2d(256, num_classes, 3, padding=1)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Return `layer1` to `layer4`, at strides 4, 8, 16 and 32."""
        return self.features(x)

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the refined features at stride 4, `[N, 256, ceil(H/4), ceil(W/4)]`."""
        l1, l2, l3, l4 = maps
        l3, l4 = self.dropout(l3), self.dropout(l4)

        x4 = F.relu(self.p_ims1d2_outl1_dimred(l4))
        x4 = self.mflow_conv_g1_b3_joint_varout_dimred(self.mflow_conv_g1_pool(x4))

        x3 = self.adapt_stage2_b2_joint_varout_dimred(self.p_ims1d2_outl2_dimred(l3))
        x3 = F.relu(x3 + resize_like(x4, l3, align_corners=True))
        x3 = self.mflow_conv_g2_b3_joint_varout_dimred(self.mflow_conv_g2_pool(x3))

        x2 = self.adapt_stage3_b2_joint_varout_dimred(self.p_ims1d2_outl3_dimred(l2))
        x2 = F.relu(x2 + resize_like(x3, l2, align_corners=True))
        x2 = self.mflow_conv_g3_b3_joint_varout_dimred(self.mflow_conv_g3_pool(x2))

        x1 = self.adapt_stage4_b2_joint_varout_dimred(self.p_ims1d2_outl4_dimred(l1))
        x1 = F.relu(x1 + resize_like(x2, l1, align_corners=True))
        refined: Tensor = self.mflow_conv_g4_pool(x1)
        return refined

    def classify(self, decoded: Tensor) -> Tensor:
        logits: Tensor = self.clf_conv(decoded)
        return logits

    def simplify(self) -> None:
        assert isinstance(self.clf_conv, nn.Conv2d)
        self.clf_conv = merge_last_pooling(self.mflow_conv_g4_pool, self.clf_conv)


class LightWeightRefineNetMobileNetV2(SegmentationNetwork, MobileNetV2):
    """Light-Weight RefineNet on MobileNet-v2: decoder width 256, ReLU6, no dropout.

    Example: `LightWeightRefineNetMobileNetV2(num_classes=21)`; `expand_first` chooses the form of
    the encoder (see `MobileNetV2`).
    """

    decoded_channels = 256
    encoder_stages: Sequence[tuple[int, int, int, int]] = STAGES
    taps: Sequence[tuple[int, ...]] = ((8, 7), (5, 6), (4,), (3,))
    """The encoder's layers that enter `crp4`, `crp3`, `crp2` and `crp1`."""
    align_corners = True
    last_pooling_groups = 1

    def __init__(self, num_classes: int, expand_first: bool = True) -> None:
        super().__init__(expand_first, self.encoder_stages)
        width = self.decoded_channels
        channels = {layer: stage[1] for layer, stage in enumerate(self.encoder_stages, start=2)}
        for layer in sorted((layer for tap in self.taps for layer in tap), reverse=True):
            self.add_module(f'conv{layer}', conv1x1(channels[layer], width))
        self.crp4 = pooling_stage(width)
        self.crp3 = pooling_stage(width)
        self.crp2 = pooling_stage(width)
        self.crp1 = pooling_stage(width, self.last_pooling_groups)
        self.conv_adapt4 = conv1x1(width, width)
        self.conv_adapt3 = conv1x1(width, width)
        self.conv_adapt2 = conv1x1(width, width)
        self.segm: nn.Module = nn.Conv2d(width, num_classes, 3, padding=1)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of `layer3` to the last, at strides 4 to 32."""
        return self.stages(x)

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the refined features, `[N, decoded_channels, ceil(H/4), ceil(W/4)]`."""
        layers = dict(enumerate(maps, start=3))
        deepest, *finer = self.taps
        refined: Tensor = self.crp4(F.relu6(self._reduced(layers, deepest)))
        for index, tap in zip((3, 2, 1), finer, strict=True):
            coarser = self.get_submodule(f'conv_adapt{index + 1}')(refined)
            coarser = resize_like(coarser, layers[tap[0]], self.align_corners)
            joined = F.relu6(self._reduced(layers, tap) + coarser)
            refined = self.get_submodule(f'crp{index}')(joined)
        return refined

    def _reduced(self, layers: Mapping[int, Tensor], tap: Sequence[int]) -> Tensor:
        first, *others = tap
        total: Tensor = self.get_submodule(f'conv{first}')(layers[first])
        for layer in others:
            total = total + self.get_submodule(f'conv{layer}')(layers[layer])
        return total

    def classify(self, decoded: Tensor) -> Tensor:
        logits: Tensor = self.segm(decoded)
        return logits

    def simplify(self) -> None:
        assert isinstance(self.segm, nn.Conv2d)
        self.segm = merge_last_pooling(self.crp1, self.segm)


class NanoLightWeightRefineNet(LightWeightRefineNetMobileNetV2):
    """A network of less than 1 M parameters for boards without a GPU (our choice throughout).

    Light-Weight RefineNet at decoder width 64 on torchvision's form of MobileNet-v2, cut after
    the first block of the 160-channel stage, so that ImageNet weights fit what is left.
    """

    decoded_channels = 64
    encoder_stages = (*STAGES[:5], (6, 160, 1, 2))
    taps = ((7,), (5, 6), (4,), (3,))

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, expand_first=False)


class LightWeightRefineNet(SegmentationNetwork):
    """The decoder on any backbone, at a width that fits it (our choice throughout).

    One map for each stride 4, 8, 16 and 32; ReLU6, no dropout, as on MobileNet-v2. Example:
    `LightWeightRefineNet(EfficientViT(), num_classes=11, width=96)`.
    """

    def __init__(self, backbone: Backbone, num_classes: int, width: int = 256) -> None:
        super().__init__()
        self.decoded_channels = width
        self.centred = backbone.centred
        self.backbone = backbone
        count = len(backbone.feature_channels)
        self.reduce = nn.ModuleList(conv1x1(c, width) for c in backbone.feature_channels)
        self.pool = nn.ModuleList(pooling_stage(width) for _ in range(count))
        self.adapt = nn.ModuleList(conv1x1(width, width) for _ in range(count - 1))
        self.classifier: nn.Module = nn.Conv2d(width, num_classes, 3, padding=1)

    def encode(self, x: Tensor) -> list[Tensor]:
        return self.backbone.features(x)

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the refined features, `[N, width, ceil(H/4), ceil(W/4)]`."""
        reduced = [layer(f) for layer, f in zip(self.reduce, maps, strict=True)]
        refined: Tensor = self.pool[-1](F.relu6(reduced[-1]))
        for level in range(len(reduced) - 2, -1, -1):
            finer = reduced[level]
            coarser = resize_like(self.adapt[level](refined), finer, not self.centred)
            refined = self.pool[level](F.relu6(finer + coarser))
        return refined

    def classify(self, decoded: Tensor) -> Tensor:
        logits: Tensor = self.classifier(decoded)
        return logits

    def simplify(self) -> None:
        finest = self.pool[0]
        assert isinstance(self.classifier, nn.Conv2d)
        assert isinstance(finest, nn.Sequential)
        self.classifier = merge_last_pooling(finest, self.classifier)


JOINT_OUTPUTS = {'depth': ('depth', 1), 'normals': ('normal', 3)}
"""What the joint variant measures besides: the authors' name of the task, and its channels."""


class JointLightWeightRefineNet(LightWeightRefineNetMobileNetV2):
    """Segmentation with depth and surface normals (Nekrasov et al., ICRA 2019, arXiv 1809.04766).

    `measures` names the outputs beside the classes: any of `depth` (1 channel, metres) and
    `normals` (3 channels). `forward` returns the segmentation logits, `predict_all` everything.
    """

    align_corners = False
    last_pooling_groups = LightWeightRefineNetMobileNetV2.decoded_channels

    def __init__(self, num_classes: int, measures: Sequence[str] = ('depth',)) -> None:
        super().__init__(num_classes, expand_first=True)
        self.measures = tuple(measures)
        width = self.decoded_channels
        tasks = [JOINT_OUTPUTS[name] for name in measures]
        for task in ('segm', *(task for task, _ in tasks)):
            self.add_module(f'pre_{task}', conv1x1(width, width, groups=width))
        for task, channels in tasks:
            self.add_module(task, nn.Conv2d(width, channels, 3, padding=1))

    def simplify(self) -> None:
        """Nothing: each head has layers of its own between the pooling and its classifier."""

    def _head(self, task: str, refined: Tensor) -> Tensor:
        hidden = F.relu6(self.get_submodule(f'pre_{task}')(refined))
        output: Tensor = self.get_submodule(task)(hidden)
        return output

    def classify(self, decoded: Tensor) -> Tensor:
        return self._head('segm', decoded)

    def predict_all(self, maps: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits, and what it measures by name, `[N, channels, ceil(H/4), ceil(W/4)]`."""
        refined = self.decode(maps)
        measured = {name: self._head(JOINT_OUTPUTS[name][0], refined) for name in self.measures}
        return self.classify(refined), measured
