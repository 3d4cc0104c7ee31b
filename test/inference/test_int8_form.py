"""The file that a shipped model's name runs: its own, or its int8 form where that pays."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from models_for_tests import remake_model, tiny_info, tiny_network
from typer.testing import CliRunner

from lwseg_ros import Segmenter
from lwseg_ros.cli.commands import app
from lwseg_ros.errors import ModelError
from lwseg_ros.files import sha256
from lwseg_ros.inference.int8_form import choose_form, int8_gain
from lwseg_ros.inference.model_source import find_model
from lwseg_ros.label_space import LabelSpace
from lwseg_ros.replay.settings import Settings, open_models
from lwseg_ros.share import config_file

pytest.importorskip('openvino')
onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

FP32 = {'miou': 0.7, 'drivable_iou': 0.9}
GOOD = {'camvid/val': {'miou': 0.699, 'drivable_iou': 0.899, 'fp32': FP32}}

Processor = Callable[..., None]


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Processor:
    """Return a function that says what the processor can do: no test has them all."""

    def is_one(exact_int8: bool = True, bf16: bool = False, gain: float = 2.0) -> None:
        backend = 'lwseg_ros.inference.backends.openvino'
        monkeypatch.setattr(f'{backend}.adds_int8_exactly', lambda: exact_int8)
        monkeypatch.setattr(f'{backend}.computes_in_bf16', lambda: bf16)
        monkeypatch.setattr('lwseg_ros.inference.int8_form.int8_gain', lambda named, int8: gain)

    monkeypatch.setattr('lwseg_ros.inference.int8_form.has_gpu', lambda: False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return is_one


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path) -> Path:
    """Return the folder of two shipped models, `street` and its int8 form, `street-int8`."""
    folder = tmp_path / 'models'
    folder.mkdir()
    monkeypatch.setattr('lwseg_ros.inference.model_source._SHIPPED', folder)
    remake_model(tiny_model, folder / 'street.onnx', tiny_info('street'), lambda graph: None)
    write_int8(folder)
    return folder


def write_int8(folder: Path, **changes: Any) -> None:
    """Write the int8 form of `street` with other metadata."""
    from lwseg_ros.training.int8_graph import Quantizer

    original = folder / 'street.onnx'
    provenance = {'quantized_from': f'street, sha256 {sha256(original)}'}
    info = replace(tiny_info('street-int8'), provenance=provenance, accuracy=GOOD)
    quantizer = Quantizer(original, info, folder.parent)
    random = np.random.default_rng(0)
    quantizer.calibrate([random.integers(0, 256, (96, 128, 3), dtype=np.uint8)])
    quantizer.write([], replace(info, **changes), folder / 'street-int8.onnx')


def what_runs(**options: Any) -> str:
    with Segmenter.load('street', **options) as segmenter:
        assert segmenter.info.name == segmenter.path.stem
        return segmenter.path.name


def why(**options: Any) -> str:
    return choose_form('street', find_model('street'), **options).why


@pytest.mark.usefixtures('shipped')
def test_int8_runs_where_this_processor_gains_by_it(
    processor: Processor, caplog: pytest.LogCaptureFixture
) -> None:
    processor(gain=1.3)
    with caplog.at_level(logging.INFO, 'lwseg_ros'):
        assert what_runs() == 'street-int8.onnx'
    assert 'street-int8.onnx runs for street: it is 1.30 times as fast here' in caplog.text
    assert what_runs(backend='openvino', device='CPU') == 'street-int8.onnx'
    with Segmenter.load('street') as segmenter:
        assert segmenter.description.startswith('openvino')
        assert 'int8' in segmenter.description


@pytest.mark.parametrize(
    ('abilities', 'reason'),
    [
        ({'gain': 1.29}, '1.29 times as fast here, 1.3 times are wanted'),
        ({'gain': float('nan')}, 'wanted'),
        ({'bf16': True}, 'computes in bf16'),
        ({'exact_int8': False}, 'no VNNI'),
    ],
)
@pytest.mark.usefixtures('shipped')
def test_floating_point_runs_on_other_processors(
    abilities: dict[str, Any],
    reason: str,
    processor: Processor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    processor(**abilities)
    with caplog.at_level(logging.INFO, 'lwseg_ros'):
        assert what_runs() == 'street.onnx'
    assert 'street.onnx runs for street: ' in caplog.text
    assert reason in caplog.text
    assert reason in why()


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'accuracy': {}}, 'does not say what it lost'),
        ({'accuracy': {'camvid/val': FP32}}, 'does not say what it lost'),
        (
            {'accuracy': {**GOOD, 'idd': {**FP32, 'miou': 0.694, 'fp32': FP32}}},
            'loses 0.60 points, 0.5 are allowed',
        ),
        ({'accuracy': {'idd': {**FP32, 'drivable_iou': 0.89, 'fp32': FP32}}}, 'loses 1.00 points'),
        ({'accuracy': {'idd': {**FP32, 'miou': float('nan'), 'fp32': FP32}}}, 'loses nan points'),
        ({'provenance': {'quantized_from': 'street, sha256 0'}}, 'from another file'),
    ],
)
def test_a_form_that_may_do_harm_is_not_taken(
    changes: dict[str, Any], reason: str, shipped: Path, processor: Processor
) -> None:
    processor()
    write_int8(shipped, **changes)
    assert reason in why()
    assert what_runs() == 'street.onnx'


def test_floating_point_runs_where_the_other_file_is_missing_or_cannot_run(
    shipped: Path,
    processor: Processor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    processor()
    from lwseg_ros.inference.backends.openvino import OpenVinoBackend

    open_backend = OpenVinoBackend.open

    def broken(source: Any, options: Any) -> OpenVinoBackend:
        if source.info.precision == 'int8':
            raise RuntimeError('no room for it')
        return open_backend(source, options)

    monkeypatch.setattr(OpenVinoBackend, 'open', broken)
    assert what_runs() == 'street.onnx'
    assert 'street.onnx runs instead: no backend can run' in caplog.text
    (shipped / 'street-int8.onnx').write_bytes(b'')
    assert what_runs() == 'street.onnx'
    (shipped / 'street-int8.onnx').unlink()
    assert why() == 'there is no street-int8'
    assert what_runs() == 'street.onnx'


def test_what_is_asked_for_by_file_or_precision_or_backend_runs(
    shipped: Path, processor: Processor
) -> None:
    processor()
    assert what_runs(precision=None) == what_runs(precision='fp32') == 'street.onnx'
    assert what_runs(backend='onnxruntime') == what_runs(device='cpu', precision='fp32')
    with Segmenter.load(shipped / 'street.onnx') as segmenter:
        assert segmenter.path == shipped / 'street.onnx'
    with Segmenter.load('street-int8') as segmenter:
        assert segmenter.path == shipped / 'street-int8.onnx'
    processor(exact_int8=False, bf16=True, gain=0.5)
    assert what_runs(precision='int8') == 'street-int8.onnx'
    (shipped / 'street-int8.onnx').unlink()
    with pytest.raises(ModelError, match='quantized model'):
        Segmenter.load('street', precision='int8')


def test_on_a_gpu_floating_point_runs(
    shipped: Path, processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor()
    monkeypatch.setattr('lwseg_ros.inference.int8_form.has_gpu', lambda: True)
    assert 'GPU' in why()
    assert choose_form('street', find_model('street'), device='cpu').source.path.stem.endswith(
        '-int8'
    )


def test_safetensors_are_the_file_that_pytorch_runs(
    shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lwseg_ros.inference.graph import save_safetensors

    save_safetensors(tiny_network(), tiny_info('street'), shipped / 'street.safetensors')
    monkeypatch.setattr(
        'lwseg_ros.networks.create_network', lambda name, num_classes: tiny_network()
    )
    assert what_runs(backend='torch', device='cpu') == 'street.safetensors'


def test_the_gain_is_measured_once_for_these_files(
    shipped: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever it is: the same robot answers alike at each start."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr('lwseg_ros.inference.backends.openvino.adds_int8_exactly', lambda: True)
    forms = find_model('street'), find_model('street-int8')
    gain = int8_gain(*forms)
    assert gain > 0
    (kept,) = (tmp_path / 'cache').rglob('*.json')
    content = json.loads(kept.read_text())
    assert content['gain'] == gain
    assert content['files'] == [sha256(form.path) for form in forms]
    kept.write_text(json.dumps({**content, 'gain': 17}))
    assert int8_gain(*forms) == 17
    monkeypatch.setenv('ONEDNN_MAX_CPU_ISA', 'AVX2')
    assert int8_gain(*forms) != 17
    monkeypatch.delenv('ONEDNN_MAX_CPU_ISA')
    kept.write_text('{')
    assert int8_gain(*forms) != 17
    monkeypatch.setenv('XDG_CACHE_HOME', str(kept))  # a file: nothing can be kept below it
    assert int8_gain(*forms) > 0


@pytest.mark.usefixtures('shipped')
def test_replays_keep_to_the_file_that_was_named(shipped: Path, processor: Processor) -> None:
    processor()
    for precision, name in ((None, 'street'), ('auto', 'street-int8'), ('int8', 'street-int8')):
        with open_models(Settings(model='street', precision=precision)) as models:
            assert models.model['name'] == name
            assert models.model['sha256'] == sha256(shipped / f'{name}.onnx')


def test_evaluate_keeps_to_the_file_that_was_named_and_says_which(
    shipped: Path, processor: Processor, tmp_path: Path
) -> None:
    processor()
    palette = LabelSpace.load('camvid').palette
    labels = np.arange(11, dtype=np.uint8).repeat(12)[np.newaxis].repeat(96, 0)
    for kind, picture in (('images', palette[labels][..., ::-1]), ('labels', labels)):
        (tmp_path / 'set' / kind / 'val').mkdir(parents=True)
        cv2.imwrite(str(tmp_path / 'set' / kind / 'val' / '0.png'), picture)
    (tmp_path / 'set' / 'label_space.yaml').write_text(
        config_file('label_spaces/camvid.yaml').read_text(encoding='utf-8'), encoding='utf-8'
    )
    data = ('--data', f'folder:{tmp_path / "set"}', '--split', 'val')
    out = tmp_path / 'out.json'
    for options, name in (((), 'street'), (('--precision', 'auto'), 'street-int8')):
        done = CliRunner().invoke(app, ['evaluate', 'street', *data, '--json', str(out), *options])
        assert done.exit_code == 0, done.output
        result = json.loads(out.read_text())
        assert (result['model'], result['model_sha256']) == (
            name,
            sha256(shipped / f'{name}.onnx'),
        )


def test_info_tells_what_precision_auto_runs(shipped: Path, processor: Processor) -> None:
    def told(model: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, ['info', model])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    processor(gain=1.75)
    assert told('street')['file'] == str(shipped / 'street.onnx')
    auto = told('street')['precision_auto']
    assert auto['file'] == str(shipped / 'street-int8.onnx')
    assert '1.75 times as fast' in auto['why']
    processor(bf16=True)
    assert told('street')['precision_auto']['file'] == str(shipped / 'street.onnx')
    assert 'precision_auto' not in told('street-int8')
    assert 'precision_auto' not in told(str(shipped / 'street.onnx'))
