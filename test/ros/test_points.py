"""Points, labelled clouds and the measured ground of the real node, over the real middleware."""

from __future__ import annotations

import array
import itertools

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')
tf2_msgs = pytest.importorskip('tf2_msgs.msg')

from geometry_msgs.msg import TransformStamped  # noqa: E402
from nav_msgs.msg import OccupancyGrid  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from ros_for_tests import BEST_EFFORT, RELIABLE, image_message  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from lwseg_ros import Segmenter  # noqa: E402
from lwseg_ros.drivable.ground import DRIVABLE, NOT_DRIVABLE, UNKNOWN  # noqa: E402
from lwseg_ros.label_space import LabelSpace  # noqa: E402

SPACE = LabelSpace.load('camvid')
ROAD, BUILDING = SPACE.class_id('road'), SPACE.class_id('building')
HEIGHT, WIDTH = 96, 128
K = [100.0, 0.0, 63.5, 0.0, 100.0, 47.5, 0.0, 0.0, 1.0]
CAMERA_HEIGHT = 1.2
FOOT = 60
"""The row in which a wall stands on the road, 9.6 m ahead of a level camera."""
FRAME = 'camera_optical'
LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
OPTICAL = (-0.5, 0.5, -0.5, 0.5)
"""The quaternion of an optical frame in one with x forward, y left and z up."""


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of a road with a wall on it, and their depth in metres."""
    labels = np.full((HEIGHT, WIDTH), ROAD, np.uint8)
    labels[:FOOT] = BUILDING
    rows = np.maximum(np.arange(HEIGHT), FOOT)
    depth = CAMERA_HEIGHT * 100 / (rows - 47.5)
    return labels, np.broadcast_to(depth[:, None], labels.shape).astype(np.float32)


LABELS, DEPTH = scene()


def header(ms: int, frame: str = FRAME) -> Header:
    """Return the header of something that many milliseconds after the start of the test's time."""
    message = Header(frame_id=frame)
    message.stamp.sec, message.stamp.nanosec = 1_700_000_000 + ms // 1000, ms % 1000 * 1_000_000
    return message


def picture(ms: int) -> Image:
    message = image_message(SPACE.palette[LABELS])
    message.header = header(ms)
    return message


def depth_image(ms: int, depth: np.ndarray = DEPTH, **fields) -> Image:
    """Return depth float32 in metres, or uint16 in millimetres."""
    kind = '16UC1' if depth.dtype == np.uint16 else '32FC1'
    message = Image(encoding=kind, height=depth.shape[0], width=depth.shape[1])
    message.step = depth.shape[1] * depth.itemsize
    message.data = array.array('B', depth.tobytes())
    message.header = header(ms)
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def cloud_of(ms: int, points: np.ndarray, frame: str) -> PointCloud2:
    """Return a cloud of x, y, z and the number of each point, float32 [n, 3]."""
    rows = np.concatenate([points, np.arange(len(points))[:, None]], axis=1).astype('<f4')
    message = PointCloud2(header=header(ms, frame), height=1, width=len(rows), is_dense=True)
    message.fields = [
        PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
        for i, name in enumerate(('x', 'y', 'z', 'number'))
    ]
    message.point_step, message.row_step = 16, 16 * len(rows)
    message.data = array.array('B', rows.tobytes())
    return message


def column(message: PointCloud2, name: str) -> np.ndarray:
    """Return a field of all points, [height * width], as readers find it: by its name."""
    (field,) = (field for field in message.fields if field.name == name)
    kind = {PointField.FLOAT32: '<f4', PointField.UINT8: 'u1'}[field.datatype]
    rows = np.frombuffer(bytes(message.data), np.uint8).reshape(-1, message.point_step)
    size = np.dtype(kind).itemsize
    return rows[:, field.offset : field.offset + size].copy().view(kind)[:, 0]


def transform(ms: int, parent: str, child: str, place, turn=(0.0, 0.0, 0.0, 1.0)):
    """Return where `child` is in `parent`, as a message on /tf or /tf_static."""
    message = TransformStamped(header=header(ms, parent), child_frame_id=child)
    at, by = message.transform.translation, message.transform.rotation
    at.x, at.y, at.z = map(float, place)
    by.x, by.y, by.z, by.w = map(float, turn)
    return message


