"""The ground grid, held against ground whose truth is known."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import pytest

from lwseg_ros.camera_model import Intrinsics
from lwseg_ros.drivable.ground import (
    DRIVABLE,
    NOT_DRIVABLE,
    UNKNOWN,
    GroundGrid,
    GroundView,
    mounted,
)
from lwseg_ros.drivable.mask import drivable_mask, surely_not_drivable
from lwseg_ros.errors import LwsegError
from lwseg_ros.inference.segmenter import Segmentation
from lwseg_ros.label_space import IGNORE_ID, LabelSpace
from lwseg_ros.synthetic.drive import DriveFrame, GeneratedDrive

ROAD = LabelSpace.load('camvid').class_id('road')


class Plane(NamedTuple):
    """How a camera looks at the ground, and the grid on it."""

    camera_height: float = 1.2
    camera_pitch: float = 0.1
    resolution: float = 0.1
    extent: float = 12.0

    def view(self, camera: Intrinsics, size: tuple[int, int]) -> GroundView:
        place = mounted(self.camera_height, self.camera_pitch)
        grid = GroundGrid.before(place, self.resolution, self.extent)
        return GroundView(grid, place, camera, size)


PLANE = Plane()
CAMERA = Intrinsics(640, 480, (400.0, 0, 310, 0, 420, 250, 0, 0, 1))
SIZE = (CAMERA.height, CAMERA.width)
STRIP = 4.0  # metres ahead lies the middle of a strip across that is two metres wide


def truly(labels: np.ndarray) -> Segmentation:
    """Return the answer of a network that is always right, and sure."""
    return Segmentation(
        labels, np.full_like(labels, 255), np.where(labels == ROAD, 255, 0).astype(np.uint8)
    )


def masks(segmentation: Segmentation, min_confidence: float = 0.5) -> tuple[np.ndarray, ...]:
    return (
        drivable_mask(segmentation, min_confidence),
        surely_not_drivable(segmentation, min_confidence),
    )


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def view_of(frame: DriveFrame, resolution: float = 0.1, extent: float = 20.0) -> GroundView:
    camera = frame.camera
    plane = Plane(camera.mount_height, camera.pitch, resolution, extent)
    intrinsics = Intrinsics(camera.width, camera.height, tuple(camera.k.ravel()))
    return plane.view(intrinsics, frame.labels.shape)


def true_labels(frame: DriveFrame, centers: np.ndarray) -> np.ndarray:
    """Return the class at each cell's middle on the drive's own, hilly ground; 255 unseen."""
    rows = np.flatnonzero(~np.isnan(frame.ground_forward))[::-1]
    forward, up = frame.ground_forward[rows], frame.ground_up[rows]
    points = centers.reshape(-1, 3).astype(np.float64)
    points[:, 2] = np.interp(points[:, 0], forward, up)
    u, v, _ = np.round(frame.camera.project(points)).T
    inside = (u >= 0) & (v >= 0) & (u < frame.camera.width) & (v < frame.camera.height)
    inside &= (points[:, 0] > forward[0]) & (points[:, 0] < forward[-1])
    labels = np.full(len(points), IGNORE_ID)
    labels[inside] = frame.labels[v[inside].astype(int), u[inside].astype(int)]
    return labels.reshape(centers.shape[:2])


@pytest.mark.parametrize(
    ('kind', 'seed', 'least_iou', 'most_false'),
    [
        ('highway', 12, 0.97, 0.0),  # flat, as the grid assumes
        ('suburb', 12, 0.95, 0.0),  # flat, and the bonnet in the picture
        ('city', 3, 0.95, 0.005),
        ('city', 13, 0.95, 0.015),
        ('suburb', 3, 0.93, 0.04),
        ('rural', 12, 0.85, 0.03),  # hills
    ],
)
def test_the_grid_is_the_true_ground_of_the_generated_drive(kind, seed, least_iou, most_false):
    drive = GeneratedDrive(seed, 640, 360, frames=60, kind=kind)
    for number in (0, 20, 40):
        frame = drive.frame(number)
        view = view_of(frame)
        truth = true_labels(frame, view.centers)
        grid = view.ground(*masks(truly(frame.labels))).grid
        road = truth == ROAD
        assert iou(grid == DRIVABLE, road) > least_iou
        assert np.mean(~road[grid == DRIVABLE]) <= most_false
        known = truth != IGNORE_ID
        assert np.mean((grid == NOT_DRIVABLE)[known & ~road]) > 0.85
        assert np.mean((grid == UNKNOWN)[known]) < 0.06  # cut by the edge of the image


def test_nothing_is_drivable_that_the_image_does_not_show():
    everything = np.full(SIZE, 255, np.uint8)
    view = PLANE.view(CAMERA, SIZE)
    grid = view.ground(everything, 0 * everything).grid
    x, y, _ = np.moveaxis(view.centers, -1, 0)
    sin, cos = np.sin(PLANE.camera_pitch), np.cos(PLANE.camera_pitch)
    depth = x * cos + PLANE.camera_height * sin
    u = CAMERA.k[2] + CAMERA.k[0] * -y / depth
    v = CAMERA.k[5] + CAMERA.k[4] * (PLANE.camera_height * cos - x * sin) / depth
    shown = (u > -0.5) & (u < 639.5) & (v < 479.5)
    assert (grid == DRIVABLE).any()
    assert not (grid[~shown] != UNKNOWN).any()
    # Only the cells that the edges of the image cut are shown and unknown all the same.
    assert np.count_nonzero(shown & (grid == UNKNOWN)) < 3 * len(grid)
    nothing = view.ground(0 * everything, 0 * everything)
    assert (nothing.grid == UNKNOWN).all()
    assert not nothing.contact.any()


def test_a_camera_that_looks_up_knows_nothing():
    everything = np.full(SIZE, 255, np.uint8)
    view = PLANE._replace(camera_pitch=-1.2).view(CAMERA, SIZE)
    assert (view.ground(everything, everything).grid == UNKNOWN).all()


def test_unsure_and_unlabelled_ground_is_unknown():
    labels = np.full(SIZE, ROAD, np.uint8)
    labels[:, :320] = ROAD + 1
    labels[430:] = IGNORE_ID
    answer = truly(labels)
    answer.confidence[:, 160:480] = 100
    grid = PLANE.view(CAMERA, SIZE).ground(*masks(answer)).grid
    row = grid[:, 60]  # 6 m ahead, from the right to the left
    changes = row[np.flatnonzero(np.diff(row, prepend=UNKNOWN - 1))]
    assert changes.tolist() == [UNKNOWN, DRIVABLE, UNKNOWN, NOT_DRIVABLE, UNKNOWN]
    labels[430:] = ROAD
    labelled = PLANE.view(CAMERA, SIZE).ground(*masks(truly(labels))).grid
    assert (labelled[:, 19] != UNKNOWN).any()  # 1.9 m ahead lie rows from 430 on
    assert (grid[:, 19] == UNKNOWN).all()


def strip_seen(camera: Intrinsics) -> np.ndarray:
    """Return the mask of the strip on the ground, pixel by pixel through OpenCV's inverse."""
    columns, rows = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    pixels = np.stack([columns, rows], axis=-1).reshape(-1, 1, 2).astype(np.float64)
    rays = cv2.undistortPoints(
        pixels, np.reshape(camera.k, (3, 3)), np.asarray(camera.distortion)
    ).reshape(*columns.shape, 2)
    sin, cos = np.sin(PLANE.camera_pitch), np.cos(PLANE.camera_pitch)
    down = sin + rays[..., 1] * cos
    ahead = PLANE.camera_height / np.maximum(down, 1e-6) * (cos - rays[..., 1] * sin)
    return np.where((down > 0) & (np.abs(ahead - STRIP) < 1), 255, 0).astype(np.uint8)


