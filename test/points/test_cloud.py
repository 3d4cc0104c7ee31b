"""Labels for clouds, held against what the rays of the generated drive's lidar truly hit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lwseg_ros.camera_model import Intrinsics
from lwseg_ros.errors import FrameError
from lwseg_ros.label_space import IGNORE_ID
from lwseg_ros.points.cloud import Cloud, CloudView, MarkedLayout, marks_of
from lwseg_ros.points.field import Field
from lwseg_ros.synthetic.drive import GeneratedDrive
from lwseg_ros.synthetic.lidar import Lidar

CAMERA = Intrinsics(640, 480, (500.0, 0.0, 319.5, 0.0, 500.0, 239.5, 0.0, 0.0, 1.0))
XYZ = [Field('x', 0, 7), Field('y', 4, 7), Field('z', 8, 7)]
VELODYNE = [*XYZ, Field('intensity', 12, 7), Field('ring', 16, 4), Field('time', 18, 7)]


def cloud_message(
    points: np.ndarray,
    fields: list[Field] = VELODYNE,
    point_step: int = 22,
    height: int = 1,
    padding: int = 0,
    big: bool = False,
) -> Any:
    """Return a PointCloud2 of points [n, 3]; every other byte counts up."""
    width = len(points) // height
    rows = np.arange(len(points) * point_step, dtype=np.uint32).astype(np.uint8)
    rows = rows.reshape(len(points), point_step)
    kinds = {7: 'f4', 8: 'f8'}
    for field in fields:
        if field.name in ('x', 'y', 'z'):
            kind = np.dtype(kinds[field.datatype]).newbyteorder('>' if big else '<')
            values = points[:, 'xyz'.index(field.name)].astype(kind)
            end = field.offset + kind.itemsize
            rows[:, field.offset : end] = values.view(np.uint8).reshape(len(points), kind.itemsize)
    data = np.pad(rows.reshape(height, width * point_step), ((0, 0), (0, padding)))
    return SimpleNamespace(
        fields=fields,
        height=height,
        width=width,
        point_step=point_step,
        row_step=data.shape[1],
        is_bigendian=big,
        is_dense=True,
        data=data.tobytes(),
    )


def scattered(count: int = 24) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 20, (count, 3)).astype(np.float32)


@pytest.mark.parametrize('height', [1, 4])
@pytest.mark.parametrize('padding', [0, 10])
@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize(
    'fields',
    [VELODYNE, [Field('z', 1, 7), Field('x', 5, 7), Field('y', 9, 7)]],
    ids=['velodyne', 'odd offsets'],
)
def test_points_are_read_by_the_names_of_their_fields(height, padding, big, fields) -> None:
    points = scattered()
    cloud = Cloud(cloud_message(points, fields, 22, height, padding, big))
    np.testing.assert_array_equal(cloud.xyz(), points.T)
    assert cloud.shape == (height, 24 // height)


def test_points_in_double_precision_are_read() -> None:
    fields = [Field('x', 0, 8), Field('y', 8, 8), Field('z', 16, 8)]
    cloud = Cloud(cloud_message(scattered(), fields, 24))
    np.testing.assert_allclose(cloud.xyz(), scattered().T, rtol=1e-6)


def marked(message: Any) -> tuple[MarkedLayout, np.ndarray]:
    """Return the layout and the bytes [n, step] with labels 1, 2, ... and confidence 255, 254."""
    cloud = Cloud(message)
    layout = MarkedLayout(cloud)
    number = len(cloud.points)
    out = np.full((number, layout.point_step), 77, np.uint8)
    labels = np.arange(1, number + 1, dtype=np.uint8)
    layout.write(cloud, labels, 255 - labels, out)
    return layout, out


def column(layout: MarkedLayout, out: np.ndarray, name: str) -> np.ndarray:
    (field,) = (f for f in layout.fields if f.name == name)
    assert field.datatype == 2
    return out[:, field.offset]


def test_a_marked_cloud_has_all_that_it_had_and_two_fields_more() -> None:
    message = cloud_message(scattered())
    layout, out = marked(message)
    assert layout.fields[:6] == VELODYNE
    assert layout.point_step == 24
    before = np.frombuffer(message.data, np.uint8).reshape(24, 22)
    np.testing.assert_array_equal(out[:, :22], before)
    np.testing.assert_array_equal(column(layout, out, 'label'), np.arange(1, 25))
    np.testing.assert_array_equal(column(layout, out, 'confidence'), 254 - np.arange(24))
    assert layout.replaced == []


def test_marks_that_a_cloud_has_are_replaced_in_their_place() -> None:
    fields = [*XYZ, Field('label', 12, 2), Field('rgb', 16, 7), Field('confidence', 20, 2)]
    layout, out = marked(cloud_message(scattered(), fields, 22))
    assert layout.replaced == ['label', 'confidence']
    assert layout.fields == fields
    assert layout.point_step == 22
    np.testing.assert_array_equal(column(layout, out, 'label'), np.arange(1, 25))
    np.testing.assert_array_equal(column(layout, out, 'confidence'), 254 - np.arange(24))


def test_marks_of_another_kind_give_up_their_names() -> None:
    fields = [*XYZ, Field('label', 12, 6), Field('confidence', 16, 7)]
    message = cloud_message(scattered(), fields, 20)
    layout, out = marked(message)
    assert layout.replaced == ['label', 'confidence']
    assert [f.name for f in layout.fields] == ['x', 'y', 'z', 'label', 'confidence']
    np.testing.assert_array_equal(column(layout, out, 'label'), np.arange(1, 25))
    before = np.frombuffer(message.data, np.uint8).reshape(24, 20)
    np.testing.assert_array_equal(out[:, :20], before)


def test_an_empty_cloud_is_a_cloud() -> None:
    message = cloud_message(scattered(0))
    layout, out = marked(message)
    assert out.shape == (0, 24)
    assert Cloud(message).xyz().shape == (3, 0)
    nothing = CloudView(CAMERA).seen(np.empty((3, 0), np.float32))
    assert [len(part) for part in nothing] == [0, 0]


@pytest.mark.parametrize(
    ('wrong', 'sentence'),
    [
        ({'point_step': 0}, 'point_step 0'),
        ({'point_step': 10}, "field 'z' of the cloud ends at byte 12 of points of 10"),
        ({'width': 25}, '528 bytes of data: 25x1 points of 22 bytes take 550'),
        ({'height': 2}, '528 bytes of data: 24x2 points'),
        ({'height': 2, 'row_step': 9}, 'row_step 9: 24 points of 22 bytes take 528'),
        ({'fields': [Field('x', 0, 99)]}, "field 'x' of the cloud has datatype 99"),
        ({'fields': []}, 'no field x: its fields are none'),
        ({'fields': [*XYZ[:2], Field('z', 8, 5)]}, 'a whole-numbered field z'),
    ],
)
def test_a_broken_cloud_is_refused_with_the_field_that_is_wrong(wrong, sentence) -> None:
    message = cloud_message(scattered())
    for name, value in wrong.items():
        setattr(message, name, value)
    with pytest.raises(FrameError, match=sentence):
        Cloud(message).xyz()


@given(
    fields=st.lists(
        st.builds(
            Field,
            st.sampled_from(['x', 'y', 'z', 'label', 'confidence', 'ring']),
            st.integers(0, 30),
            st.integers(0, 9),
            st.integers(0, 3),
        ),
        max_size=6,
    ),
    height=st.integers(0, 3) | st.integers(0, 2**32 - 1),
    width=st.integers(0, 3) | st.integers(0, 2**32 - 1),
    point_step=st.integers(0, 40),
    row_step=st.integers(0, 120),
    big=st.booleans(),
    data=st.binary(max_size=300),
)
def test_whatever_comes_is_a_marked_cloud_or_a_sentence(
    fields, height, width, point_step, row_step, big, data
) -> None:
    message = SimpleNamespace(
        fields=fields,
        height=height,
        width=width,
        point_step=point_step,
        row_step=row_step,
        is_bigendian=big,
        data=data,
    )
    try:
        cloud = Cloud(message)
        points = cloud.xyz()
    except FrameError:
        return
    assert points.shape == (3, height * width)
    seen = CloudView(CAMERA).seen(points)
    mask = np.zeros((CAMERA.height, CAMERA.width), np.uint8)
    layout = MarkedLayout(cloud)
    out = np.empty((height * width, layout.point_step), np.uint8)
    layout.write(cloud, *marks_of(height * width, seen, mask, mask), out)


def test_what_the_camera_does_not_see_has_no_label() -> None:
    points = np.array(
        [
            [0, 0, 5],  # straight ahead
            [0, 0, -5],  # behind
            [10, 0, 5],  # to the right of the image
            [0, -10, 5],  # above it
            [0, 0, 0],  # in the lens
            [np.nan, 0, 5],
            [0, 0, np.inf],
            [3.19, 2.39, 5],  # its last pixel
        ],
        np.float32,
    ).T
    mask = np.full((480, 640), 7, np.uint8)
    mask[479, 639] = 9
    labels, confidence = marks_of(8, CloudView(CAMERA).seen(points), mask, mask + 1)
    assert labels.tolist() == [7, *[IGNORE_ID] * 6, 9]
    assert confidence.tolist() == [8, *[0] * 6, 10]


def test_points_behind_a_wall_are_hidden_and_those_beside_it_are_not() -> None:
    up, left = np.meshgrid(np.linspace(-0.3, 0.3, 60), np.linspace(-0.5, 0.5, 200))
    far = np.stack([left.ravel(), up.ravel(), np.ones(up.size)]) * 20
    near = np.stack([left.ravel(), up.ravel(), np.ones(up.size)]) * 8
    wall = np.abs(left.ravel()) < 0.2
    points = np.concatenate([far, near[:, wall]], axis=1).astype(np.float32)
    places, _ = CloudView(CAMERA).seen(points)
    seen = np.zeros(points.shape[1], bool)
    seen[places] = True
    inner = (np.abs(left.ravel()) < 0.19) & (np.abs(up.ravel()) < 0.28)
    assert not seen[: far.shape[1]][inner].any()
    beside = (np.abs(left.ravel()) > 0.22) & (np.abs(up.ravel()) < 0.3)
    assert seen[: far.shape[1]][beside].all()
    assert seen[far.shape[1] :].all()


@pytest.mark.parametrize(
    ('kind', 'seed'), [('city', 3), ('suburb', 3), ('rural', 5), ('highway', 12)]
)
def test_labels_are_those_of_what_the_rays_hit(kind: str, seed: int) -> None:
    drive = GeneratedDrive(seed, 640, 360, frames=60, kind=kind)
    lidar = Lidar(position=(0.1, 0.6, drive.camera.mount_height + 0.4))
    right = labelled = visible = kept = 0
    for number in (5, 25):
        frame, scan = drive.frame(number), drive.scan(number, lidar)
        camera = Intrinsics(640, 360, tuple(frame.camera.k.ravel()))
        optical = frame.camera.optical(scan.points + np.array(lidar.position, np.float32))
        points = optical.T.astype(np.float32)
        full = np.full_like(frame.labels, 255)
        labels, confidence = marks_of(
            len(optical), CloudView(camera).seen(points), frame.labels, full
        )
        own_car = (labels == IGNORE_ID) & (confidence > 0)  # the picture says nothing there
        given = (confidence > 0) & ~own_car
        right += np.count_nonzero(labels[given] == scan.labels[given])
        labelled += np.count_nonzero(given)
        u, v, depth = np.round(frame.camera.image_of(optical)).T
        inside = (depth > 0) & (u >= 0) & (v >= 0) & (u < 640) & (v < 360)
        shown = drive.depth(number)[v[inside].astype(int), u[inside].astype(int)]
        truly = np.abs(shown - optical[inside, 2]) < 0.02 * optical[inside, 2]
        visible += np.count_nonzero(truly)
        kept += np.count_nonzero(confidence[inside][truly])
    assert labelled > 8000
    assert right > 0.985 * labelled
    assert kept > 0.9 * visible
