"""Somebody else's ONNX network, described by a few lines of YAML, in the shape of our own graph.

What is computed from the network's output equals `graph.py`, but for the up-sampling: pixel
centres on centres, as PyTorch does it unless told otherwise.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, compose, helper

from lwseg_ros.errors import LwsegError, ModelError
from lwseg_ros.inference.check_images import check_images, plain_images
from lwseg_ros.inference.external_builder import GraphBuilder
from lwseg_ros.inference.external_check import Shape, check_input, check_output
from lwseg_ros.inference.external_description import Description
from lwseg_ros.inference.external_ends import GraphEnds
from lwseg_ros.inference.external_file import load_onnx
from lwseg_ros.inference.external_run import Seen, observe
from lwseg_ros.inference.model_info import EXTERNAL, ModelInfo
from lwseg_ros.label_space import IGNORE_ID

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
    model = compose.add_prefix(load_onnx(path), 'external/')
    source = _single_input(path, model)
    output = _chosen_output(path, model, description)
    size, fixed = _input_size(path, source, description)
    ends = GraphEnds(model.graph)
    check_input(path, description, source, ends)

    builder = GraphBuilder(model)
    _feed(builder, source, description)
    builder.nodes.extend(model.graph.node)
    seen = _observed(model, builder, output.name, size, description)
    shape = tuple(_shape(output)) if seen is None else seen.shape
    check_output(path, description, ends, output.name, shape, seen)
    if description.kind == 'labels':
        labels = _labels(builder, path, output.name, shape, size, fixed)
        _answer_from_labels(builder, labels, description)
    else:
        logits, given = _logits(builder, path, output, shape, description)
        _check_extents(path, given, size)
        _answer_from_logits(
            builder,
            logits,
            upsample=not fixed or given != size,
            are_probabilities=description.kind == 'probabilities',
        )

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
    info = ModelInfo(
        name=description.name,
        network=EXTERNAL,
        label_space=space,
        input_size=size,
        mean=description.mean,
        std=description.std,
    )
    return info, _serialized(model, builder.nodes, inputs, outputs), fixed


def _observed(
    model: Any, builder: GraphBuilder, output: str, size: tuple[int, int], description: Description
) -> Seen | None:
    """Return what the network itself gives for test images, fed as the description says."""
    nodes = [*builder.nodes, helper.make_node('Cast', [output], ['raw'], to=TensorProto.FLOAT)]
    image = helper.make_tensor_value_info('image', TensorProto.UINT8, [1, *size, 3])
    raw = helper.make_tensor_value_info('raw', TensorProto.FLOAT, None)
    images = zip_longest(check_images(size), plain_images(size))
    graph = _serialized(model, nodes, [image], [raw])
    mixed = [image for pair in images for image in pair if image is not None]
    return observe(graph, mixed, description.class_axis)


def _serialized(model: Any, nodes: Any, inputs: Any, outputs: Any) -> bytes:
    """Return a model with the weights of this one."""
    graph = model.graph
    for field, values in (
        (graph.node, nodes),
        (graph.input, inputs),
        (graph.output, outputs),
        (graph.value_info, ()),
    ):
        del field[:]
        field.extend(values)
    model.ir_version = max(model.ir_version, _IR_VERSION)
    content: bytes = model.SerializeToString()
    return content


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


def _feed(builder: GraphBuilder, source: Any, description: Description) -> None:
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
    builder: GraphBuilder, path: Path, output: Any, shape: Shape, description: Description
) -> tuple[str, Shape]:
    """Return logits [N, C, h, w], and (h, w) as far as they are known."""
    add, constant = builder.add, builder.constant
    space = description.label_space
    squeezed = len(shape) == 3 and shape[0] in (1, None) and space.num_classes == 2
    if len(shape) != 4 and not squeezed:
        raise ModelError(
            f'{path} has an output {_plain(output.name)} {list(shape)}; {description.kind} have '
            'four dimensions'
        )
    logits = add('Cast', output.name, to=TensorProto.FLOAT)
    if squeezed:
        logits = add('Unsqueeze', logits, constant([1], np.int64))
        shape = (shape[0], 1, *shape[1:])
    planes, *others = shape[1], shape[3]
    if description.output_layout == 'nhwc' and not squeezed:
        logits = add('Transpose', logits, perm=[0, 3, 1, 2])
        planes, *others = shape[3], shape[1]
        shape = (shape[0], shape[3], shape[1], shape[2])
    single = planes == 1 and space.num_classes == 2
    if planes not in (None, space.num_classes) and not single:
        other = 'nchw' if description.output_layout == 'nhwc' else 'nhwc'
        hint = f': set output.layout: {other}' if others == [space.num_classes] else ''
        raise ModelError(
            f'{path} has an output of {planes} classes, but the label space {space.name} of '
            f'its description has {space.num_classes}{hint}'
        )
    if description.kind == 'probabilities':
        if single:
            logits = add('Concat', add('Sub', constant(1), logits), logits, axis=1)
        logits = add('Log', add('Clip', logits, constant(_LEAST_PROBABILITY), constant(1)))
    elif single:
        logits = add('Concat', add('Sub', logits, logits), logits, axis=1)
    return logits, (shape[2], shape[3])


def _labels(
    builder: GraphBuilder,
    path: Path,
    output: str,
    shape: Shape,
    size: tuple[int, int],
    fixed: bool,
) -> str:
    """Return labels of the image's size, as floats: 256 would be class 0 in 8 bits."""
    add, constant = builder.add, builder.constant
    labels = add('Cast', output, to=TensorProto.FLOAT)
    first = 1 if len(shape) > 2 else 0
    axes = [axis for axis in range(first, len(shape)) if shape[axis] != 1]
    given = tuple(shape[axis] for axis in axes)
    if len(axes) != 2:
        extents = [extent for extent in given if extent is not None]
        if extents and len(extents) == len(axes) and math.prod(extents) != math.prod(size):
            raise _unlike(path, given, size)
        return labels
    _check_extents(path, given, size)
    if fixed and given == size:
        return labels
    one = constant([1, 1], np.int64)
    plane = add('Reshape', labels, add('Concat', one, builder.extents(labels, *axes), axis=0))
    enlarged = add('Concat', one, builder.extents('image', 1, 2), axis=0)
    return add('Resize', plane, '', '', enlarged, mode='nearest')


