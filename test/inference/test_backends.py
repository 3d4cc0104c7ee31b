"""Every backend gives PyTorch's answer, and `auto` finds one that works."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from models_for_tests import put_after_network, remake_model, tiny_info, tiny_network

from lwseg_ros import Segmenter
from lwseg_ros.errors import InferenceError, ModelError
from lwseg_ros.inference.backends import BACKENDS, open_backend
from lwseg_ros.inference.backends.base import Backend, BackendOptions
from lwseg_ros.inference.backends.cuda import has_gpu
from lwseg_ros.inference.model_file import read_model_info
from lwseg_ros.inference.model_source import ModelSource, find_model, list_models

ONNX_BACKENDS = ['openvino', 'onnxruntime']


@pytest.fixture(scope='module')
def pictures(shared_data: Path) -> list[np.ndarray]:
    """Return a few real images, RGB, of two cameras."""
    files = [
        *sorted((shared_data / 'camvid/images/val').glob('*.jpg'))[::25],
        *sorted((shared_data / 'idd_lite/images/val').rglob('*.jpg'))[::25],
    ]
    return [cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB) for file in files]


def agreement(first: Segmenter, second: Segmenter, pictures: list[np.ndarray]) -> float:
    """Return the share of pixels on which two segmenters name the same class."""
    return float(
        np.mean([np.mean(first(p).labels == second(p).labels) for p in pictures], dtype=float)
    )


@pytest.fixture(scope='module')
def torch_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the weights of the tiny model as a safetensors model."""
    pytest.importorskip('torch')
    from lwseg_ros.inference.graph import save_safetensors

    path = tmp_path_factory.mktemp('weights') / 'tiny.safetensors'
    save_safetensors(tiny_network(), tiny_info(), path)
    return path


