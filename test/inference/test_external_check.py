"""A description that cannot be right for its network is refused, with the entry to write."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths_for_tests import shared

from lwseg_ros import Segmenter
from lwseg_ros.errors import ModelError
from lwseg_ros.inference import external_run

onnx = pytest.importorskip('onnx')
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

TWO = (
    'label_space:\n'
    '  name: two\n'
    '  classes:\n'
    '    - {id: 0, name: dark, color: [0, 0, 0]}\n'
    '    - {id: 1, name: bright, color: [128, 64, 128], drivable: true}\n'
)
FLOAT, INT64, UINT8, INT8 = (TensorProto.FLOAT, TensorProto.INT64, 2, 3)
HEIGHT, WIDTH = 64, 96
HALF = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
HALF[:, WIDTH // 2 :] = 210
BRIGHT = HALF[..., 0] > 128

Node = tuple[str, list[str], str, dict[str, Any]]


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Node:
    return kind, ['' if name == '_' else name for name in inputs.split()], output, attributes


def write(
    folder: Path,
    description: str,
    tail: list[Node],
    output: str = 'y',
    head: list[Node] | None = None,
    element: int = FLOAT,
    shape: tuple[Any, ...] = (1, 3, HEIGHT, WIDTH),
    seen: tuple[float, float] = (0.0, 1.0),
) -> Path:
    """Write a network that tells bright from dark, and its description.

    The network proper sees black and white as `seen`; it gives the scores `z` `[1, 2, h, w]` and
    `s` `[1, 1, h, w]` of bright alone. `head` comes before it (its result is `seen`), `tail`
    behind.
    """
    black, white = seen
    slope = np.full((1, 3, 1, 1), 8 / (white - black) / 3, np.float32)
    offset = -4 * (white + black) / (white - black)
    weights = {
        'w1': slope,
        'b1': np.array([offset], np.float32),
        'w2': np.concatenate([-slope, slope]),
        'b2': np.array([-offset, offset], np.float32),
        'one': np.float32(1),
        'half': np.float32(0.5),
        'most': np.float32(255),
        'middle': np.float32(127.5),
        'mean255': np.array([123.675, 116.28, 103.53], np.float32).reshape(1, 3, 1, 1),
        'std255': np.array([58.395, 57.12, 57.375], np.float32).reshape(1, 3, 1, 1),
        'variance': np.full(3, 3600, np.float32),
        'means': np.full(3, 120, np.float32),
        'ones': np.ones(3, np.float32),
        'zeros': np.zeros(3, np.float32),
        'axis': np.array([1], np.int64),
        'flat': np.array([1, -1], np.int64),
        'narrow': np.array([1, -1, 24], np.int64),
        'double': np.array([1, 1, 2, 2], np.float32),
        'four': np.array([1, 1, 4, 4], np.float32),
    }
    source = 'seen' if head else 'x'
    nodes = [
        *(head or ()),
        node('Conv', f'{source} w1 b1', 's'),
        node('Conv', f'{source} w2 b2', 'z'),
        *tail,
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, [name], **more) for kind, inputs, name, more in nodes],
        'bright',
        [helper.make_tensor_value_info('x', element, shape)],
        [helper.make_tensor_value_info(output, FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    # What the last operator gives is for shape inference to say.
    graph.output[0].ClearField('type')
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model)
    path = folder / 'model.onnx'
    onnx.save(inferred, str(path))
    (folder / 'model.yaml').write_text(TWO + description)
    return path


def labels(path: Path, backend: str = 'auto') -> Any:
    with Segmenter.load(path, backend, precision='fp32') as segmenter:
        return segmenter(HALF)


SOFTMAX = [node('Softmax', 'z', 'y', axis=1)]
SIGMOID = [node('Sigmoid', 's', 'y')]
SQUEEZED = [node('Sigmoid', 's', 'p'), node('Squeeze', 'p axis', 'y')]
SIGMOIDS = [node('Sigmoid', 'z', 'y')]
IN_STEPS = [
    node('ReduceMax', 'z', 'top', axes=[1], keepdims=1),
    node('Sub', 'z top', 'd'),
    node('Exp', 'd', 'e'),
    node('ReduceSum', 'e axis', 'sum', keepdims=1),
    node('Div', 'e sum', 'y'),
]
ONE_IN_STEPS = [
    node('Neg', 's', 'n'),
    node('Exp', 'n', 'e'),
    node('Add', 'one e', 'p'),
    node('Reciprocal', 'p', 'y'),
]
TWO_IN_STEPS = [
    node('Neg', 'z', 'n'),
    node('Exp', 'n', 'e'),
    node('Add', 'e one', 'p'),
    node('Div', 'one p', 'y'),
]
BY_TANH = [
    node('Mul', 's half', 'a'),
    node('Tanh', 'a', 't'),
    node('Mul', 't half', 'm'),
    node('Add', 'm half', 'y'),
]
ENLARGED = [
    node('Softmax', 'z', 'p', axis=1),
    node('Resize', 'p _ double', 'r', mode='cubic'),
    node('Identity', 'r', 'y'),
]
ONE_MINUS = [
    node('Sigmoid', 's', 'p'),
    node('Sub', 'one p', 'q'),
    node('Concat', 'q p', 'y', axis=1),
]
LOG_SOFTMAX = [node('LogSoftmax', 'z', 'y', axis=1)]
EXP_LOG = [node('LogSoftmax', 'z', 'l', axis=1), node('Exp', 'l', 'y')]
ARGMAX = [node('ArgMax', 'z', 'y', axis=1, keepdims=0)]
ARGMAX_PLANE = [
    node('ArgMax', 'z', 'i', axis=1, keepdims=1),
    node('Cast', 'i', 'y', to=FLOAT),
]
ABOVE_HALF = [
    node('Sigmoid', 's', 'p'),
    node('Greater', 'p half', 'g'),
    node('Cast', 'g', 'y', to=UINT8),
]
ROUNDED = [node('Sigmoid', 's', 'p'), node('Round', 'p', 'y')]
SHARES_OF_255 = [
    node('Sigmoid', 's', 'p'),
    node('Mul', 'p most', 'm'),
    node('Cast', 'm', 'y', to=UINT8),
]
GATED = [node('Sigmoid', 'z', 'g'), node('Mul', 'z g', 'y')]
NO_LESS_THAN_0 = [node('Relu', 'z', 'y')]
PLAIN = [node('Identity', 'z', 'y')]
PLAIN_ONE = [node('Identity', 's', 'y')]


@pytest.mark.parametrize(
    ('said', 'right', 'tail'),
    [
        ('logits', 'probabilities', SOFTMAX),
        ('logits', 'probabilities', SIGMOID),
        ('logits', 'probabilities', SQUEEZED),
        ('logits', 'probabilities', SIGMOIDS),
        ('logits', 'probabilities', IN_STEPS),
        ('logits', 'probabilities', ONE_IN_STEPS),
        ('logits', 'probabilities', TWO_IN_STEPS),
        ('logits', 'probabilities', BY_TANH),
        ('logits', 'probabilities', ENLARGED),
        ('logits', 'probabilities', ONE_MINUS),
        ('logits', 'probabilities', EXP_LOG),
        ('logits', 'labels', ARGMAX),
        ('logits', 'labels', ARGMAX_PLANE),
        ('logits', 'labels', ABOVE_HALF),
        ('logits', 'labels', ROUNDED),
        ('probabilities', 'logits', PLAIN),
        ('probabilities', 'logits', PLAIN_ONE),
        ('probabilities', 'logits', LOG_SOFTMAX),
        ('probabilities', 'logits', NO_LESS_THAN_0),
        ('labels', 'logits', PLAIN),
        ('labels', 'logits', PLAIN_ONE),
        ('labels', 'logits', GATED),
        ('labels', 'probabilities', SOFTMAX),
        ('labels', 'probabilities', SIGMOID),
    ],
)
def test_an_output_of_another_kind_is_refused_and_the_right_one_named(
    said: str, right: str, tail: list[Node], tmp_path: Path
) -> None:
    path = write(tmp_path, f'output: {{kind: {said}}}', tail)
    with pytest.raises(ModelError, match=rf'write output: \{{kind: {right}\}}') as error:
        Segmenter.load(path)
    assert '\n' not in str(error.value)
    path.with_suffix('.yaml').write_text(f'{TWO}output: {{kind: {right}}}')
    assert (labels(path).labels == BRIGHT).all()


@pytest.mark.parametrize('tail', [SOFTMAX, SIGMOID, IN_STEPS, ONE_IN_STEPS, TWO_IN_STEPS, EXP_LOG])
def test_the_last_operators_are_enough(
    tail: list[Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a robot that has TensorRT alone, the network is not run when it is looked at."""
    monkeypatch.setattr(external_run, '_LIBRARIES', {})
    path = write(tmp_path, 'output: {kind: logits}', tail)
    with pytest.raises(ModelError, match=r'write output: \{kind: probabilities\}'):
        Segmenter.load(path)


