"""Somebody else's ONNX network, described by a few lines of YAML, in the shape of our own graph.

What is computed from the network's output equals `graph.py`, but for the up-sampling: pixel
centres on centres, as PyTorch does it unless told otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lwseg_ros.errors import LwsegError, ModelError
from lwseg_ros.inference.external_description import Description
from lwseg_ros.inference.model_info import EXTERNAL, ModelInfo
from lwseg_ros.label_space import IGNORE_ID

try:
    import onnx
    from onnx import (
        TensorProto,
        compose,
        external_data_helper,
        helper,
        numpy_helper,
        shape_inference,
        version_converter,
    )
except ModuleNotFoundError as error:
    raise ModelError(
        'a model that was not made by lwseg needs the onnx package: pip install onnx'
    ) from error

_OLDEST_OPSET = 13
_IR_VERSION = 8
# As in graph.py.
_EXCLUDED = -1e4
_BROKEN = -1e4
_LARGEST_LOGIT_SUM = 1e30
_LEAST_PROBABILITY = 1e-30


def wrap_external(path: Path, description_path: Path) -> tuple[ModelInfo, bytes, bool]:
    """Return the metadata and the ONNX graph, in the shape of `graph.py`, of a described model.

    The third value says whether the model runs at its own size only. ModelError if the file or
    its description cannot be used, or they do not fit each other.
    """
    description = Description.load(description_path)
    try:
        info, graph, fixed = _wrap(path, description)
    except LwsegError:
        raise
    except Exception as error:  # protobuf and the onnx library raise many kinds
        reason = ' '.join(str(error).split())[:300]
        raise ModelError(f'{path} cannot be used: {type(error).__name__}: {reason}') from None
    return replace(info, provenance={'description': description_path.name}), graph, fixed


def _wrap(path: Path, description: Description) -> tuple[ModelInfo, bytes, bool]:
    model = compose.add_prefix(_load(path), 'external/')
    source = _single_input(path, model)
    output = _chosen_output(path, model, description)
    size, fixed = _input_size(path, source, description)

    builder = _Builder(model)
    _feed(builder, source, description)
    builder.nodes.extend(model.graph.node)
    if description.kind == 'labels':
        _answer_from_labels(builder, output.name, description)
    else:
        logits, given = _logits(builder, path, output, description)
        _answer_from_logits(builder, logits, upsample=not fixed or given != size)

    space = description.label_space
    extents = ['batch', *(size if fixed else ('height', 'width'))]
    inputs = (
        helper.make_tensor_value_info('image', TensorProto.UINT8, [*extents, 3]),
        helper.make_tensor_value_info('drivable_classes', TensorProto.FLOAT, [space.num_classes]),
    )
    outputs = (
        helper.make_tensor_value_info(name, TensorProto.UINT8, extents)
        for name in ('labels', 'confidence', 'drivable')
    )
    graph = model.graph
    for field, content in (
        (graph.node, builder.nodes),
        (graph.input, inputs),
        (graph.output, outputs),
        (graph.value_info, ()),
    ):
        del field[:]
        field.extend(content)
    model.ir_version = max(model.ir_version, _IR_VERSION)
    info = ModelInfo(
        name=description.name,
        network=EXTERNAL,
        label_space=space,
        input_size=size,
        mean=description.mean,
        std=description.std,
    )
    return info, model.SerializeToString(), fixed


def _load(path: Path) -> Any:
    """Read an ONNX file, with external data from its own folder only, at a usable opset."""
    model = onnx.load(str(path), load_external_data=False)
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            _take_in(tensor, path)
    if _opset(model) < _OLDEST_OPSET:
        model = version_converter.convert_version(model, _OLDEST_OPSET)
    return shape_inference.infer_shapes(model)


def _take_in(tensor: Any, path: Path) -> None:
    """Read the external data of a tensor, from a file in the folder of the model only."""
    folder = path.parent.resolve()
    location = {e.key: e.value for e in tensor.external_data}.get('location', '')
    refusal = ModelError(
        f'{path} wants its weights from {location!r}, which is not a file in its own folder: put '
        'the data beside the model'
    )
    try:
        data = (folder / location).resolve()
    except (OSError, RuntimeError, ValueError):  # too long, a circle of links, a null byte
        raise refusal from None
    if not data.is_relative_to(folder) or not os.path.isfile(data):
        raise refusal
    try:
        external_data_helper.load_external_data_for_tensor(tensor, str(folder))
    except Exception as error:  # of its own, for links and offsets
        raise ModelError(f'{path} cannot take its weights from {location!r}: {error}') from None
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def _tensors(message: Any) -> Iterator[Any]:
    """Go through all tensors in an ONNX message, wherever in it."""
    if isinstance(message, TensorProto):
        yield message
        return
    for field, content in message.ListFields():
        if field.message_type is not None:
            for part in [content] if hasattr(content, 'ListFields') else content:
                yield from _tensors(part)


def _opset(model: Any) -> int:
    return max((o.version for o in model.opset_import if o.domain in ('', 'ai.onnx')), default=0)


def _single_input(path: Path, model: Any) -> Any:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1 or len(_shape(inputs[0])) != 4:
        found = ', '.join(f'{_plain(v.name)} {_shape(v)}' for v in inputs)
        raise ModelError(f'{path} must have one image input of four dimensions, but has {found}')
    return inputs[0]


def _chosen_output(path: Path, model: Any, description: Description) -> Any:
    outputs = {_plain(value.name): value for value in model.graph.output}
    if description.output is None and len(outputs) == 1:
        return next(iter(outputs.values()))
    if description.output not in outputs:
        what = 'no output' if description.output is None else f'the output {description.output!r}'
        raise ModelError(
            f'{path} has the outputs {", ".join(outputs)}, its description names {what}: '
            'set output.name'
        )
    return outputs[description.output]


def _input_size(path: Path, source: Any, description: Description) -> tuple[tuple[int, int], bool]:
    batch, *extents = _shape(source)
    channels = extents.pop(0 if description.input_layout == 'nchw' else 2)
    if channels not in (3, None) or batch not in (1, None):
        raise ModelError(
            f'{path} has an input {_shape(source)}; a batch of 1 and 3 channels are wanted '
            f'(layout {description.input_layout})'
        )
    height, width = extents
    if height is not None and width is not None:
        own = (height, width)
        if description.size not in (None, own):
            raise ModelError(f'{path} runs at {own} (height, width) only, not {description.size}')
        return own, True
    if description.size is None:
        raise ModelError(f'{path} leaves its input size open: set input.size: [height, width]')
    return description.size, False


class _Builder:
    """Collects the nodes around a model; each method returns the name of its result."""

    def __init__(self, model: Any) -> None:
        self._weights = model.graph.initializer
        self._opset = _opset(model)
        self.nodes: list[Any] = []

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f'constant_{len(self._weights)}'
        self._weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, kind: str, *inputs: str, output: str = '', **attributes: Any) -> str:
        output = output or f'{kind.lower()}_{len(self.nodes)}'
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def over_classes(self, kind: str, planes: str) -> str:
        """Reduce over axis 1; ReduceMax takes its axes as an input from opset 18 on."""
        if kind == 'ReduceMax' and self._opset < 18:
            return self.add(kind, planes, axes=[1], keepdims=1)
        return self.add(kind, planes, self.constant([1], np.int64), keepdims=1)

    def extents(self, tensor: str, *axes: int) -> str:
        """Return the extents of a tensor along some axes."""
        return self.add('Gather', self.add('Shape', tensor), self.constant(axes, np.int64))

    def upsample(self, planes: str) -> str:
        """Return [N, C, h, w] at the size of the image."""
        size = self.add('Concat', self.extents(planes, 0, 1), self.extents('image', 1, 2), axis=0)
        return self.add('Resize', planes, '', '', size, mode='linear')

    def is_drivable(self, vector: str, labels: str) -> str:
        return self.add('Greater', self.add('Gather', vector, labels), self.constant(0.5))


def _feed(builder: _Builder, source: Any, description: Description) -> None:
    """Turn the image uint8 [N, h, w, 3] RGB into the network's input."""
    add, constant = builder.add, builder.constant
    std = np.array(description.std)
    pixels = add('Cast', 'image', to=TensorProto.FLOAT)
    if description.color == 'bgr':
        pixels = add('Gather', pixels, constant([2, 1, 0], np.int64), axis=3)
    pixels = add('Mul', pixels, constant(description.scale / std))
    pixels = add('Sub', pixels, constant(np.array(description.mean) / std))
    if description.input_layout == 'nchw':
        pixels = add('Transpose', pixels, perm=[0, 3, 1, 2])
    add('Cast', pixels, output=source.name, to=source.type.tensor_type.elem_type)


