"""ONNX Runtime on the CPU: runs everywhere, in fp32, or in int8 if the model is quantized."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lwseg_ros.errors import ModelError
from lwseg_ros.inference.backends.base import (
    NOT_QUANTIZED,
    Backend,
    BackendOptions,
    Planes,
    check_classes,
    output_names,
    require_onnx,
)
from lwseg_ros.inference.model_file import ZERO_POINT
from lwseg_ros.inference.model_source import ModelSource

_ONLY_ERRORS = 3
_INT8, _UINT8 = 3, 2  # TensorProto.DataType


class OnnxRuntimeBackend(Backend):
    """An ONNX Runtime session of the CPU execution provider."""

    def __init__(self, session: Any, outputs: tuple[str, ...], batch: int, precision: str) -> None:
        self._session = session
        self._outputs = outputs
        self._precision = precision
        self.batch = batch

    @classmethod
    def open(cls, source: ModelSource, options: BackendOptions) -> OnnxRuntimeBackend:
        """Fix the graph's shapes and create the session."""
        quantized = source.info.precision == 'int8'
        if options.precision == 'int8' and not quantized:
            raise ModelError(NOT_QUANTIZED)
        if options.precision not in ('auto', 'fp32', 'int8'):
            raise ModelError(f'it computes in fp32 or int8 only, not in {options.precision}')
        if options.device.lower() not in ('', 'cpu'):
            raise ModelError(f'it runs on the CPU only, not on {options.device!r}')
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = _ONLY_ERRORS
        # Without VNNI it would add products of int8 in 16 bits, where they overflow.
        settings.add_session_config_entry('session.x64quantprecision', '1')
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        height, width = options.input_size
        settings.add_free_dimension_override_by_name('height', height)
        settings.add_free_dimension_override_by_name('width', width)
        batch = options.batch or 1
        if batch == 1:
            settings.add_free_dimension_override_by_name('batch', 1)
        graph = require_onnx(source).onnx
        if quantized and isinstance(graph, Path) and platform.machine() in ('x86_64', 'AMD64'):
            graph = _with_unsigned_activations(graph.read_bytes())
        session = onnxruntime.InferenceSession(
            graph if isinstance(graph, bytes) else str(graph),
            settings,
            providers=['CPUExecutionProvider'],
        )
        classes = {value.name: value.shape for value in session.get_inputs()}['drivable_classes']
        check_classes(source, classes[0])
        outputs = output_names(source, options, (value.name for value in session.get_outputs()))
        return cls(session, outputs, batch, 'int8/fp32' if quantized else 'fp32')

    def run(self, images: NDArray[np.uint8], drivable_classes: NDArray[np.float32]) -> Planes:
        """Segment one batch."""
        inputs = {'image': images, 'drivable_classes': drivable_classes}
        found = self._session.run(self._outputs, inputs)
        return Planes.of(dict(zip(self._outputs, found, strict=True)))

    @property
    def description(self) -> str:
        """Library, version, precision and device."""
        return f'onnxruntime {onnxruntime.__version__} {self._precision} CPU'

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def _with_unsigned_activations(graph: bytes) -> bytes:
    """Return an int8 graph with activations as uint8 around 128, which are the same numbers.

    On x86, ONNX Runtime computes convolutions of uint8 activations only in integers; it turns
    int8 into that by itself, but not where a tensor has several users.
    """
    return graph.replace(_zero_point(_INT8, 0), _zero_point(_UINT8, 128))


def _zero_point(data_type: int, value: int) -> bytes:
    """Return the fields data_type, name and raw_data of a TensorProto."""
    name = ZERO_POINT.encode()
    return bytes((0x10, data_type, 0x42, len(name))) + name + bytes((0x4A, 1, value))
