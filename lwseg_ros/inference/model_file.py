"""A model is ONE file, ONNX or safetensors, whose metadata says everything about it.

The metadata is one JSON text under the key `lwseg`, in ONNX `metadata_props` or in the safetensors
header. Reading it needs neither onnx nor PyTorch nor a runtime, and never unpickles anything.

Beside it, under `lwseg_sha256`, stands the SHA-256 of the file with that digest's digits as zeros:
a damaged model is refused before a runtime's own reader meets it, which may crash on it, or worse,
answer otherwise. Files of somebody else have no digest and are not checked so.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lwseg_ros.errors import ModelError
from lwseg_ros.files import write_atomically
from lwseg_ros.inference.model_info import ModelInfo
from lwseg_ros.plain_data import NOT_AS_WANTED, parse_json

METADATA_KEY = 'lwseg'
DIGEST_KEY = 'lwseg_sha256'
ZERO_POINT = 'activation_zero_point'
"""The name that the zero point of all activations of an int8 model has in its graph."""
EMBEDDING = 'embedding'
FURTHER_OUTPUTS = (EMBEDDING, 'depth', 'normals')
"""The names of the graph's outputs that a backend leaves out unless it is asked for them."""
IN_FLOAT32 = 'float32.'
"""How the names of a graph's nodes begin that compute in float32 in every precision."""
_MAX_METADATA_BYTES = 10_000_000  # our choice: some thousand times what a model says
_NO_DIGEST = 'sha256:' + 64 * '0'
_PICKLE = (
    'a PyTorch checkpoint, which can hold code and is never loaded; give an ONNX or safetensors '
    'model, made from a training checkpoint by `lwseg export`'
)
_OTHER_KINDS = (
    (b'PK\x03\x04', _PICKLE),
    (b'\x80\x02', _PICKLE),
    (b'\x80\x03', _PICKLE),
    (b'\x80\x04', _PICKLE),
    (b'\x80\x05', _PICKLE),
    (b'ftrt', 'a TensorRT engine, which runs on one GPU only; give the ONNX model it came from'),
    (b'version https://git-lfs', 'a Git LFS pointer, not the model itself; run `git lfs pull`'),
    (b'<', 'XML or HTML; give an ONNX or safetensors model'),
    (b'\x1f\x8b', 'a compressed archive; unpack it first'),
)


def model_kind(path: Path) -> str:
    """Return 'onnx' or 'safetensors' by the file's content; ModelError for anything else."""
    return _read(path)[0]


def read_metadata(path: Path) -> dict[str, str]:
    """Return all metadata of an ONNX or safetensors file.

    ModelError if the file is missing, truncated or of another kind.
    """
    return _read(path)[1]


def read_model_info(path: str | os.PathLike[str]) -> ModelInfo:
    """Return what a model file made by lwseg says of itself; ModelError if it is not one."""
    path = Path(path)
    kind, metadata = _read(path)
    if METADATA_KEY not in metadata:
        remedy = (
            f'describe its classes, input and output in {path.with_suffix(".yaml").name} beside '
            'it, or in any file given as its description'
            if kind == 'onnx'
            else 'only safetensors files written by lwseg can be used'
        )
        raise ModelError(f'{path} was not made by lwseg (no lwseg metadata): {remedy}')
    if DIGEST_KEY in metadata:
        _check_digest(path, metadata[DIGEST_KEY])
    return ModelInfo.from_json(metadata[METADATA_KEY], str(path))


def model_metadata(info: ModelInfo) -> dict[str, str]:
    """Return the metadata of a new model file, to be written by `write_model`."""
    return {METADATA_KEY: info.to_json(), DIGEST_KEY: _NO_DIGEST}


