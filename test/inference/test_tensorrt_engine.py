"""The whole way to an engine, for real: TensorRT for RTX builds without a GPU."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip('onnx')
trt = pytest.importorskip('tensorrt_rtx', reason='TensorRT for RTX is for x86-64 only')

from lwseg_ros.errors import ModelError  # noqa: E402
from lwseg_ros.inference.backends.cuda import Gpu  # noqa: E402
from lwseg_ros.inference.backends.tensorrt_engine import (  # noqa: E402
    Engine,
    EngineCache,
    EngineKey,
    build_engine,
)
from lwseg_ros.inference.half_precision import (  # noqa: E402
    LARGEST_HALF,
    fix_shape,
    read_graph,
    to_half,
)
from lwseg_ros.inference.model_source import find_model, list_models  # noqa: E402

AMPERE = Gpu('some GPU', (8, 6))

PLAIN = [name for name in list_models() if not name.endswith('-int8')]
QUANTIZED = [name for name in list_models() if name.endswith('-int8')]


def build(graph: bytes, precision: str, shape: tuple[int, ...] = (1, 96, 128, 3)) -> bytes:
    """Return the engine of a graph for compute capability 8.6."""
    return build_engine(trt, graph, EngineKey.of(trt, graph, AMPERE, precision, shape), 'it')


@pytest.mark.parametrize(
    ('name', 'precision', 'batch'),
    [
        *((name, 'int8', batch) for name in QUANTIZED for batch in (1, 3)),
        *((name, 'fp32', 1) for name in PLAIN),
        *((name, 'fp16', batch) for name in PLAIN for batch in (1, 3)),
    ],
)
def test_shipped_models_become_engines_at_their_size(
    name: str, precision: str, batch: int
) -> None:
    source = find_model(name)
    assert build(source.onnx.read_bytes(), precision, (batch, *source.info.input_size, 3))


def parsed(content: bytes) -> Any:
    """Return the network that the parser makes of a graph, and what keeps it alive."""
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse(content)
    return network, parser, builder, log


def test_half_network_has_static_shapes_and_no_float32(tiny_model: Path) -> None:
    model = read_graph(tiny_model)
    fix_shape(model, (2, 97, 131, 3))
    to_half(model)
    network, *_ = parsed(model.SerializeToString())
    ends = [
        *(network.get_input(i) for i in range(network.num_inputs)),
        *(network.get_output(i) for i in range(network.num_outputs)),
    ]
    assert {end.name: (end.dtype, tuple(end.shape)) for end in ends} == {
        'image': (trt.uint8, (2, 97, 131, 3)),
        'drivable_classes': (trt.float32, (11,)),
        **dict.fromkeys(('labels', 'confidence', 'drivable'), (trt.uint8, (2, 97, 131))),
    }
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    types = {layer.get_output(0).dtype for layer in layers}
    assert trt.float16 in types
    assert trt.float32 not in types


@pytest.mark.parametrize('name', PLAIN)
def test_half_graph_gives_the_answers_of_the_graph(name: str) -> None:
    runtime = pytest.importorskip('onnxruntime')
    source = find_model(name)
    height, width = 129, 161
    image = np.random.default_rng(0).integers(0, 256, (1, 5, 7, 3), dtype=np.uint8)
    image = image.repeat(26, 1).repeat(23, 2)[:, :height, :width]
    drivable = source.info.label_space.drivable_vector()
    answers = []
    for halve in (False, True):
        model = read_graph(source.onnx)
        fix_shape(model, image.shape)
        if halve:
            to_half(model)
        session = runtime.InferenceSession(
            model.SerializeToString(), providers=['CPUExecutionProvider']
        )
        given = {'image': image, 'drivable_classes': drivable}
        answers.append(session.run(['labels', 'confidence', 'drivable'], given))
    exact, half = answers
    same = exact[0] == half[0]
    assert same.mean() > 0.99
    assert len(np.unique(exact[0])) > 2
    for one, other in zip(exact[1:], half[1:], strict=True):
        assert np.abs(one[same].astype(int) - other[same]).mean() < 2
    assert ((half[2] >= 128) == (drivable[half[0]] > 0.5)).all()
    assert half[1].min() > 0


def test_constants_beyond_half_stay_numbers(tiny_model: Path) -> None:
    model = read_graph(tiny_model)
    to_half(model)
    tensors = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    values = [tensor for tensor in tensors if tensor.dtype == np.float16]
    assert max(float(np.abs(value).max()) for value in values) == LARGEST_HALF


def test_unreadable_node_is_named_in_one_sentence(tiny_model: Path) -> None:
    model = onnx.load(tiny_model)
    relu = onnx.helper.make_node('Scramble', ['image'], ['scrambled'], 'the_odd_one')
    model.graph.node.append(relu)
    with pytest.raises(ModelError) as caught:
        build(model.SerializeToString(), 'fp16')
    sentence = str(caught.value)
    assert sentence.startswith(f'tensorrt_rtx {trt.__version__} cannot read it: node the_odd_one')
    assert '(Scramble)' in sentence
    assert '\n' not in sentence


def test_progress_is_said_and_an_interruption_ends_the_build(tiny_model: Path) -> None:
    graph = tiny_model.read_bytes()
    key = EngineKey.of(trt, graph, AMPERE, 'fp16', (1, 96, 128, 3))
    said: list[str] = []
    build_engine(trt, graph, key, 'tiny', said.append, progress_period_s=0)
    assert said[0].startswith('building the TensorRT engine of tiny for some GPU: fp16, 1x96x128')
    assert any(', step 1 of ' in line for line in said[1:-1])
    assert said[-1].startswith('built in ')

    def interrupt(line: str) -> None:
        if ', step ' in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(trt, graph, key, 'tiny', interrupt, progress_period_s=0)


def test_gpu_that_the_library_does_not_know_is_a_sentence(tiny_model: Path) -> None:
    graph = tiny_model.read_bytes()
    key = EngineKey.of(trt, graph, Gpu('Orin', (8, 7)), 'fp16', (1, 96, 128, 3))
    with pytest.raises(ModelError, match=r'does not build for Orin of compute capability 8\.7'):
        build_engine(trt, graph, key, 'tiny')


@pytest.fixture
def key() -> EngineKey:
    return EngineKey.of(trt, b'graph', AMPERE, 'fp16', (1, 96, 128, 3))


@pytest.mark.parametrize(
    'change',
    [
        {'model_sha256': 64 * '0'},
        {'library': 'tensorrt 10.3.0'},
        {'gpu': 'another GPU'},
        {'compute_capability': (8, 9)},
        {'precision': 'fp32'},
        {'shape': (2, 96, 128, 3)},
        {'optimization_level': 5},
        {'lwseg': '9.9.9'},
    ],
    ids=lambda change: next(iter(change)),
)
def test_engine_is_found_under_its_own_key_alone(
    change: dict[str, Any], key: EngineKey, tmp_path: Path
) -> None:
    cache = EngineCache(tmp_path / 'engines')
    assert cache.load(key, 'road') is None
    stored = Engine(b'engine', label_agreement=0.999)
    path = cache.store(key, 'road', stored)
    assert list((tmp_path / 'engines').iterdir()) == [path]
    assert cache.load(key, 'road') == stored
    assert cache.load(replace(key, **change), 'road') is None


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    'empty': lambda content: b'',
    'truncated': lambda content: content[:-3],
    'flipped': lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    'no header': lambda content: content[content.index(b'\n') + 1 :],
    'other key': lambda content: content.replace(b'some GPU', b'same GPU'),
    'not an object': lambda content: b'[]' + content[content.index(b'\n') :],
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_damaged_engine_counts_as_absent(
    damage: str, key: EngineKey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = EngineCache(tmp_path)
    path = cache.store(key, 'road', Engine(b'engine' * 99))
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with caplog.at_level(logging.WARNING, 'lwseg_ros'):
        assert cache.load(key, 'road') is None
    assert 'it is built again' in caplog.text


def test_cached_engine_is_plain_after_its_first_line(tiny_model: Path, tmp_path: Path) -> None:
    graph = tiny_model.read_bytes()
    key = EngineKey.of(trt, graph, AMPERE, 'fp16', (1, 96, 128, 3))
    content = build_engine(trt, graph, key, 'tiny')
    path = EngineCache(tmp_path).store(key, 'tiny', Engine(content))
    line, _, rest = path.read_bytes().partition(b'\n')
    assert rest == content
    assert json.loads(line)['key']['gpu'] == 'some GPU'
    assert EngineCache(tmp_path).load(key, 'tiny').content == content


def test_cache_that_cannot_be_written_is_a_sentence(key: EngineKey, tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(ModelError, match=r'engine cache .*file.* cannot be used'):
        EngineCache(tmp_path / 'file').store(key, 'road', Engine(b'engine'))
