"""Damaged and hostile model files: refused with a sentence, or the model that they were."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from models_for_tests import remake_model, set_weights, tiny_info, tiny_network
from paths_for_tests import ROOT
from test_model_file import safetensors_bytes

from lwseg_ros.errors import DataError, LwsegError, ModelError
from lwseg_ros.inference.model_file import model_metadata, read_model_info, write_model
from lwseg_ros.inference.model_source import find_model
from lwseg_ros.inference.segmenter import Segmenter
from lwseg_ros.label_space import LabelSpace


@pytest.fixture(scope='module')
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a safetensors file of weights as `lwseg train` writes it."""
    pytest.importorskip('torch')
    from lwseg_ros.inference.graph import save_safetensors

    path = tmp_path_factory.mktemp('weights') / 'tiny.safetensors'
    save_safetensors(tiny_network(), tiny_info(), path)
    return path


def refusal(path: Path) -> str:
    """Return the sentence with which a model file is refused, '' if it is taken."""
    try:
        find_model(path)
    except ModelError as error:
        return str(error)
    return ''


@pytest.fixture(params=['onnx', 'safetensors'])
def model(request: Any, tiny_model: Path, tiny_weights: Path, tmp_path: Path) -> Path:
    """Return a model file of either kind that may be overwritten."""
    whole = tiny_model if request.param == 'onnx' else tiny_weights
    path = tmp_path / whole.name
    path.write_bytes(whole.read_bytes())
    return path


