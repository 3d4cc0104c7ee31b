"""Stand-ins for a GPU: the CUDA driver's calls and TensorRT's runtime, as strict as the real ones.

Device memory is another piece of host memory, reached by its address alone; a stream does nothing
until somebody waits for it; what is recorded is not done; every thread needs its context. An
engine is the ONNX graph it was built from, run by ONNX Runtime on what lies at its addresses.
"""

from __future__ import annotations

import ctypes
import enum
import sys
import threading
import types
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest


class Result(enum.IntEnum):
    """The driver's error codes that are needed."""

    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900


class FakeDriver(types.ModuleType):
    """The functions of `cuda.bindings.driver` that a static engine needs, over host memory."""

    class CUdevice_attribute(enum.Enum):  # noqa: N801
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 8
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 6

    class CUstreamCaptureMode(enum.Enum):
        CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1

    def __init__(self) -> None:
        super().__init__('cuda.bindings.driver')
        self.gpus = 1
        self.records = True
        self.calls: Counter[str] = Counter()
        self.device: dict[int, ctypes.Array] = {}
        self.pinned: dict[int, ctypes.Array] = {}
        self.objects: dict[int, list[Callable[[], None]]] = {}
        self.recording: list[Callable[[], None]] | None = None
        self._thread = threading.local()

    def _new(self) -> tuple[Result, int]:
        handle = 1000 + sum(self.calls.values())
        self.objects[handle] = []
        return Result.CUDA_SUCCESS, handle

    def _allocate(self, memory: dict[int, ctypes.Array], size: int) -> tuple[Result, int]:
        block = (ctypes.c_uint8 * size)()
        memory[ctypes.addressof(block)] = block
        return Result.CUDA_SUCCESS, ctypes.addressof(block)

    def enqueue(self, stream: int, work: Callable[[], None]) -> tuple[Result]:
        assert stream in self.objects
        (self.objects[stream] if self.recording is None else self.recording).append(work)
        return (Result.CUDA_SUCCESS,)

    def _copy(self, target: ctypes.Array, source: ctypes.Array, size: int, stream: int) -> Any:
        if size != len(target) or size != len(source):
            return (Result.CUDA_ERROR_INVALID_VALUE,)
        return self.enqueue(stream, lambda: ctypes.memmove(target, source, size) and None)

    def __getattribute__(self, name: str) -> Any:
        """Count a call of the driver, and refuse it to a thread without a context."""
        value = super().__getattribute__(name)
        if not name.startswith('cu'):
            return value

        def counted(*arguments: Any) -> Any:
            self.calls[name] += 1
            needs_context = not name.startswith(('cuInit', 'cuDevice', 'cuCtx'))
            if needs_context and not hasattr(self._thread, 'context'):
                return (Result.CUDA_ERROR_INVALID_CONTEXT,)
            return value(*arguments)

        return counted

    def cuInit(self, flags):  # noqa: N802
        return (Result.CUDA_SUCCESS,)

    def cuDeviceGet(self, index):  # noqa: N802
        known = index < self.gpus
        return (Result.CUDA_SUCCESS, index) if known else (Result.CUDA_ERROR_NO_DEVICE, None)

    def cuDeviceGetName(self, length, device):  # noqa: N802
        return Result.CUDA_SUCCESS, b'Fake GPU'.ljust(length, b'\0')

    def cuDeviceGetAttribute(self, attribute, device):  # noqa: N802
        return Result.CUDA_SUCCESS, attribute.value

    def cuDevicePrimaryCtxRetain(self, device):  # noqa: N802
        return Result.CUDA_SUCCESS, 'context'

    def cuCtxSetCurrent(self, context):  # noqa: N802
        self._thread.context = context
        return (Result.CUDA_SUCCESS,)

    def cuStreamCreate(self, flags):  # noqa: N802
        return self._new()

    def cuStreamDestroy(self, stream):  # noqa: N802
        del self.objects[stream]
        return (Result.CUDA_SUCCESS,)

    def cuMemAlloc(self, size):  # noqa: N802
        return self._allocate(self.device, size)

    def cuMemHostAlloc(self, size, flags):  # noqa: N802
        return self._allocate(self.pinned, size)

    def cuMemFree(self, address):  # noqa: N802
        del self.device[address]
        return (Result.CUDA_SUCCESS,)

    def cuMemFreeHost(self, address):  # noqa: N802
        del self.pinned[address]
        return (Result.CUDA_SUCCESS,)

    def cuMemcpyHtoDAsync(self, target, source, size, stream):  # noqa: N802
        return self._copy(self.device[target], self.pinned[source], size, stream)

    def cuMemcpyDtoHAsync(self, target, source, size, stream):  # noqa: N802
        return self._copy(self.pinned[target], self.device[source], size, stream)

    def cuStreamBeginCapture(self, stream, mode):  # noqa: N802
        self.recording = []
        return (Result.CUDA_SUCCESS,)

    def cuStreamEndCapture(self, stream):  # noqa: N802
        recorded, self.recording = self.recording, None
        if not self.records:
            return Result.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, None
        _, handle = self._new()
        self.objects[handle] = recorded
        return Result.CUDA_SUCCESS, handle

    def cuGraphInstantiate(self, graph, flags):  # noqa: N802
        _, handle = self._new()
        self.objects[handle] = self.objects[graph]
        return Result.CUDA_SUCCESS, handle

    def cuGraphDestroy(self, graph):  # noqa: N802
        del self.objects[graph]
        return (Result.CUDA_SUCCESS,)

    cuGraphExecDestroy = cuGraphDestroy  # noqa: N815

    def cuGraphLaunch(self, graph, stream):  # noqa: N802
        self.objects[stream] += self.objects[graph]
        return (Result.CUDA_SUCCESS,)

    def cuStreamSynchronize(self, stream):  # noqa: N802
        work, self.objects[stream] = self.objects[stream], []
        for step in work:
            step()
        return (Result.CUDA_SUCCESS,)