@pytest.mark.parametrize('library', ['ONNX Runtime', 'OpenVINO'])
def test_what_it_gives_is_enough(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(library.replace(' ', '').lower())
    only = {library: external_run._LIBRARIES[library]}
    monkeypatch.setattr(external_run, '_LIBRARIES', only)
    path = write(tmp_path, 'output: {kind: logits}', BY_TANH)
    with pytest.raises(ModelError, match=r'write output: \{kind: probabilities\}'):
        Segmenter.load(path)


@pytest.mark.parametrize('tail', [PLAIN, PLAIN_ONE, LOG_SOFTMAX, GATED, NO_LESS_THAN_0])
def test_true_logits_are_taken(tail: list[Node], tmp_path: Path) -> None:
    assert (labels(write(tmp_path, '', tail)).labels == BRIGHT).all()


def test_a_network_that_always_says_the_same_is_taken(tmp_path: Path) -> None:
    always = [node('Mul', 'z zero', 'm'), node('Add', 'm always', 'y')]
    path = write(tmp_path, '', [])
    model = onnx.load(str(path))
    for name, value in (('zero', [[0.0]]), ('always', [[[[0.0]], [[7.0]]]])):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    model.graph.node.extend(helper.make_node(k, i, [o]) for k, i, o, _ in always)
    onnx.save(model, str(path))
    assert (labels(path).labels == 1).all()


@pytest.mark.parametrize('kind', ['logits', 'probabilities', 'labels'])
def test_probabilities_that_were_scaled_are_neither(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path, f'output: {{kind: {kind}}}', SHARES_OF_255)
    with pytest.raises(ModelError, match='export it without what comes after'):
        Segmenter.load(path)


def test_a_softmax_over_one_plane_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 'output: {kind: probabilities}', [node('Softmax', 's', 'y', axis=1)])
    with pytest.raises(ModelError, match='over one value, which is always 1'):
        Segmenter.load(path)