def _check_extents(path: Path, given: Shape, size: tuple[int, int]) -> None:
    """ModelError unless an output has the shape of the image, be it smaller or larger."""
    rows, columns = given
    height, width = size
    if rows is None or columns is None:
        return
    if abs(rows - columns * height / width) > 1 and abs(columns - rows * width / height) > 1:
        raise _unlike(path, given, size)


def _unlike(path: Path, given: Shape, size: tuple[int, int]) -> ModelError:
    return ModelError(
        f'{path} gives {"x".join(map(str, given))} for an image of {size[0]}x{size[1]} (height x '
        'width), which is not its shape: look at output.layout, or export it again'
    )


def _answer_from_logits(
    builder: GraphBuilder, logits: str, upsample: bool, are_probabilities: bool
) -> None:
    """Do what the last half of `ImageToLabels.forward` does.

    Logits that are logarithms of probabilities stay these, where they do not add up to 1: those of
    a sigmoid for each class may all be low, and no class is sure then.
    """
    add, constant = builder.add, builder.constant
    zero, most, excluded = constant(0), constant(255), constant(_EXCLUDED)
    total = add('Abs', builder.over_classes('ReduceSum', logits))
    finite = add('Less', total, constant(_LARGEST_LOGIT_SUM))
    logits = add('Where', finite, logits, zero)

    top = builder.over_classes('ReduceMax', logits)
    others = builder.over_classes('ReduceSum', add('Exp', add('Sub', logits, top)))
    probability = add('Reciprocal', others)
    if are_probabilities:
        total = builder.over_classes('ReduceSum', add('Exp', logits))
        probability = add('Mul', probability, add('Min', total, constant(1)))
    probability = add('Where', finite, probability, constant(_BROKEN))
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


def _answer_from_labels(builder: GraphBuilder, labels: str, description: Description) -> None:
    """Take float labels of the image's size as certain; those of no class are unlabelled."""
    add, constant = builder.add, builder.constant
    classes = description.label_space.num_classes
    most = constant(255, np.uint8)
    shape = builder.extents('image', 0, 1, 2)
    # NaN is of no class.
    from_zero = add('Greater', labels, constant(-0.5))
    is_class = add('And', from_zero, add('Less', labels, constant(classes - 0.5)))
    known = add('Where', is_class, labels, constant(IGNORE_ID))
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
