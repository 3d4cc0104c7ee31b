"""TensorRT engines, built from our ONNX for one GPU, size and precision, and kept in a cache.

One code for TensorRT 8.6 to 11 and TensorRT for RTX: what a version lacks is asked for by
`hasattr`, never by number. Building needs the GPU, except with TensorRT for RTX.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from lwseg_ros import __version__
from lwseg_ros.errors import ModelError
from lwseg_ros.files import user_cache, write_atomically
from lwseg_ros.inference.backends.cuda import Gpu
from lwseg_ros.inference.half_precision import fix_shape, is_quantized, read_graph, to_half
from lwseg_ros.inference.model_file import IN_FLOAT32
from lwseg_ros.inference.model_source import ModelSource

OPTIMIZATION_LEVEL = 3
"""How hard the builder searches, 0 to 5; 3 is TensorRT's own choice."""

_LIBRARIES = ('tensorrt', 'tensorrt_rtx')
_PROGRESS_PERIOD_S = 5.0
_MAX_HEADER_BYTES = 100_000

Shape = tuple[int, int, int, int]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineKey:
    """Everything that an engine depends on: with another of these it must be built anew.

    `precision` is fp32, fp16, or int8 for a graph that quantizes itself: the rest of it is in
    fp32 where networks are strongly typed, else in fp16. `shape` is that of the images,
    `[N, h, w, 3]`.
    """

    model_sha256: str
    library: str
    gpu: str
    compute_capability: tuple[int, int]
    precision: str
    shape: Shape
    optimization_level: int = OPTIMIZATION_LEVEL
    lwseg: str = __version__

    @classmethod
    def of(
        cls,
        tensorrt: Any,
        graph: bytes,
        gpu: Gpu,
        precision: str,
        shape: tuple[int, int, int, int],
    ) -> EngineKey:
        """Return the key of a graph's engine."""
        return cls(
            hashlib.sha256(graph).hexdigest(), version(tensorrt), *gpu, precision, shape
        )  # fmt: skip

    def to_json(self) -> str:
        """Return the key as text."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def fingerprint(self) -> str:
        """The key in 64 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


@dataclass(frozen=True)
class Engine:
    """A serialised engine, or the reason why there is none to be used (`refused`).

    `label_agreement` is the share of pixels on which it names the class that fp32 names.
    """

    content: bytes = b''
    refused: str = ''
    label_agreement: float | None = None


def import_tensorrt() -> Any:
    """Import TensorRT, or TensorRT for RTX; ModelError if neither is there."""
    reasons = []
    for name in _LIBRARIES:
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
        except ImportError as error:  # a part of it is missing
            reasons.append(f'{name} cannot be imported: {error}')
    raise ModelError('; '.join(reasons) or 'TensorRT is not installed (see docs/tensorrt.md)')


def version(tensorrt: Any) -> str:
    """Return library and version in two words."""
    return f'{tensorrt.__name__} {tensorrt.__version__}'


def read_model(source: ModelSource) -> bytes:
    """Return the bytes of the model's ONNX graph, which its caller knows to be there."""
    graph = source.onnx
    assert graph is not None
    return graph if isinstance(graph, bytes) else graph.read_bytes()


def build_engine(
    tensorrt: Any,
    graph: bytes,
    key: EngineKey,
    name: str,
    say: Callable[[str], None] = _logger.info,
    progress_period_s: float = _PROGRESS_PERIOD_S,
) -> bytes:
    """Build the serialised engine of `key` from an ONNX graph; minutes on a small Jetson.

    `name` is the model's, for messages; `say` gets the progress. ModelError with the node that
    the parser cannot read, or with TensorRT's own words if the builder fails.
    """
    log = _log_of(tensorrt)
    log.errors.clear()
    builder = tensorrt.Builder(log)
    flags = tensorrt.NetworkDefinitionCreationFlag
    strong = hasattr(flags, 'STRONGLY_TYPED')
    wanted = [flag for flag in ('STRONGLY_TYPED', 'EXPLICIT_BATCH') if hasattr(flags, flag)][:1]
    network = builder.create_network(sum(1 << int(getattr(flags, flag)) for flag in wanted))
    parser = tensorrt.OnnxParser(network, log)
    model = read_graph(graph)
    fix_shape(model, key.shape)
    if strong and key.precision == 'fp16':
        to_half(model)
    if not parser.parse(model.SerializeToString()):
        raise ModelError(
            f'{version(tensorrt)} cannot read {name}: {_parser_errors(parser)}'
        )  # fmt: skip

    config = builder.create_builder_config()
    if hasattr(config, 'builder_optimization_level'):
        config.builder_optimization_level = key.optimization_level
    if hasattr(tensorrt.BuilderFlag, 'TF32'):
        config.clear_flag(tensorrt.BuilderFlag.TF32)  # fp32 is fp32
    if not strong:
        for flag, used in (('FP16', key.precision != 'fp32'), ('INT8', is_quantized(model))):
            if used and hasattr(tensorrt.BuilderFlag, flag):
                config.set_flag(getattr(tensorrt.BuilderFlag, flag))
        if key.precision != 'fp32':
            _keep_float32(tensorrt, network, config)
    if hasattr(config, 'num_compute_capabilities'):
        config.num_compute_capabilities = 1
        config.set_compute_capability(_compute_capability(tensorrt, key), 0)
    monitor = None
    if hasattr(config, 'progress_monitor'):
        monitor = config.progress_monitor = _monitor(tensorrt, say, progress_period_s)

    number, height, width, _ = key.shape
    say(
        f'building the TensorRT engine of {name} for {key.gpu}: {key.precision}, '
        f'{number}x{height}x{width}; this takes from seconds to minutes, once'
    )
    start = time.monotonic()
    engine = builder.build_serialized_network(network, config)
    if monitor is not None and monitor.interrupted:
        raise KeyboardInterrupt
    if engine is None:
        reason = log.errors[-1] if log.errors else 'it does not say why'
        raise ModelError(f'{version(tensorrt)} cannot build the engine of {name}: {reason}')
    say(f'built in {time.monotonic() - start:.0f} s')
    return bytes(engine)


