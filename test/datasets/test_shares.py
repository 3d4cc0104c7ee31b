"""The share of each class, and codings that its shares give away."""

import numpy as np
import pytest

from lwseg_ros.datasets.shares import ClassShares
from lwseg_ros.errors import DataError
from lwseg_ros.label_space import LabelSpace


def shares(*ids, classes=3):
    space = {
        'name': 'yard',
        'classes': [{'id': i, 'name': 'abc'[i], 'color': [i, i, i]} for i in range(classes)],
    }
    counted = ClassShares('yard/train', LabelSpace.from_dict(space))
    counted.add(np.array([ids], np.uint8))
    return counted


def test_the_shares_are_of_the_labelled_pixels():
    counted = shares(0, 0, 1, 255)
    counted.add(np.array([[1, 1]], np.uint8))
    assert counted.of_labelled() == {'b': 0.6, 'a': 0.4, 'c': 0}
    assert str(counted) == (
        'yard/train: of the labelled pixels b 60.0%, a 40.0%; never c; '
        '16.7% of all pixels are unlabelled'
    )
    counted.check_classes()


@pytest.mark.parametrize('only', [0, 1])
@pytest.mark.parametrize('classes', [2, 3])
def test_255_in_the_place_of_a_class_is_refused(only, classes):
    with pytest.raises(DataError, match='and 255 alone, .*0 and 1 rather than 0 and 255'):
        shares(only, 255, classes=classes).check_unlabelled()


def test_255_beside_other_ids_is_unlabelled():
    shares(0, 1, 255, classes=2).check_classes()
    shares(0, 1, 255).check_classes()  # c may be rare
    shares(0, 255, classes=1).check_unlabelled()
    shares(0, 0).check_unlabelled()


@pytest.mark.parametrize(
    ('ids', 'message'),
    [((1, 1), 'every labelled pixel is b'), ((255, 255), 'no pixel is labelled')],
)
def test_one_class_alone_tells_nothing(ids, message):
    with pytest.raises(DataError, match=message):
        shares(*ids).check_classes()
