"""OpenVINO: the fastest on x86 CPUs; bfloat16 where the CPU computes in it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset1, opset8

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
from lwseg_ros.inference.model_file import IN_FLOAT32
from lwseg_ros.inference.model_source import ModelSource
from lwseg_ros.inference.openvino_core import openvino_core

_HINTS = {'fp32': 'f32', 'bf16': 'bf16', 'fp16': 'f16'}
_CAPABILITIES = {'bf16': 'BF16', 'fp16': 'FP16'}
_LEAST_KERNEL = 4
_FLOAT32_MARKS = (
    {'name': 'DisablePrecisionConversion', 'version': '0', 'value': 'dynamic:f16'},
    {'name': 'precise', 'version': '0'},
)
"""What OpenVINO itself gives nodes that must not lose precision: its present name, and before."""


class OpenVinoBackend(Backend):
    """An OpenVINO model compiled on one device: for latency, or for throughput in streams."""

    def __init__(
        self,
        compiled: openvino.CompiledModel,
        outputs: tuple[str, ...],
        description: str,
        batch: int,
        streams: int,
    ) -> None:
        self.batch = batch
        self.streams = streams
        self._compiled: openvino.CompiledModel | None = compiled
        self._idle: SimpleQueue[openvino.InferRequest] = SimpleQueue()
        for _ in range(streams):
            self._idle.put(compiled.create_infer_request())
        self._outputs = outputs
        self._description = description

    @classmethod
    def open(cls, source: ModelSource, options: BackendOptions) -> OpenVinoBackend:
        """Read the ONNX graph, fix its shapes and compile it."""
        core = openvino_core()
        device = options.device.upper() or 'CPU'
        quantized = source.info.precision == 'int8'
        precision = _precision(core, device, options.precision, quantized)
        if quantized and device == 'CPU' and not adds_int8_exactly():
            raise ModelError(
                'this processor adds products of int8 in 16 bits, where they overflow (it has no '
                'VNNI), and OpenVINO would name wrong classes: use onnxruntime, or the model that '
                'this one was quantized from'
            )
        model = core.read_model(require_onnx(source).onnx)
        check_classes(source, model.input('drivable_classes').partial_shape[0].get_length())
        outputs = output_names(source, options, (output.any_name for output in model.outputs))
        for result in model.get_results():
            if result.input_value(0).any_name not in outputs:
                model.remove_result(result)
        if precision != 'fp32':
            model = keep_float32(model)
        if device == 'CPU':
            separate_pools(model)
        batch = options.batch or 1
        images = openvino.Dimension(1, batch) if batch > 1 else 1
        model.reshape({'image': openvino.PartialShape([images, *options.input_size, 3])})
        settings: dict[str, Any] = {
            'PERFORMANCE_HINT': 'THROUGHPUT' if options.throughput else 'LATENCY',
            'INFERENCE_PRECISION_HINT': _HINTS[precision],
        }
        if options.threads is not None:
            settings['INFERENCE_NUM_THREADS'] = options.threads
        if device == 'CPU' and (options.throughput or options.threads is not None):
            # Other work wants the other cores: two engines of one thread each take the same one.
            settings['ENABLE_CPU_PINNING'] = False
        version = '.'.join(openvino.__version__.split('-')[0].split('.')[:2])
        compiled = core.compile_model(model, device, settings)
        arithmetic = f'int8/{precision}' if quantized else precision
        streams = 1
        if options.throughput:
            streams = compiled.get_property('OPTIMAL_NUMBER_OF_INFER_REQUESTS')
        description = f'openvino {version} {arithmetic} {device}'
        return cls(compiled, outputs, description, batch, streams)

    def run(self, images: NDArray[np.uint8], drivable_classes: NDArray[np.float32]) -> Planes:
        """Segment one batch; the results are copied out of OpenVINO's buffers."""
        assert self._compiled is not None, 'the backend is closed'
        inputs = {'image': images, 'drivable_classes': drivable_classes}
        request = self._idle.get()
        try:
            results = request.infer(inputs, share_inputs=True, share_outputs=True)
            return Planes.of({name: np.array(results[name]) for name in self._outputs})
        finally:
            self._idle.put(request)

    @property
    def description(self) -> str:
        """Library, version, precision and device."""
        return self._description

    def close(self) -> None:
        """Drop the compiled model."""
        self._idle = SimpleQueue()
        self._compiled = None


