"""ResNet-50, -101 and -152 encoders (He et al. 2016) with torchvision's layout and key names."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride), 1x1 to four times the width, with a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet(nn.Module):
    """The encoder without its classifier; `depth` is 50, 101 or 152."""

    feature_channels = (256, 512, 1024, 2048)
    feature_strides = (4, 8, 16, 32)
    centred = False

    def __init__(self, depth: int = 50) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for index, count in enumerate(DEPTHS[depth]):
            width = 64 * 2**index
            blocks = []
            for block in range(count):
                stride = 2 if index > 0 and block == 0 else 1
                blocks.append(Bottleneck(channels, width, stride))
                channels = width * Bottleneck.expansion
            self.add_module(f'layer{index + 1}', nn.Sequential(*blocks))

    def features(self, x: Tensor) -> list[Tensor]:
        """Return `layer1` to `layer4`: one map for each stride 4, 8, 16, 32.

        `x` is float `[N, 3, H, W]`; the maps have `feature_channels` channels.
        """
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        outputs = []
        for index in range(1, 5):
            x = self.get_submodule(f'layer{index}')(x)
            outputs.append(x)
        return outputs
