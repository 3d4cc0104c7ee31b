"""The int8 graph of a model, from its fp32 graph and the ranges of its activations.

It holds pairs of QuantizeLinear and DequantizeLinear, symmetric with zero point 0, weights per
channel, biases and logits in floating point: the form that TensorRT, OpenVINO and ONNX Runtime all
take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros.errors import ModelError
from lwseg_ros.inference.model_file import (
    EMBEDDING,
    IN_FLOAT32,
    ZERO_POINT,
    model_metadata,
    write_model,
)
from lwseg_ros.inference.model_info import ModelInfo

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper, shape_inference
    from onnxruntime.quantization import CalibrationDataReader, QuantType, create_calibrator
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
except ModuleNotFoundError as error:
    raise ModelError(
        f'lwseg quantize needs the package {error.name}: pip install onnx onnxruntime'
    ) from error

Image = npt.NDArray[np.uint8]

QUANTIZED_OPERATORS = ('Conv', 'Add', 'MaxPool', 'AveragePool', 'Clip', 'Relu', 'Resize')


class Quantizer:
    """The fp32 graph of a model and the ranges of its activations.

    `layers` are the nodes of the convolutions, all of which can be quantized. The logits are not:
    they are compared and turned into probabilities.
    """

    def __init__(self, path: Path, info: ModelInfo, folder: Path) -> None:
        self._info = info
        self._candidate = folder / 'candidate.onnx'
        self._folder = folder
        self._model = shape_inference.infer_shapes(_with_float_weights(onnx.load(str(path))))
        nodes = list(self._model.graph.node)
        convolutions = [index for index, node in enumerate(nodes) if node.op_type == 'Conv']
        self.layers = [nodes[index].name for index in convolutions]
        self._weights = {nodes[index].name: nodes[index].input[1] for index in convolutions}
        types = {v.name: v.type.tensor_type.elem_type for v in self._model.graph.value_info}
        constants = {tensor.name for tensor in self._model.graph.initializer}
        self._nodes = [
            node.name
            for node in nodes[: convolutions[-1] + 1]
            if node.op_type in QUANTIZED_OPERATORS
            and not node.name.startswith(IN_FLOAT32)
            and types.get(node.output[0]) == TensorProto.FLOAT
            # TensorRT takes no quantized constants but weights.
            and not (node.op_type == 'Add' and constants.intersection(node.input))
        ]
        users: dict[str, set[str]] = {}
        for node in nodes:
            for name in node.input:
                users.setdefault(name, set()).add(node.name)
        # What only floating-point nodes use would be rounded for nothing.
        self._free = {
            name
            for node in nodes
            if node.name in self._nodes
            for name in node.output
            if users[name].isdisjoint(self._nodes)
        }
        self._ranges: Any = None

    def calibrate(self, images: Sequence[Image]) -> None:
        """Find the ranges of the activations on images RGB uint8 `[H, W, 3]` of any size."""
        height, width = self._info.input_size
        classes = self._info.label_space.drivable_vector()
        feed = iter(
            {'image': cv2.resize(image, (width, height))[np.newaxis], 'drivable_classes': classes}
            for image in images
        )

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def get_next(self) -> Any:
                return next(feed, None)

        fp32 = self._folder / 'fp32.onnx'
        onnx.save(self._model, str(fp32))
        calibrator = create_calibrator(
            fp32,
            list(QUANTIZED_OPERATORS),
            augmented_model_path=str(self._folder / 'augmented.onnx'),
            extra_options={'symmetric': True},
        )
        calibrator.collect_data(Reader())
        self._ranges = calibrator.compute_data()

    def unquantized(self, keep: Sequence[str]) -> list[str]:
        """Return the names of the weights that stay in floating point with the layers `keep`."""
        return [self._weights[layer] for layer in keep]

    def write(self, keep: Sequence[str], info: ModelInfo, path: Path | None = None) -> Path:
        """Write the model with all but the layers `keep` in int8, and return its path."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8,
            tensors_range=self._ranges,
            nodes_to_quantize=[name for name in self._nodes if name not in keep],
            nodes_to_exclude=[],
            op_types_to_quantize=list(QUANTIZED_OPERATORS),
            # TensorRT takes no int32 bias.
            extra_options={
                'ActivationSymmetric': True,
                'WeightSymmetric': True,
                'QuantizeBias': False,
            },
        )
        quantizer.quantize_model()
        model = quantizer.model.model
        _leave_unquantized(model.graph, _logits(self._model.graph) | self._free)
        _feed_unquantized(model.graph, keep)
        _share_zero_point(model.graph)
        del model.graph.value_info[:]
        del model.metadata_props[:]
        for key, value in model_metadata(replace(info, precision='int8')).items():
            model.metadata_props.add(key=key, value=value)
        path = path or self._candidate
        write_model(path, model.SerializeToString())
        return path


def _with_float_weights(model: Any) -> Any:
    """Return the model with casts of stored weights carried out: they are what is quantized."""
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in [n for n in graph.node if n.op_type == 'Cast' and n.input[0] in stored]:
        kind = helper.tensor_dtype_to_np_dtype(node.attribute[0].i)
        values = numpy_helper.to_array(stored[node.input[0]]).astype(kind)
        graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in stored.values():
        if tensor.name not in used:
            graph.initializer.remove(tensor)
    return model


def _feed_unquantized(graph: Any, layers: Sequence[str]) -> None:
    """Give some layers their input as it is before it is quantized for others.

    Besides being more exact: of a convolution between quantized tensors ONNX Runtime quantizes the
    weights by itself, and not per channel.
    """
    source = {node.output[0]: node for node in graph.node if node.op_type.endswith('tizeLinear')}
    for node in graph.node:
        if node.name in layers and node.input[0] in source:
            quantize = source[source[node.input[0]].input[0]]
            node.input[0] = quantize.input[0]
    for kind in ('DequantizeLinear', 'QuantizeLinear'):
        used = {name for node in graph.node for name in node.input}
        for node in [n for n in graph.node if n.op_type == kind and n.output[0] not in used]:
            graph.node.remove(node)


def _logits(graph: Any) -> set[str]:
    """Return the outputs of the last convolutions, behind which there are no others."""
    makers = {name: node for node in graph.node for name in node.output}
    ahead, found = [v.name for v in graph.output if v.name != EMBEDDING], set()
    while ahead:
        node = makers.pop(ahead.pop(), None)
        if node is not None and node.op_type == 'Conv':
            found.add(node.output[0])
        elif node is not None:
            ahead += node.input
    return found


def _leave_unquantized(graph: Any, tensors: set[str]) -> None:
    """Give those who use some tensors what they are, not what is left of them in int8."""
    users = {name: node for node in graph.node for name in node.input}
    for quantize in [node for node in graph.node if node.op_type == 'QuantizeLinear']:
        if quantize.input[0] in tensors:
            dequantized = users[quantize.output[0]].output[0]
            for node in graph.node:
                for position, name in enumerate(node.input):
                    if name == dequantized:
                        node.input[position] = quantize.input[0]


def _share_zero_point(graph: Any) -> None:
    """Give all activations one zero point, `ZERO_POINT`, which a backend can find and replace."""
    quantized = [node for node in graph.node if node.op_type == 'QuantizeLinear']
    replaced = {node.input[2] for node in quantized}
    for node in graph.node:
        if node.op_type in ('QuantizeLinear', 'DequantizeLinear') and node.input[2] in replaced:
            node.input[2] = ZERO_POINT
    for tensor in [tensor for tensor in graph.initializer if tensor.name in replaced]:
        graph.initializer.remove(tensor)
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), ZERO_POINT))