def true_strip(view: GroundView, grid: np.ndarray) -> np.ndarray:
    return (np.abs(view.centers[..., 0] - STRIP) < 1) & (grid != UNKNOWN)


def wrong_cells(view: GroundView, grid: np.ndarray) -> int:
    """Count what is drivable outside the strip, or not drivable well inside it."""
    distance = np.abs(view.centers[..., 0] - STRIP)
    return np.count_nonzero((grid == DRIVABLE) & (distance > 1)) + np.count_nonzero(
        (grid == NOT_DRIVABLE) & (distance < 0.75)
    )


@pytest.mark.parametrize(
    ('model', 'distortion'),
    [
        ('', ()),
        ('plumb_bob', (-0.3, 0.1, 0.001, -0.002, -0.01)),
        ('rational_polynomial', (-0.28, 0.08, 0.001, 0.0, -0.01, 0.02, 0.01, 0.003)),
    ],
)
def test_the_lens_is_taken_into_account(model, distortion):
    camera = CAMERA._replace(model=model, distortion=distortion)
    seen = strip_seen(camera)
    view = PLANE.view(camera, SIZE)
    grid = view.ground(seen, ~seen).grid
    assert iou(grid == DRIVABLE, true_strip(view, grid)) > 0.9
    assert not wrong_cells(view, grid)
    if any(distortion):
        plain = PLANE.view(CAMERA, SIZE)
        assert wrong_cells(plain, plain.ground(seen, ~seen).grid)


