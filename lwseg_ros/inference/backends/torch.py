"""PyTorch: the reference the other backends are compared with, and the way to any torch device."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lwseg_ros.errors import ModelError
from lwseg_ros.inference.backends.base import (
    PLANES,
    Backend,
    BackendOptions,
    Planes,
    output_names,
)
from lwseg_ros.inference.graph import ImageToLabels, fold_norms, given_outputs, load_network
from lwseg_ros.inference.model_source import ModelSource
from lwseg_ros.inference.self_check import label_agreement, refusal
from lwseg_ros.networks.layers import SegmentationNetwork

_GPU_BATCH = 8
_LEAST_HALF_CAPABILITY = (7, 0)  # from here on NVIDIA GPUs compute in half faster than in fp32
_WARM_UPS = 3  # so that cuDNN has chosen its algorithms before they are recorded

Size = tuple[int, int]

_logger = logging.getLogger(__name__)


class TorchBackend(Backend):
    """The network in PyTorch, channels last: in fp32 on a CPU, in fp16 on a GPU.

    fp16 and not bf16, which is as fast: with three bits less of mantissa its labels agree with
    fp32 on less than 99 % of the pixels. Norms are folded into the convolutions then, in fp32.

    On an NVIDIA GPU a frame goes up as the camera gave it, from page-locked memory, is resized
    there, and goes through a CUDA graph; the host waits once, for the finished planes.
    """

    reads_safetensors = True

    def __init__(
        self, graph: ImageToLabels, device: torch.device, precision: str, options: BackendOptions
    ) -> None:
        self._precision = precision
        self._device = device
        kind = _OnGpu if device.type == 'cuda' else _Eager
        self._network: _OnGpu | _Eager | None = kind(graph.to(device), device, options.input_size)
        self._outputs = (*PLANES, *options.further)
        self.resizes = device.type == 'cuda'
        self.batch = options.batch or (1 if device.type == 'cpu' else _GPU_BATCH)

    @classmethod
    def open(cls, source: ModelSource, options: BackendOptions) -> TorchBackend:
        """Build the network of the metadata and load its weights.

        In fp16 its labels are compared with those of fp32; where more than 1 % of the pixels
        differ, or a logit is not finite, it computes in fp32, and a warning says so.
        """
        if source.safetensors is None:
            raise ModelError(f'it reads safetensors, {source.path.name} is ONNX')
        if options.precision not in ('auto', 'fp32', 'fp16'):
            raise ModelError(f'it computes in fp32 or fp16, not in {options.precision}')
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        device = _device(options.device)
        exact = cls(_graph(source, options, half=False), device, 'fp32', options)
        if options.precision == 'fp32' or (options.precision == 'auto' and not _is_fast(device)):
            return exact
        half = cls(_graph(source, options, half=True), device, 'fp16', options)
        agreement = label_agreement(half, exact, source.info, options.input_size)
        if reason := refusal(agreement):
            half.close()
            _logger.warning(
                'model %s runs in fp32 on PyTorch, not in fp16: %s', source.info.name, reason
            )
            return exact
        exact.close()
        return half

    def run(self, images: NDArray[np.uint8], drivable_classes: NDArray[np.float32]) -> Planes:
        """Segment one batch of images of any one size."""
        assert self._network is not None, 'the backend is closed'
        with torch.inference_mode():
            outputs = self._network.run(images, drivable_classes)
        return Planes.of(dict(zip(self._outputs, outputs, strict=True)))

    @property
    def description(self) -> str:
        """Library, version, precision and device."""
        version = torch.__version__.split('+')[0]
        return f'torch {version} {self._precision} {self._device.type.upper()}'

    def close(self) -> None:
        """Drop the network and give its memory back."""
        self._network = None
        if self._device.type == 'cuda':
            torch.cuda.empty_cache()


class _Eager:
    """The graph run operation by operation, on any device."""

    def __init__(self, graph: ImageToLabels, device: torch.device, size: Size) -> None:
        self._graph, self._device, self._size = graph, device, size

    def run(
        self, images: NDArray[np.uint8], drivable_classes: NDArray[np.float32]
    ) -> list[NDArray[Any]]:
        if not images.flags.writeable:
            images = images.copy()  # PyTorch warns of memory it must not write
        frames = torch.from_numpy(images).to(self._device)
        outputs = self._graph(
            resized(frames, self._size), torch.from_numpy(drivable_classes).to(self._device)
        )
        return [output.cpu().numpy() for output in outputs]


class _OnGpu:
    """The graph recorded once for each number of images, on a stream of its own."""

    def __init__(self, graph: ImageToLabels, device: torch.device, size: Size) -> None:
        self._graph, self._device, self._size = graph, device, size
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._recorded: dict[int, _Recorded] = {}
        self._frames = torch.empty(0, dtype=torch.uint8)
        self._chosen: NDArray[np.float32] | None = None
        self._drivable_classes = torch.empty(0)

    def run(
        self, images: NDArray[np.uint8], drivable_classes: NDArray[np.float32]
    ) -> list[NDArray[Any]]:
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            self._choose(drivable_classes)
            recorded = self._recorded.get(len(images)) or self._record(len(images))
            if self._frames.shape != images.shape:
                self._frames = torch.empty(images.shape, dtype=torch.uint8, pin_memory=True)
            np.copyto(self._frames.numpy(), images)
            frames = self._frames.to(self._device, non_blocking=True)
            recorded.images.copy_(resized(frames, self._size))
            recorded.launch()
            for on_host, answer in zip(recorded.on_host, recorded.answers, strict=True):
                on_host.copy_(answer, non_blocking=True)
            self._stream.synchronize()
        planes, *further = (on_host.numpy().copy() for on_host in recorded.on_host)
        return [*planes, *further]

    def _choose(self, drivable_classes: NDArray[np.float32]) -> None:
        """Bring the drivable classes to the GPU when they change, which they hardly ever do."""
        if self._chosen is None or not np.array_equal(self._chosen, drivable_classes):
            self._chosen = drivable_classes.copy()
            if not self._drivable_classes.numel():
                self._drivable_classes = torch.empty(len(drivable_classes), device=self._device)
            self._drivable_classes.copy_(torch.from_numpy(self._chosen))

    def _record(self, number: int) -> _Recorded:
        images = torch.zeros((number, *self._size, 3), dtype=torch.uint8, device=self._device)
        recorded = _Recorded(self._graph, images, self._drivable_classes, self._stream)
        self._recorded[number] = recorded
        return recorded


class _Recorded:
    """The CUDA graph of the network between a buffer of images and one of planes.

    `answers` are the planes together, and what there is besides.
    """

    def __init__(
        self,
        graph: ImageToLabels,
        images: Tensor,
        drivable_classes: Tensor,
        stream: torch.cuda.Stream,
    ) -> None:
        self.images = images
        self.launch = self._compute
        self._arguments = (graph, drivable_classes)
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            for _ in range(_WARM_UPS):
                self._compute()
            stream.synchronize()
            cuda_graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(
                    cuda_graph, stream=stream, capture_error_mode='thread_local'
                ):
                    self._compute()
                self.launch = cuda_graph.replay
            except RuntimeError as error:
                _logger.warning('the network runs without a CUDA graph: %s', error)
                self._compute()
        self.on_host = [
            torch.empty(answer.shape, dtype=answer.dtype, pin_memory=True)
            for answer in self.answers
        ]

    def _compute(self) -> None:
        graph, drivable_classes = self._arguments
        answers = graph(self.images, drivable_classes)
        self.answers = (torch.stack(answers[:3]), *answers[3:])


class _InHalf(nn.Module):
    """A network that computes in half precision between inputs and outputs in fp32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network.half()
        self.centred = getattr(network, 'centred', False)
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.float()  # a variance may be beyond half; the images stay in half

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network(pixels.half())
        return logits

    def encode(self, pixels: Tensor) -> Sequence[Tensor]:
        maps: Sequence[Tensor] = self.network.encode(pixels.half())
        return maps

    def logits(self, maps: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.network.logits(maps)
        return logits

    def predict_all(self, maps: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        everything: tuple[Tensor, dict[str, Tensor]] = self.network.predict_all(maps)
        return everything


def resized(frames: Tensor, size: Size) -> Tensor:
    """Return frames uint8 `[N, H, W, 3]` at `size`, up to rounding as OpenCV's INTER_LINEAR."""
    if frames.shape[1:3] == size:
        return frames
    planes = frames.permute(0, 3, 1, 2).to(torch.float32)
    fitted = functional.interpolate(planes, size=size, mode='bilinear', align_corners=False)
    return fitted.round().to(torch.uint8).permute(0, 2, 3, 1)


def _graph(source: ModelSource, options: BackendOptions, half: bool) -> ImageToLabels:
    assert source.safetensors is not None
    network = load_network(source.safetensors, source.info)
    output_names(source, options, given_outputs(network))
    if half:
        fold_norms(network)
    if isinstance(network, SegmentationNetwork):
        network.simplify()
    if half:
        network = _InHalf(network)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ImageToLabels(
        network, source.info.mean, source.info.std, further=options.further
    ).eval()


def _device(name: str) -> torch.device:
    """Return the device of a name, empty for the best; ModelError if PyTorch knows none."""
    default = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(name.lower() or default)
    except RuntimeError:
        raise ModelError(f'PyTorch knows no device {name!r}: give cpu, cuda or cuda:1') from None
    if device.type == 'cuda' and not torch.cuda.is_available():
        raise ModelError('PyTorch finds no NVIDIA GPU that it can use')
    return device


def _is_fast(device: torch.device) -> bool:
    """Tell whether a device computes in half precision faster than in fp32."""
    return (
        device.type == 'cuda'
        and torch.cuda.get_device_capability(device) >= _LEAST_HALF_CAPABILITY
    )
