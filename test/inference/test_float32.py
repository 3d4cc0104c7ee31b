"""Sums over a whole image stay in float32 in every precision, however large they become."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models_for_tests import network_for_tests

torch = pytest.importorskip('torch')
onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')

from gpu_for_tests import install  # noqa: E402
from onnx import TensorProto, shape_inference  # noqa: E402

from lwseg_ros import Segmenter  # noqa: E402
from lwseg_ros.errors import ModelError  # noqa: E402
from lwseg_ros.inference.backends.torch import _InHalf  # noqa: E402
from lwseg_ros.inference.check_images import check_images  # noqa: E402
from lwseg_ros.inference.graph import (  # noqa: E402
    OUTPUT_NAMES,
    ImageToLabels,
    export_onnx,
    save_safetensors,
)
from lwseg_ros.inference.half_precision import (  # noqa: E402
    LARGEST_HALF,
    fix_shape,
    read_graph,
    to_half,
    with_outputs,
)
from lwseg_ros.inference.model_file import IN_FLOAT32  # noqa: E402
from lwseg_ros.inference.model_info import ModelInfo  # noqa: E402
from lwseg_ros.label_space import LabelSpace  # noqa: E402
from lwseg_ros.networks.backbones.efficientvit import (  # noqa: E402
    HEAD_CHANNELS,
    LinearAttention,
    MultiScaleLinearAttention,
)

NAME = 'lw_refinenet_efficientvit_b0_64'
SIZE = (96, 128)
INFO = ModelInfo(NAME, NAME, LabelSpace.load('camvid'), SIZE)
IMAGES = list(check_images(SIZE))


@pytest.fixture(scope='module')
def network() -> Any:
    """Return a network whose products of queries and keys are beyond float16.

    Its answers are as they were: what attention gives has no unit of queries and keys.
    """
    network, _ = network_for_tests(NAME)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, MultiScaleLinearAttention):
                weight = module.qkv.conv.weight
                heads = weight.view(-1, 3, HEAD_CHANNELS, weight.shape[1])
                heads[:, :2] *= 16384
    return network


@pytest.fixture(scope='module')
def model(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return its ONNX file; beside it are its weights."""
    path = tmp_path_factory.mktemp('float32') / 'attentive.onnx'
    export_onnx(network, INFO, path)
    save_safetensors(network, INFO, path.with_suffix('.safetensors'))
    return path


def drivable() -> np.ndarray:
    return INFO.label_space.drivable_vector()


