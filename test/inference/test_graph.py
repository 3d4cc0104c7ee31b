"""The graph's answers are what its docstring says, and its export is clean and of any size."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from models_for_tests import tiny_info, tiny_network

torch = pytest.importorskip('torch')
onnx = pytest.importorskip('onnx')

from safetensors.torch import load_file  # noqa: E402

from lwseg_ros.errors import ModelError  # noqa: E402
from lwseg_ros.inference.backends import open_backend  # noqa: E402
from lwseg_ros.inference.backends.base import BackendOptions  # noqa: E402
from lwseg_ros.inference.export import export_checkpoint, largest_activation  # noqa: E402
from lwseg_ros.inference.graph import (  # noqa: E402
    MANY_CLASSES,
    ImageToLabels,
    export_onnx,
    load_network,
    round_weights,
    save_safetensors,
)
from lwseg_ros.inference.model_info import ModelInfo  # noqa: E402
from lwseg_ros.inference.model_source import ModelSource  # noqa: E402
from lwseg_ros.label_space import LabelSpace  # noqa: E402


class Fixed(torch.nn.Module):
    """A network whose logits are given: [C, h, w] for an image of 4h - 3 by 4w - 3."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.logits = torch.from_numpy(logits.astype(np.float32))[None]

    def forward(self, x):
        return self.logits + 0 * x.sum()


def answer(
    logits: np.ndarray, drivable: list[float], label_stride: int | None = 4
) -> list[np.ndarray]:
    _, height, width = logits.shape
    graph = ImageToLabels(Fixed(logits), (0, 0, 0), (1, 1, 1), label_stride).eval()
    image = torch.zeros(1, 4 * height - 3, 4 * width - 3, 3, dtype=torch.uint8)
    return [plane[0].numpy() for plane in graph(image, torch.tensor(drivable))]


def test_labels_confidence_and_drivable_score() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (5, 40, 50))
    labels, confidence, drivable = answer(logits, [0, 1, 0, 1, 0])
    probabilities = np.exp(logits) / np.exp(logits).sum(0)
    margin = logits[[1, 3]].max(0) - logits[[0, 2, 4]].max(0)
    assert (labels == logits.argmax(0)).all()
    assert np.abs(confidence - 255 * probabilities.max(0)).max() <= 0.51
    assert np.abs(drivable - 255 / (1 + np.exp(-margin))).max() <= 1.01
    assert ((drivable >= 128) == np.isin(labels, [1, 3])).all()


