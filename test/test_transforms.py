"""Where frames lie to each other over time."""

from __future__ import annotations

import numpy as np
import pytest

from lwseg_ros.transforms import Transform, TransformError, TransformTree

MS = 1_000_000
START = 1_700_000_000_000_000_000
UPRIGHT = (0.0, 0.0, 0.0, 1.0)
QUARTER = (0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5))
"""A quarter of a turn to the left, about z."""


def moved(transform: Transform, *point: float) -> list[float]:
    points = np.array(point, np.float32)[:, np.newaxis]
    return [round(float(value), 4) for value in transform.apply(points)[:, 0]]


@pytest.fixture
def tree() -> TransformTree:
    """Return odom <- base_link, which drives and turns, with a camera and a lidar on it."""
    tree = TransformTree()
    tree.add('odom', 'base_link', START, (0, 0, 0), UPRIGHT)
    tree.add('odom', 'base_link', START + 100 * MS, (2, 0, 0), QUARTER)
    tree.add('base_link', 'camera', 0, (0, 0, 1), UPRIGHT, is_static=True)
    tree.add('base_link', 'lidar', 0, (0, 0.5, 2), QUARTER, is_static=True)
    return tree


def test_a_chain_goes_up_and_down_the_tree(tree: TransformTree) -> None:
    # 1 m before the lidar is 1 m to the left of it on the vehicle.
    assert moved(tree.lookup('camera', 'lidar', START), 1, 0, 0) == [0, 1.5, 1]
    assert moved(tree.lookup('lidar', 'camera', START), 0, 1.5, 1) == [1, 0, 0]
    assert moved(tree.lookup('/odom', 'camera', START + 100 * MS), 1, 0, 0) == [2, 1, 1]
    assert moved(tree.lookup('camera', 'camera', 0), 1, 2, 3) == [1, 2, 3]


def test_between_two_stamps_the_motion_is_even(tree: TransformTree) -> None:
    half = tree.lookup('odom', 'base_link', START + 50 * MS)
    assert moved(half, 0, 0, 0) == [1, 0, 0]
    assert moved(half, 1, 0, 0) == [1.7071, 0.7071, 0]
    # The same turn, written as the opposite quaternion, goes the shorter way all the same.
    tree.add('odom', 'base_link', START + 100 * MS, (2, 0, 0), tuple(-q for q in QUARTER))
    again = tree.lookup('odom', 'base_link', START + 50 * MS)
    np.testing.assert_allclose(again.rotation, half.rotation, atol=1e-12)


def test_the_motion_between_two_stamps_is_taken_out(tree: TransformTree) -> None:
    # What stood 3 m ahead at first is 1 m ahead of where the vehicle came to, now at its right.
    move = tree.lookup_between('base_link', START + 100 * MS, 'base_link', START, 'odom')
    assert moved(move, 3, 0, 0) == [0, -1, 0]


@pytest.mark.parametrize(
    ('target', 'source', 'at', 'sentence'),
    [
        ('odom', 'base_link', START + 130 * MS, 'odom <- base_link is wanted 30 ms after the new'),
        ('odom', 'camera', START - 20 * MS, 'odom <- base_link is wanted 20 ms before the oldest'),
        ('camera', 'radar', START, "no transform has come of 'radar'"),
        ('map', 'radar', START, "no transform has come of 'radar' or of 'map'"),
        ('tool', 'camera', START, "trees, from 'odom' and from 'arm', are not connected"),
    ],
)
def test_what_is_not_known_is_named(
    tree: TransformTree, target: str, source: str, at: int, sentence: str
) -> None:
    tree.add('arm', 'tool', START, (0, 0, 0), UPRIGHT)
    with pytest.raises(TransformError, match=sentence):
        tree.lookup(target, source, at)


@pytest.mark.parametrize(
    ('parent', 'child', 'place', 'turn'),
    [
        ('a', 'a', (0, 0, 0), UPRIGHT),
        ('', 'a', (0, 0, 0), UPRIGHT),
        ('a', 'b', (0, np.nan, 0), UPRIGHT),
        ('a', 'b', (0, 0, 0), (0, 0, 0, 0)),
        ('a', 'b', (0, 0, 0), (0, np.inf, 0, 1)),
    ],
)
def test_what_is_no_transform_is_refused(parent, child, place, turn) -> None:
    tree = TransformTree()
    with pytest.raises(TransformError):
        tree.add(parent, child, START, place, turn)
    with pytest.raises(TransformError, match='no transform has come'):
        tree.lookup('a', 'b', START)


def test_a_circle_is_named() -> None:
    tree = TransformTree()
    tree.add('a', 'b', START, (0, 0, 0), UPRIGHT)
    tree.add('b', 'a', START, (0, 0, 0), UPRIGHT)
    with pytest.raises(TransformError, match='circle'):
        tree.lookup('a', 'c', START)


def test_a_bag_that_begins_anew_begins_anew(tree: TransformTree) -> None:
    for second in range(60):
        tree.add('odom', 'base_link', START + second * 1000 * MS, (second, 0, 0), UPRIGHT)
    with pytest.raises(TransformError, match='before the oldest'):  # memory stays flat
        tree.lookup('odom', 'base_link', START + 1000 * MS)
    tree.add('odom', 'base_link', START, (7, 0, 0), UPRIGHT)
    assert moved(tree.lookup('odom', 'base_link', START), 0, 0, 0) == [7, 0, 0]


def test_a_frame_may_change_its_parent(tree: TransformTree) -> None:
    tree.add('hand', 'camera', START, (0, 0, 9), UPRIGHT)
    tree.add('odom', 'hand', START, (0, 1, 0), UPRIGHT)
    assert moved(tree.lookup('odom', 'camera', START), 0, 0, 0) == [0, 1, 9]
