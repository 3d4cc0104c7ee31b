"""PyTorch in half precision, on the GPU and as far as possible without one."""

from __future__ import annotations

import logging
import types
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from models_for_tests import tiny_info, tiny_network

torch = pytest.importorskip('torch')

from lwseg_ros import Segmenter  # noqa: E402
from lwseg_ros.errors import ModelError  # noqa: E402
from lwseg_ros.inference.backends import open_backend  # noqa: E402
from lwseg_ros.inference.backends.base import BackendOptions  # noqa: E402
from lwseg_ros.inference.backends.torch import _Eager, _OnGpu, resized  # noqa: E402
from lwseg_ros.inference.graph import (  # noqa: E402
    ImageToLabels,
    fold_norms,
    save_safetensors,
)
from lwseg_ros.inference.model_source import find_model, list_models  # noqa: E402

SHIPPED = [name for name in ('road', 'road-nano', 'road-frm') if name in list_models()]
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='no NVIDIA GPU')


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize('size', [(97, 131), (50, 70), (200, 300), (96, 128)])
def test_frames_are_resized_as_opencv_does(size: tuple[int, int]) -> None:
    image = picture(96, 128)
    given = resized(torch.from_numpy(image)[None], size)[0].numpy()
    wanted = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    assert given.shape == wanted.shape
    assert cv2.absdiff(given, wanted).max() <= 1


@pytest.mark.parametrize(
    'name',
    [
        *('lw_refinenet_mobilenet_v2_nano', 'frm_top_mobilenet_v2_compact'),
        *('frm_split_mobilenet_v2_compact', 'fpn_van_b0_compact'),
    ],
)
def test_network_without_norms_answers_as_with_them(name: str) -> None:
    from lwseg_ros.networks import create_network

    torch.manual_seed(0)
    network = create_network(name, 5)
    with torch.no_grad():
        network(torch.randn(2, 3, 64, 64))
        network.eval()
        image = torch.randn(1, 3, 64, 96)
        wanted = network(image)
        norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        fold_norms(network)
        left = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        torch.testing.assert_close(network(image), wanted, rtol=1e-3, atol=1e-4)
    assert len(left) < len(norms)  # some stand before a convolution


@pytest.mark.parametrize('name', SHIPPED)
def test_half_precision_agrees_with_fp32(name: str) -> None:
    images = [picture(97, 129, seed)[np.newaxis] for seed in range(3)]
    drivable = find_model(name).info.label_space.drivable_vector()
    answers = []
    for precision in ('fp32', 'fp16'):
        options = BackendOptions((97, 129), 'cpu', precision)
        backend = open_backend('torch', find_model(name), options)
        assert f' {precision} ' in backend.description
        answers.append([backend.run(image, drivable) for image in images])
    same = [one.labels == other.labels for one, other in zip(*answers, strict=True)]
    assert np.mean(same) >= 0.99


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Path]:
    """Return a function that writes the tiny model with this much added to every logit."""

    def write(shift: float) -> Path:
        network = tiny_network()
        with torch.no_grad():
            network.bias += shift
        save_safetensors(network, tiny_info(), tmp_path / 'tiny.safetensors')
        return tmp_path / 'tiny.safetensors'

    monkeypatch.setattr(
        'lwseg_ros.networks.create_network', lambda name, num_classes: tiny_network()
    )
    return write


