"""What a static engine needs of a GPU: fixed buffers, one stream, a recorded graph of its work.

Through the driver's own interface (cuda-python), because it serves every driver of a robot without
a CUDA runtime of just that version.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lwseg_ros.errors import InferenceError, ModelError

_NOT_WAITING_FOR_OTHERS = 1  # CU_STREAM_NON_BLOCKING


class Gpu(NamedTuple):
    """A GPU by its name and its compute capability, (8, 7) for 8.7."""

    name: str
    compute_capability: tuple[int, int]


class Buffer(NamedTuple):
    """Memory of the same size on both sides: `host` is page-locked, `address` is the GPU's."""

    host: NDArray[Any]
    address: int


def has_gpu() -> bool:
    """Tell whether an NVIDIA driver finds a GPU; needs no library and imports none."""
    try:
        return int(ctypes.CDLL('libcuda.so.1').cuInit(0)) == 0
    except (OSError, AttributeError):
        return False


class CudaDevice:
    """One GPU and what was allocated on it, in the process's primary context.

    ModelError if there is none. Every thread that uses it calls `use` first.
    """

    def __init__(self, index: int = 0) -> None:
        self._driver = _import_driver()
        self._buffers: list[Buffer] = []
        self._graphs: list[Any] = []
        try:
            self._call('cuInit', 0)
            self._device = self._call('cuDeviceGet', index)
            attribute = self._driver.CUdevice_attribute
            major = attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
            minor = attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
            name = self._call('cuDeviceGetName', 100, self._device)
            self.gpu = Gpu(
                name.split(b'\0')[0].decode(errors='replace'),
                (
                    int(self._call('cuDeviceGetAttribute', major, self._device)),
                    int(self._call('cuDeviceGetAttribute', minor, self._device)),
                ),
            )
            self._context = self._call('cuDevicePrimaryCtxRetain', self._device)
            self.use()
            self._stream = self._call('cuStreamCreate', _NOT_WAITING_FOR_OTHERS)
        except Exception as error:  # cuda-python has an error of its own for a missing driver
            raise ModelError(f'there is no NVIDIA GPU {index} to be used: {error}') from None

    @property
    def stream(self) -> int:
        """The handle of the one stream that all work goes to."""
        return int(self._stream)

    def use(self) -> None:
        """Make the device that of the calling thread."""
        self._call('cuCtxSetCurrent', self._context)

    def buffer(self, shape: tuple[int, ...], dtype: DTypeLike) -> Buffer:
        """Allocate an array in page-locked memory and its counterpart on the GPU."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        pinned = int(self._call('cuMemHostAlloc', size, 0))
        memory = (ctypes.c_uint8 * size).from_address(pinned)
        host = np.frombuffer(memoryview(memory), dtype).reshape(shape)
        self._buffers.append(Buffer(host, int(self._call('cuMemAlloc', size))))
        return self._buffers[-1]

    def to_gpu(self, buffer: Buffer) -> None:
        """Let the stream copy what the host wrote."""
        host = buffer.host
        self._call(
            'cuMemcpyHtoDAsync', buffer.address, host.ctypes.data, host.nbytes, self._stream
        )

    def from_gpu(self, buffer: Buffer) -> None:
        """Let the stream copy what the GPU wrote."""
        host = buffer.host
        self._call(
            'cuMemcpyDtoHAsync', host.ctypes.data, buffer.address, host.nbytes, self._stream
        )

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return a call that sends all of `work` to the stream at once, as a CUDA graph.

        `work` must have run before. InferenceError if it does what cannot be recorded.
        """
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call('cuStreamBeginCapture', self._stream, mode)
        try:
            work()
        finally:
            graph = self._call('cuStreamEndCapture', self._stream)
        executable = self._call('cuGraphInstantiate', graph, 0)
        self._call('cuGraphDestroy', graph)
        self._graphs.append(executable)
        return lambda: self._call('cuGraphLaunch', executable, self._stream)

    def wait(self) -> None:
        """Wait until the stream has done everything."""
        self._call('cuStreamSynchronize', self._stream)

    def close(self) -> None:
        """Free everything; the arrays of buffers must not be touched afterwards."""
        self.use()
        for graph in self._graphs:
            self._call('cuGraphExecDestroy', graph)
        for buffer in self._buffers:
            self._call('cuMemFree', buffer.address)
            self._call('cuMemFreeHost', buffer.host.ctypes.data)
        self._graphs, self._buffers = [], []
        # The primary context stays: other libraries of the process may work in it.
        self._call('cuStreamDestroy', self._stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        error, *values = getattr(self._driver, name)(*arguments)
        if int(error) != 0:
            raise InferenceError(f'{name} failed with {error.name}')
        return values[0] if values else None


def _import_driver() -> Any:
    try:
        return import_module('cuda.bindings.driver')
    except ImportError:
        raise ModelError('cuda-python is not installed (pip install cuda-bindings)') from None
