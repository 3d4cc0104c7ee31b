"""The backends by name, and the choice among them; each library is imported only when chosen."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib import import_module

from lwseg_ros.errors import ModelError
from lwseg_ros.inference.backends.base import PRECISIONS, Backend, BackendOptions
from lwseg_ros.inference.backends.cuda import has_gpu
from lwseg_ros.inference.model_source import ModelSource

BACKENDS = {
    'tensorrt': ('lwseg_ros.inference.backends.tensorrt', 'TensorRtBackend'),
    'openvino': ('lwseg_ros.inference.backends.openvino', 'OpenVinoBackend'),
    'onnxruntime': ('lwseg_ros.inference.backends.onnxruntime', 'OnnxRuntimeBackend'),
    'torch': ('lwseg_ros.inference.backends.torch', 'TorchBackend'),
}
_ON_GPU = (('tensorrt', 'cuda'), ('torch', 'cuda'))
_ELSEWHERE = (('openvino', ''), ('onnxruntime', ''), ('torch', 'cpu'))

_logger = logging.getLogger(__name__)


def open_backend(name: str, source: ModelSource, options: BackendOptions) -> Backend:
    """Compile a model with the named backend, or for `auto` with the fastest that works.

    `auto` tries, unless the options name a device: on an NVIDIA GPU TensorRT and PyTorch; else
    OpenVINO, ONNX Runtime and PyTorch. ModelError with the reason, for `auto` with that of each.
    """
    if name != 'auto' and name not in BACKENDS:
        raise ModelError(f'there is no backend {name!r}: choose auto, {", ".join(BACKENDS)}')
    if options.precision not in PRECISIONS:
        raise ModelError(
            f'there is no precision {options.precision!r}: choose {", ".join(PRECISIONS)}'
        )
    candidates, reasons = _candidates(name, options.device)
    for candidate, device in candidates:
        try:
            backend = _open(candidate, source, replace(options, device=device))
        except Exception as error:  # a library may raise anything; what matters is to go on
            _logger.debug('backend %s failed', candidate, exc_info=True)
            reasons.append(f'{candidate}: {_reason(error)}')
            continue
        height, width = options.input_size
        passed_over = f' (passed over {"; ".join(reasons)})' if reasons else ''
        _logger.info(
            'model %s runs on %s at %dx%d%s',
            source.info.name, backend.description, width, height, passed_over,
        )  # fmt: skip
        return backend
    raise ModelError(f'no backend can run {source.path}: {"; ".join(reasons)}')


def _candidates(name: str, device: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Return what to try on which device, fastest first, and why something is left out."""
    if name != 'auto':
        return [(name, device)], []
    if device.lower().startswith('cuda'):
        return [(name, device) for name, _ in _ON_GPU], []
    if device:
        return [(name, device) for name, _ in _ELSEWHERE], []
    if has_gpu():
        return [*_ON_GPU, *_ELSEWHERE], []
    return [*_ELSEWHERE], ['tensorrt: no NVIDIA GPU']


def _open(name: str, source: ModelSource, options: BackendOptions) -> Backend:
    module, class_name = BACKENDS[name]
    backend: type[Backend] = getattr(import_module(module), class_name)
    return backend.open(source, options)


def _reason(error: Exception) -> str:
    if isinstance(error, ModelError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return f'{error.name} is not installed (pip install {error.name})'
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f'{type(error).__name__}: {lines[-1][:300] if lines else "no message"}'
