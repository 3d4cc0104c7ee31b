"""Labelled folders and the comparison of a model's labels with them."""

import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from lwseg_ros.cli.commands import app
from lwseg_ros.datasets.dataset import open_dataset
from lwseg_ros.errors import DataError, LwsegError
from lwseg_ros.evaluation.contact_sheet import ERRORS, contact_sheet, error_map
from lwseg_ros.evaluation.evaluate import Comparison, evaluate, worst_images
from lwseg_ros.inference.segmenter import Segmentation
from lwseg_ros.label_space import LabelSpace


@pytest.fixture
def idd(tmp_path):
    """IDD-Lite's layout with two frames: drivable below, sky above, one unlabelled row."""
    for part in ('images', 'labels'):
        (tmp_path / 'idd' / part / 'val').mkdir(parents=True)
    labels = np.full((6, 8), 6, np.uint8)
    labels[3:] = 0
    labels[0] = 255
    for name in ('b', 'a'):
        cv2.imwrite(str(tmp_path / f'idd/images/val/{name}.jpg'), np.zeros((6, 8, 3), np.uint8))
        cv2.imwrite(str(tmp_path / f'idd/labels/val/{name}.png'), labels)
    return tmp_path


def test_pairs_are_sorted_and_measured(idd):
    data = open_dataset('idd_lite:idd', 'val', idd)
    assert [p.image.name for p in data.pairs] == ['a.jpg', 'b.jpg']
    camvid = LabelSpace.load('camvid')
    answer = np.zeros((6, 8), np.uint8)
    answer[4:] = 3
    result = evaluate(lambda _image: Segmentation(answer, answer, answer), camvid, data)
    # Of the 24 drivable pixels 16 are found; of the 16 sky pixels all are, with 8 too many.
    assert result['images'] == 2
    assert result['label_space'] == 'idd_level1'
    assert result['drivable_iou'] == pytest.approx(16 / 24, abs=1e-6)
    assert result['false_drivable_rate'] == 0
    assert result['called_drivable'] == {'drivable': pytest.approx(16 / 24, abs=1e-6), 'sky': 0}
    assert result['iou'] == {
        'drivable': pytest.approx(16 / 24, abs=1e-6),
        'sky': pytest.approx(16 / 24, abs=1e-6),
    }


def test_data_root_comes_from_the_environment(idd, monkeypatch):
    monkeypatch.setenv('LWSEG_DATA', str(idd))
    assert len(open_dataset('idd_lite:idd', 'val').pairs) == 2


def test_fine_truth_is_compared_in_the_models_space():
    comparison = Comparison(LabelSpace.load('camvid'), LabelSpace.load('cityscapes_label_ids'))
    truth = np.array([[7, 7, 8, 0, 33]], np.uint8)
    comparison.update(truth, segmentation(np.array([[3, 4, 4, 3, 10]], np.uint8)))
    result = comparison.result()
    assert result['label_space'] == 'camvid'
    assert result['pixels'] == 4
    assert result['iou'] == {'road': 0.5, 'pavement': 0.5, 'bicyclist': 1.0}
    assert result['drivable_iou'] == 0.5


@pytest.mark.parametrize(
    ('spec', 'split', 'message'),
    [
        ('idd', 'val', 'not FORMAT:PATH'),
        ('kitty:idd', 'val', 'not FORMAT:PATH'),
        ('idd_lite:idd', 'test', 'no folder .*images/test'),
        ('idd_lite:nowhere', 'val', 'is nothing'),
        ('cityscapes_label_ids:idd', 'val', 'one split'),
    ],
)
def test_wrong_data_says_what_was_looked_for(idd, spec, split, message):
    with pytest.raises(DataError, match=message):
        open_dataset(spec, split, idd)


def test_image_without_labels_is_named(idd):
    (idd / 'idd/labels/val/a.png').unlink()
    with pytest.raises(DataError, match=r'a\.jpg has no label file'):
        open_dataset('idd_lite:idd', 'val', idd)


def test_broken_files_are_named(idd):
    data = open_dataset('idd_lite:idd', 'val', idd)
    (idd / 'idd/images/val/a.jpg').write_bytes(b'not a jpeg')
    with pytest.raises(DataError, match=r'a\.jpg cannot be read'):
        evaluate(
            lambda image: Segmentation(*image.transpose(2, 0, 1)), LabelSpace.load('camvid'), data
        )


def segmentation(labels, confidence=255):
    return Segmentation(labels, np.full_like(labels, confidence), np.zeros_like(labels))


