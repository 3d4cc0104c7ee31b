"""A model file says everything about itself, and a file that is no model says why."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from models_for_tests import tiny_info
from paths_for_tests import ROOT

from lwseg_ros.errors import LwsegError, ModelError
from lwseg_ros.files import write_atomically
from lwseg_ros.inference.model_file import read_model_info
from lwseg_ros.inference.model_info import ModelInfo
from lwseg_ros.inference.model_source import find_model, resolve_model, summarize_model


def safetensors_bytes(metadata: dict[str, str], data: bytes = bytes(16)) -> bytes:
    tensor = {'dtype': 'F32', 'shape': [len(data) // 4], 'data_offsets': [0, len(data)]}
    header = json.dumps({'__metadata__': metadata, 'weight': tensor}).encode()
    return len(header).to_bytes(8, 'little') + header + data


@pytest.fixture
def safetensors_model(tmp_path: Path) -> Path:
    path = tmp_path / 'model.safetensors'
    path.write_bytes(safetensors_bytes({'lwseg': tiny_info().to_json()}))
    return path


def test_onnx_carries_its_info(tiny_model: Path) -> None:
    assert read_model_info(tiny_model) == tiny_info()


def test_safetensors_carries_its_info(safetensors_model: Path) -> None:
    assert read_model_info(safetensors_model) == tiny_info()
    assert find_model(safetensors_model).safetensors == safetensors_model


def test_reading_needs_no_library(tiny_model: Path) -> None:
    code = (
        'import sys\n'
        'from lwseg_ros.inference.model_file import read_model_info\n'
        f'print(read_model_info({str(tiny_model)!r}).name)\n'
        'loaded = {"torch", "onnx", "onnxruntime", "openvino", "safetensors"} & set(sys.modules)\n'
        'assert not loaded, loaded\n'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == 'tiny'


@pytest.mark.parametrize('share', [0.0005, 0.1, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize('kind', ['onnx', 'safetensors'])
def test_truncated_file_is_refused(
    kind: str, share: float, tiny_model: Path, safetensors_model: Path, tmp_path: Path
) -> None:
    content = (tiny_model if kind == 'onnx' else safetensors_model).read_bytes()
    path = tmp_path / f'cut.{kind}'
    path.write_bytes(content[: max(1, int(len(content) * share))])
    with pytest.raises(ModelError, match=r'cut\.'):
        read_model_info(path)


def test_weights_in_other_files_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip('onnx')
    path = tmp_path / 'model.onnx'
    model = onnx.load(str(tiny_model))
    onnx.save(model, str(path), save_as_external_data=True, location='weights', size_threshold=0)
    with pytest.raises(ModelError, match='a model is one file'):
        find_model(path)


def test_overlong_safetensors_is_refused(safetensors_model: Path) -> None:
    safetensors_model.write_bytes(safetensors_model.read_bytes() + b'more')
    with pytest.raises(ModelError, match='truncated or damaged'):
        read_model_info(safetensors_model)


@pytest.mark.parametrize(
    ('content', 'sentence'),
    [
        (b'', 'is empty'),
        (pickle.dumps({'state_dict': 1}), 'lwseg export'),
        (b'<!DOCTYPE html><html>not found</html>', 'XML or HTML'),
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:1', 'git lfs pull'),
        (b'ftrt' + bytes(100), 'TensorRT engine'),
        (b'plain text of some kind', 'is not a model'),
    ],
)
def test_other_kinds_are_named(content: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / 'file.onnx'
    path.write_bytes(content)
    with pytest.raises(ModelError, match=sentence):
        read_model_info(path)


def test_pytorch_zip_is_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / 'weights.pth'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', pickle.dumps({}))
    with pytest.raises(ModelError, match='lwseg export'):
        find_model(path)


def test_missing_model_lists_what_is_shipped(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match='shipped model'):
        resolve_model('no_such_model')
    with pytest.raises(ModelError, match='there is no model'):
        resolve_model(tmp_path / 'none.onnx')
    with pytest.raises(ModelError, match='is not a file'):
        resolve_model(tmp_path)


def test_foreign_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'foreign.safetensors'
    path.write_bytes(safetensors_bytes({'format': 'pt'}))
    with pytest.raises(ModelError, match='not made by lwseg'):
        find_model(path)


@pytest.mark.parametrize(
    'change',
    [
        {'format': 2},
        {'label_space': {'name': 'x'}},
        {'input_size': [0, 10]},
        {'input_size': 'big'},
        {'mean': [1, 2]},
        {'std': [0, 1, 1]},
        {'name': ...},
    ],
)
def test_damaged_metadata_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    content = {**tiny_info().to_dict(), **change}
    content = {key: value for key, value in content.items() if value is not ...}
    path = tmp_path / 'damaged.safetensors'
    path.write_bytes(safetensors_bytes({'lwseg': json.dumps(content)}))
    with pytest.raises(ModelError, match='damaged.safetensors'):
        read_model_info(path)


def test_info_survives_json() -> None:
    info = ModelInfo(
        'Straße',
        'network',
        tiny_info().label_space,
        (1, 2),
        provenance={'licence': 'free'},
        accuracy={'miou': 0.5},
    )
    assert ModelInfo.from_json(info.to_json()) == info


def test_summary_is_json(tiny_model: Path) -> None:
    summary = json.loads(json.dumps(summarize_model(tiny_model)))
    assert summary['name'] == 'tiny'
    assert summary['bytes'] == tiny_model.stat().st_size
    assert len(summary['sha256']) == 64


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(LwsegError, match='cannot be written'):
        write_atomically(tmp_path / 'no_folder' / 'model.onnx', b'content')
    folder = tmp_path / 'taken'
    folder.mkdir()
    with pytest.raises(LwsegError, match='cannot be written'):
        write_atomically(folder, b'content')
    assert [path.name for path in tmp_path.iterdir()] == ['taken']
