"""An int8 model that three libraries take, keeps its accuracy, and says what it is."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from models_for_tests import tiny_info, tiny_network

from lwseg_ros import Segmenter
from lwseg_ros.datasets.dataset import open_dataset, read_image
from lwseg_ros.errors import ModelError
from lwseg_ros.files import sha256
from lwseg_ros.inference.int8_form import points_lost
from lwseg_ros.inference.model_file import read_model_info
from lwseg_ros.inference.model_source import find_model, list_models
from lwseg_ros.label_space import LabelSpace
from lwseg_ros.share import config_file

torch = pytest.importorskip('torch')
onnx = pytest.importorskip('onnx')
pytest.importorskip('openvino')
pytest.importorskip('onnxruntime')

from lwseg_ros.inference.backends.openvino import adds_int8_exactly  # noqa: E402
from lwseg_ros.inference.graph import export_onnx  # noqa: E402
from lwseg_ros.training.quantize import quantize  # noqa: E402

INT8_MODELS = [name for name in list_models() if name.endswith('-int8')]


class Lopsided(torch.nn.Module):
    """The tiny network behind two layers; the second one's range is wasted on a useless channel.

    Quantized, it has nothing left for the colours.
    """

    def __init__(self) -> None:
        super().__init__()
        tiny = tiny_network()
        self.harmless = torch.nn.Conv2d(3, 3, 1)
        self.lopsided = torch.nn.Conv2d(3, 4, 1, stride=4)
        self.classify = torch.nn.Conv2d(4, tiny.out_channels, 1)
        with torch.no_grad():
            for layer in (self.harmless, self.lopsided):
                layer.weight.zero_()
                layer.bias.zero_()
                layer.weight[:3] = torch.eye(3)[:, :, None, None]
            self.lopsided.bias[3] = 1000
            self.classify.weight[:, :3] = tiny.weight
            self.classify.weight[:, 3:] = 0
            self.classify.bias.copy_(tiny.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.lopsided(self.harmless(x)))


@pytest.fixture(scope='module')
def painted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return labelled images painted in the colours of their classes."""
    folder = tmp_path_factory.mktemp('painted')
    (folder / 'label_space.yaml').write_text(
        config_file('label_spaces/camvid.yaml').read_text(encoding='utf-8'), encoding='utf-8'
    )
    palette = LabelSpace.load('camvid').palette
    random = np.random.default_rng(0)
    for kind in ('images', 'labels'):
        (folder / kind / 'train').mkdir(parents=True)
    for number in range(6):
        labels = np.kron(random.integers(0, 11, (3, 4)), np.ones((32, 32))).astype(np.uint8)
        cv2.imwrite(str(folder / f'images/train/{number}.png'), palette[labels][..., ::-1])
        cv2.imwrite(str(folder / f'labels/train/{number}.png'), labels)
    return f'folder:{folder}'


@pytest.fixture(scope='module')
def lopsided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the model of `Lopsided`."""
    path = tmp_path_factory.mktemp('lopsided') / 'fp32.onnx'
    export_onnx(Lopsided(), tiny_info('lopsided'), path)
    return path


def test_a_layer_that_loses_too_much_stays_in_floating_point(
    painted: str, lopsided: Path, tmp_path: Path
) -> None:
    report = quantize(str(lopsided), [painted], tmp_path / 'lopsided-int8.onnx')
    kept = report['layers_in_floating_point']
    assert [name.split('.')[-2] for name in kept] == ['classify'], 'it gets what is not quantized'
    (figures,) = report['data'].values()
    assert figures['label_agreement'] > 0.99
    info = read_model_info(tmp_path / 'lopsided-int8.onnx')
    assert (info.name, info.precision) == ('lopsided-int8', 'int8')
    assert info.provenance['layers_in_floating_point'] == kept
    assert sha256(lopsided) in info.provenance['quantized_from']
    assert points_lost(info) == pytest.approx(
        100 * max(np.subtract(*figures['miou']), np.subtract(*figures['drivable_iou'])), abs=0.006
    )


def test_nothing_is_written_when_too_much_is_lost(
    painted: str, lopsided: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r'loses .* nothing was written'):
        quantize(str(lopsided), [painted], tmp_path / 'int8.onnx', minutes=0, max_loss=0)
    assert not (tmp_path / 'int8.onnx').exists()


@pytest.mark.parametrize('name', INT8_MODELS)
def test_shipped_int8_models_are_what_tensorrt_takes(name: str) -> None:
    path = find_model(name).path
    graph = onnx.load(path).graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type.endswith('tizeLinear')]
    zero_points = [stored[node.input[2]] for node in pairs]
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zero_points)
    weights = [stored[node.input[0]] for node in pairs if node.input[0] in stored]
    assert weights
    assert all(values.dtype == np.int8 for values in weights)
    scales = [stored[node.input[1]].size for node in pairs if node.input[0] in stored]
    assert scales == [len(values) for values in weights]
    assert path.stat().st_size < 16e6


@pytest.mark.parametrize('name', INT8_MODELS)
def test_shipped_int8_models_answer_alike_and_as_their_originals(
    name: str, shared_data: Path
) -> None:
    images = [
        read_image(pair.image)
        for spec in ('camvid:camvid', 'idd_lite:idd_lite')
        for pair in open_dataset(spec, 'val', shared_data).pairs[::25]
    ]
    original = Segmenter.load(name.removesuffix('-int8'), 'onnxruntime')
    quantized = {'auto': Segmenter.load(name), 'onnxruntime': Segmenter.load(name, 'onnxruntime')}
    if adds_int8_exactly():
        quantized['openvino'] = Segmenter.load(name, 'openvino', precision='int8')
    labels = {key: [run(i, 'network').labels for i in images] for key, run in quantized.items()}
    wanted = [original(image, 'network').labels for image in images]
    for key, found in labels.items():
        assert 'int8' in quantized[key].description
        assert np.mean(np.equal(found, wanted)) >= 0.95, key
        assert np.mean(np.equal(found, labels['onnxruntime'])) >= 0.99, key


@pytest.mark.skipif(not INT8_MODELS, reason='no int8 model is shipped')
def test_openvino_refuses_int8_where_its_sums_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without VNNI it would name other classes; what else is here is taken instead."""
    monkeypatch.setattr('lwseg_ros.inference.backends.openvino.adds_int8_exactly', lambda: False)
    with pytest.raises(ModelError, match='no VNNI.*use onnxruntime, or the model that'):
        Segmenter.load(INT8_MODELS[0], 'openvino')
    with Segmenter.load(INT8_MODELS[0]) as segmenter:
        assert segmenter.description.startswith('onnxruntime ')


@pytest.mark.parametrize('backend', ['openvino', 'onnxruntime'])
def test_int8_wants_a_quantized_model(backend: str, tiny_model: Path) -> None:
    with pytest.raises(ModelError, match='lwseg quantize'):
        Segmenter.load(tiny_model, backend, precision='int8')


@pytest.mark.skipif(not INT8_MODELS, reason='no int8 model is shipped')
def test_a_quantized_model_is_not_quantized_again(painted: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match='quantized already'):
        quantize(INT8_MODELS[0], [painted], tmp_path / 'again.onnx')
