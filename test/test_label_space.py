"""Label spaces as data, and the mappings between them."""

import numpy as np
import pytest

from lwseg_ros.errors import DataError
from lwseg_ros.label_space import IGNORE_ID, LabelSpace, list_label_spaces

CLASS_COUNTS = {
    'autoware': 16,
    'bdd100k': 19,
    'bdd100k_drivable': 3,
    'camvid': 11,
    'cityscapes': 19,
    'cityscapes_label_ids': 34,
    'comma10k': 6,
    'idd_level1': 7,
    'idd_level3': 26,
    'kitti_road': 2,
    'nyudv2': 40,
    'person_part': 7,
    'voc': 21,
}
TWO = {
    'name': 'two',
    'classes': [
        {'id': 0, 'name': 'no', 'color': [0, 0, 0]},
        {'id': 1, 'name': 'yes', 'color': [1, 2, 3], 'drivable': True},
    ],
}


def test_all_data_sets_are_shipped():
    assert {n: LabelSpace.load(n).num_classes for n in list_label_spaces()} == CLASS_COUNTS


@pytest.mark.parametrize('name', CLASS_COUNTS)
def test_shipped_space_is_consistent(name):
    space = LabelSpace.load(name)
    assert space.name == name
    assert LabelSpace.from_dict(space.to_dict()) == space
    for target_name in space.mappings:
        target = LabelSpace.load(target_name)
        for ids in space.label_sets(target).values():
            assert ids
            assert all(0 <= i < target.num_classes for i in ids)


@pytest.mark.parametrize('name', CLASS_COUNTS)
def test_nothing_becomes_drivable_by_mapping_to_a_single_class(name):
    """Ground that a space calls undrivable is never turned into another's drivable class."""
    space = LabelSpace.load(name)
    for target_name in space.mappings:
        target = LabelSpace.load(target_name)
        for source, ids in space.label_sets(target).items():
            if len(ids) == 1 and ids[0] in target.drivable_ids:
                assert source in space.drivable_ids or (name, source) == (
                    'cityscapes_label_ids',
                    9,  # parking: not road in Cityscapes, drivable in IDD
                )


def test_road_is_the_drivable_class_of_camvid():
    space = LabelSpace.load('camvid')
    assert [space.names[i] for i in space.drivable_ids] == ['road']
    np.testing.assert_array_equal(space.drivable_vector(), np.eye(11, dtype=np.float32)[3])
    np.testing.assert_array_equal(
        space.drivable_vector(['road', 4]), np.eye(11, dtype=np.float32)[[3, 4]].sum(0)
    )


def test_one_to_one_mapping_remaps_a_label_image():
    label_ids, camvid = LabelSpace.load('cityscapes_label_ids'), LabelSpace.load('camvid')
    table = label_ids.lookup_table(camvid)
    np.testing.assert_array_equal(
        table[np.array([[7, 8, 24], [0, 9, 255]], np.uint8)], [[3, 4, 9], [255, 255, 255]]
    )


def test_coarse_class_stands_for_a_set():
    idd, camvid = LabelSpace.load('idd_level1'), LabelSpace.load('camvid')
    sets = {idd.names[k]: {camvid.names[i] for i in v} for k, v in idd.label_sets(camvid).items()}
    assert sets['drivable'] == {'road'}
    assert sets['living_things'] == {'pedestrian', 'bicyclist'}
    with pytest.raises(DataError, match='stands for several'):
        idd.lookup_table(camvid)
    assert camvid.maps_one_to_one(idd)


def test_a_mapping_of_the_target_alone_is_read_backwards():
    camvid = LabelSpace.load('camvid')
    road = LabelSpace.load('kitti_road')
    assert 'kitti_road' not in camvid.mappings
    table = camvid.lookup_table(road)
    assert [road.names[i] for i in table[: camvid.num_classes]] == [
        'road' if name == 'road' else 'not_road' for name in camvid.names
    ]
    partial = LabelSpace.from_dict(
        {**TWO, 'mappings': {'camvid': {'yes': ['road', 'pavement'], 'no': ['pavement', 'sky']}}}
    )
    assert camvid.label_sets(partial) == {0: (0,), 3: (1,), 4: (1, 0)}


