"""MobileNet-v2 encoder (Sandler et al. 2018), in the two forms that have public weights.

Key names are those of the Light-Weight RefineNet release: `layer1` is the stem, `layer2` to
`layer8` the seven stages, `layerS.B.output.*` a block. `imagenet_keys` renames torchvision's
checkpoints to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

STAGES = (
    # expansion, channels, blocks, stride of the first block   (Table 2 of the paper)
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_CHANNELS = 32


def conv_bn_relu6(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1 without activation; residual where shapes agree."""

    def __init__(
        self, in_channels: int, out_channels: int, expansion: int, stride: int, expand: bool
    ) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        layers = [conv_bn_relu6(in_channels, inner, 1)] if expand else []
        layers.append(conv_bn_relu6(inner, inner, 3, stride, groups=inner))
        layers.append(
            nn.Sequential(
                nn.Conv2d(inner, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )
        )
        self.output = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.output(x)
        return x + projected if self.residual else projected


class MobileNetV2(nn.Module):
    """The encoder up to the 320-channel stage, or to the last of `stages` (rows as `STAGES` has).

    `expand_first=True` is the form of the Light-Weight RefineNet release, whose first block keeps
    an expansion 32 -> 32 although its factor is 1; `False` is torchvision's form, which the
    ImageNet weights fit.
    """

    feature_strides = (4, 8, 16, 32)
    centred = False

    def __init__(
        self, expand_first: bool = True, stages: Sequence[tuple[int, int, int, int]] = STAGES
    ) -> None:
        super().__init__()
        self.feature_channels = (24, 32, 96, stages[-1][1])
        self.last_layer = len(stages) + 1
        self.layer1 = conv_bn_relu6(3, STEM_CHANNELS, 3, stride=2)
        channels = STEM_CHANNELS
        for index, (expansion, out_channels, count, stride) in enumerate(stages, start=2):
            blocks = []
            for block in range(count):
                blocks.append(
                    InvertedResidual(
                        channels,
                        out_channels,
                        expansion,
                        stride if block == 0 else 1,
                        expand=expansion != 1 or expand_first,
                    )
                )
                channels = out_channels
            self.add_module(f'layer{index}', nn.Sequential(*blocks))

    def stages(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of `layer3` to the last for `x` float `[N, 3, H, W]`.

        Channels and strides: 24 at 4, 32 at 8, 64 and 96 at 16, 160 and 320 at 32.
        """
        x = self.get_submodule('layer2')(self.layer1(x))
        outputs = []
        for index in range(3, self.last_layer + 1):
            x = self.get_submodule(f'layer{index}')(x)
            outputs.append(x)
        return outputs

    def features(self, x: Tensor) -> list[Tensor]:
        """Return one feature map for each of `feature_strides`, of `feature_channels` channels."""
        s4, s8, _, s16, *_, s32 = self.stages(x)
        return [s4, s8, s16, s32]


def imagenet_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the encoder part of a torchvision MobileNet-v2 state dict to this module's keys.

    The 1280-channel head (`features.18`, `classifier`) has no place here and is left out.
    """
    places = {'features.0': 'layer1'}
    feature = 1
    for stage, (expansion, _, count, _) in enumerate(STAGES, start=2):
        for block in range(count):
            ours, theirs = f'layer{stage}.{block}.output', f'features.{feature}.conv'
            hidden = 1 if expansion == 1 else 2
            for i in range(hidden):
                places[f'{theirs}.{i}'] = f'{ours}.{i}'
            places[f'{theirs}.{hidden}'] = f'{ours}.{hidden}.0'
            places[f'{theirs}.{hidden + 1}'] = f'{ours}.{hidden}.1'
            feature += 1
    renamed = {}
    for key, value in state.items():
        for theirs, ours in places.items():
            if key.startswith(theirs + '.'):
                renamed[ours + key[len(theirs) :]] = value
    return renamed
