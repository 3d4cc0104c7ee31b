"""Model and truth of other classes are compared in the finest classes that both can tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from paths_for_tests import shared

from lwseg_ros.errors import DataError
from lwseg_ros.evaluation.common_space import common_space
from lwseg_ros.evaluation.evaluate import Comparison
from lwseg_ros.inference.segmenter import Segmentation
from lwseg_ros.label_space import LabelSpace, list_label_spaces

CAMVID = LabelSpace.load('camvid')


def space_of(name: str, drivable: str, **mapping: str | list[str]) -> LabelSpace:
    """Return a space with these classes, mapped to CamVid's."""
    return LabelSpace.from_dict(
        {
            'name': name,
            'classes': [
                {'id': i, 'name': each, 'color': [i, i, i], 'drivable': each in drivable.split()}
                for i, each in enumerate(mapping)
            ],
            'mappings': {'camvid': mapping},
        }
    )


ROAD_OR_SIDE = ['road', 'pavement']
OTHERS = [c.name for c in CAMVID.classes if c.name not in ROAD_OR_SIDE]
MOVING = ['car', 'pedestrian', 'bicyclist']
CAMPUS = space_of(
    'campus',
    'road bump',
    background=OTHERS,
    obstacle=MOVING,
    road='road',
    side='pavement',
    bump='road',
)


