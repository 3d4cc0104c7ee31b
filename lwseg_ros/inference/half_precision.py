"""ONNX graphs prepared for an engine: of one fixed shape, and on demand in half precision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from lwseg_ros.inference.model_file import IN_FLOAT32

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


def with_outputs(content: bytes, names: Sequence[str]) -> bytes:
    """Return a model with these outputs alone, and without what only others need."""
    model = onnx.load_model_from_string(content)
    graph = model.graph
    unwanted = [value for value in graph.output if value.name not in names]
    if not unwanted:
        return content
    for value in unwanted:
        graph.output.remove(value)
    used = {value.name for value in graph.output}
    for node in reversed(list(graph.node)):
        if used.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            used.update(node.input)
    return bytes(model.SerializeToString())


def to_half(model: onnx.ModelProto) -> None:
    """Compute in float16 what the graph computes in float32, in place.

    Nodes that are named so (`IN_FLOAT32`) stay as they are, between casts. Inputs and outputs keep
    their types. Constants beyond float16 become its largest number: ours
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
    floats = _float_tensors(model) - kept
    exact = {value.name for value in graph.input}
    exact.update(name for node in graph.node if _in_float32(node) for name in node.output)
    for tensor in list(graph.initializer):
        users = {_in_float32(node) for node in graph.node if tensor.name in node.input}
        if tensor.name not in kept and users == {True, False}:
            copy = graph.initializer.add()
            copy.CopyFrom(tensor)
            copy.name = f'{tensor.name}_float'
            for node in filter(_in_float32, graph.node):
                _rename_input(node, tensor.name, copy.name)
        if tensor.name not in kept and False in users:
            _halve(tensor)
        else:
            floats.discard(tensor.name)
    for node in graph.node:
        if kept.isdisjoint(node.output) and not _in_float32(node):
            _halve_attributes(node)
    _cast_between(graph, floats, exact)
    del graph.value_info[:]


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    graph = shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    found = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    return found | {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT}


def _in_float32(node: onnx.NodeProto) -> bool:
    return str(node.name).startswith(IN_FLOAT32)


def _cast_between(graph: onnx.GraphProto, floats: set[str], exact: set[str]) -> None:
    """Cast the tensors `floats`, of which `exact` are float32, where their users differ."""
    nodes: list[onnx.NodeProto] = []
    casts: set[str] = set()
    for node in graph.node:
        kind = 'float' if _in_float32(node) else 'half'
        for position, name in enumerate(node.input):
            if name in floats and (name in exact) != _in_float32(node):
                cast = f'{name}_{kind}'
                if cast not in casts:
                    to = TensorProto.FLOAT if kind == 'float' else TensorProto.FLOAT16
                    nodes.append(helper.make_node('Cast', [name], [cast], cast, to=to))
                    casts.add(cast)
                node.input[position] = cast
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


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