class Robot:
    """Publishes a camera, its calibration, depth, a cloud and transforms."""

    def __init__(self, driver) -> None:
        self.driver = driver
        node = driver.node
        self.camera = driver.camera()
        self.calibration = node.create_publisher(CameraInfo, 'camera_info', RELIABLE)
        self.static = node.create_publisher(tf2_msgs.TFMessage, '/tf_static', LATCHED)
        self.moving = node.create_publisher(tf2_msgs.TFMessage, '/tf', 100)
        driver.spin_until(self.calibration.get_subscription_count, 'the node on camera_info')
        self.now = 0

    def mount_lidar(self, place) -> None:
        """Tell /tf_static of the camera on the vehicle, and of a lidar at this place of it."""
        camera = transform(0, 'base_link', FRAME, (0, 0, CAMERA_HEIGHT), OPTICAL)
        lidar = transform(0, 'base_link', 'lidar', place)
        self.static.publish(tf2_msgs.TFMessage(transforms=[camera, lidar]))

    def topic(self, message_type, name: str):
        """Return a publisher of depth or cloud, once the node listens to it."""
        publisher = self.driver.node.create_publisher(message_type, name, RELIABLE)
        self.driver.spin_until(publisher.get_subscription_count, f'the node on {name}')
        return publisher

    def until(self, condition, publish, what: str) -> None:
        """Live on, 100 ms of its time after the other, `publish(now)` in each."""

        def lived() -> bool:
            self.now += 100
            self.calibration.publish(
                CameraInfo(width=WIDTH, height=HEIGHT, distortion_model='plumb_bob', k=K)
            )
            publish(self.now)
            self.driver.executor.spin_once(timeout_sec=0.1)
            return bool(condition())

        self.driver.spin_until(lived, what)

    def until_said(self, sentence: str, publish) -> None:
        self.until(
            lambda: sentence in self.driver.diagnostics.get('message', ''), publish, sentence
        )
        assert self.driver.diagnostics['level'] == '1'


def test_points_are_the_mask_in_space(driver, start):
    start()
    points = driver.collect(PointCloud2, 'points', BEST_EFFORT)  # as Nav2's layers listen
    masks = driver.collect(Image, 'mask')
    confidences = driver.collect(Image, 'confidence')
    robot = Robot(driver)
    depth = robot.topic(Image, 'depth')
    spoilt = DEPTH.copy()
    spoilt[70, 10:15] = [0, -1, np.nan, np.inf, 51]

    def live(now):
        robot.camera.publish(picture(now))
        depth.publish(depth_image(now + 10, spoilt))

    def of_one_frame():
        """Return points, mask and confidence of one header, once all three are there."""
        for message in points:
            others = [
                [m for m in found if m.header == message.header] for found in (masks, confidences)
            ]
            if all(others):
                return message, others[0][0], others[1][0]
        return None

    robot.until(of_one_frame, live, 'points, mask and confidence of one frame')
    message, mask, confidence = of_one_frame()
    assert (message.height, message.width) == (mask.height, mask.width) == (HEIGHT, WIDTH)
    assert (message.point_step, message.row_step) == (16, 16 * WIDTH)
    assert not message.is_dense
    assert not message.is_bigendian
    np.testing.assert_array_equal(column(message, 'label'), mask.data)
    np.testing.assert_array_equal(column(message, 'confidence'), confidence.data)
    known = np.ones((HEIGHT, WIDTH), bool)
    known[70, 10:15] = False
    columns, rows = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    truth = ((columns - 63.5) / 100 * DEPTH, (rows - 47.5) / 100 * DEPTH, DEPTH)
    for name, values in zip('xyz', truth, strict=True):
        given = column(message, name).reshape(HEIGHT, WIDTH)
        np.testing.assert_allclose(given[known], values[known], rtol=1e-5, atol=1e-6)
        assert np.isnan(given[~known]).all()