@pytest.mark.parametrize(
    ('tail', 'kind'), [(PLAIN_ONE, 'logits'), (SIGMOID, 'probabilities'), (ARGMAX, 'labels')]
)
def test_one_class_is_refused(tail: list[Node], kind: str, tmp_path: Path) -> None:
    path = write(tmp_path, '', tail)
    one = TWO.replace('    - {id: 0, name: dark, color: [0, 0, 0]}\n', '').replace(
        'id: 1', 'id: 0'
    )
    path.with_suffix('.yaml').write_text(one)
    with pytest.raises(ModelError, match=rf'two classes .* id 1 bright, .*kind: {kind}\}}'):
        Segmenter.load(path)


def test_sigmoids_of_which_none_is_sure_are_not_sure(tmp_path: Path) -> None:
    """Each class has a sigmoid of its own: all may be low, or several high."""
    path = write(tmp_path, 'output: {kind: probabilities}', SIGMOIDS)
    model = onnx.load(str(path))
    bias = next(w for w in model.graph.initializer if w.name == 'b2')
    for lift in (-4.0, 4.0):
        bias.CopyFrom(numpy_helper.from_array(np.float32([4 + lift, lift - 4]), 'b2'))
        onnx.save(model, str(path))
        result = labels(path)
        assert (result.labels == BRIGHT).all()
        ends = result.confidence[0, [0, -1]] / 255
        z = np.array([4 - 8 * 40 / 255, 8 * 210 / 255 - 4])
        high, low = (1 / (1 + np.exp(-(lift + sign * z))) for sign in (1, -1))
        assert ends == pytest.approx(high / np.maximum(1, high + low), abs=0.01)


