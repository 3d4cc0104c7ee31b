"""What somebody else's network gives for test images, before anything of ours is behind it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ENOUGH_S = 2.0
"""When the test images have taken so long, two of them are enough (our choice)."""

_ONLY_FATAL = 4
_GRID = 256  # so many rows and columns of an output are looked at, at most

Array = NDArray[Any]
Run = Callable[[NDArray[np.uint8]], Array]

_logger = logging.getLogger(__name__)


class Seen(NamedTuple):
    """What a network gave for the test images.

    `shape` of its output for one; `low` and `high` are the extremes of its finite values, `whole`
    says that all are whole numbers, `sums` are the extremes of their sums over the classes, where
    the output has four dimensions. In `broken` of `images` there was NaN or infinity.
    """

    shape: tuple[int, ...]
    low: float
    high: float
    whole: bool
    sums: tuple[float, float] | None
    images: int
    broken: int


def observe(graph: bytes, images: Iterable[NDArray[np.uint8]], class_axis: int) -> Seen | None:
    """Run a graph from the input `image` to the float32 output `raw` on images, one after another.

    None if neither ONNX Runtime nor OpenVINO is here, or neither can run it.
    """
    images = list(images)
    for library, start in _LIBRARIES.items():
        try:
            return _summary(_outputs(start(graph), images), class_axis)
        except ImportError:
            continue
        except Exception as error:  # a library may raise anything
            _logger.debug('%s does not run the network alone: %s', library, error)
    return None


def _outputs(run: Run, images: Iterable[NDArray[np.uint8]]) -> Iterator[Array]:
    start = time.monotonic()
    for number, image in enumerate(images):
        if number >= 2 and time.monotonic() - start > ENOUGH_S:
            break
        yield run(image)


def _summary(outputs: Iterable[Array], class_axis: int) -> Seen:
    shape: tuple[int, ...] = ()
    lows, highs, sums = [np.inf], [-np.inf], []
    whole, images, broken = True, 0, 0
    for output in outputs:
        shape, images = output.shape, images + 1
        values = _thinned(output, class_axis)
        finite = np.isfinite(values)
        broken += not finite.all()
        if not finite.any():
            continue
        lows.append(values.min(where=finite, initial=np.inf))
        highs.append(values.max(where=finite, initial=-np.inf))
        whole = whole and bool((values == np.round(values)).all(where=finite))
        if output.ndim == 4:
            total = values.sum(class_axis)
            sums += [total.min(), total.max()]
    extremes = (float(np.nanmin(sums)), float(np.nanmax(sums))) if sums else None
    return Seen(shape, float(min(lows)), float(max(highs)), whole, extremes, images, broken)


def _thinned(output: Array, class_axis: int) -> Array:
    """Leave out rows and columns of an output that has many."""
    steps = [slice(None, None, max(1, extent // _GRID)) for extent in output.shape]
    if output.ndim == 4:
        steps[class_axis] = slice(None)
    return output[tuple(steps)]


def _in_onnxruntime(graph: bytes) -> Run:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ONLY_FATAL
    session = onnxruntime.InferenceSession(
        graph, settings, providers=['CPUExecutionProvider'], enable_fallback=0
    )
    return lambda image: np.asarray(session.run(['raw'], {'image': image})[0])


def _in_openvino(graph: bytes) -> Run:
    from lwseg_ros.inference.openvino_core import openvino_core

    core = openvino_core()
    exact = {'INFERENCE_PRECISION_HINT': 'f32'}
    compiled = core.compile_model(core.read_model(graph), 'CPU', exact)
    return lambda image: np.array(compiled({'image': image})['raw'])


_LIBRARIES: dict[str, Callable[[bytes], Run]] = {
    'ONNX Runtime': _in_onnxruntime,
    'OpenVINO': _in_openvino,
}
