"""The comparisons in docs ask every model the same question, and keep what they have judged."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from compare_peers import ADAS_SPACE, Column, leaders, table_lines
from judging import (
    SETS,
    Candidate,
    JudgingSet,
    class_figures,
    counts_of,
    judge,
    network_size,
    road_figures,
    write_between,
)
from paths_for_tests import shared

from lwseg_ros.datasets.dataset import open_dataset, read_pair
from lwseg_ros.errors import DataError
from lwseg_ros.evaluation.evaluate import evaluate
from lwseg_ros.inference.segmenter import Image, Segmentation
from lwseg_ros.label_space import LabelSpace

CAMVID, CITYSCAPES = LabelSpace.load('camvid'), LabelSpace.load('cityscapes')
LABEL_IDS = LabelSpace.load('cityscapes_label_ids')


def counts(truth: LabelSpace, model: LabelSpace, *pixels: tuple[str, str, int]) -> np.ndarray:
    """Return counts of (true class, answer, pixels)."""
    table = np.zeros((256, 256), np.int64)
    for true, answer, number in pixels:
        table[truth.class_id(true), model.class_id(answer)] += number
    return table


def test_road_is_the_same_question_to_models_of_other_classes() -> None:
    mine = counts(CAMVID, CAMVID, ('road', 'road', 80), ('road', 'car', 20), ('sky', 'road', 10))
    theirs = counts(
        CAMVID,
        ADAS_SPACE,
        *(('road', 'road', 50), ('road', 'marking', 30)),
        *(('road', 'background', 20), ('sky', 'marking', 10)),
    )
    for table, space in ((mine, CAMVID), (theirs, ADAS_SPACE)):
        figures = road_figures(table, CAMVID, space)
        assert figures['road_iou'] == pytest.approx(80 / 110, abs=1e-6)
        assert figures['false_road'] == 1
        assert figures['missed_road'] == pytest.approx(0.2)
    kerb = counts(CAMVID, ADAS_SPACE, ('road', 'kerb', 1), ('pavement', 'kerb', 1))
    assert road_figures(kerb, CAMVID, ADAS_SPACE)['false_road'] == 0


def test_what_truth_does_not_say_counts_nowhere_but_is_told_by_its_class() -> None:
    table = counts(
        LABEL_IDS,
        CAMVID,
        *(('road', 'road', 10), ('building', 'sky', 30)),
        *(('unlabeled', 'road', 3), ('unlabeled', 'car', 1), ('parking', 'road', 5)),
    )
    figures = road_figures(table, LABEL_IDS, CAMVID)
    assert (figures['road_iou'], figures['false_road']) == (1, 0)
    assert isinstance(figures['called_road'], dict)
    assert figures['called_road']['unlabeled'] == 0.75
    assert figures['called_road']['sky'] is None


def test_classes_are_compared_in_ours_whatever_the_model_can_tell() -> None:
    table = counts(LABEL_IDS, CITYSCAPES, ('truck', 'car', 9), ('car', 'bus', 1))
    found = class_figures(table, LABEL_IDS, CITYSCAPES)
    assert found == {'miou': 1, 'iou': {'car': 1}}
    assert class_figures(table, LABEL_IDS, ADAS_SPACE) is None


def test_figures_are_those_of_evaluate(tmp_path: Path) -> None:
    data = open_dataset('camvid:camvid', 'val', shared('data'))

    def shifted(image: Image) -> Image:
        pair = next(pairs)
        _, labels = read_pair(pair)
        return np.asarray(np.roll(labels, 9, 1), np.uint8)

    model = tmp_path / 'model.onnx'
    model.write_bytes(b'weights')
    candidate = Candidate('shifted', model, CAMVID, lambda size: size, lambda size: shifted)
    pairs = iter(data.pairs)
    kept = judge(candidate, SETS['camvid'], shared('data'), tmp_path / 'judged')
    judged = counts_of(kept)
    pairs = iter(data.pairs)

    def predict(image: Image) -> Segmentation:
        labels = shifted(image)
        return Segmentation(labels, np.full_like(labels, 255), np.zeros_like(labels))

    wanted = evaluate(predict, CAMVID, data)
    classes, road = class_figures(judged, CAMVID, CAMVID), road_figures(judged, CAMVID, CAMVID)
    assert classes is not None
    assert classes == {'miou': wanted['miou'], 'iou': wanted['iou']}
    assert road['road_iou'] == wanted['drivable_iou']
    assert road['false_road'] == wanted['false_drivable_rate']


def test_a_model_meets_a_set_once_and_dark_pictures_are_apart(tmp_path: Path) -> None:
    write_set(tmp_path / 'drive', light=2, dark=1)
    model = tmp_path / 'model.onnx'
    model.write_bytes(b'weights')
    calls: list[Image] = []

    def predict(image: Image) -> Image:
        calls.append(image)
        return np.full(image.shape[:2], 3, np.uint8)

    candidate = Candidate('road', model, CAMVID, lambda size: size, lambda size: predict)
    drive = JudgingSet('drive', 'folder:drive', 'all')
    first = judge(candidate, drive, tmp_path, tmp_path / 'judged')
    again = judge(candidate, drive, tmp_path, tmp_path / 'judged')
    assert first == again
    assert len(calls) == 3
    assert counts_of(first, 'dark').sum() == 64
    assert counts_of(first).sum() == 3 * 64
    model.write_bytes(b'other weights')
    judge(candidate, drive, tmp_path, tmp_path / 'judged')
    assert len(calls) == 6


def test_sizes_of_an_area_keep_the_aspect() -> None:
    assert network_size('model', (321, 481), (100, 400)) == (321, 481)
    assert network_size('641x193', (321, 481), (100, 400)) == (193, 641)
    assert network_size('area:124000', (321, 481), (375, 1242)) == (193, 641)
    height, width = network_size('area:124000', (320, 480), (375, 1242))
    assert (height % 32, width % 32) == (0, 0)
    with pytest.raises(DataError, match='area:N'):
        network_size('area:large', (321, 481), (100, 400))


def test_what_leads_a_column_is_bold_and_a_tie_is_shared() -> None:
    false: Column = ('false road', 'camvid', ('false_road',), True)
    rows = {
        name: {'sets': {'camvid': {'false_road': value}}}
        for name, value in (('a', 0.0201), ('b', 0.0199), ('c', 0.03), ('d', None))
    }
    assert leaders(false, rows) == {'a', 'b'}
    assert table_lines([false], rows)[2:] == [
        '| a | **2.0** |',
        '| b | **2.0** |',
        '| c | 3.0 |',
        '| d | – |',
    ]


def test_a_table_goes_between_its_markers_only(tmp_path: Path) -> None:
    page = tmp_path / 'page.md'
    page.write_text('before\n<!-- t -->\nold\n<!-- end of t -->\nafter\n')
    write_between(page, 't', ['| a |'])
    assert page.read_text() == 'before\n<!-- t -->\n| a |\n<!-- end of t -->\nafter\n'
    with pytest.raises(DataError, match='no lines'):
        write_between(page, 'u', [])


def write_set(folder: Path, light: int, dark: int) -> None:
    """Write pictures of road, light and dark ones."""
    for name in ('images', 'labels'):
        (folder / name).mkdir(parents=True)
    for number, level in enumerate([200] * light + [20] * dark):
        cv2.imwrite(str(folder / f'images/{number}.png'), np.full((8, 8, 3), level, np.uint8))
        cv2.imwrite(str(folder / f'labels/{number}.png'), np.full((8, 8), 0, np.uint8))
    (folder / 'label_space.yaml').write_text(
        'name: drive\nclasses: [{id: 0, name: lane, color: [0, 0, 0], drivable: true}]\n'
        'mappings: {camvid: {lane: [road]}}\n'
    )
