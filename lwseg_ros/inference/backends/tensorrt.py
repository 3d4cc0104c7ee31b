"""TensorRT: the fastest on NVIDIA GPUs; half precision that has been checked against fp32."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwseg_ros.errors import InferenceError, ModelError
from lwseg_ros.inference.backends.base import (
    NOT_QUANTIZED,
    PLANES,
    Backend,
    BackendOptions,
    Planes,
    check_classes,
    output_names,
    require_onnx,
)
from lwseg_ros.inference.backends.cuda import Buffer, CudaDevice
from lwseg_ros.inference.backends.tensorrt_engine import (
    Engine,
    EngineCache,
    EngineKey,
    build_engine,
    import_tensorrt,
    load_engine,
    read_model,
    version,
)
from lwseg_ros.inference.half_precision import is_quantized, read_graph, with_outputs
from lwseg_ros.inference.model_source import ModelSource
from lwseg_ros.inference.self_check import label_agreement, refusal

_TYPES = {'UINT8': np.uint8, 'FLOAT': np.float32}
_REFERENCE_LEVEL = 0  # of an engine that is run a few times: the least search
_LEAST_HALF_CAPABILITY = (5, 3)  # older GPUs do not compute in half precision

_logger = logging.getLogger(__name__)


class TensorRtBackend(Backend):
    """Engines of fixed shape on one CUDA stream, each replayed as one CUDA graph.

    `engines` are those of one image and of `batch` images; what lies between goes through the
    larger one, whose other places are left as they were. `batch` is 1 unless the options say
    otherwise, since each engine must be built.
    """

    def __init__(self, device: CudaDevice, engines: dict[int, Any], description: str) -> None:
        self.batch = max(engines)
        self._device = device
        self._description = description
        try:
            self._engines = {n: _StaticEngine(engine, device) for n, engine in engines.items()}
        except BaseException:
            device.close()
            raise

    @classmethod
    def open(cls, source: ModelSource, options: BackendOptions) -> TensorRtBackend:
        """Take the engines from the cache, or build, check and keep them.

        A reduced precision that gives NaN, or other labels than fp32 on more than 1 % of the
        pixels, is refused: then the engine computes in fp32, and a warning says so.
        """
        return _Engines(source, options).backend()

    def run(self, images: NDArray[np.uint8], drivable_classes: NDArray[np.float32]) -> Planes:
        """Segment one batch."""
        self._device.use()
        engine = self._engines.get(len(images)) or self._engines[self.batch]
        return engine.run(images, drivable_classes)

    @property
    def description(self) -> str:
        """Library, version, precision and device."""
        return self._description

    @property
    def classes(self) -> int:
        """How many classes the network has outputs for."""
        return self._engines[self.batch].classes

    def close(self) -> None:
        """Free the engines and all their memory."""
        if self._engines:
            self._device.use()
            self._engines.clear()
            self._device.close()


class _StaticEngine:
    """An engine with its buffers, and the recorded graph of its copies and its inference."""

    def __init__(self, engine: Any, device: CudaDevice) -> None:
        context = engine.create_execution_context()
        if context is None:
            raise ModelError('the GPU has no memory left for the engine')
        inputs: dict[str, Buffer] = {}
        outputs: dict[str, Buffer] = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            dtype = _TYPES[engine.get_tensor_dtype(name).name]
            buffer = device.buffer(tuple(engine.get_tensor_shape(name)), dtype)
            is_input = engine.get_tensor_mode(name).name == 'INPUT'
            (inputs if is_input else outputs)[name] = buffer
            context.set_tensor_address(name, buffer.address)

        def work() -> None:
            for buffer in inputs.values():
                device.to_gpu(buffer)
            if not context.execute_async_v3(device.stream):
                raise InferenceError('TensorRT could not start the inference')
            for buffer in outputs.values():
                device.from_gpu(buffer)

        work()  # what is allocated or compiled at the first call cannot be recorded
        device.wait()
        self._launch: Callable[[], None] = work
        try:
            self._launch = device.record(work)
        except InferenceError as error:
            _logger.warning('the engine runs without a CUDA graph: %s', error)
        self._device, self._inputs, self._outputs = device, inputs, outputs
        self._context = context  # the recorded graph uses its memory

    @property
    def classes(self) -> int:
        return len(self._inputs['drivable_classes'].host)

    def run(self, images: NDArray[np.uint8], drivable_classes: NDArray[np.float32]) -> Planes:
        number = len(images)
        self._inputs['image'].host[:number] = images
        self._inputs['drivable_classes'].host[:] = drivable_classes
        self._launch()
        self._device.wait()
        return Planes.of({name: out.host[:number].copy() for name, out in self._outputs.items()})


class _Engines:
    """The engines of a model, from the cache or built."""

    def __init__(self, source: ModelSource, options: BackendOptions) -> None:
        require_onnx(source)
        self._tensorrt = import_tensorrt()
        self._index = _device_index(options.device)
        with closing(CudaDevice(self._index)) as device:
            self._gpu = device.gpu
        self._cache = EngineCache(options.engine_cache_dir)
        self._source = source
        self._options = options
        self._graph = read_model(source)
        if options.further:
            output_names(source, options, (v.name for v in read_graph(self._graph).graph.output))
        self._graph = with_outputs(self._graph, (*PLANES, *options.further))
        self._reference = b''

    def backend(self) -> TensorRtBackend:
        """Return the backend in the wanted precision, or if that is refused in fp32."""
        precision = self._precision()
        batches = sorted({1, self._options.batch or 1})
        engines = {batch: self._engine(precision, batch) for batch in batches}
        refused = [engine.refused for engine in engines.values() if engine.refused]
        if refused:
            _logger.warning(
                'model %s runs in fp32 on TensorRT, not in %s: %s',
                self._source.info.name, precision, refused[0],
            )  # fmt: skip
            precision = 'fp32'
            engines = {batch: self._engine(precision, batch) for batch in batches}
        backend = self._opened(
            {batch: engine.content for batch, engine in engines.items()}, precision
        )
        try:
            check_classes(self._source, backend.classes)
        except ModelError:
            backend.close()
            raise
        return backend

    def _precision(self) -> str:
        wanted, gpu = self._options.precision, self._gpu
        if wanted == 'bf16':
            raise ModelError('it computes in fp16, which is as fast as bf16 and more exact')
        quantized = is_quantized(read_graph(self._graph))
        if wanted == 'int8' and not quantized:
            raise ModelError(NOT_QUANTIZED)
        if wanted == 'fp32' or gpu.compute_capability < _LEAST_HALF_CAPABILITY:
            return 'fp32'
        return 'int8' if quantized else 'fp16'

    def _engine(self, precision: str, batch: int) -> Engine:
        """Return an engine that loads, or why its precision is refused."""
        key, name = self._key(precision, batch), self._source.info.name
        if not self._options.force_rebuild:
            cached = self._cache.load(key, name)
            if cached and (cached.refused or load_engine(self._tensorrt, cached.content)):
                return cached
        self._cache.make_folder()
        try:
            content = build_engine(self._tensorrt, self._graph, key, name)
        except ModelError as error:
            if precision == 'fp32':
                raise
            return Engine(refused=str(error))
        engine = Engine(content)
        if precision != 'fp32':
            engine = self._checked(content, precision, batch)
        path = self._cache.store(key, name, engine)
        _logger.info('the engine is kept in %s', path)
        return engine

    def _checked(self, content: bytes, precision: str, batch: int) -> Engine:
        _logger.info('checking the labels of %s against fp32', precision)
        if not self._reference:
            key = replace(self._key('fp32', 1), optimization_level=_REFERENCE_LEVEL)
            name = f'{self._source.info.name} to check with'
            self._reference = build_engine(self._tensorrt, self._graph, key, name)
        with (
            closing(self._opened({batch: content}, precision)) as reduced,
            closing(self._opened({1: self._reference}, 'fp32')) as exact,
        ):
            agreement = label_agreement(
                reduced, exact, self._source.info, self._options.input_size
            )
        reason = refusal(agreement)
        return Engine(b'' if reason else content, reason, agreement)

    def _opened(self, engines: dict[int, bytes], precision: str) -> TensorRtBackend:
        device = CudaDevice(self._index)
        loaded = {n: load_engine(self._tensorrt, content) for n, content in engines.items()}
        if None in loaded.values():
            device.close()
            raise ModelError(f'{version(self._tensorrt)} cannot load the engine it has built')
        what = f'{version(self._tensorrt)} {precision} {self._gpu.name}'
        return TensorRtBackend(device, loaded, what)

    def _key(self, precision: str, batch: int) -> EngineKey:
        shape = (batch, *self._options.input_size, 3)
        return EngineKey.of(self._tensorrt, self._graph, self._gpu, precision, shape)


def _device_index(device: str) -> int:
    """Return the number of a device named '', 'cuda' or 'cuda:1'; ModelError for another."""
    kind, _, index = device.lower().partition(':')
    if kind not in ('', 'cuda', 'gpu') or not (index or '0').isdecimal():
        raise ModelError(f'it runs on NVIDIA GPUs only (cuda or cuda:0), not on {device!r}')
    return int(index or 0)