def test_millimetres_of_another_size_are_points_of_the_masks_size(driver, start):
    start(output__size='64x48')
    points = driver.collect(PointCloud2, 'points')
    robot = Robot(driver)
    depth = robot.topic(Image, 'depth')
    millimetres = np.repeat(np.repeat((DEPTH * 1000).astype(np.uint16), 2, 0), 2, 1)

    def live(now):
        robot.camera.publish(picture(now))
        depth.publish(depth_image(now, millimetres))

    robot.until(lambda: points, live, 'points')
    message = points[-1]
    assert (message.height, message.width) == (48, 64)
    z = column(message, 'z').reshape(48, 64)
    np.testing.assert_allclose(z[-1], DEPTH[-1, 0], rtol=0.03)
    x = column(message, 'x').reshape(48, 64)
    np.testing.assert_allclose(x[-1], (np.arange(64) - 31.5) / 50 * z[-1], rtol=1e-5)


def test_nothing_is_heard_that_nobody_wants(driver, start):
    start()
    robot = Robot(driver)
    node = driver.node
    depth = node.create_publisher(Image, 'depth', RELIABLE)
    cloud = node.create_publisher(PointCloud2, 'cloud', RELIABLE)
    masks = driver.collect(Image, 'mask')

    def live(now):
        robot.camera.publish(picture(now))
        depth.publish(depth_image(now))

    robot.until(lambda: len(masks) > 5, live, 'masks')
    assert not depth.get_subscription_count()
    assert not cloud.get_subscription_count()
    assert not robot.moving.get_subscription_count()
    listener = node.create_subscription(PointCloud2, '/segmentation/points', masks.append, 1)
    driver.spin_until(depth.get_subscription_count, 'the node on depth')
    assert not cloud.get_subscription_count()
    node.destroy_subscription(listener)
    driver.spin_until(lambda: not depth.get_subscription_count(), 'the node off depth')


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        ({'encoding': 'rgb8'}, "the depth image has encoding 'rgb8'"),
        ({'step': 3}, 'the depth image has step 3'),
        ({'height': HEIGHT // 2}, f'the depth image has {WIDTH}x{HEIGHT // 2} pixels'),
        ({'header': header(0, 'depth_frame')}, "the depth image is of frame 'depth_frame'"),
    ],
)
def test_depth_that_is_wrong_gives_no_points_and_is_named(driver, start, change, sentence):
    start()
    points = driver.collect(PointCloud2, 'points')
    robot = Robot(driver)
    depth = robot.topic(Image, 'depth')

    def wrong(now):
        robot.camera.publish(picture(now))
        message = depth_image(now, **change)
        message.header.stamp = header(now).stamp
        depth.publish(message)

    robot.until_said(sentence, wrong)
    assert not points

    def right(now):
        robot.camera.publish(picture(now))
        depth.publish(depth_image(now))

    robot.until(lambda: points, right, 'points of sound depth')
    robot.until(lambda: sentence not in driver.diagnostics['message'], right, 'no more trouble')
    assert int(driver.diagnostics['depth refused']) > 0


def test_a_pair_too_far_apart_is_none_and_one_that_comes_late_is(driver, start):
    start(points__max_gap_ms=30.0)
    points = driver.collect(PointCloud2, 'points')
    robot = Robot(driver)
    depth = robot.topic(Image, 'depth')

    def apart(now):
        robot.camera.publish(picture(now))
        depth.publish(depth_image(now + 45))

    robot.until_said('the nearest to an image is 45 ms off, points.max_gap_ms is 30', apart)
    assert not points
    assert driver.set_parameter('points.max_gap_ms', 50.0)[0]
    robot.until(lambda: points, apart, 'points')
    points.clear()
    answered = driver.collect(Image, 'mask')
    late = itertools.count()

    def much_later(now):
        robot.camera.publish(picture(now))
        if answered and next(late) % 3 == 0:
            depth.publish(
                depth_image(
                    int(answered[-1].header.stamp.nanosec / 1e6)
                    + 1000 * (answered[-1].header.stamp.sec - 1_700_000_000)
                )
            )

    robot.until(lambda: len(points) > 3, much_later, 'points of depth that comes late')
    assert int(driver.diagnostics['depth unpaired']) > 0