def keep_float32(model: openvino.Model) -> openvino.Model:
    """Return the model with those nodes marked that are to compute in float32 in any precision.

    OpenVINO has no call for it from Python: the mark goes into the model's text.
    """
    kept: set[str] = set()
    for node in reversed(model.get_ordered_ops()):
        name = node.get_friendly_name()
        users = [target.get_node() for out in node.outputs() for target in out.get_target_inputs()]
        # One node of ONNX can become several, of which only the last has its name.
        nameless = name.rpartition('_')[0] == node.get_type_name()
        if name.startswith(IN_FLOAT32) or (
            nameless and users and all(user.get_friendly_name() in kept for user in users)
        ):
            kept.add(name)
    if not kept:
        return model
    with TemporaryDirectory(prefix='lwseg_openvino_') as folder:
        text, weights = Path(folder, 'model.xml'), Path(folder, 'model.bin')
        openvino.save_model(model, text, compress_to_fp16=False)
        tree = ElementTree.parse(text)
        for layer in tree.iter('layer'):
            if layer.get('name') in kept and layer.get('type') not in ('Const', 'Parameter'):
                marks = layer.find('rt_info')
                if marks is None:
                    marks = ElementTree.SubElement(layer, 'rt_info')
                for mark in _FLOAT32_MARKS:
                    ElementTree.SubElement(marks, 'attribute', mark)
        content = ElementTree.tostring(tree.getroot())
        return openvino_core().read_model(content, weights.read_bytes())


def separate_pools(model: openvino.Model) -> None:
    """Replace, in place, each large max-pool of stride 1 by one of columns and one of rows.

    The numbers are the same. The CPU compares each pixel with its whole window: one of 5x5 takes
    twice as long as the two.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() != 'MaxPool':
            continue
        pool = node.get_attributes()
        if (
            len(pool['kernel']) != 2
            or min(pool['kernel']) < _LEAST_KERNEL
            or {*pool['strides'], *pool.get('dilations', ())} != {1}
            or pool['auto_pad'] != 'explicit'
            or any(output.get_target_inputs() for output in node.outputs()[1:])
        ):
            continue
        pooled = node.input_value(0)
        for axis in (0, 1):
            kernel, begin, end = [1, 1], [0, 0], [0, 0]
            kernel[axis] = pool['kernel'][axis]
            begin[axis], end[axis] = pool['pads_begin'][axis], pool['pads_end'][axis]
            pooled = opset1.max_pool(pooled, [1, 1], begin, end, kernel).output(0)
        node.output(0).replace(pooled)


@cache
def adds_int8_exactly() -> bool:
    """Tell whether the CPU adds up products of int8 without overflow, by having it do so.

    Processors with VNNI do (Intel's from 2019 on, AMD's from Zen 4 on). On others OpenVINO adds
    pairs in 16 bits: of the shipped models, 13 % of the labels become others.
    """
    channels, most, weight = 16, 255, 127
    pixels = opset8.parameter([1, channels, 8, 8], np.float32)
    low, high = opset8.constant(np.float32(0)), opset8.constant(np.float32(most))
    activations = opset8.fake_quantize(pixels, low, high, low, high, most + 1)
    kernel = opset8.constant(np.full((channels, channels, 1, 1), weight, np.int8))
    scale = opset8.constant(np.ones((channels, 1, 1, 1), np.float32))
    weights = opset8.multiply(opset8.convert(kernel, 'f32'), scale)
    sums = opset8.convolution(activations, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    compiled = openvino_core().compile_model(openvino.Model([sums], [pixels]), 'CPU')
    found = compiled(np.full((1, channels, 8, 8), most, np.float32))[0]
    # A bfloat16 result has 8 bits; what overflows is half of this or less.
    return bool(np.allclose(found, channels * most * weight, rtol=0.01))


def computes_in_bf16() -> bool:
    """Tell whether the CPU computes in bfloat16, so that precision auto takes that."""
    return 'BF16' in openvino_core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')


def _precision(core: openvino.Core, device: str, wanted: str, quantized: bool) -> str:
    """Return the precision to compile for; ModelError if the device does not compute in it.

    Of a quantized model it is that of the layers which are not in int8: fp32 as in the file,
    unless the fastest or another one is asked for.
    """
    capabilities = core.get_property(device, 'OPTIMIZATION_CAPABILITIES')
    if wanted == 'int8' and not quantized:
        raise ModelError(NOT_QUANTIZED)
    if wanted == 'auto':
        return 'bf16' if 'BF16' in capabilities else 'fp32'
    if wanted == 'int8':
        return 'fp32'
    if wanted in _CAPABILITIES and _CAPABILITIES[wanted] not in capabilities:
        raise ModelError(f'{device} does not compute in {wanted}; choose auto or fp32')
    return wanted
