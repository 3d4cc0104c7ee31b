"""ONNX Runtime on the CPU: runs everywhere, in fp32."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lwseg_ros.errors import ModelError
from lwseg_ros.inference.backends.base import (
    Backend,
    BackendOptions,
    Planes,
    check_classes,
    require_onnx,
)
from lwseg_ros.inference.model_file import ModelSource

_ONLY_ERRORS = 3


class OnnxRuntimeBackend(Backend):
    """An ONNX Runtime session of the CPU execution provider."""

    def __init__(self, session: Any, batch: int) -> None:
        self._session = session
        self.batch = batch

    @classmethod
    def open(cls, source: ModelSource, options: BackendOptions) -> OnnxRuntimeBackend:
        """Fix the graph's shapes and create the session."""
        if options.precision not in ('auto', 'fp32'):
            raise ModelError(f'it computes in fp32 only, not in {options.precision}')
        if options.device.lower() not in ('', 'cpu'):
            raise ModelError(f'it runs on the CPU only, not on {options.device!r}')
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = _ONLY_ERRORS
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        height, width = options.input_size
        settings.add_free_dimension_override_by_name('height', height)
        settings.add_free_dimension_override_by_name('width', width)
        batch = options.batch or 1
        if batch == 1:
            settings.add_free_dimension_override_by_name('batch', 1)
        graph = require_onnx(source).onnx
        session = onnxruntime.InferenceSession(
            graph if isinstance(graph, bytes) else str(graph),
            settings,
            providers=['CPUExecutionProvider'],
        )
        classes = {value.name: value.shape for value in session.get_inputs()}['drivable_classes']
        check_classes(source, classes[0])
        return cls(session, batch)

    def run(self, images: NDArray[np.uint8], drivable_classes: NDArray[np.float32]) -> Planes:
        """Segment one batch."""
        inputs = {'image': images, 'drivable_classes': drivable_classes}
        return Planes(*self._session.run(Planes._fields, inputs))

    @property
    def description(self) -> str:
        """Library, version, precision and device."""
        return f'onnxruntime {onnxruntime.__version__} fp32 CPU'

    def close(self) -> None:
        """Drop the session."""
        self._session = None