def test_a_model_cut_off_anywhere_is_refused(model: Path) -> None:
    whole = model.read_bytes()
    assert not refusal(model)
    step = max(1, len(whole) // 700)
    for length in [*range(0, len(whole), step), len(whole) - 1]:
        model.write_bytes(whole[:length])
        assert model.name in refusal(model), length


def test_a_model_with_a_turned_bit_anywhere_is_refused(model: Path) -> None:
    whole = model.read_bytes()
    name = whole.index(b'lwseg_sha256')
    random = Random(3)
    for bit in random.sample(range(8 * len(whole)), 3000):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        model.write_bytes(damaged)
        # The name of the digest, or what says that it is one, may be damaged: the rest is sound.
        assert refusal(model) or name - 4 <= bit // 8 < name + 12, f'bit {bit}'


def without_digest(content: bytes) -> bytes:
    return content.replace(b'lwseg_sha256', b'other_sha256')


@pytest.mark.parametrize('backend', ['openvino', 'onnxruntime', 'torch'])
def test_the_libraries_survive_what_has_no_digest(
    backend: str, tiny_model: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    """In a process of its own: what crashes or takes all memory there ends the process."""
    pytest.importorskip(backend)
    whole = tiny_weights if backend == 'torch' else tiny_model
    path = tmp_path / whole.name
    path.write_bytes(without_digest(whole.read_bytes()))
    program = (
        'import resource, sys\n'
        f'sys.path[:0] = {[str(ROOT), str(ROOT / "test"), str(Path(__file__).parent)]}\n'
        f'import {backend}\n'
        'import test_hostile_models as tests\n'
        'resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))\n'
        f'print(tests.run_damaged({str(path)!r}, {backend!r}, 60))\n'
    )
    command = [sys.executable, '-c', program]
    done = subprocess.run(command, capture_output=True, text=True, errors='replace', timeout=900)
    assert done.returncode == 0, f'status {done.returncode}: {done.stdout}{done.stderr[-3000:]}'
    assert int(done.stdout.split()[-1]) > 10


def run_damaged(path: str, backend: str, number: int) -> int:
    """Load and run a file with one turned bit each; return how many were refused."""
    whole = Path(path).read_bytes()
    random = Random(5)
    refused = 0
    for _ in range(number):
        damaged = bytearray(whole)
        place = random.randrange(len(whole))
        damaged[place] ^= 1 << random.randrange(8)
        Path(path).write_bytes(damaged)
        print('byte', place, flush=True)
        try:
            with Segmenter.load(path, backend, input_size=(32, 64), threads=1) as segmenter:
                segmenter(np.full((32, 64, 3), 90, np.uint8))
        except LwsegError:
            refused += 1
    return refused


class Exploding:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('suffix', ['pt', 'pth', 'ckpt', 'onnx', 'safetensors'])
@pytest.mark.parametrize('protocol', [0, 2, 5, 'torch', 'old torch'])
def test_a_pickle_under_any_name_is_refused_and_not_run(
    protocol: Any, suffix: str, tmp_path: Path
) -> None:
    path, made = tmp_path / f'model.{suffix}', tmp_path / 'made'
    content = {'state_dict': Exploding(made)}
    if isinstance(protocol, int):
        path.write_bytes(pickle.dumps(content, protocol))
    else:
        torch = pytest.importorskip('torch')
        torch.save(content, path, _use_new_zipfile_serialization=protocol == 'torch')
    assert re.search('lwseg export|is not a model', refusal(path))
    assert not made.exists()


def header(content: Any, data: bytes = b'') -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return len(text).to_bytes(8, 'little') + text + data


def tensor(*offsets: Any) -> dict[str, Any]:
    return {'dtype': 'F32', 'shape': [1], 'data_offsets': list(offsets)}


@pytest.mark.parametrize(
    'content',
    [
        (2**63).to_bytes(8, 'little') + b'{}',
        (2**64 - 1).to_bytes(8, 'little') + b'{' * 100,
        header({'a': tensor(0, 4), 'b': tensor(0, 4)}, bytes(4)),
        header({'a': tensor(0, 4), 'b': tensor(2, 6)}, bytes(6)),
        header({'a': tensor(0, 4), 'b': tensor(8, 12)}, bytes(12)),
        header({'a': tensor(4, 0)}, bytes(4)),
        header({'a': tensor(-4, 4)}, bytes(4)),
        header({'a': tensor(0, 2**64)}, bytes(4)),
        header({'a': tensor(0, 4, 8)}, bytes(4)),
        header({'a': tensor(0, 'x')}, bytes(4)),
        header({'a': tensor(0, 1e999)}, bytes(4)),
        header({'a': tensor()}, bytes(4)),
        header({'a': None}),
        header(b'{"a": {"data_offsets": [0, 4]}, "a": {"data_offsets": [0, 4]}}', bytes(4)),
        header(b'{"a": ' + b'[' * 200_000),
        header(b'{"a": ' + b'9' * 10_000 + b'}'),
        header(b'{"\xff": 1}'),
        header({'__metadata__': [1]}),
    ],
)
def test_an_absurd_safetensors_header_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / 'model.safetensors'
    path.write_bytes(content)
    assert 'truncated or damaged' in refusal(path)


CLASS = {'id': 0, 'name': 'road', 'color': [0, 0, 0], 'drivable': True}


@pytest.mark.parametrize(
    'change',
    [
        {'input_size': [2**31, 2**31]},
        {'input_size': [1e999, 8]},
        {'input_size': [float('nan'), 8]},
        {'input_size': {'a': 1}},
        {'mean': [float('nan'), 0, 0]},
        {'std': [float('nan'), 1, 1]},
        {'std': [float('inf'), 1, 1]},
        {'std': [10**400, 1, 1]},
        {'name': '\ud800'},
        {'provenance': [1, 2, 3]},
        {'label_space': []},
        {'label_space': {'name': 'x', 'classes': [{**CLASS, 'color': [1e999, 0, 0]}]}},
        {'label_space': {'name': 'x', 'classes': [{**CLASS, 'id': 10**30}]}},
        {'label_space': {'name': 'x', 'classes': [CLASS] * 100_000}},
        {'label_space': {'name': 'x', 'classes': [CLASS], 'mappings': [1]}},
        {'format': [1]},
    ],
)
def test_absurd_metadata_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / 'model.safetensors'
    text = json.dumps({**tiny_info().to_dict(), **change})
    path.write_bytes(safetensors_bytes({'lwseg': text}))
    assert 'model.safetensors has' in refusal(path)


def test_deep_metadata_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'model.safetensors'
    path.write_bytes(safetensors_bytes({'lwseg': '[' * 200_000}))
    assert 'damaged lwseg metadata' in refusal(path)


def test_a_change_by_other_tools_is_named(model: Path) -> None:
    model.write_bytes(model.read_bytes().replace(b'camvid', b'CamVid'))
    assert 'changed by another tool' in refusal(model)


def test_the_digest_is_of_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / 'model.safetensors'
    write_model(path, safetensors_bytes(model_metadata(tiny_info())))
    assert read_model_info(path) == tiny_info()


@pytest.mark.parametrize(
    'name', ['x' * 5000, 'a\0b', '~nobody/model.onnx', '/dev/zero', '/dev', '.']
)
def test_what_is_no_file_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match='there is no model|is not a file'):
        find_model(name)


# ONNX and the descriptions beside it


def onnx_with_external(place: str, location: str, **entries: str) -> bytes:
    """Return the tiny network's ONNX whose only weights of `place` lie in another file."""
    onnx = pytest.importorskip('onnx')
    from onnx import TensorProto, helper

    weights = TensorProto(name='w', data_type=TensorProto.FLOAT, dims=[4])
    weights.data_location = TensorProto.EXTERNAL
    for key, value in {'location': location, **entries}.items():
        weights.external_data.add(key=key, value=value)
    constant = helper.make_node('Constant', [], ['c'])
    constant.attribute.add(name='value', type=onnx.AttributeProto.TENSOR).t.CopyFrom(weights)
    inner = helper.make_graph([constant], 'inner', [], [])
    branch = helper.make_node('If', ['x'], ['y'], then_branch=inner, else_branch=inner)
    graph = helper.make_graph(
        {'initializer': [], 'constant': [constant], 'branch': [branch], 'sparse': []}[place],
        'graph',
        [helper.make_tensor_value_info('x', TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info('x', TensorProto.FLOAT, [1, 3, 32, 32])],
    )
    if place == 'initializer':
        graph.initializer.append(weights)
    if place == 'sparse':
        graph.sparse_initializer.add().values.CopyFrom(weights)
    return helper.make_model(graph).SerializeToString()


PLACES = ['initializer', 'constant', 'branch', 'sparse']


@pytest.mark.parametrize('place', PLACES)
def test_own_onnx_with_weights_elsewhere_is_refused(place: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip('onnx')
    model = onnx.load_from_string(onnx_with_external(place, 'weights'))
    model.metadata_props.add(key='lwseg', value=tiny_info().to_json())
    path = tmp_path / 'model.onnx'
    path.write_bytes(model.SerializeToString())
    assert 'a model is one file' in refusal(path)


@pytest.mark.parametrize('place', PLACES)
def test_described_onnx_takes_weights_from_its_own_folder_only(place: str, tmp_path: Path) -> None:
    pytest.importorskip('onnx')
    folder = tmp_path / 'model'
    folder.mkdir()
    (tmp_path / 'outside').write_bytes(bytes(16))
    (folder / 'link').symlink_to('../outside')
    (folder / 'circle').symlink_to('circle')
    os.mkfifo(folder / 'pipe')
    path = folder / 'model.onnx'
    path.with_suffix('.yaml').write_text('label_space: camvid')
    outside = ('../../../../etc/passwd', '/etc/passwd', '../outside', 'link', str(tmp_path))
    for location in (*outside, 'circle', 'pipe', '', '.', 'none', 'a\0b', 'a' * 5000):
        path.write_bytes(onnx_with_external(place, location))
        assert 'which is not a file in its own folder' in refusal(path), location
    (folder / 'data').write_bytes(bytes(16))
    for entries in ({'offset': '-8'}, {'length': '-1'}, {'offset': 'x'}, {'offset': str(2**70)}):
        path.write_bytes(onnx_with_external(place, 'data', **entries))
        assert str(path) in refusal(path), entries


def test_graphs_within_graphs_without_end_are_refused(tmp_path: Path) -> None:
    content = b''
    for _ in range(3000):
        for tag in (6, 5, 1):  # attribute.g, node.attribute, graph.node
            length, varint = len(content), b''
            while length > 127:
                varint += bytes([length & 127 | 128])
                length >>= 7
            content = bytes([tag << 3 | 2]) + varint + bytes([length]) + content
    onnx = pytest.importorskip('onnx')
    model = onnx.ModelProto(ir_version=8)
    model.metadata_props.add(key='lwseg', value=tiny_info().to_json())
    length, varint = len(content), b''
    while length > 127:
        varint += bytes([length & 127 | 128])
        length >>= 7
    path = tmp_path / 'model.onnx'
    path.write_bytes(model.SerializeToString() + b'\x3a' + varint + bytes([length]) + content)
    assert 'truncated or damaged' in refusal(path)


def test_a_described_onnx_with_turned_bits_is_refused_or_taken(tmp_path: Path) -> None:
    pytest.importorskip('onnx')
    from test_external_onnx import write_model as write_onnx

    path = write_onnx(tmp_path, 'label_space: camvid')
    whole = path.read_bytes()
    random = Random(9)
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[random.randrange(len(whole))] ^= 1 << random.randrange(8)
        path.write_bytes(damaged)
        refusal(path)


def aliases() -> str:
    """Return YAML of ten lines that stands for gigabytes."""
    lines = ['a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]']
    lines += [f'a{n}: &a{n} [{", ".join([f"*a{n - 1}"] * 9)}]' for n in range(1, 10)]
    return '\n'.join([*lines, 'name: *a9', 'classes: *a9'])


@pytest.mark.parametrize(
    'content',
    [
        aliases(),
        'a: &a [*a]',
        '<<: &a {x: 1}',
        '[' * 5000,
        '{a: ' * 5000,
        'name: x\nclasses: [{id: 0, name: a, color: [.inf, 0, 0]}]',
        'name: x\nclasses: [{id: .nan, name: a, color: [0, 0, 0]}]',
        'name: 2001-99-99',
        'name: !!timestamp x',
        'name: !!bool x',
        'name: !!int ""',
        'name: ' + '9' * 5000,
        '!!python/object/apply:os.mkdir [made]',
        '? [a]\n: b',
        'x: ' + 'y' * 1_000_000,
        'name: x\nclasses: ' + '[' + '{id: 0, name: a, color: [0, 0, 0]}, ' * 4000 + ']',
        '\0',
        '- 1',
        '',
    ],
)
def test_hostile_yaml_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / 'space.yaml'
    path.write_text(content)
    with pytest.raises(DataError, match=r'space\.yaml') as refused:
        LabelSpace.load(path)
    assert len(str(refused.value)) < 1000
    pytest.importorskip('onnx')
    from lwseg_ros.inference.external_description import Description

    with pytest.raises(ModelError, match=r'description .*space\.yaml'):
        Description.load(path)


# Through the real node


@pytest.fixture
def refuse(tmp_path: Path) -> Iterator[Any]:
    """Return a function that starts the node with a model that it must refuse, in one sentence."""
    pytest.importorskip('rclpy')
    from ros_for_tests import NodeProcess, node_command

    nodes = []

    def start(path: Path, sentence: str) -> None:
        node = NodeProcess(tmp_path / 'node.log', node_command({'model.path': path}))
        nodes.append(node)
        assert node.wait() == 1
        errors = [line for line in node.log.splitlines() if re.search(r'\[(ERROR|FATAL)\]', line)]
        assert len(errors) == 1, node.log
        assert re.search(sentence, errors[0]), errors
        assert 'Traceback' not in node.log

    yield start
    for node in nodes:
        node.close()


def test_the_node_refuses_a_truncated_model(refuse: Any, tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / 'cut.onnx'
    path.write_bytes(tiny_model.read_bytes()[:-3000])
    refuse(path, r'cut\.onnx is truncated or damaged')


def test_the_node_refuses_a_damaged_model(refuse: Any, tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / 'bad.onnx'
    content = bytearray(tiny_model.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    refuse(path, r'bad\.onnx is (truncated or )?damaged')


def test_the_node_refuses_a_pickle(refuse: Any, tmp_path: Path) -> None:
    path = tmp_path / 'model.onnx'
    path.write_bytes(pickle.dumps({'state_dict': Exploding(tmp_path / 'made')}))
    refuse(path, 'a PyTorch checkpoint, which can hold code and is never loaded')
    assert not (tmp_path / 'made').exists()


def test_the_node_refuses_weights_from_elsewhere(refuse: Any, tmp_path: Path) -> None:
    path = tmp_path / 'model.onnx'
    path.write_bytes(onnx_with_external('initializer', '../../../etc/passwd'))
    path.with_suffix('.yaml').write_text('label_space: camvid')
    refuse(path, "'../../../etc/passwd', which is not a file in its own folder")


def test_the_node_refuses_a_network_of_nan(refuse: Any, tiny_model: Path, tmp_path: Path) -> None:
    path = remake_model(
        tiny_model,
        tmp_path / 'nan.onnx',
        tiny_info(),
        lambda graph: set_weights(graph, 'network.weight', np.nan),
    )
    refuse(path, 'the network tiny gave NaN or infinity at 12288 of 12288 pixels')