def test_palette_gives_unlabelled_black():
    palette = LabelSpace.load('camvid').palette
    assert palette.shape == (256, 3)
    assert tuple(palette[3]) == (128, 64, 128)
    assert not palette[IGNORE_ID].any()


def test_mapping_by_user_file(tmp_path):
    path = tmp_path / 'mine.yaml'
    path.write_text(
        'name: mine\n'
        'classes:\n'
        '  - {id: 0, name: floor, color: [0, 255, 0], drivable: true}\n'
        '  - {id: 4, name: wall, color: [255, 0, 0]}\n'
        'mappings:\n'
        '  camvid: {floor: road, wall: [building, fence]}\n'
    )
    space = LabelSpace.load(path)
    assert space.num_classes == 5
    assert space.label_sets(LabelSpace.load('camvid')) == {0: (3,), 4: (1, 7)}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'classes': []}, 'no classes'),
        ({'classes': [TWO['classes'][0], TWO['classes'][0]]}, 'id 0 twice'),
        ({'classes': [{'id': 255, 'name': 'x', 'color': [0, 0, 0]}]}, '0 to 254'),
        ({'classes': [{'id': True, 'name': 'x', 'color': [0, 0, 0]}]}, 'class id True'),
        ({'classes': [{'id': 0, 'name': 'x', 'color': [0, 0]}]}, 'not a label space'),
        ({'classes': [{'id': 0, 'name': 'x', 'color': [True, 0, 0]}]}, 'True is a flag'),
        ({'classes': [{'name': 'x', 'color': [0, 0, 0]}]}, 'id'),
        ({'mappings': {'camvid': {'maybe': 'road'}}}, 'no such class'),
    ],
)
def test_wrong_content_is_one_sentence(change, message):
    with pytest.raises(DataError, match=message) as error:
        LabelSpace.from_dict({**TWO, **change})
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('written', ['"false"', '"true"', "'no'", '0', '1', '2', '"1"', '[]', ''])
def test_only_what_yaml_reads_as_a_boolean_is_drivable_or_not(written, tmp_path):
    path = tmp_path / 'mine.yaml'
    text = 'name: mine\nclasses:\n  - {id: 0, name: floor, color: [0, 0, 0], drivable: VALUE}\n'
    path.write_text(text.replace('VALUE', written))
    with pytest.raises(DataError, match='drivable of the class floor: .*without quotes'):
        LabelSpace.load(path)
    for sound, drivable in {'true': 1, 'yes': 1, 'On': 1, 'false': 0, 'no': 0, 'OFF': 0}.items():
        path.write_text(text.replace('VALUE', sound))
        assert len(LabelSpace.load(path).drivable_ids) == drivable


def test_unknown_names_list_the_known_ones(tmp_path):
    with pytest.raises(DataError, match='camvid'):
        LabelSpace.load('kamvid')
    with pytest.raises(DataError, match='cannot be read'):
        LabelSpace.load(tmp_path / 'absent.yaml')
    space = LabelSpace.from_dict(TWO)
    with pytest.raises(DataError, match='0 no, 1 yes'):
        space.class_id('perhaps')
    with pytest.raises(DataError, match='no mapping to camvid'):
        space.lookup_table(LabelSpace.load('camvid'))


def test_a_shipped_space_stands_between_two_that_do_not_know_each_other() -> None:
    ours = LabelSpace.from_dict(
        {
            'name': 'lanes',
            'classes': [
                {'id': 0, 'name': 'lane', 'color': [0, 0, 0], 'drivable': True},
                {'id': 1, 'name': 'no_road', 'color': [1, 0, 0], 'drivable': False},
                {'id': 2, 'name': 'silent', 'color': [2, 0, 0], 'drivable': False},
            ],
            'mappings': {'camvid': {'lane': ['road'], 'no_road': ['sign', 'car'], 'silent': []}},
        }
    )
    cityscapes = LabelSpace.load('cityscapes')
    sets = ours.label_sets(cityscapes)
    names = {ours.names[i]: {cityscapes.names[t] for t in ids} for i, ids in sets.items()}
    cars = {'car', 'truck', 'bus', 'train'}
    assert names == {'lane': {'road'}, 'no_road': cars | {'traffic_light', 'traffic_sign'}}