def write_model(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a model file with its digest in it; it appears complete or not at all."""
    write_atomically(path, content.replace(_NO_DIGEST.encode(), _digest(content), 1))


def _digest(content: bytes) -> bytes:
    return b'sha256:' + hashlib.sha256(content).hexdigest().encode()


def _check_digest(path: Path, digest: str) -> None:
    """ModelError unless the file is the one that was written."""
    written = digest.encode(errors='replace')
    if _digest(path.read_bytes().replace(written, _NO_DIGEST.encode(), 1)) != written:
        raise ModelError(
            f'model file {path} is damaged or was changed by another tool (its content is not '
            f'what its SHA-256 says): copy or export it again, or remove {DIGEST_KEY} from its '
            'metadata if the change is yours'
        )


def _read(path: Path) -> tuple[str, dict[str, str]]:
    try:
        with path.open('rb') as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(32)
            file.seek(0)
            return _read_open(path, file, size, start)
    except FileNotFoundError:
        raise ModelError(f'there is no model file {path}') from None
    except OSError as error:
        raise ModelError(f'model file {path} cannot be read: {error.strerror}') from None


def _read_open(path: Path, file: BinaryIO, size: int, start: bytes) -> tuple[str, dict[str, str]]:
    if not size:
        raise ModelError(f'model file {path} is empty: copy or export it again')
    for magic, what in _OTHER_KINDS:
        if start.startswith(magic):
            raise ModelError(f'{path} is {what}')
    try:
        if start[8:9] == b'{':
            return 'safetensors', _safetensors_metadata(file, size)
        if start[:1] == b'\x08':
            return 'onnx', _onnx_metadata(file, size)
    except _TruncatedError as error:
        raise _damaged(path, error) from None
    raise ModelError(f'{path} is not a model: give an ONNX or safetensors file')


class _TruncatedError(Exception):
    """The file ends before its own lengths say it should, or they make no sense."""


def _damaged(path: Path, error: _TruncatedError) -> ModelError:
    return ModelError(
        f'model file {path} is truncated or damaged ({error}): copy or export it again'
    )


def _safetensors_metadata(file: BinaryIO, size: int) -> dict[str, str]:
    length = int.from_bytes(file.read(8), 'little')
    if length > min(size - 8, _MAX_METADATA_BYTES):
        raise _TruncatedError(f'a header of {length} bytes in a file of {size}')
    try:
        header = parse_json(file.read(length))
        metadata = header.pop('__metadata__', {})
        texts = {str(key): str(value) for key, value in metadata.items()}
        offsets = sorted(tuple(map(int, tensor['data_offsets'])) for tensor in header.values())
    except NOT_AS_WANTED:
        raise _TruncatedError('its header is not a safetensors header') from None
    end = 0
    for offset in offsets:
        if len(offset) != 2 or not 0 <= end == offset[0] <= offset[1]:
            raise _TruncatedError('its tensors overlap or leave gaps')
        end = offset[1]
    if 8 + length + end != size:
        raise _TruncatedError(f'{size} bytes, its header tells of {8 + length + end}')
    return texts


# Field numbers in onnx.proto: of ModelProto, of StringStringEntryProto, and in each message those
# that lead to the external data of a tensor.
_GRAPH, _METADATA_PROPS = 7, 14
_KEY, _VALUE = 1, 2
_MAX_DEPTH = 100
_MESSAGES: dict[str, dict[int, str]] = {
    'model': {_GRAPH: 'graph', 25: 'function'},
    'function': {7: 'node'},
    'graph': {1: 'node', 5: 'tensor', 15: 'sparse tensor'},
    'node': {5: 'attribute'},
    'attribute': {
        **{5: 'tensor', 6: 'graph', 10: 'tensor', 11: 'graph'},
        **{22: 'sparse tensor', 23: 'sparse tensor'},
    },
    'sparse tensor': {1: 'tensor', 2: 'tensor'},
    'tensor': {13: 'external'},
}


def _onnx_metadata(file: BinaryIO, size: int) -> dict[str, str]:
    """Walk the top level of a ModelProto, skipping over the graph."""
    metadata = {}
    has_graph = False
    for number, end in _fields(file, size):
        has_graph |= number == _GRAPH
        if number == _METADATA_PROPS:
            if end - file.tell() > _MAX_METADATA_BYTES:
                raise _TruncatedError(f'metadata of {end - file.tell()} bytes')
            entry = {
                key: file.read(text_end - file.tell()).decode('utf-8', 'replace')
                for key, text_end in _fields(file, end)
            }
            if _KEY not in entry or entry.keys() - {_KEY, _VALUE}:
                raise _TruncatedError('metadata without a name')
            metadata[entry.get(_KEY, '')] = entry.get(_VALUE, '')
    if not has_graph:
        raise _TruncatedError('it holds no graph')
    return metadata


def has_external_weights(path: Path) -> bool:
    """Tell whether an ONNX file takes weights, wherever in it, from other files."""
    try:
        with path.open('rb') as file:
            return _is_external(file, path.stat().st_size, 'model', 0)
    except _TruncatedError as error:
        raise _damaged(path, error) from None


def _is_external(file: BinaryIO, end: int, message: str, depth: int) -> bool:
    if depth > _MAX_DEPTH:
        raise _TruncatedError('graphs within graphs without end')
    for number, field_end in _fields(file, end):
        inner = _MESSAGES[message].get(number)
        if inner == 'external' or (inner and _is_external(file, field_end, inner, depth + 1)):
            return True
    return False


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """Go through protobuf fields from here to `end`: the number and where the payload ends.

    The file stands at the payload, and wherever it is read to, the next field is found.
    """
    while file.tell() < end:
        tag = _varint(file)
        wire_type = tag & 7
        if wire_type == 0:
            _varint(file)
            length = 0
        elif wire_type == 2:
            length = _varint(file)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise _TruncatedError(f'an unknown protobuf wire type {wire_type}')
        field_end = file.tell() + length
        if field_end > end:
            raise _TruncatedError(f'a field of {length} bytes where {end - file.tell()} are left')
        yield tag >> 3, field_end
        file.seek(field_end)


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise _TruncatedError('it ends inside a number')
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7