def _logits(
    builder: _Builder, path: Path, output: Any, description: Description
) -> tuple[str, tuple[int | None, ...]]:
    """Return logits [N, C, h, w], and (h, w) as far as they are known."""
    add, constant = builder.add, builder.constant
    space, shape = description.label_space, _shape(output)
    if len(shape) != 4:
        raise ModelError(
            f'{path} has an output {_plain(output.name)} {shape}; {description.kind} have four '
            'dimensions'
        )
    logits = add('Cast', output.name, to=TensorProto.FLOAT)
    if description.output_layout == 'nhwc':
        logits = add('Transpose', logits, perm=[0, 3, 1, 2])
        shape = [shape[0], shape[3], shape[1], shape[2]]
    single = shape[1] == 1 and space.num_classes == 2
    if shape[1] not in (None, space.num_classes) and not single:
        raise ModelError(
            f'{path} has an output of {shape[1]} classes, but the label space {space.name} of '
            f'its description has {space.num_classes}'
        )
    if description.kind == 'probabilities':
        if single:
            logits = add('Concat', add('Sub', constant(1), logits), logits, axis=1)
        logits = add('Log', add('Clip', logits, constant(_LEAST_PROBABILITY), constant(1)))
    elif single:
        logits = add('Concat', add('Sub', logits, logits), logits, axis=1)
    return logits, (shape[2], shape[3])


