"""Which file of a shipped model precision `auto` runs: its own, or its int8 form, `road-int8`.

The int8 form runs where it is right, does little harm, and is worth it: OpenVINO adds its sums
without overflow, it lost at most half a point when it was quantized, and it is at least 1.3 times
as fast here (our choices). How fast a processor's flags cannot tell: on one with VNNI, one model
gained 2.2 times and another 1.3. So it is measured, in a second or two, and the figure is kept in
the user's cache: the same robot decides the same way at each start.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from contextlib import ExitStack, closing
from typing import NamedTuple

import numpy as np

from lwseg_ros.errors import LwsegError, ModelError
from lwseg_ros.files import sha256, user_cache, write_json
from lwseg_ros.inference.backends.base import BackendOptions
from lwseg_ros.inference.backends.cuda import has_gpu
from lwseg_ros.inference.model_info import ModelInfo
from lwseg_ros.inference.model_source import ModelSource, find_model, is_shipped, list_models
from lwseg_ros.plain_data import NOT_AS_WANTED

LEAST_GAIN = 1.3
"""How many times as fast as the floating-point form the int8 form must be."""
MOST_LOST = 0.5
"""How many points of mIoU or drivable IoU it may have lost."""

_ROUNDS, _SECONDS = 6, 1.0

_logger = logging.getLogger(__name__)


class Form(NamedTuple):
    """The model that runs, the backend for it, and why; no word where there was no choice."""

    source: ModelSource
    backend: str
    why: str


def choose_form(
    model: str | os.PathLike[str],
    named: ModelSource,
    backend: str = 'auto',
    device: str = '',
    precision: str | None = 'auto',
) -> Form:
    """Return what runs of the model that was asked for, `named` being what it names.

    Of the name of a shipped model in floating point, precision `int8` takes the int8 form, and
    `auto` does where that pays; a path, and precision None, always mean that file.
    """
    as_named = Form(named, backend, '')
    if precision not in ('auto', 'int8') or not is_shipped(model):
        return as_named
    if named.info.precision != 'fp32':
        return as_named
    name = f'{os.fspath(model)}-int8'
    try:
        int8 = _int8_form(name, named)
        if precision == 'int8':
            return Form(int8, backend, 'int8 is asked for')
        lost = _allowed_loss(name, int8.info)
        _check_backend(backend, device)
        gain = _sufficient_gain(name, named, int8)
    except ModelError as error:
        return as_named if precision == 'int8' else as_named._replace(why=str(error))
    why = f'it is {gain:.2f} times as fast here and loses {max(lost, 0):.2f} points at most'
    return Form(int8, 'openvino', why)


def points_lost(info: ModelInfo) -> float | None:
    """Return how many points of mIoU or drivable IoU an int8 model lost, where it lost most.

    From its metadata, as `lwseg quantize` writes them; None if they do not tell.
    """
    try:
        losses = [
            100 * (figures['fp32'][name] - figures[name])
            for figures in info.accuracy.values()
            for name in ('miou', 'drivable_iou')
        ]
        return round(float(np.max(losses)), 2)
    except NOT_AS_WANTED:
        return None


def int8_gain(named: ModelSource, int8: ModelSource) -> float:
    """Return how many times as fast as `named` the int8 form is on this processor, in OpenVINO.

    It is measured once for both files, the processor, the cores of this process, the version of
    OpenVINO, and the instructions that oneDNN may use, and then read from the user's cache.
    """
    import openvino

    from lwseg_ros.inference.openvino_core import openvino_core

    what = {
        'processor': openvino_core().get_property('CPU', 'FULL_DEVICE_NAME'),
        'cores': len(os.sched_getaffinity(0)),
        'openvino': openvino.__version__,
        'ONEDNN_MAX_CPU_ISA': os.environ.get('ONEDNN_MAX_CPU_ISA', ''),
        'files': [sha256(named.path), sha256(int8.path)],
    }
    key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
    path = user_cache() / 'int8' / f'{int8.info.name}_{key}.json'
    try:
        return float(json.loads(path.read_bytes())['gain'])
    except (OSError, *NOT_AS_WANTED):
        _logger.info('measuring whether %s is faster here, once', int8.info.name)
    gain = round(_measured_gain(named, int8), 3)
    try:
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        write_json(path, {**what, 'gain': gain})
    except (OSError, LwsegError):
        _logger.info('%s cannot be written: the next start measures again', path)
    return gain


def _int8_form(name: str, named: ModelSource) -> ModelSource:
    """Return the int8 form; ModelError if there is none, or it was made from another file."""
    if name not in list_models():
        raise ModelError(f'there is no {name}')
    int8 = find_model(name)
    if sha256(named.path) not in str(int8.info.provenance.get('quantized_from')):
        raise ModelError(f'{name} was quantized from another file')
    return int8


def _allowed_loss(name: str, info: ModelInfo) -> float:
    lost = points_lost(info)
    if lost is None:
        raise ModelError(f'{name} does not say what it lost when it was quantized')
    if not lost <= MOST_LOST:
        raise ModelError(f'{name} loses {lost:.2f} points, {MOST_LOST:g} are allowed')
    return lost


def _check_backend(backend: str, device: str) -> None:
    """ModelError unless OpenVINO on the CPU is what such a backend and device mean."""
    if backend not in ('auto', 'openvino') or device.lower() not in ('', 'cpu'):
        raise ModelError(f'int8 gains in OpenVINO on a CPU, not with {backend} {device}'.rstrip())
    if backend == 'auto' and not device and has_gpu():
        raise ModelError('an NVIDIA GPU computes in fp16')


def _sufficient_gain(name: str, named: ModelSource, int8: ModelSource) -> float:
    """Return the gain; ModelError if it is none, or too little, or cannot be found."""
    try:
        from lwseg_ros.inference.backends.openvino import adds_int8_exactly, computes_in_bf16

        if computes_in_bf16():
            raise ModelError('this processor computes in bf16, about as fast as in int8')
        if not adds_int8_exactly():
            raise ModelError('sums of int8 overflow in OpenVINO on this processor (no VNNI)')
        gain = int8_gain(named, int8)
    except ModelError:
        raise
    except Exception as error:  # whatever the library raises, the floating-point form is there
        _logger.debug('%s cannot be timed', name, exc_info=True)
        raise ModelError(f'{name} cannot be timed in OpenVINO: {error}') from error
    if not gain >= LEAST_GAIN:
        raise ModelError(
            f'{name} is {gain:.2f} times as fast here, {LEAST_GAIN:g} times are wanted'
        )
    return gain


def _measured_gain(named: ModelSource, int8: ModelSource) -> float:
    """Run both in turns; what disturbs one disturbs the other, and the shortest times count."""
    from lwseg_ros.inference.backends.openvino import OpenVinoBackend

    image = np.full((1, *named.info.input_size, 3), 128, np.uint8)
    classes = named.info.label_space.drivable_vector()
    options = BackendOptions(named.info.input_size)
    times: tuple[list[float], list[float]] = ([], [])
    with ExitStack() as stack:
        backends = [
            stack.enter_context(closing(OpenVinoBackend.open(source, options)))
            for source in (named, int8)
        ]
        end = time.perf_counter() + _SECONDS
        while len(times[0]) < _ROUNDS or time.perf_counter() < end:
            for backend, own in zip(backends, times, strict=True):
                start = time.perf_counter()
                backend.run(image, classes)
                own.append(time.perf_counter() - start)
    return min(times[0]) / min(times[1])
