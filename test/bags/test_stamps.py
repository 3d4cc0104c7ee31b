"""Where a message has no stamp, its place in the drive is that of its neighbours' clock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from paths_for_tests import shared

pytest.importorskip('rosbags')

from bags_for_tests import by_time, painted, quick_settings, raw, write_ros2

from lwseg_ros.bags.images import BagImages
from lwseg_ros.bags.order import completed_stamps, stamp_note
from lwseg_ros.image_messages import image_from_message
from lwseg_ros.live.frames import BagSource, PlayableFrames
from lwseg_ros.replay.evaluation import evaluate_bag

WALL = 1_700_000_000 * 10**9
SECOND = 10**9


def completed(header_s: list[float], record_s: list[float], topics: list[int]) -> list[float]:
    stamps = completed_stamps(
        np.array(topics),
        np.array([round(s * SECOND) for s in header_s]),
        np.array([WALL + round(s * SECOND) for s in record_s]),
    )
    return [round(float(ns) / SECOND, 6) for ns in stamps]


@pytest.mark.parametrize(
    ('header', 'wanted'),
    [
        ([0, 7.2, 7.3, 7.4], [7.1, 7.2, 7.3, 7.4]),
        ([0, 0, 7.3, 7.4], [7.1, 7.2, 7.3, 7.4]),
        ([7.1, 0, 7.3, 7.4], [7.1, 7.2, 7.3, 7.4]),
        ([7.1, 7.2, 0, 0], [7.1, 7.2, 7.3, 7.4]),
        ([0, 0.1, 0.2, 0.3], [0, 0.1, 0.2, 0.3]),
        # The simulation takes ten times as long as what it shows.
        ([0, 0.01, 0, 0.03], [0, 0.01, 0.02, 0.03]),
        ([0, 0, 0, 0], [WALL / SECOND + s for s in (0.1, 0.2, 0.3, 0.4)]),
    ],
)
def test_stamps_follow_from_their_neighbours(header: list[float], wanted: list[float]) -> None:
    assert completed(header, [0.1, 0.2, 0.3, 0.4], [0] * 4) == wanted


def test_each_camera_has_its_clock_and_one_without_any_takes_another() -> None:
    header = [0, 0, 0, 7.2, 50.2, 0, 7.3, 50.3, 0]
    record = [0.1, 0.11, 0.12, 0.2, 0.21, 0.22, 0.3, 0.31, 0.32]
    topics = [0, 1, 2] * 3
    first, second, without = (completed(header, record, topics)[i::3] for i in range(3))
    assert first == [7.1, 7.2, 7.3]
    assert second == [50.1, 50.2, 50.3]
    assert without[0] == 7.12
    assert all(s >= 7.12 for s in without)


def test_what_is_said_of_it() -> None:
    assert stamp_note('/cam', 0, 3) == ''
    assert '2 of 3 messages have stamp 0' in stamp_note('/cam', 2, 3)
    assert 'no message has a stamp' in stamp_note('/cam', 3, 3)


def simulated(path: Path, without_stamp: set[int]) -> Path:
    """Write a drive whose stamps begin at 0.05 s, while its recorder goes by the wall clock."""
    rows = []
    for i in range(8):
        at = round((0.05 + 0.1 * i) * SECOND)
        message = raw(painted(i), 0 if i in without_stamp else at)
        rows.append(('/cam/image', WALL + at, message))
    return write_ros2(path, by_time(rows))


@pytest.mark.parametrize('without_stamp', [{0}, {0, 1, 2}, {4}, {0, 4, 7}])
def test_all_commands_keep_the_order_of_a_simulated_drive(
    without_stamp: set[int], tmp_path: Path, tiny_model: Path
) -> None:
    bag = simulated(tmp_path / 'drive', without_stamp)
    stamps = [round((0.05 + 0.1 * i) * SECOND) for i in range(8)]
    images = BagImages(bag)
    read = list(images)
    assert [entry.stamp_ns for entry in read] == stamps
    np.testing.assert_array_equal(image_from_message(read[0].message), painted(0))
    assert f'{len(without_stamp)} of 8 messages have stamp 0' in images.notes[0]
    frames = PlayableFrames(BagSource(bag))
    assert [frame.stamp_ns for frame in frames] == stamps
    assert frames.restamped == len(without_stamp)
    settings = replace(quick_settings(tiny_model), truth_topics=(), truth_space=None)
    result = evaluate_bag(bag, tmp_path / 'out', settings)['bags'][0]
    assert result['seconds'] == 0.7
    assert result['notes'] == images.notes


def test_truth_by_index_stays_true(tmp_path: Path, tiny_model: Path) -> None:
    """The first frame has stamp 0 in one bag, 1 ns in the other; all else is equal."""
    cases = shared('field_cases/stamp_zero')
    settings = replace(quick_settings(tiny_model), truth_topics=(), truth_folder=cases / 'truth')
    figures = [
        evaluate_bag(cases / name, tmp_path / name, settings)['overall']
        for name in ('first_0', 'first_1ns')
    ]
    assert figures[0]['accuracy'] == figures[1]['accuracy']
    assert figures[0]['frames_with_truth'] == 12