def test_nan_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    always = [node('Sub', 'z z', 'n'), node('Div', 'n n', 'd'), node('Add', 'z d', 'y')]
    with pytest.raises(ModelError, match='NaN or infinity for all of'):
        Segmenter.load(write(tmp_path, '', always))
    black = [node('ReduceMax', 'x', 'm', keepdims=1), node('Div', 'm m', 'o')]
    with caplog.at_level(logging.WARNING):
        path = write(tmp_path, '', [*black, node('Mul', 'z o', 'y')])
        assert (labels(path).labels == BRIGHT).all()
    assert 'NaN or infinity for 1 of 7 test images' in caplog.text


# What goes in


MEAN_255, STD_255 = '[123.675, 116.28, 103.53]', '[58.395, 57.12, 57.375]'
MEAN_1, STD_1 = '[0.485, 0.456, 0.406]', '[0.229, 0.224, 0.225]'


@pytest.mark.parametrize(
    ('wrong', 'right'),
    [
        (f'mean: {MEAN_255}, std: {STD_255}', '{scale: 1}'),
        (f'mean: {MEAN_255}', '{scale: 1}'),
        (f'std: {STD_255}', '{scale: 1}'),
        ('mean: [127.5, 127.5, 127.5], std: [127.5, 127.5, 127.5]', '{scale: 1}'),
        ('std: [255, 255, 255]', '{scale: 1}'),
        (f'scale: 1, mean: {MEAN_1}, std: {STD_1}', '{scale: 1/255}'),
        (f'scale: 1, mean: {MEAN_1}', '{scale: 1/255}'),
        ('scale: 1, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]', '{scale: 1/255}'),
        (f'mean: {MEAN_1}, std: {STD_255}', '{scale: 1}, without mean and std'),
        (
            'scale: 0.02, mean: [100, 110, 120]',
            '{scale: 1, mean: [100, 110, 120], std: [50, 50, 50]}',
        ),
        ('scale: 0', '{scale: 1}'),
    ],
)
def test_an_input_that_cannot_be_right_is_refused(wrong: str, right: str, tmp_path: Path) -> None:
    path = write(tmp_path, f'input: {{{wrong}}}', PLAIN)
    with pytest.raises(ModelError) as error:
        Segmenter.load(path)
    assert str(error.value).endswith(f'write input: {right}')


@pytest.mark.parametrize(
    ('described', 'seen'),
    [
        ('', (0, 1)),
        ('scale: 1', (0, 255)),
        (f'mean: {MEAN_1}, std: {STD_1}', (-2, 2.4)),
        (f'scale: 1, mean: {MEAN_255}, std: {STD_255}', (-2, 2.4)),
        ('scale: 1, mean: [104, 117, 123], color: bgr', (-115, 140)),
        ('scale: 1, mean: [127.5, 127.5, 127.5], std: [127.5, 127.5, 127.5]', (-1, 1)),
        ('mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]', (-1, 1)),
        ('scale: 2/255, mean: [1, 1, 1]', (-1, 1)),
        ('scale: 1/128, mean: [0.99, 0.99, 0.99]', (-1, 1)),
        ('mean: [0.5, 0.5, 0.5]', (-0.5, 0.5)),
        ('scale: 1, std: [255, 255, 255]', (0, 1)),
        ('scale: -1/255, mean: [-1, -1, -1]', (1, 0)),
    ],
)
def test_usual_inputs_are_taken(described: str, seen: tuple[float, float], tmp_path: Path) -> None:
    path = write(tmp_path, f'input: {{{described}}}', PLAIN, seen=seen)
    assert (labels(path).labels == BRIGHT).all()