def test_remapped_predictions_are_judged_in_the_space_of_the_truth():
    comparison = Comparison(LabelSpace.load('camvid'), LabelSpace.load('idd_level1'))
    truth = np.array([[0, 0, 6, 255]], np.uint8)
    # Road is right as "drivable", the pavement is wrong, the sky right; the last has no truth.
    labels = np.array([[3, 4, 0, 0]], np.uint8)
    confidence = np.array([[255, 255, 0, 0]], np.uint8)
    comparison.update(truth, Segmentation(labels, confidence, labels))
    result = comparison.result()
    assert result['pixels'] == 3
    assert result['missed_drivable_rate'] == 0.5
    assert [(b['pixels'], b['accuracy']) for b in result['calibration']] == [(1, 1.0), (2, 0.5)]
    assert result['calibration_error'] == pytest.approx((1 + 1) / 3, abs=1e-6)


def test_perfect_and_empty_predictions(idd):
    data = open_dataset('idd_lite:idd', 'val', idd)
    space = data.label_space
    truth = cv2.imread(str(data.pairs[0].labels), cv2.IMREAD_UNCHANGED)
    perfect = evaluate(lambda _image: segmentation(truth), space, data)
    for name in ('miou', 'drivable_iou', 'pixel_accuracy', 'boundary_f1', 'drivable_boundary_f1'):
        assert perfect[name] == 1, name
    for name in ('false_drivable_rate', 'missed_drivable_rate', 'calibration_error'):
        assert perfect[name] == 0, name
    assert perfect['boundary']['classes'].keys() == {'drivable', 'sky'}
    empty = evaluate(lambda _image: segmentation(np.full_like(truth, 255)), space, data)
    for name in ('miou', 'drivable_iou', 'pixel_accuracy', 'boundary_f1', 'drivable_boundary_f1'):
        assert empty[name] == 0, name
    assert empty['missed_drivable_rate'] == empty['calibration_error'] == 1


def test_without_any_truth_figures_are_none(idd):
    for path in (idd / 'idd/labels/val').iterdir():
        cv2.imwrite(str(path), np.full((6, 8), 255, np.uint8))
    data = open_dataset('idd_lite:idd', 'val', idd)
    zeros = np.zeros((6, 8), np.uint8)
    result = evaluate(lambda _i: segmentation(zeros), data.label_space, data, per_image=True)
    assert result['pixels'] == 0
    for name in ('miou', 'drivable_iou', 'boundary_f1', 'drivable_boundary_f1'):
        assert result[name] is None, name
    assert result['calibration_error'] is None
    assert worst_images(result['per_image'], 2) == []
    with pytest.raises(DataError, match='no contact sheet'):
        contact_sheet(lambda _i: segmentation(zeros), data.label_space, data, [], 'nothing')


@pytest.fixture
def painted_idd(tmp_path):
    """IDD-Lite's layout with four frames painted in the colours that the tiny model knows."""
    camvid, idd = LabelSpace.load('camvid'), LabelSpace.load('idd_level1')
    for part in ('images', 'labels'):
        (tmp_path / 'idd' / part / 'val').mkdir(parents=True)
    for i, name in enumerate('cadb'):
        seen = np.zeros((96, 128), np.uint8)
        seen[48 + 8 * i :] = 3
        truth = camvid.lookup_table(idd)[seen]
        truth[:4] = 255
        truth[70:, :16] = 0 if i % 2 else 6
        image = camvid.palette[seen][..., ::-1]
        cv2.imwrite(str(tmp_path / f'idd/images/val/{name}.png'), image)
        cv2.imwrite(str(tmp_path / f'idd/labels/val/{name}.png'), truth)
    return tmp_path


def paint(image):
    """Label the frames of `painted_idd` as they are painted: road or sky."""
    return segmentation(np.where(image[..., 0] == 128, 3, 0).astype(np.uint8), 200)


def test_each_image_has_its_figures_and_the_worst_are_found(painted_idd):
    data = open_dataset('idd_lite:idd', 'val', painted_idd)
    camvid = LabelSpace.load('camvid')
    backwards = replace(data, pairs=data.pairs[::-1])
    result = evaluate(paint, camvid, data, per_image=True)
    assert evaluate(paint, camvid, backwards, per_image=True) == result
    assert [row['name'] for row in result['per_image']] == ['a.png', 'b.png', 'c.png', 'd.png']
    for row, pair in zip(result['per_image'], data.pairs, strict=True):
        alone = evaluate(paint, camvid, replace(data, pairs=(pair,)))
        assert {**row, **alone} == {**alone, 'name': pair.image.name}
    worst = worst_images(result['per_image'], 3)
    assert len(worst) == 3
    left_out = next(row for row in result['per_image'] if row not in worst)
    figures = [row['drivable_iou'] for row in (*worst, left_out)]
    assert figures == sorted(figures)


