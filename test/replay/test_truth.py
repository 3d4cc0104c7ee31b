"""The truth of a bag's frames, whatever its classes and however it is coded."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from paths_for_tests import shared
from pictures_for_tests import VOC_PALETTE, png

pytest.importorskip('rosbags')

from bags_for_tests import (
    CAMVID,
    by_time,
    camera_rows,
    compressed,
    painted,
    quick_settings,
    raw,
    stamp,
    truth,
    truth_rows,
    write_ros2,
)
from rich.console import Console

from lwseg_ros.bags.recording import Recording
from lwseg_ros.errors import DataError, FrameError
from lwseg_ros.inference.segmenter import Segmenter
from lwseg_ros.replay.evaluation import evaluate_bag
from lwseg_ros.replay.figures import merge
from lwseg_ros.replay.run import RunOptions, evaluate_bags, print_result
from lwseg_ros.replay.truth import labels_of, truth_coding


def test_classes_that_overlap_with_the_models_are_compared_joined(
    tmp_path: Path, tiny_model: Path
) -> None:
    others = [c.name for c in CAMVID.classes if c.name not in ('road', 'pavement')]
    mapping = {'rest': others, 'car': ['car'], 'road': ['road'], 'bump': ['road']}
    classes = [
        {'id': i, 'name': name, 'color': [i, 0, 0], 'drivable': i > 1}
        for i, name in enumerate(mapping)
    ]
    space = tmp_path / 'campus.yaml'
    space.write_text(
        json.dumps({'name': 'campus', 'classes': classes, 'mappings': {'camvid': mapping}})
    )
    campus = np.full(256, 255, np.uint8)
    campus[[0, 1, 8, 3]] = 0, 0, 1, 2
    with Segmenter.load(tiny_model, precision='fp32') as segmenter:
        answers = [segmenter(painted(i)).labels for i in range(8)]
    rows, right, labelled = [], 0, 0
    for i, answer in enumerate(answers):
        true = campus[truth(i)]
        known = true != 255
        labelled += np.count_nonzero(known)
        right += np.count_nonzero(known & ((true == 2) == (answer == 3)))
        true[80:][true[80:] == 2] = 3
        rows.append(('/labels', stamp(i), raw(true, stamp(i), 'mono8')))
    bag = write_ros2(tmp_path / 'drive', by_time(camera_rows(8), rows))
    settings = replace(quick_settings(tiny_model), truth_space=str(space))
    result = evaluate_bag(bag, tmp_path / 'out', settings)
    assert list(result['overall']['iou']) == ['rest+car', 'road+bump']
    accuracy = result['overall']['figures']['pixel_accuracy']['value']
    assert accuracy == pytest.approx(right / labelled, abs=1e-6)
    assert merge([result])['overall'] == result['overall']
    output = io.StringIO()
    print_result(result, Console(file=output, width=200))
    assert 'road+bump is road' in output.getvalue()
    options = RunOptions(report=False, fail_if=('iou.road+bump<0.5',))
    assert not evaluate_bags([bag], tmp_path / 'all', settings, Console(), options).complaints()


IDS = truth(3)
IDS[90:, :8] = 0
COLORS = CAMVID.palette[IDS]
SIGNED = np.where(IDS == 255, -1, IDS.astype(np.int32))
WIDE = np.where(IDS == 255, 65535, IDS.astype(np.uint16))
EQUAL = np.stack([IDS] * 3, -1)
ALPHA = np.full_like(IDS, 255)


def file_message(data: bytes) -> Any:
    """Return a CompressedImage message that holds a file."""
    message = compressed(IDS, stamp(0))[1]
    message.data = np.frombuffer(data, np.uint8)
    return message


def message_of(values: np.ndarray, encoding: str, padding: int = 0, big: bool = False) -> Any:
    """Return an Image message, its rows longer by some bytes, its numbers of either order."""
    values = values.astype(values.dtype.newbyteorder('>' if big else '<'))
    rows = np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)
    message = raw(IDS, stamp(0), encoding)[1]
    message.step, message.is_bigendian = rows.shape[1] + padding, int(big)
    message.data = np.pad(rows, ((0, 0), (0, padding)), constant_values=7).reshape(-1)
    return message


MESSAGES = {
    'mono8': message_of(IDS, 'mono8', 3),
    '8UC1': message_of(IDS, '8UC1'),
    '8SC1': message_of(SIGNED.astype(np.int8), '8SC1'),
    'mono16': message_of(WIDE, 'mono16', 2),
    '16UC1, big-endian': message_of(WIDE, '16UC1', 2, big=True),
    '16SC1': message_of(SIGNED.astype(np.int16), '16SC1'),
    '32SC1': message_of(SIGNED, '32SC1', 4),
    '32SC1, big-endian': message_of(SIGNED, '32SC1', big=True),
    '32SC1, 255 for void': message_of(IDS.astype(np.int32), '32SC1'),
    'rgb8, ids': message_of(EQUAL, 'rgb8', 5),
    'rgb8, colours': message_of(COLORS, 'rgb8', 1),
    'bgr8, colours': message_of(COLORS[..., ::-1], 'bgr8'),
    'bgr8, ids in red': message_of(np.stack([0 * IDS, 0 * IDS, IDS], -1), 'bgr8'),
    '8UC3, colours': message_of(COLORS[..., ::-1], '8UC3'),
    'rgba8, colours': message_of(np.dstack([COLORS, ALPHA]), 'rgba8'),
    'bgra8, colours': message_of(np.dstack([COLORS[..., ::-1], ALPHA]), 'bgra8'),
    '8UC4, ids': message_of(np.dstack([EQUAL, ALPHA]), '8UC4'),
    'PNG': compressed(IDS, stamp(0))[1],
    'PNG, 16 bits': compressed(WIDE, stamp(0))[1],
    'PNG, colours': compressed(COLORS, stamp(0))[1],
    'PNG, ids thrice': compressed(EQUAL, stamp(0))[1],
    'PNG, our palette': file_message(png(IDS, 8, CAMVID.palette)),
    'PNG, a strange palette': file_message(png(IDS, 8, VOC_PALETTE)),
}


@pytest.mark.parametrize('message', MESSAGES.values(), ids=MESSAGES)
def test_labels_are_the_same_however_they_are_sent(message: Any) -> None:
    np.testing.assert_array_equal(labels_of(message, truth_coding(CAMVID)), IDS)


@pytest.mark.parametrize(
    ('message', 'sentence'),
    [
        (compressed(EQUAL, stamp(0), '.jpg')[1], 'is a JPEG, which changes labels'),
        (message_of(IDS.astype(np.float32), '32FC1'), "encoding is '32FC1': labels are mono8"),
        (message_of(SIGNED + 1000, '32SC1'), 'above 255: are these instance numbers'),
        (message_of(EQUAL // 2 + COLORS // 3, 'rgb8'), 'colours that stand for no class'),
    ],
    ids=['JPEG', 'floats', 'instances', 'a photograph'],
)
def test_what_is_no_label_image_is_refused(message: Any, sentence: str) -> None:
    with pytest.raises(FrameError, match=sentence):
        labels_of(message, truth_coding(CAMVID))


def strange(number: int) -> list[tuple[str, Any]]:
    """Return label messages of which nothing can be used, and why, in words."""
    return [
        ("encoding is '32FC1'", raw(IDS.astype(np.float32), stamp(number), '32FC1')),
        ('truth has 128x50 pixels', raw(IDS[:50], stamp(number), 'mono8')),
        ('none of its labels is of a class of camvid', raw(IDS * 0 + 77, stamp(number), 'mono8')),
        ('no label topic /labels within 10 ms', raw(IDS, stamp(number) + 40_000_000, 'mono8')),
    ]


@pytest.mark.parametrize('kind', range(4))
def test_truth_of_which_nothing_can_be_used_fails(
    kind: int, tmp_path: Path, tiny_model: Path
) -> None:
    rows = [('/labels', stamp(i), strange(i)[kind][1]) for i in range(3)]
    bag = write_ros2(tmp_path / 'drive', by_time(camera_rows(3), rows))
    with pytest.raises(DataError, match=strange(0)[kind][0]):
        evaluate_bag(bag, tmp_path / 'out', quick_settings(tiny_model))
    assert not (tmp_path / 'out').exists()


def test_truth_of_which_some_can_be_used_is_used(tmp_path: Path, tiny_model: Path) -> None:
    rows = [*truth_rows([0, 1]), ('/labels', stamp(2), strange(2)[0][1])]
    bag = write_ros2(tmp_path / 'drive', by_time(camera_rows(3), rows))
    result = evaluate_bag(bag, tmp_path / 'out', quick_settings(tiny_model))
    assert result['overall']['frames_with_truth'] == 2
    assert "encoding is '32FC1'" in result['bags'][0]['broken'][0]['reason']


@pytest.mark.parametrize('name', ['32SC1', 'rgb_equal'])
def test_real_label_topics_equal_their_twins(name: str) -> None:
    recording = Recording(shared(f'field_cases/truth_topics/{name}'))
    folder = shared('field_cases/truth_topics/truth')
    topic = '/camera/semantic_segmentation'
    messages = list(recording.messages([topic]))
    assert len(messages) == 12
    for i, message in enumerate(messages):
        found = labels_of(recording.decode(message), truth_coding(CAMVID))
        np.testing.assert_array_equal(found, cv2.imread(str(folder / f'{i:06d}.png'), -1))
