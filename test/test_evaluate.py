"""Labelled folders and the comparison of a model's labels with them."""

import cv2
import numpy as np
import pytest

from lwseg_ros.errors import DataError
from lwseg_ros.evaluation.dataset import open_dataset
from lwseg_ros.evaluation.evaluate import Comparison, evaluate
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
    comparison.update(truth, np.array([[3, 4, 4, 3, 10]], np.uint8))
    result = comparison.result()
    assert result['label_space'] == 'camvid'
    assert result['pixels'] == 4
    assert result['iou'] == {'road': 0.5, 'pavement': 0.5, 'bicyclist': 1.0}
    assert result['drivable_iou'] == 0.5


@pytest.mark.parametrize(
    ('spec', 'split', 'message'),
    [
        ('idd', 'val', 'not FORMAT:PATH'),
        ('kitti:idd', 'val', 'not FORMAT:PATH'),
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
