"""What more than one network is made of, and the face that all of them show."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SegmentationNetwork(nn.Module):
    """A network of the catalog: an encoder, a decoder and a classifier, one after the other.

    Takes normalised RGB, float `[N, 3, H, W]`, H and W >= 32, odd sizes too.
    """

    decoded_channels: int
    """Channels of what `decode` returns."""
    measures: Sequence[str] = ()
    """What it predicts besides the classes: `depth`, `normals`."""
    centred = False
    """Whether a logit stands for the middle of its cell of 4x4 pixels; else for the cell's first.

    It says how logits are enlarged: bilinear with centres kept, else with corners kept.
    """

    @abstractmethod
    def encode(self, x: Tensor) -> Sequence[Tensor]:
        """Return the encoder's maps, float `[N, C, h, w]` each, the deepest one last."""

    @abstractmethod
    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Return features `[N, decoded_channels, ceil(H/4), ceil(W/4)]` of the encoder's maps."""

    @abstractmethod
    def classify(self, decoded: Tensor) -> Tensor:
        """Return the logits `[N, classes, h, w]` of features `[N, decoded_channels, h, w]`."""

    def decoded(self, x: Tensor) -> Tensor:
        """Return the decoder's features of an image."""
        return self.decode(self.encode(x))

    def logits(self, maps: Sequence[Tensor]) -> Tensor:
        """Return logits `[N, classes, ceil(H/4), ceil(W/4)]` of the encoder's maps."""
        return self.classify(self.decode(maps))

    def predict_all(self, maps: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits of the encoder's maps, and by name what the network `measures`.

        `depth` is metres, `[N, 1, h, w]`, `normals` `[N, 3, h, w]`; of the size of the logits.
        """
        return self.logits(maps), {}

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[N, classes, ceil(H/4), ceil(W/4)]` of an image."""
        return self.logits(self.encode(x))

    def simplify(self) -> None:
        """Change layers, in place, so that the same logits cost less; other keys may come of it.

        For inference only. Unless a network knows something, nothing.
        """


class InFloat32(nn.Module):
    """What computes in float32, whatever the precision of the rest: sums over a whole image.

    It takes and returns tensors of any floating type. Autocast leaves it alone, and so does every
    backend that computes in less: an exported graph names the nodes within (see `graph.py`).
    """

    @abstractmethod
    def compute(self, *inputs: Tensor) -> Tensor:
        """Return float32 of float32 inputs."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return float32, to be turned into what goes on with it."""
        if torch.is_autocast_enabled('cpu') or torch.is_autocast_enabled('cuda'):
            with torch.autocast('cpu', enabled=False), torch.autocast('cuda', enabled=False):
                return self.compute(*(x.to(torch.float32) for x in inputs))
        return self.compute(*(x.to(torch.float32) for x in inputs))


class Softmax(InFloat32):
    """Softmax over the last axis: a share of many positions would be lost in fewer bits."""

    def compute(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return x.softmax(-1)


class MeanOverPositions(InFloat32):
    """The mean `[N, C]` of a map `[N, C, h, w]`."""

    def compute(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return x.mean((2, 3))


def resize_like(x: Tensor, reference: Tensor, align_corners: bool = True) -> Tensor:
    """Resize `x` bilinearly to the height and width of `reference`.

    Corners stay corners by default, as convolutions of stride 2 sample from the first pixel on.
    """
    size = reference.shape[-2:]
    return F.interpolate(x, size=size, mode='bilinear', align_corners=align_corners)


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1
) -> nn.Sequential:
    """Convolution without bias that keeps the size, batch norm, ReLU."""
    padding = dilation * (kernel_size // 2)
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