def labels_of(model: Any) -> np.ndarray:
    """Return what ONNX Runtime makes of the images with a graph, [N, h, w]."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=['CPUExecutionProvider']
    )
    feeds = [{'image': image, 'drivable_classes': drivable()} for image in IMAGES]
    return np.concatenate([session.run(['labels'], feed)[0] for feed in feeds])


def labels_in_torch(network: Any) -> np.ndarray:
    graph = ImageToLabels(network, INFO.mean, INFO.std).eval()
    classes = torch.from_numpy(drivable())
    with torch.inference_mode():
        return np.concatenate([graph(torch.from_numpy(i), classes)[0].numpy() for i in IMAGES])


def fixed(model: Path) -> Any:
    graph = read_graph(model)
    fix_shape(graph, (1, *SIZE, 3))
    return graph


@pytest.fixture(scope='module')
def wanted(model: Path) -> np.ndarray:
    labels = labels_of(fixed(model))
    assert len(np.unique(labels)) > 2
    return labels


def test_sums_are_beyond_half_precision(network: Any) -> None:
    largest = []

    def watch(module: Any, given: Any, answer: Any) -> None:
        heads = given[0].relu().reshape(1, -1, 3, HEAD_CHANNELS, answer[0, 0].numel())
        query, key, _ = heads.unbind(2)
        largest.append((query * key.sum(-1, keepdim=True)).sum(-2).max().item())

    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, LinearAttention):
            module.register_forward_hook(watch)
    labels_in_torch(network)
    assert min(largest) > LARGEST_HALF


def test_half_graph_gives_the_answers_of_the_graph(model: Path, wanted: np.ndarray) -> None:
    half = fixed(model)
    to_half(half)
    assert (labels_of(half) == wanted).mean() >= 0.99


def test_half_graph_has_float32_in_them_alone(model: Path) -> None:
    half = fixed(model)
    to_half(half)
    inferred = shape_inference.infer_shapes(half, strict_mode=True)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    for node in half.graph.node:
        if node.op_type in ('MatMul', 'ReduceSum', 'Conv'):
            is_sum = node.name.startswith(IN_FLOAT32)
            assert types[node.output[0]] == (TensorProto.FLOAT if is_sum else TensorProto.FLOAT16)


def test_torch_in_half_keeps_them(
    network: Any, wanted: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = _InHalf(copy.deepcopy(network))
    assert (labels_in_torch(half) == wanted).mean() >= 0.99
    monkeypatch.setattr(LinearAttention, 'forward', LinearAttention.compute)
    assert (labels_in_torch(half) == wanted).mean() < 0.5


def test_torch_in_bf16_keeps_them(network: Any) -> None:
    wanted = labels_in_torch(network)
    with torch.autocast('cpu', torch.bfloat16):
        given = labels_in_torch(network)
    assert (given == wanted).mean() >= 0.98


def test_openvino_is_told_of_them(model: Path) -> None:
    openvino = pytest.importorskip('openvino')
    from lwseg_ros.inference.backends.openvino import keep_float32

    core = openvino.Core()
    before = core.read_model(model)
    after = keep_float32(before)
    kinds = {'MatMul', 'ReduceSum', 'Relu', 'Maximum', 'Convolution'}
    marked = {
        node.get_type_name()
        for node in after.get_ordered_ops()
        if {'DisablePrecisionConversion_0', 'precise_0'}.intersection(node.get_rt_info().keys())
    }
    assert marked & kinds == kinds - {'Convolution'}
    answers = []
    for either in (before, after):
        compiled = core.compile_model(either, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
        found = compiled({'image': IMAGES[0], 'drivable_classes': drivable()})
        answers.append([found[name] for name in ('labels', 'confidence', 'drivable', 'embedding')])
    for one, other in zip(*answers, strict=True):
        np.testing.assert_allclose(one.astype(float), other, atol=1)


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_openvino_keeps_them(precision: str, model: Path, wanted: np.ndarray) -> None:
    pytest.importorskip('openvino')
    try:
        segmenter = Segmenter.load(model, 'openvino', precision=precision)
    except ModelError as error:
        pytest.skip(f'this processor does not compute in it: {error}')
    given = np.stack([segmenter(image[0]).labels for image in IMAGES])
    assert (given == wanted).mean() >= 0.98
    runs = segmenter.backend._compiled.get_runtime_model()
    precisions = {
        node.get_rt_info()['runtimePrecision'].astype(str)
        for node in runs.get_ordered_ops()
        if IN_FLOAT32 in node.get_friendly_name() and 'matmul' in node.get_friendly_name()
    }
    assert precisions == {'f32'}


def test_tensorrt_takes_them_in_float32(model: Path) -> None:
    trt = pytest.importorskip('tensorrt_rtx', reason='TensorRT for RTX is for x86-64 only')
    from lwseg_ros.inference.backends.cuda import Gpu
    from lwseg_ros.inference.backends.tensorrt_engine import EngineKey, build_engine

    graph = with_outputs(model.read_bytes(), OUTPUT_NAMES)
    # TensorRT for RTX 1.7 fails on attention over maps of 3x4 cells, in fp32 too.
    key = EngineKey.of(trt, graph, Gpu('some GPU', (8, 6)), 'fp16', (1, 192, 256, 3))
    assert build_engine(trt, graph, key, 'attentive')


@pytest.mark.parametrize('version', ['8.6.1', '10.3.0'])
def test_tensorrt_that_chooses_precisions_is_bound(
    version: str, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, library = install(monkeypatch, version)
    given = Segmenter.load(
        model, 'tensorrt', precision='fp16', embedding=True, engine_cache_dir=tmp_path
    )
    (_, flags, graph), *_ = library.built
    sums = [layer for layer in library.layers_built[0] if layer.name.startswith(IN_FLOAT32)]
    assert sums
    if version == '8.6.1':
        assert flags == {'FP16', 'OBEY_PRECISION_CONSTRAINTS'}
        assert all(layer.precision == 'float32' for layer in sums)
        assert all(layer.output_types == {0: 'float32'} for layer in sums)
    else:
        assert not any(layer.precision for layer in sums)
    wanted = Segmenter.load(model, 'onnxruntime', embedding=True)
    one, other = (segmenter(IMAGES[0][0]) for segmenter in (given, wanted))
    assert (one.labels == other.labels).mean() >= 0.99
    np.testing.assert_allclose(one.embedding, other.embedding, rtol=0.05, atol=0.02)


def test_quantizing_leaves_them(model: Path, tmp_path: Path) -> None:
    from lwseg_ros.training.int8_graph import Quantizer

    quantizer = Quantizer(model, INFO, tmp_path)
    quantizer.calibrate([image[0] for image in IMAGES])
    graph = onnx.load(quantizer.write([], INFO, tmp_path / 'int8.onnx')).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    within = [node for node in graph.node if node.name.startswith(IN_FLOAT32)]
    sums = [node for node in within if node.op_type in ('MatMul', 'Relu', 'Div', 'ReduceSum')]
    assert sums
    assert not any(makers.get(i) == 'DequantizeLinear' for node in sums for i in node.input)
    with (
        Segmenter.load(tmp_path / 'int8.onnx', 'onnxruntime', embedding=True) as int8,
        Segmenter.load(model, 'onnxruntime', embedding=True) as exact,
    ):
        for image in IMAGES:
            one, other = (segmenter(image[0]).embedding for segmenter in (int8, exact))
            assert one.dtype == np.float32
            assert cosine(one, other) > 0.9


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