@pytest.mark.parametrize('label_stride', [1, 2, 4])
def test_drivable_follows_the_labels_at_every_stride(label_stride: int) -> None:
    logits = np.random.default_rng(1).normal(0, 2, (4, 17, 23))
    labels, confidence, drivable = answer(logits, [1, 0, 0, 1], label_stride)
    assert labels.shape == (64 // label_stride + 1, 88 // label_stride + 1)
    assert ((drivable >= 128) == np.isin(labels, [0, 3])).all()
    assert confidence.min() > 0


def test_many_classes_are_up_sampled_less() -> None:
    logits = np.random.default_rng(2).normal(0, 2, (MANY_CLASSES + 1, 9, 12))
    few, *_ = answer(logits[:-1], [1.0] * MANY_CLASSES, label_stride=None)
    many, *_ = answer(logits, [1.0] * (MANY_CLASSES + 1), label_stride=None)
    assert few.shape == (33, 45)
    assert many.shape == (17, 23)
    assert (many[::2, ::2] == logits.argmax(0)).all()


def test_a_logit_answers_for_the_pixel_it_was_taken_at() -> None:
    logits = np.random.default_rng(3).normal(0, 3, (4, 9, 12))
    labels, confidence, _ = answer(logits, [1, 0, 0, 0], label_stride=1)
    coarse, coarse_confidence, _ = answer(logits, [1, 0, 0, 0], label_stride=4)
    assert (labels[::4, ::4] == coarse).all()
    assert (confidence[::4, ::4] == coarse_confidence).all()


def test_tie_takes_the_lowest_id() -> None:
    labels, _, drivable = answer(np.zeros((3, 8, 8)), [0, 1, 1])
    assert (labels == 0).all()
    assert (drivable == 127).all()
    _, _, drivable = answer(np.zeros((3, 8, 8)), [1, 0, 0])
    assert (drivable == 128).all()


def test_all_or_no_classes_drivable() -> None:
    logits = np.random.default_rng(2).normal(0, 3, (3, 8, 8))
    assert (answer(logits, [1, 1, 1])[2] == 255).all()
    assert (answer(logits, [0, 0, 0])[2] == 0).all()


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('label_stride', [1, 4])
def test_non_finite_logits_are_marked(value: float, label_stride: int) -> None:
    logits = np.zeros((3, 8, 8))
    logits[1] = 5
    logits[2, 4, 4] = value
    _, confidence, drivable = answer(logits, [0, 1, 0], label_stride)
    broken = confidence == 0
    place = 16 // label_stride
    assert broken[place, place]
    assert broken.sum() == (7 if label_stride == 1 else 1) ** 2
    assert (drivable[broken] == 0).all()
    assert (drivable[~broken] >= 128).all()


def test_export_is_clean(tiny_model: Path) -> None:
    model = onnx.load(str(tiny_model))
    graph = model.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        assert not part.doc_string
        assert not part.metadata_props
        assert '/' not in part.name
    assert not graph.value_info
    content = tiny_model.read_bytes()
    for trace in (str(Path.cwd()), sys.prefix, str(Path.home()), '.py', 'File "'):
        assert trace.encode() not in content
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8, 'what runtimes of the age of opset 18 read'
    assert [p.key for p in model.metadata_props] == ['lwseg', 'lwseg_sha256']
    assert [o.version for o in model.opset_import if not o.domain] == [18]
    dims = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ['batch', 'height', 'width', 3]


def test_uint8_meets_nothing_but_casts(tiny_model: Path) -> None:
    """TensorRT takes uint8 at the edges of the network only."""
    graph = onnx.load(str(tiny_model)).graph
    assert [node.op_type for node in graph.node if 'image' in node.input] == ['Cast']
    makers = {output: node.op_type for node in graph.node for output in node.output}
    assert [makers[o.name] for o in graph.output] == ['Cast'] * 3


def test_network_of_another_stride_is_refused(tmp_path: Path) -> None:
    network = torch.nn.Conv2d(3, 11, 1, stride=8)
    with pytest.raises(ModelError, match='stride 4'):
        export_onnx(network, tiny_info(), tmp_path / 'model.onnx')
    assert not list(tmp_path.iterdir())


@pytest.fixture
def tiny_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the catalog know the network of the tiny model."""
    networks = pytest.importorskip('lwseg_ros.networks')
    monkeypatch.setattr(networks, 'create_network', lambda name, num_classes: tiny_network())


@pytest.mark.usefixtures('tiny_catalog')
def test_checkpoint_exports_to_the_same_labels(tmp_path: Path) -> None:
    save_safetensors(tiny_network(), tiny_info(), tmp_path / 'best.safetensors')
    report = export_checkpoint(tmp_path / 'best.safetensors', tmp_path / 'new.onnx', 'new')
    assert report['label_agreement'] >= 0.995
    assert sorted(p.name for p in tmp_path.iterdir()) == ['best.safetensors', 'new.onnx']


@pytest.mark.usefixtures('tiny_catalog')
def test_export_that_disagrees_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_safetensors(tiny_network(), tiny_info(), tmp_path / 'best.safetensors')

    def export_another(network, info: ModelInfo, path: Path) -> None:
        export_onnx(torch.nn.Conv2d(3, 11, 1, stride=4).eval(), info, path)

    monkeypatch.setattr('lwseg_ros.inference.export.export_onnx', export_another)
    with pytest.raises(ModelError, match='nothing was written'):
        export_checkpoint(tmp_path / 'best.safetensors', tmp_path / 'new.onnx')
    assert [p.name for p in tmp_path.iterdir()] == ['best.safetensors']


def test_rounded_weights_are_those_of_both_halves_and_answer_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 1, stride=4), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 11, 1)
    ).eval()
    convolution, norm, last = network
    norm.weight.data.uniform_(-2, 2)
    norm.weight.data[3] = 0
    norm.bias.data.uniform_(-1, 1)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.1, 3)
    x = torch.randn(1, 3, 32, 32)
    was, answer = last.weight.clone(), network(x)
    round_weights(network)
    for weight in (convolution.weight, last.weight):
        assert torch.equal(weight, weight.bfloat16().float())
        assert torch.equal(weight, weight.half().float())
    assert not torch.equal(last.weight, was)
    assert torch.allclose(last.weight, was, rtol=2**-8, atol=1e-7)
    assert torch.allclose(network(x), answer, rtol=0, atol=0.03)
    assert not network(x)[:, :, 0, 0].equal(answer[:, :, 0, 0])

    save_safetensors(network, tiny_info(), tmp_path / 'half.safetensors')
    stored = load_file(tmp_path / 'half.safetensors')
    assert stored['0.weight'].dtype == stored['2.weight'].dtype == torch.float16
    assert stored['1.weight'].dtype == torch.float32
    assert torch.equal(stored['0.weight'].float(), convolution.weight)
    export_onnx(network, tiny_info(), tmp_path / 'half.onnx')
    stored = onnx.load(str(tmp_path / 'half.onnx')).graph.initializer
    halves = [w.dims[:2] for w in stored if w.data_type == onnx.TensorProto.FLOAT16]
    assert sorted(halves) == [[8, 3], [11, 8]]


@pytest.mark.usefixtures('tiny_catalog')
def test_rounded_export_writes_both_forms(tmp_path: Path) -> None:
    best = tmp_path / 'best.safetensors'
    save_safetensors(tiny_network(), tiny_info(), best)
    export_checkpoint(best, tmp_path / 'new.onnx', round_to_bf16=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'best.safetensors',
        'new.onnx',
        'new.safetensors',
    ]
    with pytest.raises(ModelError, match='would be overwritten'):
        export_checkpoint(best, tmp_path / 'best.onnx', round_to_bf16=True)


def test_only_checkpoints_are_exported_and_only_to_onnx(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match='not a safetensors checkpoint'):
        export_checkpoint(tiny_model, tmp_path / 'new.onnx')
    with pytest.raises(ModelError, match=r'must end in \.onnx'):
        export_checkpoint(tiny_model, tmp_path / 'new.engine')


@pytest.mark.usefixtures('tiny_catalog')
def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / 'model.safetensors'
    save_safetensors(torch.nn.Conv2d(3, 5, 1), tiny_info(), path)
    with pytest.raises(ModelError, match='size mismatch'):
        load_network(path, tiny_info())
    source = ModelSource(path, tiny_info(), safetensors=path)
    with pytest.raises(ModelError, match='size mismatch'):
        open_backend('torch', source, BackendOptions((96, 128)))


def test_label_space_of_another_size_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    model = onnx.load(str(tiny_model))
    other = ModelInfo('wrong', 'tiny', LabelSpace.load('cityscapes'), (96, 128))
    model.metadata_props[0].value = other.to_json()
    path = tmp_path / 'wrong.onnx'
    onnx.save(model, str(path))
    for backend in ('openvino', 'onnxruntime'):
        pytest.importorskip(backend)
        with pytest.raises(ModelError, match='11 outputs .* cityscapes has 19 classes'):
            open_backend(backend, ModelSource(path, other, onnx=path), BackendOptions((96, 128)))


def test_export_tells_how_near_the_network_comes_to_the_end_of_half_precision() -> None:
    network = tiny_network()
    with torch.no_grad():
        network.bias += 1e5
    assert largest_activation(tiny_network(), tiny_info()) < 100
    assert 0.9e5 < largest_activation(network, tiny_info()) < 1.1e5