def _keep_float32(tensorrt: Any, network: Any, config: Any) -> None:
    """Let a builder that chooses precisions itself leave the nodes in float32 that must be so."""
    for layer in (network.get_layer(index) for index in range(network.num_layers)):
        if layer.name.startswith(IN_FLOAT32) and layer.get_output(0).dtype == tensorrt.float32:
            config.set_flag(tensorrt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
            layer.precision = tensorrt.float32
            layer.set_output_type(0, tensorrt.float32)


def load_engine(tensorrt: Any, content: bytes) -> Any | None:
    """Return the engine ready to run, or None if this TensorRT or this GPU cannot take it."""
    runtime = tensorrt.Runtime(_log_of(tensorrt))
    return runtime.deserialize_cuda_engine(content)


class EngineCache:
    """Engines in a folder, each in one file: a line of JSON that says what it is, then the engine.

    A file that is damaged, or of another key, counts as absent.
    """

    def __init__(self, folder: str | os.PathLike[str] = '') -> None:
        self.folder = Path(folder).expanduser() if folder else user_cache() / 'engines'

    def make_folder(self) -> None:
        """Make the folder, for its owner alone; ModelError if nothing can be written there."""
        try:
            self.folder.mkdir(0o700, parents=True, exist_ok=True)
            reason = '' if os.access(self.folder, os.W_OK) else 'it is not writable'
        except OSError as error:
            reason = error.strerror or str(error)
        if reason:
            raise ModelError(
                f'the engine cache {self.folder} cannot be used ({reason}): name another folder'
            )

    def path(self, key: EngineKey, name: str) -> Path:
        """Return the file of a key; `name` is the model's."""
        readable = ''.join(letter if letter.isalnum() else '_' for letter in name)[:40]
        return self.folder / f'{readable}_{key.precision}_{key.fingerprint[:16]}.engine'

    def load(self, key: EngineKey, name: str) -> Engine | None:
        """Return the engine of a key, or None if it must be built."""
        path = self.path(key, name)
        try:
            with path.open('rb') as file:
                line, content = file.readline(_MAX_HEADER_BYTES), file.read()
            header = json.loads(line)
            if header['key'] != json.loads(key.to_json()):
                raise ValueError('it is of another key')
            if header['sha256'] != hashlib.sha256(content).hexdigest():
                raise ValueError('its content is not what its SHA-256 says')
            return Engine(content, str(header['refused']), header['label_agreement'])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            _logger.warning('engine %s cannot be used, it is built again: %s', path, error)
            return None

    def store(self, key: EngineKey, name: str, engine: Engine) -> Path:
        """Write an engine; it appears complete or not at all. LwsegError if it cannot be."""
        path = self.path(key, name)
        header = {
            'key': asdict(key),
            'sha256': hashlib.sha256(engine.content).hexdigest(),
            'refused': engine.refused,
            'label_agreement': engine.label_agreement,
        }
        self.make_folder()
        write_atomically(path, json.dumps(header).encode() + b'\n' + engine.content)
        return path


def _parser_errors(parser: Any) -> str:
    """Return the first error in a sentence, with the node where it lies, and how many follow."""
    error = parser.get_error(0)
    node = f'node {error.node()}'
    if hasattr(error, 'node_name'):
        node = f'node {error.node_name() or error.node()} ({error.node_operator()})'
    more = f' (and {parser.num_errors - 1} errors more)' if parser.num_errors > 1 else ''
    return f'{node}: {" ".join(error.desc().split())}{more}'


def _compute_capability(tensorrt: Any, key: EngineKey) -> Any:
    name = 'SM{}{}'.format(*key.compute_capability)
    known = tensorrt.ComputeCapability
    if not hasattr(known, name):
        raise ModelError(
            f'{version(tensorrt)} does not build for {key.gpu} of compute capability '
            f'{".".join(map(str, key.compute_capability))}: use TensorRT itself'
        )
    return getattr(known, name)


@cache
def _log_of(tensorrt: Any) -> Any:
    """Return the one logger of a TensorRT library, which it keeps while the process lives."""

    class Log(tensorrt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            sentence = ' '.join(message.split())
            _logger.debug('%s: %s', severity.name, sentence)
            if severity.name in ('ERROR', 'INTERNAL_ERROR'):
                self.errors.append(sentence[:300])

    return Log()


def _monitor(tensorrt: Any, say: Callable[[str], None], period_s: float) -> Any:
    """Return a progress monitor that says every few seconds how far the builder is."""

    class Monitor(tensorrt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt.IProgressMonitor.__init__(self)
            self.interrupted = False
            self._steps: dict[str, int] = {}
            self._start = self._said = time.monotonic()

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._steps[phase] = steps

        def phase_finish(self, phase: str) -> None:
            self._steps.pop(phase, None)

        def step_complete(self, phase: str, step: int) -> bool:
            """Report; return whether to go on: an exception must not pass through the library."""
            try:
                now = time.monotonic()
                if now - self._said >= period_s:
                    self._said = now
                    steps = self._steps.get(phase, 0)
                    say(f'{now - self._start:.0f} s: {phase}, step {step + 1} of {steps}')
            except KeyboardInterrupt:
                self.interrupted = True
            return not self.interrupted

    return Monitor()
