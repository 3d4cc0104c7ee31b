"""The generated drive keeps its word: equal bytes for equal seeds, exact labels, true geometry."""

from __future__ import annotations

import numpy as np
import pytest

from lwseg_ros.errors import DataError
from lwseg_ros.label_space import IGNORE_ID, LabelSpace
from lwseg_ros.synthetic.camera import Camera
from lwseg_ros.synthetic.drive import GeneratedDrive
from lwseg_ros.synthetic.layout import KINDS
from lwseg_ros.synthetic.scene import MATERIAL_LABELS, Material

SIZE = (320, 192)


@pytest.fixture(scope='module', params=KINDS)
def drive(request: pytest.FixtureRequest) -> GeneratedDrive:
    return GeneratedDrive(11, *SIZE, frames=40, rate_hz=10.0, kind=request.param)


def test_the_same_arguments_give_the_same_bytes_in_any_order(drive: GeneratedDrive) -> None:
    kind = drive.scene.layout.kind
    again = GeneratedDrive(11, *SIZE, frames=40, rate_hz=10.0, kind=kind)
    later = again.frame(7)
    for frame in (drive.frame(3), drive.frame(7)):
        twin = again.frame(frame.number)
        np.testing.assert_array_equal(frame.image, twin.image)
        np.testing.assert_array_equal(frame.labels, twin.labels)
        assert frame.camera == twin.camera
    np.testing.assert_array_equal(later.image, drive.frame(7).image)


def test_seeds_differ() -> None:
    a, b = (GeneratedDrive(seed, *SIZE, frames=1).frame(0) for seed in (1, 2))
    assert np.mean(a.labels != b.labels) > 0.1
    assert np.mean(np.abs(a.image.astype(int) - b.image)) > 5


def test_a_frame_is_what_it_says(drive: GeneratedDrive) -> None:
    frame = drive[-1]
    assert len(drive) == 40
    assert frame.number == 39
    assert frame.stamp_ns - drive[0].stamp_ns == round(3.9e9)
    assert (frame.image.shape, frame.image.dtype) == ((192, 320, 3), np.uint8)
    assert (frame.labels.shape, frame.labels.dtype) == ((192, 320), np.uint8)
    known = {label.id for label in LabelSpace.load('camvid').classes} | {IGNORE_ID}
    assert set(np.unique(frame.labels)) <= known
    assert [f.number for f in drive[:3]] == [0, 1, 2]
    with pytest.raises(IndexError):
        drive[40]


def test_the_vehicle_moves(drive: GeneratedDrive) -> None:
    assert np.mean(drive.frame(0).labels != drive.frame(20).labels) > 0.01


def test_every_class_occurs() -> None:
    pixels = np.zeros(256, np.int64)
    for seed, kind in enumerate(KINDS * 2):
        street = GeneratedDrive(seed, *SIZE, frames=30, rate_hz=2.0, kind=kind)
        for number in (0, 10, 20):
            pixels += np.bincount(street.frame(number).labels.ravel(), minlength=256)
    classes = [label.id for label in LabelSpace.load('camvid').classes]
    assert (pixels[classes] > 100).all()
    road = LabelSpace.load('camvid').class_id('road')
    assert 0.15 < pixels[road] / pixels.sum() < 0.6


def test_projection_is_that_of_a_pinhole_looking_down() -> None:
    camera = Camera(640, 480, focal=500.0, mount_height=1.5, pitch=np.deg2rad(10))
    on_axis = [1.5 / np.tan(camera.pitch), 0.0, 0.0]
    left = [on_axis[0], 1.0, 0.0]
    (u, v, depth), (u_left, *_) = camera.project([on_axis, left])
    np.testing.assert_allclose([u, v], camera.center, atol=1e-9)
    np.testing.assert_allclose(depth, 1.5 / np.sin(camera.pitch))
    np.testing.assert_allclose(u - u_left, 500.0 / depth)
    np.testing.assert_allclose(
        camera.k @ [0.0, 0.0, 1.0], [camera.center[0], camera.center[1], 1.0]
    )


def test_ground_rows_project_to_themselves(drive: GeneratedDrive) -> None:
    for number in (0, 25):
        frame = drive.frame(number)
        rows = np.flatnonzero(~np.isnan(frame.ground_forward))
        assert rows[-1] == 191
        assert rows.size > 40
        ahead = frame.ground_forward[rows]
        points = np.stack([ahead, np.zeros_like(ahead), frame.ground_up[rows]], axis=1)
        near = ahead < 60
        projected = frame.camera.project(points)[near, 1]
        np.testing.assert_allclose(projected, rows[near], atol=0.3)
        assert (np.diff(ahead) < 0).all()


def test_the_road_is_as_wide_on_the_ground_as_the_street_has_it() -> None:
    drive = GeneratedDrive(5, *SIZE, frames=2, kind='rural')
    scene = drive.scene
    scene.static.clear()
    scene.movers.clear()
    frame = drive.frame(1)
    road = LabelSpace.load('camvid').class_id('road')
    errors_px = []
    for row in np.flatnonzero(frame.ground_forward < 40):
        columns = np.flatnonzero(frame.labels[row] == road)
        if columns[0] == 0 or columns[-1] == SIZE[0] - 1:
            continue
        seen = np.array([[frame.ground_forward[row], 0.0, frame.ground_up[row]]])
        pixels_per_metre = frame.camera.focal / frame.camera.project(seen)[0, 2]
        errors_px.append(columns.size - 2 * scene.layout.half * pixels_per_metre)
    assert len(errors_px) > 5
    assert np.abs(errors_px).max() < 2.5


def test_what_passes_beside_the_camera_does_not_cover_the_picture() -> None:
    drive = GeneratedDrive(42, *SIZE, frames=120, rate_hz=15.0, kind='suburb')
    road = LabelSpace.load('camvid').class_id('road')
    for number in range(30, 60):
        assert np.mean(drive.frame(number).labels == road) > 0.2


def test_markings_are_road() -> None:
    assert MATERIAL_LABELS[Material.WHITE] == MATERIAL_LABELS[Material.ASPHALT]
    assert MATERIAL_LABELS[Material.YELLOW] == MATERIAL_LABELS[Material.ASPHALT]


def test_label_edges_are_image_edges(drive: GeneratedDrive) -> None:
    """Where labels change, the picture changes more than it does inside regions."""
    frame = drive.frame(0)
    gray = frame.image.astype(np.float32).mean(axis=2)
    step = np.abs(np.diff(gray, axis=1))
    edge = frame.labels[:, 1:] != frame.labels[:, :-1]
    assert step[edge].mean() > 2.5 * step[~edge].mean()


@pytest.mark.parametrize(
    'wrong', [{'kind': 'moon'}, {'width': 8}, {'frames': 0}, {'rate_hz': 0.0}, {'seed': -1}]
)
def test_wrong_arguments_are_refused(wrong: dict) -> None:
    with pytest.raises(DataError, match='generated drive'):
        GeneratedDrive(**{'seed': 1, **wrong})
