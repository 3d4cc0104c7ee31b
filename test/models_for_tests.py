"""A tiny model in the real file format, for tests of everything around the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwseg_ros.inference.model_file import model_metadata, write_model
from lwseg_ros.inference.model_info import ModelInfo
from lwseg_ros.label_space import LabelSpace

QUICK_NETWORKS = ('frm_split_van_b0_compact',)
"""What the shipped models do not have; to export another takes long, and is for slow tests."""

SLOW_NETWORKS = (
    *('lw_refinenet_mobilenet_v2_nano', 'lw_refinenet_mobilenet_v2_joint'),
    *('lw_refinenet_resnet50', 'frm_split_mobilenet_v2_compact', 'frm_top_mobilenet_v2_compact'),
    *('fpn_van_b0_compact', 'fpn_ppm_mobilenet_v2_compact', 'fpn_aspp_mobilenet_v2_compact'),
    'fpn_dnl_van_b0_compact',
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


def remake_model(model: Path, path: Path, info: ModelInfo, change: Callable[[Any], None]) -> Path:
    """Write `model` with another graph, which `change` is given, and other metadata.

    That takes a hundredth of the time of an export.
    """
    import onnx

    changed = onnx.load(str(model))
    change(changed.graph)
    del changed.metadata_props[:]
    for key, value in model_metadata(info).items():
        changed.metadata_props.add(key=key, value=value)
    write_model(path, changed.SerializeToString())
    return path


def set_weights(graph: Any, name: str, values: Any) -> None:
    """Set weights of a graph, all to one number or each to its own."""
    from onnx import numpy_helper

    (tensor,) = (tensor for tensor in graph.initializer if tensor.name == name)
    old = numpy_helper.to_array(tensor)
    new = np.broadcast_to(np.asarray(values, old.dtype), old.shape)
    tensor.CopyFrom(numpy_helper.from_array(new, name))


def weights_of(graph: Any, name: str) -> NDArray[np.float32]:
    """Return a copy of weights of a graph."""
    from onnx import numpy_helper

    return next(
        numpy_helper.to_array(tensor).copy() for tensor in graph.initializer if tensor.name == name
    )


def put_after_network(
    graph: Any, weights: dict[str, Any], *nodes: tuple[str, list[str], str, dict[str, Any]]
) -> None:
    """Put nodes of (kind, inputs, output, attributes) behind the tiny model's only convolution.

    They find the normalised image as `pixels`, its logits as `sound`, and make `logits` of them.
    """
    from onnx import helper, numpy_helper

    (network,) = (node for node in graph.node if node.op_type == 'Conv')
    names = {'pixels': network.input[0], 'logits': network.output[0]}
    network.output[0] = 'sound'
    for name, values in weights.items():
        graph.initializer.append(numpy_helper.from_array(values, name))
    place = list(graph.node).index(network) + 1
    for number, (kind, inputs, output, attributes) in enumerate(nodes):
        inputs, output = [names.get(name, name) for name in inputs], names.get(output, output)
        graph.node.insert(place + number, helper.make_node(kind, inputs, [output], **attributes))


def make_slow_model(tiny_model: Path, path: Path) -> Path:
    """Write a model that takes long, 1.4 MMAC a pixel of its input, and little memory."""
    random = np.random.default_rng(0)
    shapes = {'first': (256, 3, 1, 1), 'again': (256, 256, 3, 3), 'last': (11, 256, 1, 1)}
    weights = {
        name: random.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    layers = [
        ('Conv', [f'layer{number}', 'again'], f'layer{number + 1}', {'pads': [1] * 4})
        for number in range(38)
    ]
    layers.insert(0, ('Conv', ['pixels', 'first'], 'layer0', {'strides': [4, 4]}))
    layers.append(('Conv', ['layer38', 'last'], 'logits', {}))

    def change(graph: Any) -> None:
        put_after_network(graph, weights, *layers)

    return remake_model(tiny_model, path, tiny_info('slow'), change)


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