def test_without_a_publisher_of_depth_the_listener_is_told(driver, start):
    start()
    points = driver.collect(PointCloud2, 'points')
    robot = Robot(driver)
    robot.until_said('no publisher on /depth', lambda now: robot.camera.publish(picture(now)))
    depth = robot.topic(Image, 'depth')

    def live(now):
        robot.camera.publish(picture(now))
        depth.publish(depth_image(now))

    robot.until(lambda: points and driver.diagnostics['level'] == '0', live, 'points')
    driver.node.destroy_publisher(depth)
    robot.until_said('no publisher on /depth', lambda now: robot.camera.publish(picture(now)))


POINTS = np.array(
    [
        [5.0, 0.0, -1.0],  # on the road, 5 m ahead
        [9.4, 1.0, 0.5],  # the wall
        [-5.0, 0.0, -1.0],  # behind
        [1.0, 8.0, 0.0],  # far to the left
    ],
    np.float32,
)
"""In a lidar frame 1.2 m above the road, x forward, beside the camera."""


def labels_of(message: PointCloud2) -> list[int]:
    return column(message, 'label').tolist()


def test_a_cloud_gets_its_labels_by_way_of_the_transforms(driver, start):
    start()
    clouds = driver.collect(PointCloud2, 'labelled_cloud')
    robot = Robot(driver)
    cloud = robot.topic(PointCloud2, 'cloud')

    def live(now):
        robot.camera.publish(picture(now))
        cloud.publish(cloud_of(now + 20, POINTS, 'lidar'))

    robot.until_said("no transform has come of 'lidar' or of 'camera_optical'", live)
    assert not clouds
    robot.mount_lidar((0, 0.2, CAMERA_HEIGHT))
    robot.until(lambda: clouds, live, 'a labelled cloud')
    message = clouds[-1]
    assert message.header.frame_id == 'lidar'
    assert message.header.stamp.nanosec % 100_000_000 == 20_000_000
    assert (message.height, message.width) == (1, 4)
    assert message.is_dense
    np.testing.assert_array_equal(column(message, 'x'), POINTS[:, 0])
    np.testing.assert_array_equal(column(message, 'number'), np.arange(4))
    assert labels_of(message) == [ROAD, BUILDING, 255, 255]
    confidence = column(message, 'confidence')
    assert confidence[:2].min() > 0
    assert not confidence[2:].any()
    robot.until(lambda: driver.diagnostics['level'] == '0', live, 'no more trouble')


def test_a_typed_place_of_the_cloud_needs_no_transforms(driver, start):
    turn = (0.5, -0.5, 0.5, 0.5)  # x forward becomes z forward
    start(points__extrinsics='"0 0 0 ' + ' '.join(map(str, turn)) + '"')
    clouds = driver.collect(PointCloud2, 'labelled_cloud')
    robot = Robot(driver)
    cloud = robot.topic(PointCloud2, 'cloud')

    def live(now):
        robot.camera.publish(picture(now))
        cloud.publish(cloud_of(now, POINTS, 'anything'))

    robot.until(lambda: clouds, live, 'a labelled cloud')
    assert labels_of(clouds[-1]) == [ROAD, BUILDING, 255, 255]
    assert not robot.moving.get_subscription_count()


