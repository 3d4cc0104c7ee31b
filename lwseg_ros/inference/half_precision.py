"""ONNX graphs prepared for an engine: of one fixed shape, and on demand in half precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LARGEST_HALF = 65504.0
"""The largest finite number of float16."""

_QUANTIZED = ('QuantizeLinear', 'DequantizeLinear')
_KEEP_FLOAT = {'Resize': (1, 2)}  # region and scales are float32 whatever the image is


def read_graph(graph: Path | bytes) -> onnx.ModelProto:
    """Parse an ONNX model and store its constants in the types that the graph computes with."""
    model = onnx.load_model_from_string(graph if isinstance(graph, bytes) else graph.read_bytes())
    _fold_constants(model.graph)
    return model


def is_quantized(model: onnx.ModelProto) -> bool:
    """Tell whether a graph computes in int8 where it says so (Q/DQ nodes)."""
    return any(node.op_type in _QUANTIZED for node in model.graph.node)


def fix_shape(model: onnx.ModelProto, shape: tuple[int, int, int, int]) -> None:
    """Fix the shape `[N, h, w, 3]` of the images, in place."""
    (image,) = (value for value in model.graph.input if value.name == 'image')
    for dimension, extent in zip(image.type.tensor_type.shape.dim, shape, strict=True):
        dimension.dim_value = extent
    for output in model.graph.output:
        output.type.tensor_type.ClearField('shape')


def to_half(model: onnx.ModelProto) -> None:
    """Compute in float16 what the graph computes in float32, in place.

    Inputs and outputs keep their types. Constants beyond float16 become its largest number: ours
    are bounds to compare with; what it does to somebody else's graph, a comparison with float32
    must tell. Not for quantized graphs: their scales are smaller than float16 holds with any
    precision.
    """
    graph = model.graph
    kept = {
        node.input[position]
        for node in graph.node
        for position in _KEEP_FLOAT.get(node.op_type, ())
        if position < len(node.input) and node.input[position]
    }
    for tensor in graph.initializer:
        if tensor.name not in kept:
            _halve(tensor)
    for node in graph.node:
        if kept.isdisjoint(node.output):
            _halve_attributes(node)
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            halved = f'{value.name}_half'
            for node in graph.node:
                _rename_input(node, value.name, halved)
            graph.node.insert(
                0, helper.make_node('Cast', [value.name], [halved], to=TensorProto.FLOAT16)
            )
    del graph.value_info[:]


def _fold_constants(graph: onnx.GraphProto) -> None:
    """Replace weights that are cast before use, as exports keep them, by the cast weights.

    Single numbers that are quantized become plain ones: TensorRT takes bounds only so.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        if not node.input or node.input[0] not in constants:
            continue
        first, *others = (
            numpy_helper.to_array(constants[name]) for name in node.input if name in constants
        )
        if node.op_type == 'Cast':
            (wanted,) = (attribute.i for attribute in node.attribute if attribute.name == 'to')
            values = first.astype(helper.tensor_dtype_to_np_dtype(wanted))
        elif node.op_type == 'DequantizeLinear' and first.size == 1 and others:
            scale, *zero_point = (other.astype(np.float32) for other in others)
            values = (first.astype(np.float32) - sum(zero_point)) * scale
        else:
            continue
        graph.initializer.append(numpy_helper.from_array(np.asarray(values), node.output[0]))
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in list(graph.initializer):
        if tensor.name not in used:
            graph.initializer.remove(tensor)


def _halve(tensor: onnx.TensorProto) -> None:
    if tensor.data_type != TensorProto.FLOAT:
        return
    values = numpy_helper.to_array(tensor)
    finite = np.clip(values, -LARGEST_HALF, LARGEST_HALF)
    half = np.where(np.isfinite(values), finite, values).astype(np.float16)
    tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))


def _halve_attributes(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            _halve(attribute.t)
        elif node.op_type == 'Cast' and attribute.name == 'to':
            attribute.i = TensorProto.FLOAT16 if attribute.i == TensorProto.FLOAT else attribute.i


def _rename_input(node: onnx.NodeProto, old: str, new: str) -> None:
    for position, name in enumerate(node.input):
        if name == old:
            node.input[position] = new