@pytest.fixture
def tiny_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the catalog know the network of the tiny model."""
    pytest.importorskip('torch')
    monkeypatch.setattr(
        'lwseg_ros.networks.create_network', lambda name, num_classes: tiny_network()
    )


@pytest.mark.usefixtures('tiny_catalog')
@pytest.mark.parametrize('size', [(96, 128), (97, 131), (33, 250)])
@pytest.mark.parametrize('backend', ONNX_BACKENDS)
def test_same_answer_as_torch_at_any_size(
    backend: str, size: tuple[int, int], tiny_model: Path, torch_tiny: Path
) -> None:
    pytest.importorskip(backend)
    image = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    image = cv2.resize(image, (300, 200), interpolation=cv2.INTER_CUBIC)
    options = {'input_size': size, 'precision': 'fp32'}
    given = Segmenter.load(tiny_model, backend, **options)(image, 'network')
    wanted = Segmenter.load(torch_tiny, 'torch', **options)(image, 'network')
    same = given.labels == wanted.labels
    assert same.mean() > 0.999
    for name in ('confidence', 'drivable_score'):
        difference = cv2.absdiff(getattr(given, name), getattr(wanted, name))
        assert difference[same].max() <= 1


@pytest.mark.usefixtures('tiny_catalog')
@pytest.mark.parametrize('backend', ['openvino', 'onnxruntime', 'torch'])
def test_batch_answers_as_its_images_alone(
    backend: str, tiny_model: Path, torch_tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(backend)
    model = torch_tiny if backend == 'torch' else tiny_model
    alone, together = Segmenter.load(model, backend), Segmenter.load(model, backend, batch=3)
    assert (alone.batch, together.batch) == (1, 3)
    together.warm_up(1, batch=3)
    run, sizes = together._backend.run, []
    monkeypatch.setattr(
        together._backend,
        'run',
        lambda images, *more: sizes.append(len(images)) or run(images, *more),
    )
    random = np.random.default_rng(0)
    images = [
        random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for height, width in ((96, 128), (50, 70), (200, 100), (96, 128), (97, 131))
    ]
    for given, image in zip(together(images), images, strict=True):
        wanted = alone(image)
        for name in ('labels', 'confidence', 'drivable_score'):
            assert cv2.absdiff(getattr(given, name), getattr(wanted, name)).max() <= (
                0 if name == 'labels' else 1
            )
    assert sizes == [3, 2]


@pytest.mark.skipif('road' not in list_models(), reason='the model road is not shipped')
@pytest.mark.parametrize('backend', ONNX_BACKENDS)
def test_road_agrees_with_torch_on_real_images(backend: str, pictures: list[np.ndarray]) -> None:
    pytest.importorskip('torch')
    pytest.importorskip(backend)
    reference = Segmenter.load('road', 'torch', precision='fp32')
    assert agreement(Segmenter.load('road', backend, precision='fp32'), reference, pictures) >= (
        0.995
    )


@pytest.mark.skipif('road' not in list_models(), reason='the model road is not shipped')
def test_road_agrees_in_bf16(pictures: list[np.ndarray]) -> None:
    pytest.importorskip('torch')
    pytest.importorskip('openvino')
    try:
        segmenter = Segmenter.load('road', 'openvino', precision='bf16')
    except ModelError as error:
        pytest.skip(f'this processor has no bfloat16: {error}')
    reference = Segmenter.load('road', 'torch', precision='fp32')
    assert agreement(segmenter, reference, pictures) >= 0.99


@pytest.fixture(scope='module')
def nano_model(exported_network: Callable[[str], Any], tmp_path_factory: Any) -> Path:
    """Return an untrained network of the catalog as ONNX; its weights are beside it."""
    pytest.importorskip('torch')
    from lwseg_ros.inference.graph import save_safetensors

    name = 'lw_refinenet_mobilenet_v2_nano'
    network, path = exported_network(name)
    copied = tmp_path_factory.mktemp('nano') / 'nano.onnx'
    copied.write_bytes(path.read_bytes())
    save_safetensors(
        network, replace(tiny_info(), network=name), copied.with_suffix('.safetensors')
    )
    return copied


@pytest.mark.parametrize('backend', [*ONNX_BACKENDS, 'torch'])
def test_embedding_is_given_when_asked_for(backend: str, nano_model: Path) -> None:
    torch = pytest.importorskip('torch')
    pytest.importorskip(backend)
    from lwseg_ros.inference.graph import load_network

    weights = nano_model.with_suffix('.safetensors')
    model = weights if backend == 'torch' else nano_model
    options = {'precision': 'fp32', 'batch': 2, 'input_size': (96, 160)}
    images = list(np.random.default_rng(0).integers(0, 256, (3, 96, 160, 3), dtype=np.uint8))
    without = Segmenter.load(model, backend, **options)(images)
    given = Segmenter.load(model, backend, embedding=True, **options)(images)
    info = tiny_info()
    network = load_network(weights, replace(info, network='lw_refinenet_mobilenet_v2_nano'))
    for image, bare, answer in zip(images, without, given, strict=True):
        assert bare.embedding is None
        assert np.array_equal(bare.labels, answer.labels)
        pixels = (image / 255 - info.mean) / info.std
        with torch.inference_mode():
            maps = network.encode(torch.tensor(pixels.transpose(2, 0, 1)[None]).float())
        assert answer.embedding.dtype == np.float32
        wanted = maps[-1].mean((0, 2, 3)).numpy()
        np.testing.assert_allclose(answer.embedding, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('backend', ONNX_BACKENDS)
def test_model_without_an_embedding_says_so(backend: str, tiny_model: Path) -> None:
    pytest.importorskip(backend)
    with pytest.raises(ModelError, match=r'has no embedding: export its checkpoint anew'):
        Segmenter.load(tiny_model, backend, embedding=True)


@pytest.mark.parametrize('backend', [*ONNX_BACKENDS, 'torch'])
def test_joint_models_give_depth_and_normals_when_asked_for(
    backend: str, joint_model: Path
) -> None:
    torch = pytest.importorskip('torch')
    pytest.importorskip(backend)
    from lwseg_ros.inference.graph import load_network

    weights = joint_model.with_suffix('.safetensors')
    path = weights if backend == 'torch' else joint_model
    info = read_model_info(path)
    assert info.measures == ('depth', 'normals')
    network = load_network(weights, info)
    options = {'precision': 'fp32', 'input_size': (64, 96)}
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    bare = Segmenter.load(path, backend, **options)(image)
    assert bare.depth is None
    assert bare.normals is None
    with Segmenter.load(path, backend, depth=True, normals=True, **options) as segmenter:
        answer = segmenter(image)
        larger = segmenter(image, (128, 192))
    assert np.array_equal(bare.labels, answer.labels)
    pixels = (image / 255 - info.mean) / info.std
    with torch.inference_mode():
        maps = network.encode(torch.tensor(pixels.transpose(2, 0, 1)[None]).float())
        _, measured = network.predict_all(maps)
        depth, normals = (
            torch.nn.functional.interpolate(
                measured[name], (64, 96), mode='bilinear', align_corners=True
            )[0]
            for name in ('depth', 'normals')
        )
    assert answer.depth.dtype == answer.normals.dtype == np.float32
    np.testing.assert_allclose(answer.depth, depth[0], rtol=1e-3, atol=1e-3)
    normals = (normals / normals.norm(dim=0)).permute(1, 2, 0)
    np.testing.assert_allclose(answer.normals, normals, rtol=1e-3, atol=2e-3)
    assert larger.depth.shape == (128, 192)
    assert larger.normals.shape == (128, 192, 3)
    assert set(np.unique(larger.depth)) == set(np.unique(answer.depth))  # of the nearest pixel


@pytest.mark.parametrize('backend', ONNX_BACKENDS)
def test_model_without_depth_says_so(backend: str, tiny_model: Path) -> None:
    pytest.importorskip(backend)
    with pytest.raises(ModelError, match=r'has no depth: take a model of a joint network'):
        Segmenter.load(tiny_model, backend, depth=True)


@pytest.fixture(scope='module', params=[np.nan, np.inf, -np.inf])
def broken_model(request: pytest.FixtureRequest, made_once: Any, tiny_model: Path) -> Path:
    """Return a model whose logit of one class is not finite where the image is white."""
    weights = {
        'red': np.array([[[[1]], [[0]], [[0]]]], np.float32),
        'almost_white': np.array(2.2, np.float32),
        'one': (np.arange(11) == 5).reshape(1, 11, 1, 1),
        'broken': np.array(request.param, np.float32),
    }

    def change(graph: Any) -> None:
        put_after_network(
            graph,
            weights,
            ('Conv', ['pixels', 'red'], 'brightness', {'strides': [4, 4]}),
            ('Greater', ['brightness', 'almost_white'], 'white', {}),
            ('And', ['white', 'one'], 'here', {}),
            ('Where', ['here', 'broken', 'sound'], 'logits', {}),
        )

    return made_once(
        f'broken_{request.param}.onnx',
        lambda path: remake_model(tiny_model, path, tiny_info('broken'), change),
    )


@pytest.mark.parametrize('backend', ONNX_BACKENDS)
def test_frame_with_non_finite_logits_has_no_answer(backend: str, broken_model: Path) -> None:
    pytest.importorskip(backend)
    segmenter = Segmenter.load(broken_model, backend, batch=2)
    image = np.full((96, 128, 3), 100, np.uint8)
    assert segmenter(image).confidence.min() > 0
    image[40, 60] = 255
    with pytest.raises(InferenceError, match='NaN or infinity at 64 of 12288 pixels'):
        segmenter(image)
    with pytest.raises(InferenceError, match='NaN or infinity at 64 of 12288 pixels'):
        segmenter([np.full((96, 128, 3), 100, np.uint8), image])


def test_auto_takes_the_first_and_says_so(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, 'lwseg_ros'):
        Segmenter.load(tiny_model)
    said = [record.getMessage() for record in caplog.records if record.name.startswith('lwseg')]
    assert len(said) == 1
    assert 'model tiny runs on ' in said[0]
    assert ' at 128x96' in said[0]
    if not has_gpu():
        assert said[0].endswith(' at 128x96 (passed over tensorrt: no NVIDIA GPU)')


def forget(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """Make a library, and the backend that imports it, impossible to import."""
    monkeypatch.delitem(sys.modules, f'lwseg_ros.inference.backends.{library}', raising=False)
    monkeypatch.setitem(sys.modules, library, None)


def test_auto_passes_over_what_is_missing(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip('onnxruntime')
    forget(monkeypatch, 'openvino')
    with caplog.at_level(logging.INFO, 'lwseg_ros'):
        segmenter = Segmenter.load(tiny_model)
    assert segmenter.description.startswith('onnxruntime')
    assert '; openvino: ' in caplog.text


def test_no_backend_lists_every_reason(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ONNX_BACKENDS:
        forget(monkeypatch, library)
    with pytest.raises(ModelError) as caught:
        Segmenter.load(tiny_model)
    sentence = str(caught.value)
    assert '\n' not in sentence
    for reason in ('openvino: ', 'pip install onnxruntime', 'torch: '):
        assert reason in sentence


@pytest.mark.parametrize(
    ('backend', 'options', 'sentence'),
    [
        ('caffe', {}, 'choose auto, '),
        ('openvino', {'precision': 'fp7'}, 'choose auto, '),
        ('openvino', {'precision': 'int8'}, 'quantized'),
        ('openvino', {'device': 'MARS'}, 'no backend can run'),
        ('onnxruntime', {'precision': 'bf16'}, 'fp32 or int8 only'),
        ('onnxruntime', {'device': 'cuda'}, 'CPU only'),
        ('torch', {}, 'reads safetensors'),
    ],
)
def test_wrong_choice_is_a_sentence(
    backend: str, options: dict[str, str], sentence: str, tiny_model: Path
) -> None:
    if backend in BACKENDS:
        pytest.importorskip(backend)
    with pytest.raises(ModelError, match=sentence):
        Segmenter.load(tiny_model, backend, **options)


@pytest.mark.usefixtures('tiny_catalog')
def test_safetensors_runs_on_torch_alone(torch_tiny: Path) -> None:
    assert Segmenter.load(torch_tiny).description.startswith('torch')
    with pytest.raises(ModelError, match='lwseg export'):
        Segmenter.load(torch_tiny, 'onnxruntime')


@pytest.mark.parametrize('backend', ONNX_BACKENDS)
def test_threads_can_be_limited(backend: str, tiny_model: Path) -> None:
    pytest.importorskip(backend)
    options = BackendOptions((96, 128), threads=1)
    opened: Backend = open_backend(backend, find_model(tiny_model), options)
    images = np.zeros((1, 96, 128, 3), np.uint8)
    assert opened.run(images, tiny_info().label_space.drivable_vector()).labels.shape == (
        1,
        96,
        128,
    )
    opened.close()


def test_backend_refuses_damage(tmp_path: Path) -> None:
    path = tmp_path / 'damaged.onnx'
    path.write_bytes(b'\x08\x08\x3a\x02\x0a\x00')
    source = ModelSource(path, tiny_info(), onnx=path)
    with pytest.raises(
        ModelError, match=r'damaged\.onnx: .*openvino: .*; onnxruntime: .*; torch: '
    ):
        open_backend('auto', source, BackendOptions((96, 128)))


FREED_BY_ANOTHER_THREAD = """
import os, signal, sys, threading
from lwseg_ros import Segmenter

