"""TensorRT's backend on a stand-in for the GPU: what is sent to it, checked and kept."""

from __future__ import annotations

import json
import logging
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import remake_model, set_weights, tiny_info, weights_of
from typer.testing import CliRunner

onnxruntime = pytest.importorskip('onnxruntime')

from gpu_for_tests import FakeDriver, install  # noqa: E402

from lwseg_ros import Segmenter  # noqa: E402
from lwseg_ros.cli.commands import app  # noqa: E402
from lwseg_ros.errors import ModelError  # noqa: E402
from lwseg_ros.inference.backends.cuda import has_gpu  # noqa: E402

HALF = onnx.TensorProto.FLOAT16


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Keep engines in a folder of the test; return it."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'lwseg_ros' / 'engines'


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeDriver, Any]:
    """Return the driver and the TensorRT of a machine with a GPU."""
    return install(monkeypatch)


def pictures(number: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (96, 128, 3), dtype=np.uint8) for _ in range(number)]


def is_half(graph: bytes) -> bool:
    return any(t.data_type == HALF for t in onnx.load_from_string(graph).graph.initializer)


def same_answers(given: Segmenter, wanted: Segmenter, images: list[np.ndarray]) -> bool:
    """Tell whether all labels but a few are the same, and the other planes nearly so."""
    shares = []
    for one, other in zip(given(images), wanted(images), strict=True):
        shares.append((one.labels == other.labels).mean())
        same = one.labels == other.labels
        assert np.abs(one.confidence[same].astype(int) - other.confidence[same]).max() <= 3
    return float(np.mean(shares)) > 0.99


def test_answers_are_those_of_the_model(gpu: Any, tiny_model: Path) -> None:
    wanted = Segmenter.load(tiny_model, 'onnxruntime')
    with Segmenter.load(tiny_model, 'tensorrt', precision='fp32') as exact:
        assert exact.description == 'tensorrt 10.3.0 fp32 Fake GPU 128x96'
        for one, other in zip(exact(pictures(3)), wanted(pictures(3)), strict=True):
            for name in ('labels', 'confidence', 'drivable_score'):
                assert (getattr(one, name) == getattr(other, name)).all()
    with Segmenter.load(tiny_model, 'tensorrt') as half:
        assert half.description == 'tensorrt 10.3.0 fp16 Fake GPU 128x96'
        assert same_answers(half, wanted, pictures(3))


def test_frame_is_one_graph_launch_and_one_wait(gpu: Any, tiny_model: Path) -> None:
    driver, _ = gpu
    with Segmenter.load(tiny_model, 'tensorrt', precision='fp32') as segmenter:
        assert driver.calls['execute_async_v3'] == 2  # to warm up, to record
        for image in pictures(3):
            driver.calls.clear()
            segmenter(image)
            assert driver.calls == {
                'cuCtxSetCurrent': 1,
                'cuGraphLaunch': 1,
                'cuStreamSynchronize': 1,
            }


def test_results_are_not_overwritten_by_the_next_call(gpu: Any, tiny_model: Path) -> None:
    with Segmenter.load(tiny_model, 'tensorrt') as segmenter:
        first, second = pictures(2)
        result = segmenter(first, 'network')
        labels = result.labels.copy()
        segmenter(second, 'network')
        assert (result.labels == labels).all()


def test_every_number_of_cameras_up_to_the_batch(gpu: Any, tiny_model: Path) -> None:
    driver, _ = gpu
    wanted = Segmenter.load(tiny_model, 'onnxruntime')
    with Segmenter.load(tiny_model, 'tensorrt', precision='fp32', batch=3) as segmenter:
        assert segmenter.batch == 3
        for number in (1, 2, 3):
            driver.calls.clear()
            given = segmenter(pictures(number))
            assert driver.calls['cuGraphLaunch'] == 1
            for one, other in zip(given, wanted(pictures(number)), strict=True):
                assert (one.labels == other.labels).all()


def test_another_thread_may_run_what_this_one_opened(gpu: Any, tiny_model: Path) -> None:
    with Segmenter.load(tiny_model, 'tensorrt') as segmenter:
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(segmenter(pictures(1)[0])))
        thread.start()
        thread.join()
        assert (answers[0].labels == segmenter(pictures(1)[0]).labels).all()


