"""Somebody else's ONNX runs by a few lines of YAML, and answers as our own graph does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from models_for_tests import tiny_info
from paths_for_tests import ROOT, shared

from lwseg_ros import LabelSpace, Segmenter
from lwseg_ros.errors import LwsegError, ModelError

onnx = pytest.importorskip('onnx')
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

SPACE = LabelSpace.load('camvid')


def colour_weights(sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and bias of logits -sharpness |pixel - colour|^2, pixels 0..1."""
    colours = SPACE.palette[: SPACE.num_classes].astype(np.float32) / 255
    scale = 20 * sharpness
    return 2 * scale * colours[:, :, None, None], -scale * (colours**2).sum(1)


def write_model(
    folder: Path,
    description: str,
    stride: int = 4,
    size: tuple[Any, Any] = (96, 128),
    kind: str = 'logits',
    layout: str = 'nchw',
    channels: int = 3,
    opset: int = 17,
) -> Path:
    """Write model.onnx, one convolution to the nearest CamVid colour, and model.yaml."""
    weight, bias = colour_weights()
    shape = [1, channels, *size]
    nodes = []
    if layout == 'nhwc':
        shape = [1, *size, channels]
        nodes.append(helper.make_node('Transpose', ['x'], ['planes'], perm=[0, 3, 1, 2]))
    source = 'planes' if nodes else 'x'
    nodes.append(helper.make_node('Conv', [source, 'w', 'b'], ['z'], strides=[stride] * 2))
    result, element, rank = 'z', TensorProto.FLOAT, 4
    if kind == 'probabilities':
        result = 'p'
        nodes.append(helper.make_node('Softmax', ['z'], ['p'], axis=1))
    if kind == 'labels':
        result, element, rank = 'l', TensorProto.INT64, 3
        nodes.append(helper.make_node('ArgMax', ['z'], ['l'], axis=1, keepdims=0))
    if layout == 'nhwc' and rank == 4:
        nodes.append(helper.make_node('Transpose', [result], ['last'], perm=[0, 2, 3, 1]))
        result = 'last'
    graph = helper.make_graph(
        nodes,
        'colours',
        [helper.make_tensor_value_info('x', TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(result, element, [None] * rank)],
        [numpy_helper.from_array(weight, 'w'), numpy_helper.from_array(bias, 'b')],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', opset)], ir_version=8)
    path = folder / 'model.onnx'
    onnx.save(model, str(path))
    (folder / 'model.yaml').write_text(description)
    return path


@pytest.fixture(scope='module')
def image() -> np.ndarray:
    """Return soft patches of many colours, uint8 RGB [150, 200, 3]."""
    coarse = np.random.default_rng(3).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (200, 150), interpolation=cv2.INTER_LINEAR)


def run(path: Path, image: np.ndarray, **options: Any) -> Any:
    with Segmenter.load(path, precision='fp32', **options) as segmenter:
        return segmenter(image, 'network')


@pytest.mark.parametrize(
    ('lines', 'options'),
    [
        ('', {}),
        ('', {'opset': 18}),
        ('', {'opset': 11}),
        ('output: {kind: probabilities}', {'kind': 'probabilities', 'opset': 13}),
        ('input: {layout: nhwc}\noutput: {layout: nhwc}', {'layout': 'nhwc'}),
        ('input: {size: [96, 128]}', {'size': ('h', 'w')}),
        ('name: theirs\ninput: {color: rgb, scale: 1/255, mean: [0, 0, 0], std: [1, 1, 1]}', {}),
    ],
    ids=['logits', 'opset 18', 'opset 11', 'probabilities', 'nhwc', 'open size', 'all said'],
)
@pytest.mark.parametrize('backend', ['openvino', 'onnxruntime'])
def test_answers_as_our_own_graph(
    backend: str,
    lines: str,
    options: dict[str, Any],
    tmp_path: Path,
    image: np.ndarray,
) -> None:
    pytest.importorskip(backend)
    torch = pytest.importorskip('torch')
    from lwseg_ros.inference.graph import ImageToLabels

    path = write_model(tmp_path, f'label_space: camvid\n{lines}\n', **options)
    given = run(path, image, backend=backend)

    network = torch.nn.Conv2d(3, SPACE.num_classes, 1, stride=4)
    weight, bias = colour_weights()
    network.load_state_dict({'weight': torch.tensor(weight), 'bias': torch.tensor(bias)})
    network.centred = True  # as what others up-sample
    graph = ImageToLabels(network, (0, 0, 0), (1, 1, 1), label_stride=1).eval()
    fitted = torch.from_numpy(cv2.resize(image, (128, 96), interpolation=cv2.INTER_LINEAR))
    with torch.no_grad():
        wanted = graph(fitted[None], torch.from_numpy(SPACE.drivable_vector()))
    labels, confidence, drivable = (plane[0].numpy() for plane in wanted)
    same = given.labels == labels
    assert same.mean() > 0.999
    assert cv2.absdiff(given.confidence, confidence)[same].max() <= 1
    assert cv2.absdiff(given.drivable_score, drivable)[same].max() <= 1


def test_bgr_and_normalisation(tmp_path: Path, image: np.ndarray) -> None:
    wanted = run(write_model(tmp_path, 'label_space: camvid'), image).labels
    (tmp_path / 'model.yaml').write_text('label_space: camvid\ninput: {color: bgr}')
    swapped = np.ascontiguousarray(image[..., ::-1])
    assert (run(tmp_path / 'model.onnx', swapped).labels == wanted).all()
    (tmp_path / 'model.yaml').write_text(
        'label_space: camvid\ninput: {scale: 1, mean: [0, 0, 0], std: [255, 255, 255]}'
    )
    assert np.mean(run(tmp_path / 'model.onnx', image).labels == wanted) > 0.999
    (tmp_path / 'model.yaml').write_text('label_space: camvid\ninput: {mean: [0.5, 0.5, 0.5]}')
    assert np.mean(run(tmp_path / 'model.onnx', image).labels == wanted) < 0.9


def test_ready_labels(tmp_path: Path, image: np.ndarray) -> None:
    text = 'label_space: camvid\noutput: {kind: labels}'
    result = run(write_model(tmp_path, text, stride=1, kind='labels'), image)
    fitted = cv2.resize(image, (128, 96), interpolation=cv2.INTER_LINEAR)
    distance = fitted[:, :, None].astype(float) - SPACE.palette[: SPACE.num_classes]
    # Whole-numbered pixels lie at equal distances from two colours now and then.
    assert np.mean(result.labels == (distance**2).sum(-1).argmin(-1)) > 0.99
    assert (result.confidence == 255).all()
    assert (result.drivable == np.where(result.labels == 3, 255, 0)).all()


@pytest.mark.parametrize('kind', ['logits', 'probabilities'])
def test_single_plane_is_the_second_of_two_classes(tmp_path: Path, kind: str) -> None:
    nodes = [helper.make_node('ReduceMean', ['x'], ['m'], axes=[1], keepdims=1)]
    if kind == 'logits':
        nodes.append(helper.make_node('Sub', ['m', 'half'], ['y']))
    graph = helper.make_graph(
        nodes,
        'bright',
        [helper.make_tensor_value_info('x', TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info('y' if kind == 'logits' else 'm', 1, [1, 1, 32, 32])],
        [numpy_helper.from_array(np.float32(0.5), 'half')],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    onnx.save(model, str(tmp_path / 'model.onnx'))
    (tmp_path / 'model.yaml').write_text(
        'label_space:\n'
        '  name: bright\n'
        '  classes:\n'
        '    - {id: 0, name: dark, color: [0, 0, 0]}\n'
        '    - {id: 1, name: bright, color: [255, 255, 255], drivable: true}\n'
        f'output: {{kind: {kind}}}\n'
    )
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 16:] = 204
    result = run(tmp_path / 'model.onnx', image)
    assert (result.labels == (image[..., 0] > 0)).all()
    assert (result.drivable == 255 * result.labels).all()
    if kind == 'probabilities':
        assert abs(int(result.confidence[0, -1]) - 204) <= 1


def test_twinlitenet_finds_the_road(shared_data: Path) -> None:
    path = shared('peers/twinlitenet_bdd100k.onnx')
    files = sorted((shared_data / 'camvid' / 'images' / 'val').glob('*.jpg'))[::20]
    description = ROOT / 'config' / 'models' / 'twinlitenet_bdd100k.yaml'
    with Segmenter.load(path, description=description) as segmenter:
        assert segmenter.input_size == (360, 640)
        hit = missed = false = 0
        for file in files:
            image = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
            label_file = shared_data / 'camvid' / 'labels' / 'val' / f'{file.stem}.png'
            road = cv2.imread(str(label_file), cv2.IMREAD_GRAYSCALE) == 3
            drivable = segmenter(image).drivable > 0
            hit += np.count_nonzero(drivable & road)
            missed += np.count_nonzero(~drivable & road)
            false += np.count_nonzero(drivable & ~road)
    assert hit / (hit + missed + false) > 0.7
    with pytest.raises(ModelError, match='not made by lwseg'):
        Segmenter.load(path)


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        ('label_space: [', 'is not YAML'),
        ('just words', 'lines of `key: value`'),
        ('input: {}', 'label_space is missing'),
        ('label_space: atlantis', 'no label space'),
        ('label_space: {name: x}', 'is not a label space'),
        ('label_space: camvid\nclasses: 3', 'unknown key classes'),
        ('label_space: camvid\ninput: {sizes: 3}', 'unknown key sizes under input'),
        ('label_space: camvid\ninput: {size: 3}', r'size is \[height, width\]'),
        ('label_space: camvid\ninput: {size: [10, 10]}', r'runs at \(96, 128\)'),
        ('label_space: camvid\ninput: {color: cmyk}', 'not one of rgb, bgr'),
        ('label_space: camvid\ninput: {size: [yes, 10]}', r'size is \[height, width\]'),
        ('label_space: camvid\ninput: {scale: much}', 'model.yaml'),
        ('label_space: camvid\ninput: {scale: 1/0}', 'no finite number'),
        ('label_space: camvid\ninput: {scale: yes}', 'True is a flag'),
        ('label_space: camvid\ninput: {mean: [.nan, 0, 0]}', 'no finite number'),
        ('label_space: camvid\ninput: {std: [0, 1, 1]}', 'must be positive'),
        ('label_space: camvid\ninput: {mean: 3}', 'list of three numbers'),
        ('label_space: camvid\ninput: {layout: nhwc}', '3 channels are wanted'),
        ('label_space: camvid\noutput: {name: y}', 'has the outputs z'),
        ('label_space: cityscapes', 'has an output of 11 classes'),
    ],
)
def test_wrong_description_is_a_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    path = write_model(tmp_path, text)
    with pytest.raises(LwsegError, match=sentence):
        Segmenter.load(path)


