"""Finding a model, shipped or of the user, and what a backend needs of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwseg_ros.errors import ModelError
from lwseg_ros.files import sha256
from lwseg_ros.inference.model_file import (
    METADATA_KEY,
    has_external_weights,
    model_kind,
    read_metadata,
    read_model_info,
)
from lwseg_ros.inference.model_info import ModelInfo

_SHIPPED = Path(__file__).resolve().parents[1] / 'models'


def list_models() -> list[str]:
    """Return the names of the shipped models."""
    found = {path.stem for kind in ('onnx', 'safetensors') for path in _SHIPPED.glob(f'*.{kind}')}
    return sorted(found)


def is_shipped(name_or_path: str | os.PathLike[str]) -> bool:
    """Tell whether it is the name of a shipped model and not a path."""
    name = os.fspath(name_or_path)
    return os.sep not in name and not Path(name).suffix and name in list_models()


def resolve_model(name_or_path: str | os.PathLike[str], suffix: str = '.onnx') -> Path:
    """Return the file of a shipped model by its name, or the given path.

    `suffix` says which form of a shipped model is wanted, `.onnx` or `.safetensors`.
    """
    name = os.fspath(name_or_path)
    if is_shipped(name):
        path = _SHIPPED / f'{name}{suffix}'
        if not path.is_file():
            raise ModelError(f'the shipped model {name!r} has no {suffix} file')
        return path
    path = Path(os.path.expanduser(name))
    if not os.path.exists(path):
        shipped = ', '.join(list_models()) or 'none'
        raise ModelError(
            f'there is no model {name!r}: give the path of an .onnx or .safetensors file or the '
            f'name of a shipped model ({shipped})'
        )
    if not path.is_file():
        raise ModelError(f'{path} is not a file: give an .onnx or .safetensors model')
    return path


@dataclass(frozen=True)
class ModelSource:
    """A model ready for a backend: what it says of itself and its forms.

    `onnx` is the path or the bytes of a graph with the inputs and outputs of `graph.py`,
    `safetensors` the path of the weights; at least one is there. A model of `fixed_size` runs at
    `info.input_size` only.
    """

    path: Path
    info: ModelInfo
    onnx: Path | bytes | None = None
    safetensors: Path | None = None
    fixed_size: bool = False


def find_model(
    name_or_path: str | os.PathLike[str], description: str | os.PathLike[str] | None = None
) -> ModelSource:
    """Find a shipped model by its name, or any model file by its path, and read its metadata.

    An ONNX file of somebody else needs a description, a YAML file: the given one, else the one
    of the same name beside the model.
    """
    path = resolve_model(name_or_path)
    if path.parent == _SHIPPED and description is None:
        weights = path.with_suffix('.safetensors')
        return ModelSource(
            path, read_model_info(path), path, weights if weights.is_file() else None
        )
    kind, metadata = model_kind(path), read_metadata(path)
    beside = path.with_suffix('.yaml')
    if description is None and METADATA_KEY not in metadata and beside.is_file():
        description = beside
    if description is not None and kind == 'onnx':
        info, graph, fixed_size = _wrap(path, Path(description))
        return ModelSource(path, info, onnx=graph, fixed_size=fixed_size)
    if kind == 'safetensors':
        return ModelSource(path, read_model_info(path), safetensors=path)
    if METADATA_KEY in metadata and has_external_weights(path):
        raise ModelError(f'{path} keeps its weights in other files; a model is one file')
    return ModelSource(path, read_model_info(path), onnx=path)


def _wrap(path: Path, description: Path) -> tuple[ModelInfo, bytes, bool]:
    try:
        from lwseg_ros.inference.external_onnx import wrap_external
    except ModuleNotFoundError as error:
        raise ModelError(
            'a model that was not made by lwseg needs the onnx package: pip install onnx'
        ) from error
    return wrap_external(path, description)


def summarize_model(
    name_or_path: str | os.PathLike[str], description: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Return what is known of a model without running it, JSON-able: file, SHA-256, metadata."""
    source = find_model(name_or_path, description)
    return {
        'file': str(source.path),
        'kind': model_kind(source.path),
        'bytes': source.path.stat().st_size,
        'sha256': sha256(source.path),
        'made_by_lwseg': isinstance(source.onnx, Path) or source.safetensors is not None,
        **source.info.to_dict(),
    }
