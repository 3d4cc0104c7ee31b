"""The interface of every inference backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lwseg_ros.errors import ModelError
from lwseg_ros.inference.model_file import EMBEDDING
from lwseg_ros.inference.model_source import ModelSource

PRECISIONS = ('auto', 'fp32', 'fp16', 'bf16', 'int8')
NOT_QUANTIZED = (
    'precision int8 needs a quantized model: road-int8, say, or one made by lwseg quantize'
)


@dataclass(frozen=True)
class BackendOptions:
    """How to run a model.

    `input_size` is the network size (height, width); an empty `device` is the backend's own
    choice; `threads` None leaves the number of CPU threads to the library; `batch` is the most
    images of one call, None leaves it to the backend. `throughput` asks for the most images a
    second instead of the soonest answer to each. `engine_cache_dir` keeps what is built for a
    device (empty: the user's cache), and `force_rebuild` builds it anew. `further` asks for
    some of `FURTHER_OUTPUTS`, which are else cut off before the graph is compiled.
    """

    input_size: tuple[int, int]
    device: str = ''
    precision: str = 'auto'
    threads: int | None = None
    batch: int | None = None
    throughput: bool = False
    engine_cache_dir: str = ''
    force_rebuild: bool = False
    further: tuple[str, ...] = ()


class Planes(NamedTuple):
    """The graph's outputs (see `graph.py`), owned by the caller: uint8 `[N, h, w]` each.

    What was asked for besides is in `further` by name: `embedding` float32 `[N, C]`, `depth`
    float32 `[N, h, w]`, `normals` float32 `[N, h, w, 3]`.
    """

    labels: NDArray[np.uint8]
    confidence: NDArray[np.uint8]
    drivable: NDArray[np.uint8]
    further: Mapping[str, NDArray[np.float32]] = {}

    @classmethod
    def of(cls, outputs: Mapping[str, NDArray[Any]]) -> Planes:
        """Return those of the graph's outputs by name."""
        named = dict(outputs)
        labels, confidence, drivable = (named.pop(name) for name in PLANES)
        return cls(labels, confidence, drivable, named)


PLANES = Planes._fields[:3]
"""The names of the outputs that a graph always has."""


class Backend(ABC):
    """A model compiled by one library for one network size.

    `batch` is the most images of one call. Unless the options say otherwise it is 1 where a batch
    takes as long as its images one after another, as on a CPU: then each has its answer sooner.
    `resizes` says that `run` had better get images of another size than the network's and resize
    them itself, because the device does it sooner than OpenCV. `streams` is how many threads may
    be in `run` at once. `reads_safetensors` says which form of a model it runs, else it is ONNX.
    """

    batch: int
    reads_safetensors = False
    resizes = False
    streams = 1

    @classmethod
    @abstractmethod
    def open(cls, source: ModelSource, options: BackendOptions) -> Backend:
        """Load and compile; ModelError, or any error of the library, if that cannot be done."""

    @abstractmethod
    def run(self, images: NDArray[np.uint8], drivable_classes: NDArray[np.float32]) -> Planes:
        """Segment 1 to `batch` images uint8 `[N, h, w, 3]` RGB of the network size, C-contiguous.

        If it `resizes`, they may be of any one size, and any strides.

        `drivable_classes` is float32 `[C]`, 1 for each class that counts as drivable.
        """

    @property
    @abstractmethod
    def description(self) -> str:
        """Library, version, precision and device in a few words."""

    @abstractmethod
    def close(self) -> None:
        """Free the model's memory; the backend cannot be used afterwards."""


def require_onnx(source: ModelSource) -> ModelSource:
    """Return the source if it has an ONNX graph, else raise ModelError."""
    if source.onnx is None:
        raise ModelError(f'{source.path.name} is not ONNX: make it one with `lwseg export`')
    return source


def output_names(
    source: ModelSource, options: BackendOptions, given: Iterable[str]
) -> tuple[str, ...]:
    """Return the names of the outputs that are wanted; ModelError if one is not `given`."""
    given = set(given)
    for name in options.further:
        if name not in given:
            remedy = (
                'export its checkpoint anew by `lwseg export`'
                if name == EMBEDDING
                else 'take a model of a joint network'
            )
            raise ModelError(f'{source.path.name} has no {name}: {remedy}')
    return (*PLANES, *options.further)


def check_classes(source: ModelSource, outputs: int) -> None:
    """ModelError unless the network has one output per class of its label space."""
    space = source.info.label_space
    if outputs != space.num_classes:
        raise ModelError(
            f'{source.path.name} has {outputs} outputs but its label space {space.name} has '
            f'{space.num_classes} classes: the metadata is not of this network'
        )