CAST = node('Cast', 'x', 'f', to=FLOAT)
UNIT = [CAST, node('Div', 'f most', 'seen')]
BY_ITSELF = {
    'divides': ([node('Div', 'x most', 'seen')], (0, 1)),
    'normalises': (
        [node('Sub', 'x mean255', 'd'), node('Div', 'd std255', 'seen')],
        (-2.1, 2.4),
    ),
    'centres': ([node('Div', 'x middle', 'd'), node('Sub', 'd one', 'seen')], (-1, 1)),
    'norm': (
        [node('BatchNormalization', 'x ones zeros means variance', 'seen')],
        (-2, 2.2),
    ),
}


@pytest.mark.parametrize('name', BY_ITSELF)
def test_a_network_that_scales_by_itself_wants_the_pixels(name: str, tmp_path: Path) -> None:
    head, seen = BY_ITSELF[name]
    path = write(tmp_path, '', PLAIN, head=head, seen=seen)
    with pytest.raises(ModelError, match=r'write input: \{scale: 1\}$'):
        Segmenter.load(path)
    path.with_suffix('.yaml').write_text(f'{TWO}input: {{scale: 1}}')
    assert (labels(path).labels == BRIGHT).all()


@pytest.mark.parametrize(
    ('element', 'wrong', 'right', 'head'),
    [
        (UINT8, '', '{scale: 1}', UNIT),
        (UINT8, f'mean: {MEAN_1}, std: {STD_1}', '{scale: 1}, without mean and std', UNIT),
        (
            UINT8,
            f'scale: 1, mean: {MEAN_255}, std: {STD_255}',
            '{scale: 1}, without mean and std',
            UNIT,
        ),
        (UINT8, 'scale: 1, mean: [104, 117, 123]', '{scale: 1}, without mean and std', UNIT),
        (TensorProto.INT32, '', '{scale: 1}', UNIT),
        (
            INT8,
            'scale: 1',
            '{scale: 1, mean: [128, 128, 128]}, without std',
            [CAST, node('Add', 'f middle', 'a'), node('Div', 'a most', 'seen')],
        ),
    ],
)
def test_whole_numbers_want_whole_pixels(
    element: int, wrong: str, right: str, head: list[Node], tmp_path: Path
) -> None:
    path = write(tmp_path, f'input: {{{wrong}}}', PLAIN, head=head, element=element)
    with pytest.raises(ModelError) as error:
        Segmenter.load(path)
    assert str(error.value).endswith(f'write input: {right}')
    entry = right.split(', without')[0]
    path.with_suffix('.yaml').write_text(f'{TWO}input: {entry}')
    assert (labels(path).labels == BRIGHT).all()


# Outputs of another size

POOL = node('AveragePool', 'z', 'a', kernel_shape=[4, 4], strides=[4, 4])
QUARTER = [POOL, node('ArgMax', 'a', 'y', axis=1, keepdims=0)]
SIZES = {
    'a quarter': QUARTER,
    'a quarter as one plane': [POOL, node('ArgMax', 'a', 'y', axis=1, keepdims=1)],
    'a quarter, last': [
        POOL,
        node('Transpose', 'a', 't', perm=[0, 2, 3, 1]),
        node('ArgMax', 't', 'y', axis=3, keepdims=1),
    ],
    'a part of stride 5': [
        node('MaxPool', 'z', 'a', kernel_shape=[5, 5], strides=[5, 5], ceil_mode=1),
        node('ArgMax', 'a', 'y', axis=1, keepdims=0),
    ],
    'the double': [
        node('Resize', 'z _ double', 'a', mode='nearest'),
        node('ArgMax', 'a', 'y', axis=1, keepdims=0),
    ],
    'the same, flat': [
        node('ArgMax', 'z', 'i', axis=1, keepdims=0),
        node('Reshape', 'i flat', 'y'),
    ],
}


