"""The ground before a vehicle as measured points show it: which cells are drivable, which are not.

Ground frame: x forward, y left, z up, metres; the grid has the cells of `drivable.ground`. The
ground may rise and fall; what stands on it does so within a few metres. The rules are our choice.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lwseg_ros.drivable.ground import DRIVABLE, NOT_DRIVABLE, UNKNOWN, GroundGrid

OBJECT_SIZE = 3.0
"""Metres: what rises out of the ground over less than this stands on it."""

_FAR = 1e6
_HIGH = 50.0
_LEVELS = (1 << 16) - 1


class MeasuredGround(NamedTuple):
    """The ground as one frame's points show it."""

    grid: NDArray[np.int8]
    """`[n, n]`, indexed by y, then x: UNKNOWN, DRIVABLE or NOT_DRIVABLE."""
    drivable: NDArray[np.bool_]
    """`[points]`: those on drivable ground."""
    obstacle: NDArray[np.bool_]
    """`[points]`: those that are surely not drivable, and those that stand above the ground."""


def measured_ground(
    points: NDArray[np.float32],
    drivable: NDArray[np.bool_],
    not_drivable: NDArray[np.bool_],
    grid: GroundGrid,
    max_step: float,
    clearance: float,
) -> MeasuredGround:
    """Return what the ground is, given points float32 `[3, n]` in its frame; NaN are not there.

    `drivable` and `not_drivable`, bool `[n]`, say what the mask surely says of each point;
    `max_step` is the height in metres that the vehicle can drive up or down, `clearance` the one
    that it needs. A point is an obstacle if it is not drivable or stands above the ground by more
    than `max_step`, but not if it is higher than `clearance`: the vehicle passes below.

    The ground is the lowest of each cell after a morphological opening (Zhang et al. 2003) and a
    closing, which take away what is smaller than OBJECT_SIZE and stands on it or lies below it. A
    cell is not drivable if it holds an obstacle or lies below the ground by more than `max_step`,
    drivable if it holds drivable points else, and unknown without either.
    """
    cells = grid.cells
    x, y, z = points
    with np.errstate(invalid='ignore'):
        column = np.floor((x - grid.corner[0]) / grid.resolution)
        row = np.floor((y - grid.corner[1]) / grid.resolution)
        inside = (column >= 0) & (column < cells) & (row >= 0) & (row < cells) & (abs(z) < _HIGH)
    seen = np.flatnonzero(inside)
    place = row[seen].astype(np.intp) * cells + column[seen].astype(np.intp)
    height = z[seen]
    floor, pits = _ground(_lowest(place, height, cells), grid, max_step)
    above = height - floor.ravel()[place]
    obstacle = (above < clearance) & (not_drivable[seen] | (above > max_step))
    free = drivable[seen] & (above <= max_step) & ~pits.ravel()[place]
    answer = np.full(cells * cells, UNKNOWN, np.int8)
    answer[place[free]] = DRIVABLE
    answer[place[obstacle]] = NOT_DRIVABLE
    answer[pits.ravel()] = NOT_DRIVABLE
    on_drivable, on_obstacle = np.zeros_like(inside), np.zeros_like(inside)
    on_drivable[seen[free & (answer[place] == DRIVABLE)]] = True
    on_obstacle[seen[obstacle]] = True
    return MeasuredGround(answer.reshape(cells, cells), on_drivable, on_obstacle)


def _ground(
    lowest: NDArray[np.float32], grid: GroundGrid, max_step: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return, `[n, n]`, the height of the ground, _FAR where none is near, and what lies below."""
    reach = round(OBJECT_SIZE / 2 / grid.resolution)
    # Beyond the grid nothing is known, so that nothing ends at its edge.
    wide = cv2.copyMakeBorder(lowest, *(2 * reach,) * 4, cv2.BORDER_CONSTANT, value=_FAR)
    without_specks = _least(_greatest(np.asarray(wide, np.float32), 1), 1)
    opened = _greatest(_least(without_specks, reach), reach)
    closed = _least(_greatest(opened, reach), reach)
    inner = slice(2 * reach, 2 * reach + grid.cells)
    floor = closed[inner, inner]
    return floor, without_specks[inner, inner] < floor - max_step


def _least(heights: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """Return the least known height within `reach` cells, _FAR where none is known."""
    return np.asarray(cv2.erode(heights, _square(reach)), np.float32)


def _greatest(heights: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """Return the greatest known height within `reach` cells, _FAR where none is known."""
    known = np.where(heights == _FAR, -_FAR, heights)
    greatest = np.asarray(cv2.dilate(known, _square(reach)), np.float32)
    greatest[greatest == -_FAR] = _FAR
    return greatest


def _square(reach: int) -> NDArray[np.uint8]:
    return np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)


def _lowest(
    place: NDArray[np.intp], height: NDArray[np.float32], cells: int
) -> NDArray[np.float32]:
    """Return the height of the lowest point in each cell, `[n, n]`; _FAR where there is none."""
    low = np.full(cells * cells, _FAR, np.float32)
    level = ((height + _HIGH) * (_LEVELS / (2 * _HIGH))).astype(np.uint16)
    high_first = np.argsort(~level, kind='stable')
    low[place[high_first]] = height[high_first]  # what is written last stays
    return low.reshape(cells, cells)