def test_the_motion_between_cloud_and_image_is_taken_out(driver, start):
    """At 40 m/s the vehicle comes 1.6 m nearer to the wall within 40 ms."""
    start(points__fixed_frame='odom')
    clouds = driver.collect(PointCloud2, 'labelled_cloud')
    robot = Robot(driver)
    cloud = robot.topic(PointCloud2, 'cloud')
    robot.mount_lidar((0, 0, CAMERA_HEIGHT))
    # As seen 40 ms before the image: road that the image shows 9 m ahead lies 10.6 m ahead.
    point = np.array([[10.6, 0.0, -CAMERA_HEIGHT]], np.float32)

    def live(now):
        for ms in (now - 100, now):
            robot.moving.publish(
                tf2_msgs.TFMessage(
                    transforms=[transform(ms, 'odom', 'base_link', (0.04 * ms, 0, 0))]
                )
            )
        robot.camera.publish(picture(now))
        cloud.publish(cloud_of(now - 40, point, 'lidar'))

    robot.until(lambda: clouds, live, 'a labelled cloud')
    assert labels_of(clouds[-1]) == [ROAD]
    assert driver.set_parameter('points.fixed_frame', '')[0]
    clouds.clear()
    robot.until(lambda: clouds, live, 'a labelled cloud')
    robot.until(lambda: labels_of(clouds[-1]) == [BUILDING], live, 'motion that is not taken out')


def grid_of(message: OccupancyGrid) -> np.ndarray:
    return np.array(message.data, np.int8).reshape(message.info.height, message.info.width)


GROUND = {
    'ground__enable': True,
    'ground__resolution': 0.25,
    'ground__extent': 12.0,
    'ground__frame': 'base_footprint',
}


def at(message: OccupancyGrid, x: float, y: float) -> int:
    """Return the cell at a place of the grid's frame."""
    origin, side = message.info.origin.position, message.info.resolution
    return int(grid_of(message)[int((y - origin.y) / side), int((x - origin.x) / side)])


def test_the_ground_is_measured_where_there_is_depth(driver, start):
    """A box that is called road is no road, as it stands on it; the flat ground cannot know."""
    start(**GROUND, ground__camera_height=CAMERA_HEIGHT)
    grids = driver.collect(OccupancyGrid, 'drivable_grid')
    robot = Robot(driver)
    boxed = DEPTH.copy()
    boxed[62:75, 50:77] = 4.0  # 0.1 to 0.6 m high, in the colour of the road
    robot.until(lambda: grids, lambda now: robot.camera.publish(picture(now)), 'the flat ground')
    assert at(grids[-1], 4.1, 0) == DRIVABLE

    depth = robot.topic(Image, 'depth')
    obstacles = driver.collect(PointCloud2, 'obstacle_points')
    drivable = driver.collect(PointCloud2, 'drivable_points')

    def live(now):
        robot.camera.publish(picture(now))
        depth.publish(depth_image(now, boxed))

    robot.until(
        lambda: obstacles and drivable and at(grids[-1], 4.1, 0) == NOT_DRIVABLE,
        live,
        'the box in the grid',
    )
    grid = grids[-1]
    assert grid.header.frame_id == 'base_footprint'
    assert at(grid, 4.1, 1.5) == DRIVABLE
    assert at(grid, 9.7, 0) == NOT_DRIVABLE  # the wall
    x, y, z = (column(obstacles[-1], name) for name in 'xyz')
    box = np.abs(x - 4) < 0.01
    assert box.sum() > 300
    assert z[box].min() > 0.09
    assert z[box].max() < 0.65
    np.testing.assert_allclose(x[~box], 120 / 12.5, atol=0.01)
    assert len(drivable[-1].data) > 0
    np.testing.assert_allclose(column(drivable[-1], 'z'), 0, atol=0.01)

    # Depth that says nothing is no ground, whatever the mask says.
    def blind(now):
        robot.camera.publish(picture(now))
        depth.publish(depth_image(now, np.zeros_like(DEPTH)))

    robot.until(lambda: (grid_of(grids[-1]) == UNKNOWN).all(), blind, 'an unknown ground')


