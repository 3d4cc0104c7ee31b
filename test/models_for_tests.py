"""A tiny model in the real file format, for tests of everything around the network."""

from __future__ import annotations

from pathlib import Path

from lwseg_ros.inference.model_info import ModelInfo
from lwseg_ros.label_space import LabelSpace

QUICK_NETWORKS = (
    *('lw_refinenet_mobilenet_v2_nano', 'frm_split_mobilenet_v2_compact', 'fpn_van_b0_compact'),
)
"""One of each kind; to export another takes long, too, and is for those tests that are slow."""

SLOW_NETWORKS = (
    *('frm_top_mobilenet_v2_compact', 'fpn_ppm_mobilenet_v2_compact'),
    *('fpn_aspp_mobilenet_v2_compact', 'fpn_dnl_van_b0_compact', 'lw_refinenet_resnet50'),
    'lw_refinenet_mobilenet_v2_joint',
)
"""With the quick ones, every kind of head and of backbone."""


def tiny_info(name: str = 'tiny') -> ModelInfo:
    """Return the metadata of `make_tiny_model`."""
    return ModelInfo(name, 'tiny', LabelSpace.load('camvid'), (96, 128))


def make_tiny_model(path: Path) -> Path:
    """Export a network of one convolution that names each pixel by the nearest palette colour.

    The 11 CamVid classes, network size 96x128 (height x width). An image painted in the colours
    of the label space (`LabelSpace.load('camvid').palette`) gets exactly those labels, up to the
    edges: the network looks at every fourth pixel (the top left one of each 4x4).
    """
    from lwseg_ros.inference.graph import export_onnx

    export_onnx(tiny_network(), tiny_info(), path)
    return path


def tiny_network(sharpness: float = 4.0) -> 'torch.nn.Module':  # noqa: F821, UP037
    """Return the network of `make_tiny_model`: logits -sharpness |pixel - colour|^2, stride 4."""
    import torch

    info = tiny_info()
    colors = torch.tensor(info.label_space.palette[: info.label_space.num_classes]) / 255
    colors = (colors - torch.tensor(info.mean)) / torch.tensor(info.std)
    network = torch.nn.Conv2d(3, len(colors), 1, stride=4)
    with torch.no_grad():
        network.weight.copy_(2 * sharpness * colors[:, :, None, None])
        network.bias.copy_(-sharpness * (colors**2).sum(1))
    return network.eval()


def make_slow_model(path: Path) -> Path:
    """Export a model that takes long, 1.4 MMAC a pixel of its input, and little memory."""
    import torch

    from lwseg_ros.inference.graph import export_onnx

    torch.manual_seed(0)
    again = torch.nn.Conv2d(256, 256, 3, padding=1)  # one set of weights for all its layers
    classes = tiny_info().label_space.num_classes
    layers = [
        torch.nn.Conv2d(3, 256, 1, stride=4),
        *[again] * 38,
        torch.nn.Conv2d(256, classes, 1),
    ]
    export_onnx(torch.nn.Sequential(*layers).eval(), tiny_info('slow'), path)
    return path


def network_for_tests(name: str) -> tuple['torch.nn.Module', ModelInfo]:  # noqa: F821, UP037
    """Return a network of the catalog, for the 11 CamVid classes, and its metadata.

    It is not trained, but its norms have met data and no class wins everywhere.
    """
    import torch

    from lwseg_ros.inference.graph import round_weights
    from lwseg_ros.networks import create_network

    torch.manual_seed(0)
    info = ModelInfo(name, name, LabelSpace.load('camvid'), (96, 128))
    network = create_network(name, info.label_space.num_classes)
    with torch.no_grad():
        network(torch.randn(2, 3, 64, 64))
        network.eval()
        names = ('segm', 'clf_conv', 'classifier')
        (last,) = (getattr(network, name) for name in names if hasattr(network, name))
        last.bias -= network(torch.randn(1, 3, 64, 96)).mean((0, 2, 3))
    round_weights(network)
    return network, info
