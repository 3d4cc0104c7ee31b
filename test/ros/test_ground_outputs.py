"""The ground outputs of the real node, as costmaps read them."""

from __future__ import annotations

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')

from lifecycle_msgs.msg import Transition  # noqa: E402
from nav_msgs.msg import OccupancyGrid  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from ros_for_tests import BEST_EFFORT, RELIABLE, image_message, with_header  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image, PointCloud2  # noqa: E402

from lwseg_ros.camera_model import Intrinsics  # noqa: E402
from lwseg_ros.drivable.ground import (  # noqa: E402
    DRIVABLE,
    NOT_DRIVABLE,
    UNKNOWN,
    GroundGrid,
    GroundView,
    mounted,
)
from lwseg_ros.label_space import LabelSpace  # noqa: E402

SPACE = LabelSpace.load('camvid')
HEIGHT, WIDTH = 96, 128
CAMERA_HEIGHT, CAMERA_PITCH = 1.0, 0.2
PLACE = mounted(CAMERA_HEIGHT, CAMERA_PITCH)
GRID = GroundGrid.before(PLACE, resolution=0.2, extent=8.0)
K = [100.0, 0.0, 63.5, 0.0, 100.0, 47.5, 0.0, 0.0, 1.0]
PARAMETERS = {
    'ground__enable': True,
    'ground__camera_height': CAMERA_HEIGHT,
    'ground__camera_pitch': CAMERA_PITCH,
    'ground__resolution': GRID.resolution,
    'ground__extent': GRID.extent,
    'ground__frame': 'base_footprint',
}
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def _road_and_wall(foot=48):
    """Return a picture of road with a wall on it, whose foot is in this row."""
    labels = np.full((HEIGHT, WIDTH), SPACE.class_id('road'), np.uint8)
    labels[:foot] = SPACE.class_id('building')
    return SPACE.palette[labels]


def _camera_info(k=K, **fields):
    return CameraInfo(width=WIDTH, height=HEIGHT, distortion_model='plumb_bob', k=k, **fields)


def _grid(message):
    return np.array(message.data, np.int8).reshape(message.info.height, message.info.width)


def _points(message):
    """Return x, y, z as ObstacleLayer's iterators find them, by the names of the fields."""
    offsets = {field.name: field.offset for field in message.fields}
    assert all(field.datatype == field.FLOAT32 for field in message.fields)
    assert len(message.data) == message.row_step * message.height
    assert message.row_step == message.point_step * message.width
    rows = np.frombuffer(message.data, np.uint8).reshape(message.width, message.point_step)
    return np.stack(
        [rows[:, offsets[n] : offsets[n] + 4].copy().view('<f4')[:, 0] for n in 'xyz'], axis=1
    )


@pytest.fixture
def calibration(driver):
    """Return a publisher of camera infos that keeps the last one for the node."""
    return driver.node.create_publisher(CameraInfo, 'camera_info', RELIABLE)


def _until_grid(driver, camera, calibration, grids, info, number=5):
    """Send image and calibration until there is a grid of it; return the grid's message."""
    message = image_message(_road_and_wall(), number=number)

    def answered():
        calibration.publish(info)
        camera.publish(message)
        driver.executor.spin_once(timeout_sec=0.1)
        return any(grid.header.stamp == message.header.stamp for grid in grids)

    driver.spin_until(answered, 'a grid')
    return next(grid for grid in grids if grid.header.stamp == message.header.stamp)


def test_grid_and_points_tell_the_ground_of_the_frame(driver, start, calibration):
    start(**PARAMETERS)
    grids = driver.collect(OccupancyGrid, 'drivable_grid')
    camera = driver.camera()
    info = _camera_info(d=[0.05, 0.0, 0.0, 0.0, 0.0])
    message = _until_grid(driver, camera, calibration, grids, info)
    stamp = with_header(Image(), 5).header.stamp
    assert (message.header.frame_id, message.header.stamp) == ('base_footprint', stamp)
    assert message.info.resolution == pytest.approx(GRID.resolution)
    assert (message.info.width, message.info.height) == (40, 40)
    origin = message.info.origin
    assert (origin.position.x, origin.position.y, origin.position.z) == (0.0, -4.0, 0.0)
    assert origin.orientation.w == 1.0
    grid = _grid(message)
    assert set(np.unique(grid)) == {UNKNOWN, DRIVABLE, NOT_DRIVABLE}

    lens = Intrinsics(WIDTH, HEIGHT, tuple(K), 'plumb_bob', (0.05, 0.0, 0.0, 0.0, 0.0))
    view = GroundView(GRID, PLACE, lens, (HEIGHT, WIDTH))
    foot = CAMERA_HEIGHT / np.tan(np.arctan((48 - 47.5) / 100) + CAMERA_PITCH)
    x = view.centers[..., 0]
    assert (x[grid == DRIVABLE] < foot).all()
    assert x[grid == DRIVABLE].max() > foot - 0.5
    assert (x[grid == NOT_DRIVABLE] > foot - 0.4).all()

    clouds = {
        name: driver.collect(PointCloud2, name, BEST_EFFORT)
        for name in ('drivable_points', 'obstacle_points')
    }
    grids.clear()

    def clouds_of(number):
        picture = image_message(_road_and_wall(), number=number)

        def answered():
            camera.publish(picture)
            driver.executor.spin_once(timeout_sec=0.1)
            return all(
                any(m.header.stamp == picture.header.stamp for m in got)
                for got in (grids, *clouds.values())
            )

        driver.spin_until(answered, 'grid and points of one frame')
        return (
            next(m for m in got if m.header.stamp == picture.header.stamp)
            for got in (grids, *clouds.values())
        )

    message, drivable, obstacles = clouds_of(6)
    assert drivable.header == obstacles.header == message.header
    assert drivable.height == obstacles.height == 1
    assert drivable.is_dense
    grid = _grid(message)
    np.testing.assert_array_equal(_points(drivable), view.centers[grid == DRIVABLE])
    contact = _points(obstacles)
    assert len(contact) > 5
    assert np.abs(contact[:, 0] - foot).max() < 1.3  # a row of pixels is 0.25 m there
    column, row = ((contact[:, :2] + [0, 4]) / GRID.resolution).astype(int).T
    assert (grid[row, column] == NOT_DRIVABLE).all()


