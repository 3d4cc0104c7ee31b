"""Reading somebody else's ONNX file: the whole of it, and nothing else that is on the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, external_data_helper, shape_inference, version_converter

from lwseg_ros.errors import ModelError

_OLDEST_OPSET = 13


def load_onnx(path: Path) -> Any:
    """Read an ONNX file, with external data from its own folder only, at a usable opset.

    The shapes of what its operators give are in it, as far as they can be told.
    """
    model = onnx.load(str(path), load_external_data=False)
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            _take_in(tensor, path)
    if opset(model) < _OLDEST_OPSET:
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


def opset(model: Any) -> int:
    """Return the version of the standard operators in a model."""
    return max((o.version for o in model.opset_import if o.domain in ('', 'ai.onnx')), default=0)
