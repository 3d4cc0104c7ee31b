"""What our engines are compared with: the network as one gets it, without this package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import nn

from lwseg_ros.inference.graph import (
    ImageToLabels,
    export_onnx,
    load_network,
    quiet_exporter,
)
from lwseg_ros.inference.model_info import ModelInfo
from lwseg_ros.inference.model_source import find_model
from lwseg_ros.label_space import LabelSpace
from lwseg_ros.networks import create_network

Task = Callable[[], object]


def eager_task(model: str, image: npt.NDArray[np.uint8], threads: int | None = None) -> Task:
    """Return PyTorch, eager, fp32, in its default layout NCHW: image `[H, W, 3]` to labels."""
    if threads is not None:
        torch.set_num_threads(threads)
    source = find_model(model)
    assert source.safetensors is not None
    info = source.info
    network = load_network(source.safetensors, info)
    # What ImageToLabels makes of the image has its pixels last, and all layers would keep that.
    network.register_forward_pre_hook(lambda _, given: (given[0].contiguous(),))
    graph = ImageToLabels(network, info.mean, info.std).eval()
    pixels = torch.from_numpy(image[np.newaxis].copy())
    classes = torch.from_numpy(info.label_space.drivable_vector())

    def run() -> object:
        with torch.inference_mode():
            return graph(pixels, classes)

    return run


def bare_onnxruntime_task(
    model: str, size: tuple[int, int], folder: Path, threads: int | None = None
) -> Task:
    """Return ONNX Runtime, fp32, of the network alone: float image to logits at stride 4."""
    source = find_model(model)
    assert source.safetensors is not None
    path = folder / 'bare.onnx'
    export_bare(load_network(source.safetensors, source.info), size, path)
    return onnxruntime_task(path, threads)


def export_bare(network: nn.Module, size: tuple[int, int], path: Path) -> None:
    """Write a network alone at a size (height, width) as ONNX: float image to logits."""
    with torch.no_grad(), quiet_exporter():
        program = torch.onnx.export(
            network, (torch.rand(1, 3, *size),), dynamo=True, verbose=False
        )
    assert program is not None
    program.save(str(path))


def onnxruntime_task(path: Path, threads: int | None = None) -> Task:
    """Return ONNX Runtime, as it is by itself, of an ONNX file with one float input."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    if threads is not None:
        settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), settings, providers=['CPUExecutionProvider'])
    (given,) = session.get_inputs()
    image = np.random.default_rng(0).random(given.shape, np.float32)
    return lambda: session.run(None, {given.name: image})


def openvino_task(path: Path) -> Task:
    """Return OpenVINO, as it is by itself but for latency, of an ONNX file with one input."""
    import openvino

    compiled = openvino.compile_model(str(path), 'CPU', {'PERFORMANCE_HINT': 'LATENCY'})
    request = compiled.create_infer_request()
    image = np.random.default_rng(0).random(tuple(compiled.input(0).shape), np.float32)
    return lambda: request.infer([image], share_inputs=True, share_outputs=True)


def model_of_classes(network: str, classes: int, path: Path) -> nn.Module:
    """Write an untrained model of so many classes as ONNX, and return its network."""
    torch.manual_seed(0)
    module = create_network(network, num_classes=classes).eval()
    info = ModelInfo(f'{classes} classes', network, space_of(classes), (512, 512))
    export_onnx(module, info, path)
    return module


def space_of(classes: int) -> LabelSpace:
    """Return a label space of so many classes, the first of them drivable."""
    entries = [
        {'id': i, 'name': f'class {i}', 'color': [i, i, i], 'drivable': i == 0}
        for i in range(classes)
    ]
    return LabelSpace.from_dict({'name': f'{classes} classes', 'classes': entries})
