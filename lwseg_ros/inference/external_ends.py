"""What the operators at the two ends of an ONNX graph tell of what goes in and what comes out."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

PROBABILITIES, LABELS, OTHER = 'probabilities', 'labels', 'other'

_TO_PROBABILITIES = {
    *('Softmax', 'Sigmoid', 'HardSigmoid', 'OneHot', 'QLinearSoftmax', 'QLinearSigmoid'),
}
_TO_LABELS = {
    *('ArgMax', 'ArgMin', 'Greater', 'GreaterOrEqual', 'Less', 'LessOrEqual', 'Equal'),
    *('Not', 'And', 'Or'),
}
_ROUNDING = {'Round', 'Floor', 'Ceil'}
_RENAMING = {'Identity', 'Cast', 'CastLike', 'Dropout'}
# What these give holds values of their first input, or means of them.
_PASSING = {
    *_RENAMING,
    *('Resize', 'Upsample', 'Transpose', 'Reshape', 'Squeeze', 'Unsqueeze', 'Flatten', 'Expand'),
    *('Slice', 'Gather', 'Split', 'Pad', 'Tile', 'DepthToSpace', 'SpaceToDepth', 'TopK'),
    *('Clip', 'Relu', 'Neg', 'AveragePool', 'MaxPool', 'QuantizeLinear', 'DequantizeLinear'),
}
_JOINING = {'Add', 'Sub', 'Mul', 'Div', 'Max', 'Min', 'Mean', 'Sum', 'Where', 'Concat'}
_ARITHMETIC = {'Add': np.add, 'Sub': np.subtract, 'Mul': np.multiply, 'Div': np.divide}

Range = tuple[NDArray[np.float64], NDArray[np.float64]]


class GraphEnds:
    """The two ends of an ONNX graph (an `onnx.GraphProto`)."""

    def __init__(self, graph: Any) -> None:
        place = {name: i for i, node in enumerate(graph.node) for name in node.output}
        self._makers: dict[str, Any] = {}
        self._users: dict[str, list[Any]] = defaultdict(list)
        for i, node in enumerate(graph.node):
            if any(place.get(name, -1) >= i for name in node.input):
                continue  # a damaged graph may run in a circle
            self._makers.update((name, node) for name in node.output if name)
            for name in node.input:
                self._users[name].append(node)
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        values = (*graph.input, *graph.value_info)
        self._shapes = {value.name: value.type.tensor_type.shape.dim for value in values}
        self._known: dict[str, set[str]] = {}

    def output_kind(self, name: str) -> str:
        """Return what the last operators make: probabilities, labels, or other, which is anything.

        `name` is of an output. Operators that only reshape, resize, scale or join are passed over.
        """
        kinds = self._kinds(name)
        return kinds.pop() if len(kinds) == 1 else OTHER

    def is_softmax_of_one(self, name: str) -> bool:
        """Tell whether an output is a softmax over one value, which is always 1."""
        node = self._makers.get(name)
        while node is not None and node.op_type in _PASSING:
            node = self._makers.get(node.input[0])
        if node is None or node.op_type != 'Softmax':
            return False
        shape = self._shapes.get(node.input[0], ())
        axis = next((a.i for a in node.attribute if a.name == 'axis'), -1)
        return -len(shape) <= axis < len(shape) and shape[axis].dim_value == 1

    def input_range(self, name: str, low: Any, high: Any) -> Range:
        """Follow a range of the input through what first changes all its pixels alike.

        `low` and `high` are a black and a white pixel, float64 `[3]`, as fed to the input `name`.
        """
        while (node := self._only_user(name)) is not None:
            if node.op_type == 'BatchNormalization':
                # What it is trained to see is what it normalises; what it then learnt is its own.
                mean, variance = (self._constant(part) for part in node.input[3:5])
                if mean is None or variance is None:
                    break
                deviation = np.sqrt(variance + 1e-5)
                return (low - mean) / deviation, (high - mean) / deviation
            if node.op_type in _ARITHMETIC:
                values = [self._constant(part) for part in node.input]
                if all(value is None for value in values):
                    break
                low, high = (
                    _ARITHMETIC[node.op_type](*(end if v is None else v for v in values))
                    for end in (low, high)
                )
            elif node.op_type not in {*_RENAMING, 'Transpose'}:
                break
            name = node.output[0]
        return low, high

    def _only_user(self, name: str) -> Any:
        users = [node for node in self._users[name] if node.op_type != 'Shape']
        return users[0] if len(users) == 1 else None

    def _constant(self, name: str) -> NDArray[np.float64] | None:
        """Return a constant of one value or of one a channel, float64 `[1]` or `[3]`."""
        tensor, node = self._weights.get(name), self._makers.get(name)
        if node is not None and node.op_type == 'Constant':
            tensor = helper.get_attribute_value(node.attribute[0])
        if tensor is None or (node is not None and node.op_type != 'Constant'):
            return None
        values = tensor if not hasattr(tensor, 'data_type') else numpy_helper.to_array(tensor)
        values = np.asarray(values, np.float64).reshape(-1)
        return values if values.size in (1, 3) else None

    def _kinds(self, name: str) -> set[str]:
        """Return the kinds of values that are in a tensor, nothing for a constant."""
        if name not in self._known:
            self._known[name] = self._kinds_made(name)
        return set(self._known[name])

    def _kinds_made(self, name: str) -> set[str]:
        node = self._makers.get(name)
        if node is None:
            return set() if name in self._weights else {OTHER}
        kind = node.op_type
        if kind == 'Constant':
            return set()
        if kind in _TO_PROBABILITIES or self._is_softmax(node) or self._is_sigmoid(node):
            return {PROBABILITIES}
        if kind in _TO_LABELS or (kind == 'TopK' and name == node.output[-1]):
            return {LABELS}
        if kind in _ROUNDING:
            rounded = self._kinds(node.input[0])
            return {LABELS} if rounded == {PROBABILITIES} else rounded
        if kind in _PASSING:
            return self._kinds(node.input[0])
        if kind in _JOINING:
            return set().union(*(self._kinds(part) for part in node.input if part))
        return {OTHER}

    def _is_softmax(self, node: Any) -> bool:
        """Recognise exp(x) / sum(exp(x)), and exp of a log-softmax."""
        if node.op_type == 'Exp':
            inner = self._maker(node.input[0])
            return inner is not None and (
                inner.op_type == 'LogSoftmax'
                or (inner.op_type == 'Sub' and self._made_by(inner.input[1], 'ReduceLogSumExp'))
                or (inner.op_type == 'Sub' and self._made_by(inner.input[1], 'Log'))
            )
        share, total = self._quotient(node)
        if share is None or (sum_ := self._maker(total)) is None:
            return False
        return sum_.op_type in ('ReduceSum', 'ReduceL1') and self._origin(
            sum_.input[0]
        ) == self._origin(share)

    def _is_sigmoid(self, node: Any) -> bool:
        """Recognise 1 / (1 + exp(-x)) and exp(x) / (1 + exp(x))."""
        share, total = self._quotient(node)
        if total is None or not self._made_by(total, 'Add'):
            return False
        parts = self._maker(total).input
        is_one = [self._constant(part) is not None for part in parts]
        is_exp = [self._made_by(part, 'Exp') for part in parts]
        above = share is None or self._constant(share) is not None or self._made_by(share, 'Exp')
        return above and any(is_one) and any(is_exp)

    def _quotient(self, node: Any) -> tuple[Any, Any]:
        """Return the names of what is divided, None for 1, and by what; None if it is neither."""
        if node.op_type == 'Div':
            return node.input[0], node.input[1]
        if node.op_type == 'Reciprocal':
            return None, node.input[0]
        if node.op_type == 'Mul':
            for part, other in (node.input, reversed(node.input)):
                if self._made_by(other, 'Reciprocal'):
                    return part, self._maker(other).input[0]
        return None, None

    def _made_by(self, name: str, kind: str) -> bool:
        maker = self._maker(name)
        return maker is not None and maker.op_type == kind

    def _maker(self, name: str) -> Any:
        """Return the node that computes a tensor, past what only renames it."""
        return self._makers.get(self._origin(name))

    def _origin(self, name: str) -> str:
        while (node := self._makers.get(name)) is not None and node.op_type in _RENAMING:
            name = node.input[0]
        return name
