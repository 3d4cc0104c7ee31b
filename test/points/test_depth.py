"""Points of depth images, held against the generated drive's exact depth."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lwseg_ros.camera_model import Intrinsics
from lwseg_ros.errors import FrameError
from lwseg_ros.points.depth import NEAREST, POINT_STEP, DepthView, depth_from_message
from lwseg_ros.synthetic.drive import GeneratedDrive

HEIGHT, WIDTH = 48, 64
CAMERA = Intrinsics(WIDTH, HEIGHT, (50.0, 0.0, 31.0, 0.0, 52.0, 22.0, 0.0, 0.0, 1.0))
LABELS = np.arange(HEIGHT * WIDTH, dtype=np.uint32).reshape(HEIGHT, WIDTH).astype(np.uint8)
CONFIDENCE = 255 - LABELS


def depth_message(depth: np.ndarray, padding: int = 0, big: bool = False) -> Any:
    """Return an Image of depths, uint16 mm or float32 m."""
    kind = {np.dtype(np.uint16): '16UC1', np.dtype(np.float32): '32FC1'}[depth.dtype]
    rows = depth.astype(depth.dtype.newbyteorder('>' if big else '<'))
    data = np.pad(rows.view(np.uint8).reshape(len(depth), -1), ((0, 0), (0, padding)))
    return SimpleNamespace(
        encoding=kind,
        height=depth.shape[0],
        width=depth.shape[1],
        step=data.shape[1],
        is_bigendian=int(big),
        data=data.tobytes(),
    )


def points_of(
    depth: np.ndarray, camera: Intrinsics = CAMERA, max_range: float = 100.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return x, y, z float32 [H, W, 3] and the bytes behind them, [H, W, 4]."""
    size = camera.height, camera.width
    out = np.empty((*size, POINT_STEP // 4), np.float32)
    labels, confidence = (np.resize(plane, size) for plane in (LABELS, CONFIDENCE))
    DepthView(camera).points(depth, labels, confidence, max_range, out)
    return out[..., :3], out.view(np.uint8)[..., 12:]


def test_each_pixel_lies_on_its_ray_at_its_depth() -> None:
    depth = np.random.default_rng(0).uniform(0.5, 30, (HEIGHT, WIDTH)).astype(np.float32)
    xyz, marks = points_of(depth)
    columns, rows = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    np.testing.assert_array_equal(xyz[..., 2], depth)
    np.testing.assert_allclose(xyz[..., 0], (columns - 31) / 50 * depth, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(xyz[..., 1], (rows - 22) / 52 * depth, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(marks[..., 0], LABELS)
    np.testing.assert_array_equal(marks[..., 1], CONFIDENCE)
    assert not marks[..., 2:].any()


@pytest.mark.parametrize('value', [0.0, -1.0, np.nan, np.inf, -np.inf, NEAREST / 2, 20.1])
def test_what_is_no_depth_is_no_point(value: float) -> None:
    depth = np.full((HEIGHT, WIDTH), 20.0, np.float32)
    depth[10, 20] = value
    xyz, marks = points_of(depth, max_range=20.0)
    assert np.isnan(xyz[10, 20]).all()
    assert np.isnan(xyz).sum() == 3
    assert marks[10, 20, 0] == LABELS[10, 20]


def test_the_lens_is_taken_into_account() -> None:
    bent = CAMERA._replace(distortion=(-0.2, 0.03, 0.001, -0.001, 0.0))
    xyz, _ = points_of(np.ones((HEIGHT, WIDTH), np.float32), bent)
    r2 = xyz[..., 0] ** 2 + xyz[..., 1] ** 2
    radial = 1 - 0.2 * r2 + 0.03 * r2**2
    shown = xyz[..., 0] * radial + 0.002 * xyz[..., 0] * xyz[..., 1]
    shown -= 0.001 * (r2 + 2 * xyz[..., 0] ** 2)
    columns = np.broadcast_to(np.arange(WIDTH), (HEIGHT, WIDTH))
    np.testing.assert_allclose(50 * shown + 31, columns, atol=0.01)


@pytest.mark.parametrize('size', [(24, 32), (96, 128), (40, 56)])
def test_depth_of_another_size_shows_the_same_view(size: tuple[int, int]) -> None:
    # A step in depth at the middle stays a step: no point lies between the two.
    depth = np.full(size, 5.0, np.float32)
    depth[:, size[1] // 2 :] = 10
    xyz, _ = points_of(depth)
    assert set(np.unique(xyz[..., 2])) == {5.0, 10.0}
    assert (xyz[:, : WIDTH // 2, 2] == 5).all()


@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('big', [False, True])
def test_both_encodings_are_metres(padding: int, big: bool) -> None:
    millimetres = np.random.default_rng(1).integers(0, 65536, (7, 9)).astype(np.uint16)
    metres = depth_from_message(depth_message(millimetres, padding, big))
    np.testing.assert_allclose(metres, millimetres / 1000, rtol=1e-6)
    exact = depth_message((millimetres / 1000).astype(np.float32), padding, big)
    np.testing.assert_allclose(depth_from_message(exact), millimetres / 1000, rtol=1e-6)


@pytest.mark.parametrize(
    ('wrong', 'sentence'),
    [
        ({'encoding': '8UC1'}, "encoding '8UC1': wanted one of 16UC1"),
        ({'width': 0}, '0x7 pixels'),
        ({'step': 17}, 'step 17: 9 pixels of 16UC1 take 18 bytes'),
        ({'height': 8}, '126 bytes of data: 9x8 pixels with step 18 take 144'),
        ({'data': b''}, '0 bytes of data'),
    ],
)
def test_a_broken_message_is_refused_with_the_field_that_is_wrong(wrong, sentence) -> None:
    message = depth_message(np.ones((7, 9), np.uint16))
    for name, value in wrong.items():
        setattr(message, name, value)
    with pytest.raises(FrameError, match=sentence):
        depth_from_message(message)


@given(
    encoding=st.sampled_from(['16UC1', '32FC1', 'mono16', 'rgb8', '']),
    height=st.integers(0, 2**32 - 1) | st.integers(0, 4),
    width=st.integers(0, 2**32 - 1) | st.integers(0, 4),
    step=st.integers(0, 2**32 - 1) | st.integers(0, 20),
    big=st.integers(0, 1),
    data=st.binary(max_size=80),
)
def test_whatever_comes_is_depth_or_a_sentence(encoding, height, width, step, big, data) -> None:
    message = SimpleNamespace(
        encoding=encoding, height=height, width=width, step=step, is_bigendian=big, data=data
    )
    try:
        depth = depth_from_message(message)
    except FrameError:
        return
    assert depth.shape == (height, width)
    assert depth.dtype == np.float32


def test_the_drive_in_space_is_where_it_is() -> None:
    """Ground lies at the height that the drive's hills have, and no depth is behind the camera."""
    drive = GeneratedDrive(12, 320, 180, kind='highway')
    frame, depth = drive.frame(3), drive.depth(3)
    camera = Intrinsics(320, 180, tuple(frame.camera.k.ravel()))
    xyz, _ = points_of(depth, camera)
    assert np.nanmin(depth) > 0.5
    assert np.isnan(depth[frame.labels == 0]).all()  # the sky
    road = frame.labels == 3
    row, column = np.nonzero(road)
    sin, cos = np.sin(frame.camera.pitch), np.cos(frame.camera.pitch)
    forward = xyz[row, column, 2] * cos - xyz[row, column, 1] * sin
    up = frame.camera.mount_height - xyz[row, column, 1] * cos - xyz[row, column, 2] * sin
    near = forward < 60
    np.testing.assert_allclose(forward[near], frame.ground_forward[row[near]], rtol=0.01)
    np.testing.assert_allclose(up[near], frame.ground_up[row[near]], atol=0.02)