def test_missing_description_is_named(tmp_path: Path) -> None:
    path = write_model(tmp_path, 'label_space: camvid')
    with pytest.raises(ModelError, match=r'none\.yaml cannot be read'):
        Segmenter.load(path, description=tmp_path / 'none.yaml')
    (tmp_path / 'model.yaml').unlink()
    with pytest.raises(ModelError, match=r'model\.yaml beside'):
        Segmenter.load(path)


def test_open_size_must_be_said(tmp_path: Path) -> None:
    path = write_model(tmp_path, 'label_space: camvid', size=('h', 'w'))
    with pytest.raises(ModelError, match='leaves its input size open'):
        Segmenter.load(path)


def test_fixed_size_cannot_be_changed(tmp_path: Path) -> None:
    path = write_model(tmp_path, 'label_space: camvid')
    with pytest.raises(ModelError, match='runs at 128x96 only'):
        Segmenter.load(path, input_size=(48, 64))


def test_open_size_can_be_changed(tmp_path: Path, image: np.ndarray) -> None:
    text = 'label_space: camvid\ninput: {size: [96, 128]}'
    path = write_model(tmp_path, text, size=('h', 'w'))
    assert run(path, image, input_size=(77, 101)).labels.shape == (77, 101)


def test_external_data_stays_in_its_folder(tmp_path: Path, image: np.ndarray) -> None:
    folder = tmp_path / 'model'
    folder.mkdir()
    path = write_model(folder, 'label_space: camvid')
    wanted = run(path, image).labels
    onnx.save(
        onnx.load(str(path)),
        str(path),
        save_as_external_data=True,
        location='weights.bin',
        size_threshold=0,
    )
    assert (run(path, image).labels == wanted).all()

    model = onnx.load(str(path), load_external_data=False)
    (folder / 'weights.bin').rename(tmp_path / 'weights.bin')
    for location in ('weights.bin', '../weights.bin', str(tmp_path / 'weights.bin')):
        for tensor in model.graph.initializer:
            tensor.external_data[0].value = location
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ModelError, match='in its own folder'):
            Segmenter.load(path)


def test_own_model_needs_no_description(tiny_model: Path) -> None:
    assert Segmenter.load(tiny_model).info == tiny_info()