@pytest.mark.parametrize(
    ('turn', 'origin', 'there'),
    [
        ((0.0, 0.0, 0.0, 1.0), (0.0, -6.0), (5.0, 0.0)),
        ((0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)), (-6.0, 0.0), (0.0, 5.0)),  # it looks to the left
        ((0.0, 0.0, 1.0, 0.0), (-12.0, -6.0), (-5.0, 0.0)),  # it looks back
    ],
    ids=['ahead', 'left', 'back'],
)
def test_the_place_of_the_camera_comes_from_the_transforms(driver, start, turn, origin, there):
    start(**{**GROUND, 'ground__frame': 'base_link'})
    grids = driver.collect(OccupancyGrid, 'drivable_grid')
    robot = Robot(driver)

    def live(now):
        robot.camera.publish(picture(now))

    robot.until_said("no transform has come of 'camera_optical' or of 'base_link'", live)
    assert not grids
    robot.static.publish(
        tf2_msgs.TFMessage(
            transforms=[
                transform(0, 'base_link', 'mount', (0, 0, 0), turn),
                transform(0, 'mount', FRAME, (0, 0, CAMERA_HEIGHT), OPTICAL),
            ]
        )
    )
    robot.until(lambda: grids, live, 'a grid')
    grid = grids[-1]
    assert grid.header.frame_id == 'base_link'
    assert (grid.info.origin.position.x, grid.info.origin.position.y) == origin
    assert at(grid, *there) == DRIVABLE


def test_a_cloud_measures_the_ground_too(driver, start):
    start(**{**GROUND, 'ground__frame': 'base_link'})
    grids = driver.collect(OccupancyGrid, 'drivable_grid')
    robot = Robot(driver)
    cloud = robot.topic(PointCloud2, 'cloud')
    robot.mount_lidar((0, 0, 2.0))
    x, y = (part.ravel() for part in np.meshgrid(np.arange(2, 9, 0.1), np.arange(-3, 3, 0.1)))
    z = np.where((np.abs(x - 6) < 0.3) & (np.abs(y) < 0.3), 0.5, 0.0) - 2.0
    points = np.stack([x, y, z], axis=1)

    def live(now):
        robot.camera.publish(picture(now))
        cloud.publish(cloud_of(now, points, 'lidar'))

    robot.until(lambda: grids, live, 'a grid')
    assert at(grids[-1], 6.0, 0.0) == NOT_DRIVABLE
    assert at(grids[-1], 5.0, 0.0) == DRIVABLE
    assert at(grids[-1], 11.0, 0.0) == UNKNOWN


def test_extrinsics_that_are_none_are_refused_at_start(start):
    node = start(points__extrinsics='"1 2 3"')
    assert node.wait() == 1
    assert "points.extrinsics is '1 2 3': wanted seven numbers" in node.log
    assert 'Traceback' not in node.log


def test_a_joint_model_needs_no_depth_camera(driver, start, joint_model):
    """Its own depth becomes points, and gives way to a depth camera's when there is one."""
    start(model__path=joint_model, model__input_size=f'{WIDTH}x{HEIGHT}')
    depths = driver.collect(Image, 'depth')
    points = driver.collect(PointCloud2, 'points')
    robot = Robot(driver)
    robot.until(
        lambda: depths and points, lambda now: robot.camera.publish(picture(now)), 'its own depth'
    )
    depth, message = depths[-1], points[-1]
    assert (depth.encoding, depth.step, depth.is_bigendian) == ('32FC1', 4 * WIDTH, 0)
    assert (depth.height, depth.width) == (HEIGHT, WIDTH)
    with Segmenter.load(joint_model, input_size=(HEIGHT, WIDTH), depth=True) as segmenter:
        wanted = segmenter(SPACE.palette[LABELS]).depth
    given = np.frombuffer(bytes(depth.data), '<f4').reshape(HEIGHT, WIDTH)
    np.testing.assert_allclose(given, wanted, rtol=1e-5)
    assert given.min() > 1
    np.testing.assert_array_equal(column(message, 'z'), given.ravel())
    x = (np.arange(WIDTH) - 63.5) / 100 * given
    np.testing.assert_allclose(column(message, 'x'), x.ravel(), rtol=1e-5, atol=1e-6)
    robot.until(
        lambda: driver.diagnostics.get('level') == '0',
        lambda now: robot.camera.publish(picture(now)),
        'diagnostics without trouble',
    )

    camera = robot.topic(Image, 'depth')

    def live(now):
        robot.camera.publish(picture(now))
        camera.publish(depth_image(now))

    robot.until(
        lambda: np.array_equal(column(points[-1], 'z'), DEPTH.ravel()), live, 'measured points'
    )