def fake_tensorrt(driver: FakeDriver, version: str) -> Any:
    """Return a TensorRT of a version, with the flags that it has, whose engines run on `driver`.

    `built` lists what was built: the flags of the network, of the builder, and the ONNX graph;
    `layers_built` its layers.
    """
    major = int(version.split('.')[0])
    library: Any = types.ModuleType('tensorrt')
    library.__version__ = version
    library.built, library.layers_built = [], []
    library.loads = True
    library.ILogger = type('ILogger', (), {})
    network_flags = {'EXPLICIT_BATCH': 0} if major < 11 else {}
    network_flags |= {'STRONGLY_TYPED': 1} if major >= 10 else {}
    library.NetworkDefinitionCreationFlag = enum.IntEnum('NetworkFlag', network_flags)
    builder_flags = {'TF32': 7}
    if major < 11:
        builder_flags |= {'FP16': 0, 'INT8': 1, 'OBEY_PRECISION_CONSTRAINTS': 10}
    library.float32 = 'float32'
    library.BuilderFlag = enum.IntEnum('BuilderFlag', builder_flags)

    class Config:
        def __init__(self) -> None:
            self.flags = {'TF32'}
            self.builder_optimization_level = 3
            if major >= 10:
                self.progress_monitor = None

        def set_flag(self, flag: Any) -> None:
            self.flags.add(flag.name)

        def clear_flag(self, flag: Any) -> None:
            self.flags.discard(flag.name)

    class Builder:
        def __init__(self, log: Any) -> None:
            pass

        def create_network(self, flags: int) -> Any:
            return types.SimpleNamespace(flags=flags, graph=b'', num_layers=0)

        def create_builder_config(self) -> Config:
            return Config()

        def build_serialized_network(self, network: Any, config: Config) -> bytes:
            library.built.append((network.flags, config.flags, network.graph))
            return network.graph

    class Layer:
        def __init__(self, name: str) -> None:
            self.name = name
            self.precision = ''
            self.output_types: dict[int, str] = {}

        def get_output(self, index: int) -> Any:
            return types.SimpleNamespace(dtype='float32')

        def set_output_type(self, index: int, dtype: str) -> None:
            self.output_types[index] = dtype

    class OnnxParser:
        def __init__(self, network: Any, log: Any) -> None:
            self.network = network

        def parse(self, graph: bytes) -> bool:
            self.network.graph = graph
            layers = [Layer(node.name) for node in onnx.load_from_string(graph).graph.node]
            self.network.num_layers, self.network.get_layer = len(layers), layers.__getitem__
            library.layers_built.append(layers)
            return True

    class Monitor:
        pass

    class Runtime:
        def __init__(self, log: Any) -> None:
            pass

        def deserialize_cuda_engine(self, content: bytes) -> Any:
            return _Engine(driver, content) if library.loads else None

    library.Builder, library.OnnxParser, library.Runtime = Builder, OnnxParser, Runtime
    if major >= 10:
        library.IProgressMonitor = Monitor
    return library


_TYPES = {'tensor(uint8)': ('UINT8', np.uint8), 'tensor(float)': ('FLOAT', np.float32)}


class _Engine:
    def __init__(self, driver: FakeDriver, content: bytes) -> None:
        self.driver = driver
        self.session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
        self.inputs, self.outputs = self.session.get_inputs(), self.session.get_outputs()
        image = self.inputs[0].shape
        self.shapes = {value.name: tuple(value.shape) for value in self.inputs}
        self.shapes |= {
            value.name: (image[0], value.shape[1]) if len(value.shape) == 2 else tuple(image[:3])
            for value in self.outputs
        }
        self.types = {v.name: _TYPES[v.type] for v in (*self.inputs, *self.outputs)}

    num_io_tensors = property(lambda self: len(self.shapes))

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_dtype(self, name: str) -> Any:
        return types.SimpleNamespace(name=self.types[name][0])

    def get_tensor_mode(self, name: str) -> Any:
        is_input = name in {value.name for value in self.inputs}
        return types.SimpleNamespace(name='INPUT' if is_input else 'OUTPUT')

    def create_execution_context(self) -> Any:
        return _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.is_warm = False

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        driver = self.engine.driver
        assert self.addresses.keys() == self.engine.shapes.keys()
        driver.calls['execute_async_v3'] += 1
        if driver.recording is not None and not self.is_warm:
            return False
        self.is_warm = True
        driver.enqueue(stream, self._execute)
        return True

    def _array(self, name: str) -> np.ndarray:
        block = self.engine.driver.device[self.addresses[name]]
        flat = np.frombuffer(block, self.engine.types[name][1])
        return flat.reshape(self.engine.shapes[name])

    def _execute(self) -> None:
        inputs = {value.name: self._array(value.name) for value in self.engine.inputs}
        names = [value.name for value in self.engine.outputs]
        for name, values in zip(names, self.engine.session.run(names, inputs), strict=True):
            self._array(name)[...] = values


def install(monkeypatch: pytest.MonkeyPatch, version: str = '10.3.0') -> tuple[FakeDriver, Any]:
    """Let `import` find a GPU's driver and this TensorRT."""
    driver = FakeDriver()
    library = fake_tensorrt(driver, version)
    monkeypatch.setitem(sys.modules, 'cuda.bindings.driver', driver)
    monkeypatch.setitem(sys.modules, 'tensorrt', library)
    monkeypatch.setattr('lwseg_ros.inference.backends.has_gpu', lambda: True)
    return driver, library