@pytest.mark.parametrize(('shift', 'reason'), [(3e3, 'agrees with fp32 on'), (1e6, 'NaN')])
def test_half_precision_that_answers_otherwise_is_refused(
    shift: float,
    reason: str,
    tiny: Callable[[float], Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Segmenter.load(tiny(shift), 'torch', device='cpu', precision='fp16') as segmenter:
        assert ' fp32 ' in segmenter.description
    (warning,) = (r for r in caplog.records if r.levelno == logging.WARNING)
    assert 'model tiny runs in fp32 on PyTorch, not in fp16: it ' in warning.getMessage()
    assert reason in warning.getMessage()


def test_backend_that_resizes_gets_the_frame_as_it_is(
    tiny: Callable[[float], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny(0)
    wanted = Segmenter.load(path, 'torch', device='cpu', batch=2)
    given = Segmenter.load(path, 'torch', device='cpu', batch=2)
    monkeypatch.setattr(given, '_resizes', True)
    seen: list[tuple[int, ...]] = []
    run: Callable[..., Any] = given._backend.run
    monkeypatch.setattr(
        given._backend,
        'run',
        lambda images, *more: seen.append(images.shape) or run(images, *more),
    )
    frames = [picture(200, 300, seed) for seed in range(2)]
    for images in ([frames[0]], frames, [frames[0], frames[1][:150]]):
        for one, other in zip(given(images), wanted(images), strict=True):
            assert one.labels.shape == other.labels.shape
            assert (one.labels == other.labels).mean() > 0.97
    assert seen == [(1, 200, 300, 3), (2, 200, 300, 3), (2, 96, 128, 3)]


class FakeGraph(torch.utils._python_dispatch.TorchDispatchMode):
    """Stands for `torch.cuda.CUDAGraph`: does what was recorded again, on the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, ...]] = []
        self.replays = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        results = function(*arguments, **(options or {}))
        self.operations.append((function, arguments, options or {}, results))
        return results

    def replay(self) -> None:
        self.replays += 1
        for function, arguments, options, results in self.operations:
            again = function(*arguments, **options)
            for old, new in zip(as_tuple(results), as_tuple(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def as_tuple(values: Any) -> tuple[Any, ...]:
    return tuple(values) if isinstance(values, (tuple, list)) else (values,)


def test_recorded_network_answers_as_the_eager_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logic of the GPU's path, on the CPU: buffers, recording, changes of size and classes."""
    waits: list[int] = []
    graphs: list[FakeGraph] = []
    stream = types.SimpleNamespace(synchronize=lambda: waits.append(1))
    empty = torch.empty
    monkeypatch.setattr(torch, 'empty', lambda *a, pin_memory=False, **k: empty(*a, **k))
    monkeypatch.setattr(torch.cuda, 'Stream', lambda device: stream)
    monkeypatch.setattr(torch.cuda, 'stream', lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, 'device', lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, 'graph', lambda graph, **options: graph)
    monkeypatch.setattr(torch.cuda, 'CUDAGraph', lambda: graphs.append(FakeGraph()) or graphs[-1])
    info = tiny_info()
    graph = ImageToLabels(tiny_network(), info.mean, info.std).eval()
    arguments = (graph, torch.device('cpu'), (96, 128))
    recorded, eager = _OnGpu(*arguments), _Eager(*arguments)
    road, pavement = (info.label_space.drivable_vector([name]) for name in ('road', 'pavement'))
    with torch.inference_mode():
        for number, height, width, drivable in (
            *((1, 96, 128, road), (1, 96, 128, road), (2, 96, 128, road)),
            *((2, 200, 300, road), (1, 50, 70, pavement), (1, 50, 70, road)),
        ):
            seed = len(waits)
            frames = np.stack([picture(height, width, seed + n) for n in range(number)])
            given, wanted = recorded.run(frames, drivable), eager.run(frames, drivable)
            for one, other in zip(given, wanted, strict=True):
                assert (one == other).all()
    assert [graph.replays for graph in graphs] == [4, 2]
    assert len(waits) == 6 + len(graphs)


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        ({'precision': 'bf16'}, 'fp32 or fp16'),
        ({'device': 'mars'}, "knows no device 'mars'"),
        pytest.param(
            {'device': 'cuda'},
            'finds no NVIDIA GPU',
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason='there is one'),
        ),
    ],
)
def test_wrong_choice_is_a_sentence(
    options: dict[str, str], sentence: str, tiny: Callable[[float], Path]
) -> None:
    with pytest.raises(ModelError, match=sentence):
        Segmenter.load(tiny(0), 'torch', **options)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
@pytest.mark.parametrize('name', SHIPPED)
def test_gpu_answers_as_the_cpu(name: str, precision: str) -> None:
    frames = [picture(720, 1280, seed) for seed in range(3)]
    wanted = Segmenter.load(name, 'torch', device='cpu', precision='fp32')(frames)
    with Segmenter.load(name, 'torch', device='cuda', precision=precision) as segmenter:
        assert f' {precision} CUDA' in segmenter.description
        for given in (segmenter(frames), [segmenter(frame) for frame in frames]):
            for one, other in zip(given, wanted, strict=True):
                assert (one.labels == other.labels).mean() > 0.98


@pytest.mark.gpu
@on_gpu
def test_gpu_waits_once_for_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = picture(720, 1280)
    with Segmenter.load('road', 'torch', device='cuda') as segmenter:
        segmenter(frame)
        waits = []
        wait = torch.cuda.Stream.synchronize
        monkeypatch.setattr(
            torch.cuda.Stream, 'synchronize', lambda stream: waits.append(1) or wait(stream)
        )
        torch.cuda.set_sync_debug_mode('error')  # whatever else waits raises
        try:
            segmenter(frame)
        finally:
            torch.cuda.set_sync_debug_mode('default')
    assert len(waits) == 1