def test_a_strong_lens_does_not_fold_ground_from_outside_into_the_image():
    camera = CAMERA._replace(distortion=(-0.35, 0.0, 0.0, 0.0, 0.0))
    plane = PLANE._replace(camera_pitch=0.7, camera_height=0.5)
    everything = np.full(SIZE, 255, np.uint8)
    view = plane.view(camera, SIZE)
    grid = view.ground(everything, 0 * everything).grid
    known = view.centers[grid == DRIVABLE]
    sin, cos = np.sin(plane.camera_pitch), np.cos(plane.camera_pitch)
    depth = known[:, 0] * cos + plane.camera_height * sin
    down = (plane.camera_height * cos - known[:, 0] * sin) / depth
    # r (1 - 0.35 r^2) grows up to this r.
    assert len(known) > 100
    assert np.hypot(known[:, 1] / depth, down).max() < 1 / np.sqrt(3 * 0.35)


@pytest.mark.parametrize('size', [(240, 320), (360, 640), (480, 320)])
def test_a_mask_of_another_size_covers_the_same_ground(size):
    seen = cv2.resize(strip_seen(CAMERA), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    view = PLANE.view(CAMERA, size)
    grid = view.ground(seen, ~seen).grid
    assert iou(grid == DRIVABLE, true_strip(view, grid)) > 0.88


def test_contact_is_where_drivable_ground_ends():
    labels = np.full(SIZE, ROAD, np.uint8)
    labels[:300] = ROAD + 1  # a wall, whose foot is in row 300
    view = PLANE.view(CAMERA, SIZE)
    ground = view.ground(*masks(truly(labels)))
    angle = np.arctan((300 - CAMERA.k[5]) / CAMERA.k[4]) + PLANE.camera_pitch
    foot = PLANE.camera_height / np.tan(angle)
    contact = view.centers[ground.contact]
    assert np.abs(contact[:, 0] - foot).max() < 0.35
    assert np.ptp(contact[:, 1]) > 5
    assert (ground.grid[ground.contact] == NOT_DRIVABLE).all()
    assert (view.centers[ground.grid == DRIVABLE][:, 0] < foot).all()
    # A border that the network is not sure of is no gap in the contact.
    answer = truly(labels)
    answer.confidence[299:301] = 0
    blurred = view.centers[view.ground(*masks(answer)).contact]
    assert np.abs(blurred[:, 0] - foot).max() < 0.6
    assert np.ptp(blurred[:, 1]) > 5


@pytest.mark.parametrize(
    ('wrong', 'sentence'),
    [
        ({'k': (0.0,) * 9}, 'calibrate the camera'),
        ({'k': (float('nan'), *CAMERA.k[1:])}, 'calibrate the camera'),
        ({'width': 0}, '0x480'),
        ({'model': 'equidistant', 'distortion': (0.0,) * 4}, "distortion model 'equidistant'"),
        ({'model': '', 'distortion': (0.1,) * 4}, "distortion model ''"),
        ({'distortion': (0.1, 0.1)}, '2 distortion coefficients'),
    ],
)
def test_what_is_no_calibration_is_refused(wrong, sentence):
    with pytest.raises(LwsegError, match=sentence):
        PLANE.view(CAMERA._replace(**wrong), SIZE)


@pytest.mark.parametrize(('resolution', 'extent'), [(0.01, 100.0), (5.0, 1.0)])
def test_an_impossible_grid_is_refused(resolution, extent):
    with pytest.raises(LwsegError, match='cells along a side'):
        PLANE._replace(resolution=resolution, extent=extent).view(CAMERA, SIZE)
