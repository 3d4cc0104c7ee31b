"""The ground as measured points show it, held against ground that is known."""

from __future__ import annotations

import numpy as np
import pytest

from lwseg_ros.drivable.ground import DRIVABLE, NOT_DRIVABLE, UNKNOWN, GroundGrid
from lwseg_ros.drivable.measured_ground import MeasuredGround, measured_ground

GRID = GroundGrid(resolution=0.1, extent=20.0, corner=(0.0, -10.0))
MAX_STEP, CLEARANCE = 0.15, 2.0


def terrain(slope: float = 0.0, count: int = 200_000) -> np.ndarray:
    """Return points float32 [3, n] scattered over a hillside, a millimetre rough."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 20, count), rng.uniform(-10, 10, count)
    z = slope * x + 0.02 * y + rng.normal(0, 0.001, count)
    return np.stack([x, y, z]).astype(np.float32)


def box(points: np.ndarray, x: float, y: float, length: float, width: float) -> np.ndarray:
    """Tell which points lie in a rectangle around (x, y)."""
    return (np.abs(points[0] - x) < length / 2) & (np.abs(points[1] - y) < width / 2)


def cells(x: float, y: float, length: float, width: float) -> tuple[slice, slice]:
    """Return the cells of a rectangle around (x, y): rows, columns."""
    edges = [10 * (y + 10 - width / 2), 10 * (y + 10 + width / 2)]
    ahead = [10 * (x - length / 2), 10 * (x + length / 2)]
    return slice(*(round(e) for e in edges)), slice(*(round(e) for e in ahead))


def answer(points: np.ndarray, road: np.ndarray | None = None) -> MeasuredGround:
    road = np.ones(points.shape[1], bool) if road is None else road
    return measured_ground(points, road, ~road, GRID, MAX_STEP, CLEARANCE)


@pytest.mark.parametrize('slope', [0.0, 0.1, -0.2])
def test_a_hillside_is_drivable_whatever_its_slope(slope: float) -> None:
    ground = answer(terrain(slope))
    assert np.mean(ground.grid == DRIVABLE) > 0.98  # a cell in fifty has no point
    assert not (ground.grid == NOT_DRIVABLE).any()
    assert not ground.obstacle.any()


@pytest.mark.parametrize('slope', [0.0, 0.1])
def test_what_stands_on_the_ground_is_an_obstacle_though_it_is_called_road(slope: float) -> None:
    points = terrain(slope)
    car = box(points, 10, 2, 4.4, 1.8)
    points[2, car] += np.random.default_rng(1).uniform(0.3, 1.5, car.sum())
    ground = answer(points)
    np.testing.assert_array_equal(ground.obstacle, car)
    place = cells(10, 2, 4.4, 1.8)
    assert np.mean(ground.grid[place] == NOT_DRIVABLE) > 0.97
    around = np.ones_like(ground.grid, bool)
    around[place] = False
    assert not (ground.grid[around] == NOT_DRIVABLE).any()


@pytest.mark.parametrize('slope', [0.0, 0.1])
def test_a_pit_is_not_drivable_though_it_is_called_road(slope: float) -> None:
    points = terrain(slope)
    points[2, box(points, 8, -3, 1.0, 1.0)] -= 0.5
    ground = answer(points)
    place = cells(8, -3, 1.0, 1.0)
    assert (ground.grid[place] == NOT_DRIVABLE).all()
    around = np.ones_like(ground.grid, bool)
    around[cells(8, -3, 1.4, 1.4)] = False
    assert not (ground.grid[around] == NOT_DRIVABLE).any()


def test_a_kerb_that_the_vehicle_can_climb_is_no_obstacle_and_a_higher_one_is() -> None:
    points = terrain()
    kerb = points[1] > 5
    points[2, kerb] += 0.1
    assert not answer(points).obstacle.any()
    # A pavement is wide: it is ground of its own, and what it is called decides.
    points[2, kerb] += 0.2
    ground = answer(points, road=~kerb)
    assert ground.obstacle[kerb].all()
    assert not ground.obstacle[~kerb].any()


def test_the_vehicle_passes_below_a_bridge_and_not_below_a_barrier() -> None:
    points = terrain()
    for height, is_obstacle in ((4.0, False), (1.5, True)):
        over = points[:, box(points, 10, 0, 2.0, 20.0)] + [[0], [0], [height]]
        both = np.concatenate([points, over.astype(np.float32)], axis=1)
        road = np.arange(both.shape[1]) < points.shape[1]
        ground = answer(both, road)
        assert ground.obstacle.any() == is_obstacle
        place = cells(10, 0, 1.8, 18.0)
        assert np.mean(ground.grid[place] == NOT_DRIVABLE) == pytest.approx(
            float(is_obstacle), abs=0.03
        )


def test_what_is_neither_is_unknown_and_so_is_what_nobody_measured() -> None:
    points = terrain()
    unsure = box(points, 10, 0, 4, 4)
    unseen = box(points, 5, 5, 4, 4)
    points[:, unseen] = np.nan
    everything = np.ones(points.shape[1], bool)
    ground = measured_ground(points, everything & ~unsure, ~everything, GRID, MAX_STEP, CLEARANCE)
    assert (ground.grid[cells(10, 0, 4, 4)] == UNKNOWN).all()
    assert (ground.grid[cells(5, 5, 4, 4)] == UNKNOWN).all()
    assert not ground.drivable[unsure | unseen].any()
    assert (ground.grid == DRIVABLE).any()


def test_points_that_cannot_be_count_for_nothing() -> None:
    wrong = np.array(
        [[np.nan, np.inf, 5, 5, -np.inf], [0, 0, np.nan, 0, 0], [0, 0, 0, 1e30, 0]], np.float32
    )
    everything = np.ones(wrong.shape[1], bool)
    ground = measured_ground(wrong, everything, everything, GRID, MAX_STEP, CLEARANCE)
    assert (ground.grid == UNKNOWN).all()
    assert not (ground.drivable | ground.obstacle).any()
    nothing = np.empty((3, 0), np.float32)
    assert (answer(nothing).grid == UNKNOWN).all()