def compared(model: LabelSpace, truth: LabelSpace, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Return the figures of pixels given as (true, predicted) names; 255 for ''."""
    comparison = Comparison(model, truth)
    planes = [
        np.array([[space.class_id(pair[i]) if pair[i] else 255 for pair in pairs]], np.uint8)
        for i, space in enumerate((truth, model))
    ]
    confidence = np.full_like(planes[0], 255)
    comparison.update(planes[0], Segmentation(planes[1], confidence, confidence))
    return comparison.result()


def test_classes_that_overlap_are_joined_and_no_others() -> None:
    space = common_space(CAMVID, CAMPUS)
    assert space.names == ['background+obstacle', 'road+bump', 'side']
    assert [c.drivable for c in space.classes] == [False, True, False]
    assert space.mappings['camvid'] == {
        'background+obstacle': tuple(OTHERS),
        'road+bump': ('road',),
        'side': ('pavement',),
    }
    assert space.mappings['campus']['road+bump'] == ('road', 'bump')
    assert 'road+bump is road; side is pavement' in space.description


def test_figures_are_of_the_joined_classes() -> None:
    pairs = [
        *(('road', 'road'), ('bump', 'road'), ('bump', 'pavement'), ('side', 'pavement')),
        *(('background', 'tree'), ('obstacle', 'tree'), ('obstacle', 'road'), ('', 'road')),
    ]
    result = compared(CAMVID, CAMPUS, pairs)
    assert result['label_space'] == 'campus+camvid'
    assert result['pixels'] == 7
    third = pytest.approx(2 / 3, abs=1e-6)
    assert result['iou'] == {'background+obstacle': third, 'road+bump': 0.5, 'side': 0.5}
    assert result['drivable_iou'] == 0.5
    assert result['false_drivable_rate'] == 0.25
    assert result['classes']['road+bump'] == {'truth': ['road', 'bump'], 'model': ['road']}
    assert result['note'] == common_space(CAMVID, CAMPUS).description


def test_the_partition_is_the_same_from_either_side() -> None:
    there, back = common_space(CAMVID, CAMPUS), common_space(CAMPUS, CAMVID)
    assert {frozenset(names) for names in there.mappings['campus'].values()} == {
        frozenset(names) for names in back.mappings['campus'].values()
    }
    assert compared(CAMPUS, CAMVID, [('road', 'bump'), ('tree', 'obstacle'), ('sky', 'side')])[
        'pixel_accuracy'
    ] == pytest.approx(2 / 3, abs=1e-6)


def test_a_true_class_that_may_be_anything_is_unlabelled() -> None:
    lanes = space_of(
        'lanes',
        'lane',
        elsewhere=[c.name for c in CAMVID.classes],
        lane='road',
        car=[*OTHERS, 'pavement'],
        above=OTHERS,
    )
    pairs = [('lane', 'road'), ('elsewhere', 'road'), ('car', 'road'), ('above', 'pavement')]
    result = compared(CAMVID, lanes, pairs)
    assert result['pixels'] == 3
    assert result['iou'] == {'lane': 0.5, 'car+above': 0.5}
    assert result['false_drivable_rate'] == 0.5
    assert 'Unlabelled is elsewhere, which may be almost any class of camvid' in result['note']
    # Each true class by itself, those that say nothing or are joined elsewhere included.
    assert result['called_drivable'] == {'elsewhere': 1, 'lane': 1, 'car': 1, 'above': 0}


def test_a_true_class_that_is_anything_but_another_joins_nothing() -> None:
    fine = {c.name: c.name for c in CAMVID.classes if c.name != 'car'}
    town = space_of('town', 'road', **fine, car='car', lorry='car', static=[*OTHERS, 'pavement'])
    pairs = [('lorry', 'car'), ('tree', 'sky'), ('road', 'road'), ('static', 'road')]
    result = compared(CAMVID, town, pairs)
    assert result['pixels'] == 3
    assert result['iou'] == {'tree': 0, 'car': 1, 'road': 1}
    assert result['drivable_iou'] == 1
    # What the other figures leave out shows here.
    assert result['called_drivable']['static'] == 1
    assert 'Unlabelled is static' in result['note']


def test_classes_without_a_counterpart() -> None:
    # Nothing of the truth is a sky: to predict one is wrong wherever truth has a class.
    world = [name for name in OTHERS if name != 'sky']
    yard = space_of(
        'yard',
        'path',
        wall=world,
        thing=MOVING,
        path='road',
        lawn='road',
        shed=[],
        side='pavement',
    )
    result = compared(CAMVID, yard, [('path', 'sky'), ('shed', 'road'), ('lawn', 'road')])
    assert result['pixels'] == 2
    assert result['iou'] == {'path+lawn': 0.5}


def test_without_one_meaning_of_drivable_its_figures_are_not_told() -> None:
    square = space_of('square', 'path', path='road', kerb=ROAD_OR_SIDE, wall=OTHERS, thing=MOVING)
    result = compared(CAMVID, square, [('path', 'road'), ('kerb', 'road'), ('wall', 'road')])
    assert result['iou'] == {'path+kerb': pytest.approx(2 / 3, abs=1e-6), 'wall+thing': 0}
    for name in ('drivable_iou', 'false_drivable_rate', 'missed_drivable_rate'):
        assert result[name] is None, name
    assert result['drivable_boundary_f1'] is None
    assert 'path+kerb joins drivable classes with others' in result['note']


def test_spaces_that_join_to_one_class_are_refused() -> None:
    vague = space_of('vague', 'low', low=[*ROAD_OR_SIDE, 'tree'], high=[*OTHERS, 'pavement'])
    with pytest.raises(DataError, match='camvid and vague cannot be compared'):
        Comparison(CAMVID, vague)


@pytest.mark.parametrize('name', list_label_spaces())
def test_of_shipped_spaces_comma10k_alone_is_joined_for_the_shipped_models(name: str) -> None:
    truth = LabelSpace.load(name)
    if name == 'comma10k':
        joined = ['road+lane_marking', 'not_drivable', 'movable']
        assert common_space(CAMVID, truth).names == joined
    elif 'camvid' in truth.mappings or name in CAMVID.mappings:
        assert common_space(CAMVID, truth) in (CAMVID, truth)


@pytest.mark.parametrize(
    ('name', 'joined'),
    [
        ('lums', ['background+obstacle', 'road+speed_bump', 'sidewalk']),
        ('bdd_drivable', ['drivable', 'own_car+above']),
        ('cityscapes_512x256', CAMVID.names),
    ],
)
def test_real_data_of_other_classes(name: str, joined: list[str]) -> None:
    truth = LabelSpace.load(shared(f'data/{name}/label_space.yaml'))
    space = common_space(CAMVID, truth)
    assert space.names == joined
    assert [c.drivable for c in space.classes] == [
        'road' in each or each == 'drivable' for each in joined
    ]