models = [Segmenter.load(sys.argv[1], backend=sys.argv[2])]
thread = threading.Thread(target=lambda: models.pop().close())
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize('backend', ONNX_BACKENDS)
def test_signals_end_a_process_cleanly_whichever_thread_frees_the_model(
    backend: str, tiny_model: Path
) -> None:
    pytest.importorskip(backend)
    command = [sys.executable, '-c', FREED_BY_ANOTHER_THREAD, tiny_model, backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGINT
    assert 'KeyboardInterrupt' in done.stderr


def test_separated_max_pools_give_the_same_numbers() -> None:
    openvino = pytest.importorskip('openvino')
    from openvino import opset8

    from lwseg_ros.inference.backends.openvino import separate_pools

    given = opset8.parameter([1, 3, 17, 22], np.float32)
    pooled = given
    for kernel, stride, begin, end in (
        ([5, 5], 1, [2, 2], [2, 2]),
        ([7, 4], 1, [0, 3], [2, 1]),
        ([5, 5], 2, [2, 2], [2, 2]),
        ([3, 3], 1, [1, 1], [1, 1]),
    ):
        pooled = opset8.max_pool(pooled, [stride] * 2, [1, 1], begin, end, kernel).output(0)
    model = openvino.Model([pooled], [given])
    image = np.random.default_rng(0).normal(size=(1, 3, 17, 22)).astype(np.float32)
    core = openvino.Core()
    (before,) = core.compile_model(model.clone(), 'CPU')(image).values()
    separate_pools(model)
    (after,) = core.compile_model(model, 'CPU')(image).values()
    assert np.array_equal(before, after)
    kernels = [
        node.get_attributes()['kernel']
        for node in model.get_ordered_ops()
        if node.get_type_name() == 'MaxPool'
    ]
    assert kernels == [[5, 1], [1, 5], [7, 1], [1, 4], [5, 5], [3, 3]]