@pytest.mark.parametrize('backend', ['openvino', 'onnxruntime'])
@pytest.mark.parametrize('open_size', [False, True], ids=['fixed', 'open'])
@pytest.mark.parametrize('name', SIZES)
def test_labels_of_another_size_are_resized(
    name: str, open_size: bool, backend: str, tmp_path: Path
) -> None:
    pytest.importorskip(backend)
    shape = (1, 3, 'h', 'w') if open_size else (1, 3, HEIGHT, WIDTH)
    size = f'input: {{size: [{HEIGHT}, {WIDTH}]}}\n' if open_size else ''
    path = write(tmp_path, f'{size}output: {{kind: labels}}', SIZES[name], shape=shape)
    result = labels(path, backend)
    wrong = np.flatnonzero((result.labels != BRIGHT).any(0))
    # Where a cell of 5 pixels lies across the border, its whole width is of one side.
    assert len(wrong) <= (4 if '5' in name else 0)
    assert (result.drivable == 255 * result.labels).all()


def test_labels_that_are_not_of_the_image_are_refused(tmp_path: Path) -> None:
    turned = [POOL, node('Transpose', 'a', 't', perm=[0, 1, 3, 2])]
    path = write(
        tmp_path,
        'output: {kind: labels}',
        [*turned, node('ArgMax', 't', 'y', axis=1, keepdims=0)],
    )
    with pytest.raises(ModelError, match='gives 24x16 for an image of 64x96'):
        Segmenter.load(path)
    flat = [*QUARTER[:1], node('ArgMax', 'a', 'i', axis=1, keepdims=0)]
    path = write(tmp_path, 'output: {kind: labels}', [*flat, node('Reshape', 'i flat', 'y')])
    with pytest.raises(ModelError, match='gives 384 for an image'):
        Segmenter.load(path)
    path = write(tmp_path, '', [*turned, node('Identity', 't', 'y')])
    with pytest.raises(ModelError, match='gives 24x16 for an image'):
        Segmenter.load(path)


def test_the_other_layout_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, '', [node('Transpose', 'z', 'y', perm=[0, 2, 3, 1])])
    with pytest.raises(ModelError, match=r'64 classes.*: set output\.layout: nhwc'):
        Segmenter.load(path)


def test_ids_without_a_class_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    masks = [*ABOVE_HALF[:2], node('Cast', 'g', 'f', to=FLOAT), node('Mul', 'f most', 'y')]
    with caplog.at_level(logging.WARNING):
        result = labels(write(tmp_path, 'output: {kind: labels}', masks))
    assert 'gives ids up to 255, but two has 0 to 1' in caplog.text
    assert not result.drivable.any()


# The reported cases


@pytest.mark.parametrize(
    ('name', 'sentence'),
    [
        ('sigmoid_two_as_logits', 'kind: probabilities'),
        ('two_softmax_as_logits', 'kind: probabilities'),
        ('single_one', 'two classes'),
        ('quoted_false', 'without quotes'),
        ('mmseg_mean255_noscale', r'\{scale: 1\}'),
        ('uint8_nhwc_default_scale', r'\{scale: 1\}'),
    ],
)
def test_reported_descriptions_are_refused(name: str, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        Segmenter.load(shared(f'field_cases/onnx/{name}.onnx'))


@pytest.mark.parametrize(
    'name', ['logits_two', 'mmseg_mean255_scale1', 'labels_quarter', 'labels_quarter_dyn']
)
def test_sound_twins_are_right(name: str) -> None:
    assert (labels(shared(f'field_cases/onnx/{name}.onnx')).labels == BRIGHT).all()