def _answer_from_logits(builder: _Builder, logits: str, upsample: bool) -> None:
    """Do what the last half of `ImageToLabels.forward` does."""
    add, constant = builder.add, builder.constant
    zero, most, excluded = constant(0), constant(255), constant(_EXCLUDED)
    total = add('Abs', builder.over_classes('ReduceSum', logits))
    finite = add('Less', total, constant(_LARGEST_LOGIT_SUM))
    logits = add('Where', finite, logits, zero)

    top = builder.over_classes('ReduceMax', logits)
    others = builder.over_classes('ReduceSum', add('Exp', add('Sub', logits, top)))
    probability = add('Where', finite, add('Reciprocal', others), constant(_BROKEN))
    vector = add('Reshape', 'drivable_classes', constant([1, -1, 1, 1], np.int64))
    counts = add('Greater', vector, constant(0.5))
    best_drivable = builder.over_classes('ReduceMax', add('Where', counts, logits, excluded))
    best_other = builder.over_classes('ReduceMax', add('Where', counts, excluded, logits))
    margin = add('Sub', best_drivable, best_other)

    if upsample:
        logits, probability, margin = map(builder.upsample, (logits, probability, margin))
    labels = add('ArgMax', logits, axis=1, keepdims=0)
    plane = constant([1], np.int64)
    probability, margin = add('Squeeze', probability, plane), add('Squeeze', margin, plane)

    valid = add('Greater', probability, zero)
    sure = add('Round', add('Mul', probability, most))
    confidence = add('Where', valid, add('Clip', sure, constant(1), most), zero)
    is_drivable = builder.is_drivable('drivable_classes', labels)
    lead = add('Relu', add('Where', is_drivable, margin, add('Neg', margin)))
    strength = add('Round', add('Mul', add('Sigmoid', lead), most))
    strength = add('Clip', strength, constant(128), most)
    score = add('Where', is_drivable, strength, add('Sub', most, strength))
    drivable = add('Where', valid, score, zero)
    for result, name in ((labels, 'labels'), (confidence, 'confidence'), (drivable, 'drivable')):
        add('Cast', result, output=name, to=TensorProto.UINT8)


def _answer_from_labels(builder: _Builder, labels: str, description: Description) -> None:
    """Take ready labels at the image's size as certain; those of no class are unlabelled."""
    add, constant = builder.add, builder.constant
    classes = description.label_space.num_classes
    most = constant(255, np.uint8)
    shape = builder.extents('image', 0, 1, 2)
    # As floats: 256 would be class 0 in 8 bits, and NaN is of no class.
    values = add('Cast', labels, to=TensorProto.FLOAT)
    from_zero = add('Greater', values, constant(-0.5))
    is_class = add('And', from_zero, add('Less', values, constant(classes - 0.5)))
    known = add('Where', is_class, values, constant(IGNORE_ID))
    add('Reshape', add('Cast', known, to=TensorProto.UINT8), shape, output='labels')
    unused = constant(np.zeros(256 - classes))
    vector = add('Concat', 'drivable_classes', unused, axis=0)
    is_drivable = builder.is_drivable(vector, add('Cast', 'labels', to=TensorProto.INT64))
    add('Expand', most, shape, output='confidence')
    add('Where', is_drivable, most, constant(0, np.uint8), output='drivable')


def _shape(value: Any) -> list[int | None]:
    """Return the extents of an input or output, None where they are open."""
    extents = value.type.tensor_type.shape.dim
    return [e.dim_value if e.HasField('dim_value') and e.dim_value > 0 else None for e in extents]


def _plain(name: str) -> str:
    return name.split('/', 1)[1] if name.startswith('external/') else name