def test_error_map_tells_the_errors_apart():
    space = LabelSpace.load('camvid')
    truth = np.array([[3, 3, 0, 0, 0, 255]], np.uint8)
    prediction = np.array([[3, 0, 3, 1, 0, 3]], np.uint8)
    picture = error_map(np.full((1, 6, 3), 120, np.uint8), truth, prediction, space)
    right, missed, false, wrong, other_right, void = picture[0].tolist()
    assert (missed, false, wrong) == tuple(
        list(ERRORS[name]) for name in ('missed drivable', 'false drivable', 'other wrong class')
    )
    assert right == other_right
    assert len(set(right)) == 1
    assert max(void) < min(right)


def test_the_command_is_the_same_every_time(tiny_model, painted_idd, tmp_path):
    written = []
    for run in ('first', 'second'):
        figures, sheet = tmp_path / f'{run}.json', tmp_path / f'{run}.png'
        done = CliRunner().invoke(
            app,
            [
                *('evaluate', str(tiny_model), '--data', 'idd_lite:idd', '--split', 'val'),
                *('--data-root', str(painted_idd), '--json', str(figures)),
                *('--sheet', str(sheet), '--worst', '2'),
            ],
        )
        assert done.exit_code == 0, done.output
        written.append((figures.read_bytes(), sheet.read_bytes()))
    assert written[0] == written[1]
    assert not list(tmp_path.glob('.*.part'))
    result = json.loads(figures.read_text())
    assert len(result['per_image']) == 4
    assert [row['name'] for row in result['worst']] == [
        row['name'] for row in worst_images(result['per_image'], 2)
    ]
    assert result['worst'][0]['name'] in done.output
    # Two cells beside each other, each with panels of 320 pixels.
    assert cv2.imread(str(sheet)).shape[1] > 4 * 320


@pytest.mark.parametrize('option', ['--json', '--sheet'])
def test_a_missing_folder_is_told_before_the_work(option, idd):
    data = ('--data', 'idd_lite:idd', '--split', 'val', '--data-root', str(idd))
    out = str(idd / 'nowhere' / 'out')
    done = CliRunner().invoke(app, ['evaluate', 'no_such_model', *data, option, out])
    assert isinstance(done.exception, LwsegError)
    assert 'make the folder' in str(done.exception)


def evaluated(tiny_model, root):
    data = ('--data', 'idd_lite:idd', '--split', 'val', '--data-root', str(root))
    return CliRunner().invoke(app, ['evaluate', str(tiny_model), *data])


def test_the_command_tells_the_share_of_each_class(tiny_model, painted_idd):
    done = evaluated(tiny_model, painted_idd)
    assert re.search(
        r'val: of the labelled pixels sky \d+\.\d%, drivable \d+\.\d%; never .*; '
        r'\d\.\d% of all pixels are unlabelled',
        done.output,
    )


@pytest.mark.parametrize(
    ('table', 'message'),
    [({6: 255}, 'and 255 alone'), ({0: 6, 255: 6}, 'every labelled pixel is sky')],
)
def test_labels_that_tell_nothing_stop_the_command(tiny_model, painted_idd, table, message):
    for path in (painted_idd / 'idd/labels/val').iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        for old, new in table.items():
            labels[labels == old] = new
        cv2.imwrite(str(path), labels)
    done = evaluated(tiny_model, painted_idd)
    assert isinstance(done.exception, DataError)
    assert message in str(done.exception)


def test_a_run_without_any_figure_is_an_error(tiny_model, painted_idd):
    (painted_idd / 'idd/label_space.yaml').write_text(
        'name: odd\nclasses:\n  - {id: 0, name: a, color: [1, 2, 3]}\n'
        '  - {id: 6, name: b, color: [3, 2, 1]}\nmappings: {camvid: {}}\n'
    )
    data = ('--data', 'folder:idd', '--split', 'val', '--data-root', str(painted_idd))
    done = CliRunner().invoke(app, ['evaluate', str(tiny_model), *data])
    assert isinstance(done.exception, DataError)
    assert 'there is no figure of odd/val' in str(done.exception)
