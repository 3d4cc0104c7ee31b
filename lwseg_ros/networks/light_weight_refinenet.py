"""Light-Weight RefineNet (Nekrasov, Shen, Reid; BMVC 2018; arXiv 1810.03272).

The decoder of RefineNet with every 3x3 convolution of its chained residual pooling and fusion
blocks replaced by 1x1, and without its residual convolution units. Layout, key names and
activations follow the authors' release, so that its checkpoints load unchanged. The initial
decoder weights are PyTorch's defaults (our choice).

Every network takes float `[N, 3, H, W]` (normalised RGB, H and W >= 32, odd sizes too) and
returns logits at a quarter of the size: `[N, classes, ceil(H/4), ceil(W/4)]`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from lwseg_ros.networks.backbones.mobilenet_v2 import MobileNetV2
from lwseg_ros.networks.backbones.resnet import ResNet


def conv1x1(in_channels: int, out_channels: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=False)


def resize_like(x: Tensor, reference: Tensor, align_corners: bool) -> Tensor:
    size = reference.shape[-2:]
    return F.interpolate(x, size=size, mode='bilinear', align_corners=align_corners)


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
            top = F.max_pool2d(top, 5, stride=1, padding=2)
            top = self.get_submodule(f'{index}_outvar_dimred')(top)
            x = x + top
        return x


def pooling_stage(channels: int, groups: int = 1) -> nn.Sequential:
    """One chained residual pooling, in the container that the authors' key names need."""
    return nn.Sequential(ChainedResidualPooling(channels, groups))


class LightWeightRefineNetResNet(ResNet):
    """Light-Weight RefineNet on ResNet-50, -101 or -152 (paper, figure 1 and table 1).

    Example: `LightWeightRefineNetResNet(num_classes=21, depth=50)`.
    """

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
        self.clf_conv = nn.Conv2d(256, num_classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        l1, l2, l3, l4 = self.features(x)
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
        logits: Tensor = self.clf_conv(self.mflow_conv_g4_pool(x1))
        return logits


class LightWeightRefineNetMobileNetV2(MobileNetV2):
    """Light-Weight RefineNet on MobileNet-v2: decoder width 256, ReLU6, no dropout.

    Example: `LightWeightRefineNetMobileNetV2(num_classes=21)`; `expand_first` chooses the form of
    the encoder (see `MobileNetV2`).
    """

    width = 256
    align_corners = True
    last_pooling_groups = 1

    def __init__(self, num_classes: int, expand_first: bool = True) -> None:
        super().__init__(expand_first)
        width = self.width
        self.conv8 = conv1x1(320, width)
        self.conv7 = conv1x1(160, width)
        self.conv6 = conv1x1(96, width)
        self.conv5 = conv1x1(64, width)
        self.conv4 = conv1x1(32, width)
        self.conv3 = conv1x1(24, width)
        self.crp4 = pooling_stage(width)
        self.crp3 = pooling_stage(width)
        self.crp2 = pooling_stage(width)
        self.crp1 = pooling_stage(width, self.last_pooling_groups)
        self.conv_adapt4 = conv1x1(width, width)
        self.conv_adapt3 = conv1x1(width, width)
        self.conv_adapt2 = conv1x1(width, width)
        self.segm = nn.Conv2d(width, num_classes, 3, padding=1)

    def decoded(self, x: Tensor) -> Tensor:
        """Return the refined features at stride 4, `[N, 256, ceil(H/4), ceil(W/4)]`."""
        l3, l4, l5, l6, l7, l8 = self.stages(x)
        r4 = self.crp4(F.relu6(self.conv8(l8) + self.conv7(l7)))
        r4 = resize_like(self.conv_adapt4(r4), l6, self.align_corners)
        r3 = self.crp3(F.relu6(self.conv5(l5) + self.conv6(l6) + r4))
        r3 = resize_like(self.conv_adapt3(r3), l4, self.align_corners)
        r2 = self.crp2(F.relu6(self.conv4(l4) + r3))
        r2 = resize_like(self.conv_adapt2(r2), l3, self.align_corners)
        refined: Tensor = self.crp1(F.relu6(self.conv3(l3) + r2))
        return refined

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.segm(self.decoded(x))
        return logits


JOINT_OUTPUTS = {'depth': 1, 'normal': 3}
"""Output channels of the joint variant's tasks beside segmentation."""


class JointLightWeightRefineNet(LightWeightRefineNetMobileNetV2):
    """Segmentation with depth and surface normals (Nekrasov et al., ICRA 2019, arXiv 1809.04766).

    `tasks` names the outputs beside `segm`: any of `depth` (1 channel) and `normal` (3 channels).
    `forward` returns the segmentation logits, `predict_all` every task's output by name.
    """

    align_corners = False
    last_pooling_groups = LightWeightRefineNetMobileNetV2.width

    def __init__(self, num_classes: int, tasks: Sequence[str] = ('depth',)) -> None:
        super().__init__(num_classes, expand_first=True)
        self.tasks = ('segm', *tasks)
        for task in self.tasks:
            self.add_module(f'pre_{task}', conv1x1(self.width, self.width, groups=self.width))
        for task in tasks:
            self.add_module(task, nn.Conv2d(self.width, JOINT_OUTPUTS[task], 3, padding=1))

    def _head(self, task: str, refined: Tensor) -> Tensor:
        hidden = F.relu6(self.get_submodule(f'pre_{task}')(refined))
        output: Tensor = self.get_submodule(task)(hidden)
        return output

    def forward(self, x: Tensor) -> Tensor:
        return self._head('segm', self.decoded(x))

    def predict_all(self, x: Tensor) -> dict[str, Tensor]:
        """Return `{task: [N, channels, ceil(H/4), ceil(W/4)]}` for all tasks."""
        refined = self.decoded(x)
        return {task: self._head(task, refined) for task in self.tasks}