def test_close_frees_all_memory(gpu: Any, tiny_model: Path) -> None:
    driver, _ = gpu
    segmenter = Segmenter.load(tiny_model, 'tensorrt', batch=2)
    assert driver.device
    assert driver.pinned
    segmenter.close()
    assert not driver.device
    assert not driver.pinned
    assert not driver.objects


def test_what_cannot_be_recorded_runs_without_a_graph(
    gpu: Any, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    driver, _ = gpu
    driver.records = False
    segmenter = Segmenter.load(tiny_model, 'tensorrt', precision='fp32')
    assert 'without a CUDA graph: cuStreamEndCapture failed with CUDA_ERROR_' in caplog.text
    wanted = Segmenter.load(tiny_model, 'onnxruntime')
    assert (segmenter(pictures(1)[0]).labels == wanted(pictures(1)[0]).labels).all()


@pytest.mark.parametrize(
    ('version', 'network', 'builder', 'half_graph'),
    [
        ('8.6.1', 1 << 0, {'FP16'}, False),
        ('10.3.0', 1 << 1, set(), True),
        ('11.0.0', 1 << 1, set(), True),
    ],
)
def test_half_precision_of_every_version(
    version: str,
    network: int,
    builder: set[str],
    half_graph: bool,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, library = install(monkeypatch, version)
    Segmenter.load(tiny_model, 'tensorrt').close()
    (engine, reference) = library.built
    assert engine[:2] == (network, builder)
    assert reference[:2] == (network, set())
    assert is_half(engine[2]) == half_graph
    assert not is_half(reference[2])


def test_engine_is_built_once(gpu: Any, tiny_model: Path, cache: Path, tmp_path: Path) -> None:
    _, library = gpu
    Segmenter.load(tiny_model, 'tensorrt', precision='fp32').close()
    assert len(library.built) == len(list(cache.iterdir())) == 1
    Segmenter.load(tiny_model, 'tensorrt', precision='fp32').close()
    assert len(library.built) == 1
    Segmenter.load(tiny_model, 'tensorrt', precision='fp32', force_rebuild=True).close()
    assert len(library.built) == 2
    Segmenter.load(tiny_model, 'tensorrt', precision='fp32', input_size='64x64').close()
    assert len(library.built) == 3
    elsewhere = str(tmp_path / 'elsewhere')
    Segmenter.load(tiny_model, 'tensorrt', precision='fp32', engine_cache_dir=elsewhere).close()
    assert len(library.built) == 4
    assert len(list((tmp_path / 'elsewhere').iterdir())) == 1
    assert len(list(cache.iterdir())) == 2


def test_damaged_engine_is_built_again(gpu: Any, tiny_model: Path, cache: Path) -> None:
    _, library = gpu
    Segmenter.load(tiny_model, 'tensorrt', precision='fp32').close()
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    Segmenter.load(tiny_model, 'tensorrt', precision='fp32').close()
    assert len(library.built) == 2
    assert path.read_bytes() == whole


def shifted_model(shift: float, tiny_model: Path, path: Path) -> Path:
    """Write the tiny model with this much added to every logit, which changes no label."""

    def change(graph: Any) -> None:
        set_weights(graph, 'network.bias', weights_of(graph, 'network.bias') + shift)

    return remake_model(tiny_model, path, tiny_info(), change)


@pytest.mark.parametrize(
    ('shift', 'reason'), [(3e3, r'agrees with fp32 on \d.* % of the pixels'), (1e6, 'NaN')]
)
def test_half_precision_that_answers_otherwise_is_refused_once(
    shift: float,
    reason: str,
    gpu: Any,
    tiny_model: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, library = gpu
    model = shifted_model(shift, tiny_model, tmp_path / 'shifted.onnx')
    with Segmenter.load(model, 'tensorrt') as segmenter:
        assert ' fp32 ' in segmenter.description
    assert len(library.built) == 3  # half, the reference, and what is used
    (warning,) = (r for r in caplog.records if r.levelno == logging.WARNING)
    assert 'model tiny runs in fp32 on TensorRT, not in fp16: it ' in warning.getMessage()
    assert re.search(reason, warning.getMessage())
    with Segmenter.load(model, 'tensorrt') as segmenter:
        assert ' fp32 ' in segmenter.description
    assert len(library.built) == 3


def test_half_precision_that_cannot_be_built_is_passed_over(
    gpu: Any, tiny_model: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, library = gpu
    build = library.Builder.build_serialized_network
    monkeypatch.setattr(
        library.Builder,
        'build_serialized_network',
        lambda self, network, config: (
            None if is_half(network.graph) else build(self, network, config)
        ),
    )
    with Segmenter.load(tiny_model, 'tensorrt') as segmenter:
        assert ' fp32 ' in segmenter.description
    assert 'not in fp16: tensorrt 10.3.0 cannot build the engine of tiny' in caplog.text


def test_auto_takes_tensorrt_where_a_gpu_is(
    gpu: Any, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Segmenter.load(tiny_model) as segmenter:
        assert segmenter.description.startswith('tensorrt')
    gpu[1].loads = False
    with caplog.at_level(logging.INFO, 'lwseg_ros'), Segmenter.load(tiny_model) as segmenter:
        assert not segmenter.description.startswith('tensorrt')
    assert 'passed over tensorrt: tensorrt 10.3.0 cannot load' in caplog.text
    assert '; torch: it reads safetensors' in caplog.text


def test_export_builds_ahead_what_the_node_will_look_for(
    gpu: Any, tiny_model: Path, tmp_path: Path
) -> None:
    _, library = gpu
    folder = str(tmp_path / 'engines')
    arguments = [
        'export',
        str(tiny_model),
        '--engine',
        '--batch',
        '2',
        '--engine-cache-dir',
        folder,
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report == {
        'engine': 'tensorrt 10.3.0 fp16 Fake GPU 128x96',
        'batch': 2,
        'engine_cache': folder,
    }
    built = len(library.built)
    Segmenter.load(tiny_model, batch=2, engine_cache_dir=folder).close()
    assert len(library.built) == built


def test_export_without_a_gpu_is_a_sentence(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, _ = install(monkeypatch)
    driver.gpus = 0
    done = CliRunner().invoke(app, ['export', str(tiny_model), '--engine'])
    assert 'no NVIDIA GPU 0 to be used' in str(done.exception)
    assert isinstance(done.exception, ModelError)


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        ({'device': 'cpu'}, "NVIDIA GPUs only .*, not on 'cpu'"),
        ({'device': 'cuda:1'}, 'no NVIDIA GPU 1 to be used: .*NO_DEVICE'),
        ({'precision': 'bf16'}, 'computes in fp16'),
        ({'precision': 'int8'}, 'quantized'),
    ],
)
def test_wrong_choice_is_a_sentence(
    options: dict[str, str], sentence: str, gpu: Any, tiny_model: Path
) -> None:
    with pytest.raises(ModelError, match=sentence):
        Segmenter.load(tiny_model, 'tensorrt', **options)


def test_the_stand_in_knows_no_call_that_the_driver_lacks() -> None:
    real = pytest.importorskip('cuda.bindings.driver')
    used = {name for name in vars(FakeDriver) if name.startswith(('cu', 'CU'))}
    assert {name for name in used if not hasattr(real, name)} == set()
    assert hasattr(real.CUdevice_attribute, 'CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR')


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason='no NVIDIA GPU')
@pytest.mark.parametrize('name', ['road', 'road-nano', 'road-frm'])
def test_real_engines_agree_with_fp32(name: str) -> None:
    if not any(map(importable, ('tensorrt', 'tensorrt_rtx'))):
        pytest.skip('no TensorRT')
    wanted = Segmenter.load(name, 'onnxruntime')
    with Segmenter.load(name, 'tensorrt', batch=2) as segmenter:
        assert ' fp16 ' in segmenter.description
        image = np.random.default_rng(0).integers(0, 256, (9, 16, 3), dtype=np.uint8)
        images = [image.repeat(80, 0).repeat(80, 1), image[::-1].repeat(80, 0).repeat(80, 1)]
        assert same_answers(segmenter, wanted, images)


def importable(library: str) -> bool:
    try:
        __import__(library)
    except ImportError:
        return False
    return True
