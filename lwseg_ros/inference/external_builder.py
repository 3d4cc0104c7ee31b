"""Adding nodes to somebody else's ONNX graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from lwseg_ros.inference.external_file import opset


class GraphBuilder:
    """Collects the nodes around a model; each method returns the name of its result."""

    def __init__(self, model: Any) -> None:
        self._weights = model.graph.initializer
        self._opset = opset(model)
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