def test_a_late_costmap_gets_the_grid_while_it_is_true_and_no_longer(driver, start, calibration):
    start(**PARAMETERS)
    grids = driver.collect(OccupancyGrid, 'drivable_grid')
    camera = driver.camera()
    _until_grid(driver, camera, calibration, grids, _camera_info())

    def late():
        got = driver.collect(OccupancyGrid, 'drivable_grid', LATCHED)
        driver.spin_until(lambda: got, 'the latched grid')
        return _grid(got[-1])

    # The camera falls silent: before long nothing is drivable any more, for late ones either.
    driver.spin_until(lambda: (_grid(grids[-1]) == UNKNOWN).all(), 'the grid taken back')
    assert grids[-1].header.frame_id == 'base_footprint'
    assert (late() == UNKNOWN).all()

    message = _until_grid(driver, camera, calibration, grids, _camera_info(), number=7)
    assert (_grid(message) == DRIVABLE).any()
    assert driver.transition(Transition.TRANSITION_DEACTIVATE)
    driver.spin_until(lambda: (_grid(grids[-1]) == UNKNOWN).all(), 'the grid taken back')
    assert (late() == UNKNOWN).all()


@pytest.mark.parametrize('transition', [Transition.TRANSITION_ACTIVE_SHUTDOWN, None])
def test_a_node_that_ends_leaves_no_ground_with_its_costmap(
    driver, start, calibration, transition
):
    node = start(**PARAMETERS)
    grids = driver.collect(OccupancyGrid, 'drivable_grid', LATCHED)
    camera = driver.camera()
    message = _until_grid(driver, camera, calibration, grids, _camera_info())
    assert (_grid(message) == DRIVABLE).any()
    if transition is None:
        assert node.stop() < 1.0
    else:
        assert driver.transition(transition)
    driver.spin_until(lambda: (_grid(grids[-1]) == UNKNOWN).all(), 'the grid taken back')


def test_each_camera_has_its_own_ground(driver, start):
    start(**{**PARAMETERS, 'cameras': '[front, left]', 'ground__frame': 'ground'})
    grids = driver.collect(OccupancyGrid, 'left/drivable_grid')
    others = driver.collect(OccupancyGrid, 'front/drivable_grid')
    camera = driver.camera(topic='left/image')
    calibration = driver.node.create_publisher(CameraInfo, 'left/camera_info', RELIABLE)
    message = _until_grid(driver, camera, calibration, grids, _camera_info())
    assert message.header.frame_id == 'left_ground'
    assert not others


@pytest.mark.parametrize(
    ('info', 'sentence'),
    [
        (None, 'no camera info has come on /camera_info'),
        (_camera_info(k=[0.0] * 9), 'calibrate the camera'),
        (
            CameraInfo(
                width=WIDTH, height=HEIGHT, distortion_model='equidistant', k=K, d=[0.1] * 4
            ),
            "distortion model 'equidistant'",
        ),
        (CameraInfo(width=64, height=96, distortion_model='plumb_bob', k=K), 'of 64x96 pixels'),
    ],
)
def test_without_a_calibration_there_is_no_ground_and_one_sentence_says_so(
    driver, start, calibration, info, sentence
):
    node = start(**PARAMETERS)
    masks = driver.collect(Image, 'mask')
    grids = driver.collect(OccupancyGrid, 'drivable_grid')
    camera = driver.camera()
    driver.spin_until(calibration.get_subscription_count, 'the node on camera_info')

    def said():
        if info is not None:
            calibration.publish(info)
        camera.publish(image_message(_road_and_wall()))
        driver.executor.spin_once(timeout_sec=0.1)
        return sentence in node.log

    driver.spin_until(said, 'the sentence')
    masks.clear()
    driver.spin_until(lambda: said() and len(masks) > 3, 'masks all the same')
    driver.spin_until(
        lambda: said() and sentence in driver.diagnostics.get('message', ''), 'the diagnostics'
    )
    assert driver.diagnostics['level'] == '1'
    assert not grids
    assert node.log.count(sentence) == 1
    assert 'Traceback' not in node.log


@pytest.mark.parametrize(
    ('parameters', 'sentence'),
    [
        ({'ground__extent': 500.0}, '2500 cells along a side'),
    ],
)
def test_a_ground_that_cannot_be_is_refused_at_start(start, parameters, sentence):
    node = start(**{**PARAMETERS, **parameters})
    assert node.wait() == 1
    assert sentence in node.log
    assert 'Traceback' not in node.log
