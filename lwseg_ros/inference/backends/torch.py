"""PyTorch: the reference the other backends are compared with, and the way to any torch device."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lwseg_ros.errors import ModelError
from lwseg_ros.inference.backends.base import Backend, BackendOptions, Planes
from lwseg_ros.inference.graph import ImageToLabels, load_network
from lwseg_ros.inference.model_file import ModelSource

_ACCELERATOR_BATCH = 8


class TorchBackend(Backend):
    """The network in PyTorch, eager, channels last, in fp32.

    Not in bf16: with autocast its labels agree with fp32 on less than 99 % of the pixels.
    """

    def __init__(self, graph: ImageToLabels, device: torch.device, batch: int | None) -> None:
        self._graph: ImageToLabels | None = graph
        self._device = device
        self.batch = batch or (1 if device.type == 'cpu' else _ACCELERATOR_BATCH)

    @classmethod
    def open(cls, source: ModelSource, options: BackendOptions) -> TorchBackend:
        """Build the network of the metadata and load its weights."""
        if source.safetensors is None:
            raise ModelError(f'it reads safetensors, {source.path.name} is ONNX')
        if options.precision not in ('auto', 'fp32'):
            raise ModelError(f'it computes in fp32 only, not in {options.precision}')
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        default = 'cuda' if torch.cuda.is_available() else 'cpu'
        device = torch.device(options.device.lower() or default)
        info = source.info
        network = load_network(source.safetensors, info)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        graph = ImageToLabels(network, info.mean, info.std).eval()
        return cls(graph.to(device), device, options.batch)

    def run(self, images: NDArray[np.uint8], drivable_classes: NDArray[np.float32]) -> Planes:
        """Segment one batch."""
        assert self._graph is not None, 'the backend is closed'
        if not images.flags.writeable:
            images = images.copy()  # PyTorch warns of memory it must not write
        with torch.inference_mode():
            outputs = self._graph(
                torch.from_numpy(images).to(self._device),
                torch.from_numpy(drivable_classes).to(self._device),
            )
        return Planes(*(output.cpu().numpy() for output in outputs))

    @property
    def description(self) -> str:
        """Library, version, precision and device."""
        version = torch.__version__.split('+')[0]
        return f'torch {version} fp32 {self._device.type.upper()}'

    def close(self) -> None:
        """Drop the network."""
        self._graph = None
