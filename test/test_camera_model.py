"""The camera model, held against OpenCV's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lwseg_ros.camera_model import Intrinsics, directions, projected, rays, view_bounds
from lwseg_ros.errors import LwsegError

PLAIN = Intrinsics(640, 480, (400.0, 0.0, 310.0, 0.0, 420.0, 250.0, 0.0, 0.0, 1.0))
LENSES = {
    'plain': (),
    'four': (-0.28, 0.07, 0.001, -0.002),
    'five': (-0.3, 0.1, 0.001, -0.002, -0.01),
    'rational': (0.3, 0.05, 0.001, 0.0, 0.01, 0.6, 0.1, 0.02),
    'thin prism': (-0.2, 0.05, 0.001, 0.001, 0.01, 0.02, -0.01, 0.003, 0.001, 0.002, -0.001, 5e-4),
    'tilted': (
        *(-0.2, 0.05, 0.001, 0.001, 0.01, 0.02, -0.01, 0.003),
        *(0.001, 0.002, -0.001, 5e-4, 0.02, -0.03),
    ),
}


@pytest.fixture(params=LENSES.values(), ids=LENSES.keys())
def camera(request: pytest.FixtureRequest) -> Intrinsics:
    return PLAIN._replace(distortion=request.param)


def test_directions_are_seen_where_opencv_sees_them(camera: Intrinsics) -> None:
    right, down = np.random.default_rng(0).uniform(-0.7, 0.7, (2, 500))
    points = np.stack([right, down, np.ones_like(right)], axis=1)
    expected, _ = cv2.projectPoints(
        points,
        np.zeros(3),
        np.zeros(3),
        np.reshape(camera.k, (3, 3)),
        np.asarray(camera.distortion, np.float64),
    )
    np.testing.assert_allclose(
        projected(camera, right, down).T, expected.reshape(-1, 2), rtol=0, atol=1e-9
    )


def test_rays_lead_back_to_their_pixels(camera: Intrinsics) -> None:
    looks = rays(camera)
    assert looks.shape == (2, 480, 640)
    assert looks.dtype == np.float32
    u, v = projected(camera, *looks.reshape(2, -1).astype(np.float64)).reshape(looks.shape)
    columns, rows = np.meshgrid(np.arange(640), np.arange(480))
    np.testing.assert_allclose(u, columns, atol=0.01)
    np.testing.assert_allclose(v, rows, atol=0.01)


def test_no_ray_is_claimed_where_the_lens_folds() -> None:
    # r (1 - 0.35 r^2) grows up to 0.976, where it is 0.65: no direction is shown beyond.
    camera = PLAIN._replace(distortion=(-0.35, 0.0, 0.0, 0.0))
    pixels = np.array([[310.0, 250.0], [310.0 + 400 * 0.6, 250.0], [310.0 + 400 * 0.7, 250.0]]).T
    looks = directions(camera, pixels)
    np.testing.assert_allclose(looks[:, 0], 0, atol=1e-9)
    assert 0.6 < looks[0, 1] < 1 / np.sqrt(3 * 0.35)
    assert np.isnan(looks[:, 2]).all()


def test_bounds_hold_every_ray_of_the_image(camera: Intrinsics) -> None:
    wide, high = view_bounds(camera)
    right, down = np.abs(rays(camera)).max(axis=(1, 2))
    assert right <= wide < 1.02 * right
    assert down <= high < 1.02 * down


def test_a_resized_picture_shows_the_same_view(camera: Intrinsics) -> None:
    half = camera.resized((240, 320))
    point = np.array([0.21]), np.array([-0.13])
    u, v = projected(camera, *point)
    np.testing.assert_allclose(projected(half, *point) + 0.5, np.stack([u + 0.5, v + 0.5]) / 2)


def test_a_calibration_of_another_shape_is_refused() -> None:
    PLAIN.check_image((960, 1280))
    with pytest.raises(LwsegError, match='640x480 pixels, the image has 1280x720'):
        PLAIN.check_image((720, 1280))
