"""The outputs of the real node, read exactly as those who use them read them."""

from __future__ import annotations

import dataclasses
import os
import struct

import numpy as np
import pytest
import yaml

rclpy = pytest.importorskip('rclpy')

from lifecycle_msgs.msg import Transition  # noqa: E402
from models_for_tests import tiny_info  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from ros_for_tests import BEST_EFFORT, image_message  # noqa: E402
from sensor_msgs.msg import Image, PointCloud2  # noqa: E402

from lwseg_ros.errors import LwsegError  # noqa: E402
from lwseg_ros.label_space import IGNORE_ID, LabelSpace  # noqa: E402
from lwseg_ros.ros.autoware_mask import autoware_ids, run_lengths  # noqa: E402
from lwseg_ros.ros.ground_outputs import points_message  # noqa: E402
from lwseg_ros.ros.outputs import HAS_VISION_MSGS  # noqa: E402
from lwseg_ros.share import config_file  # noqa: E402

SPACE = LabelSpace.load('camvid')
AUTOWARE = LabelSpace.load('autoware')
SIZE = (96, 128)


def _labels(seed=0):
    blocks = np.random.default_rng(seed).integers(0, SPACE.num_classes, (6, 8))
    return np.kron(blocks, np.ones((16, 16))).astype(np.uint8)


class SegmentationLayer:
    """Reads what Nav2's semantic segmentation layer reads, the way it does.

    Mask, confidence and cloud come best effort and are matched when their stamps lie within
    100 ms; encoding and step are not looked at; a mask that has not as many pixels as the cloud
    has points is thrown away.
    """

    QOS = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
    MOST_APART_NS = 100_000_000

    def __init__(self, driver):
        self.observations = []
        self._waiting = {'mask': [], 'confidence': [], 'cloud': []}
        for name in ('mask', 'confidence'):
            driver.node.create_subscription(
                Image, f'/segmentation/{name}', lambda m, n=name: self._take(n, m), self.QOS
            )
        driver.node.create_subscription(
            PointCloud2, '/points', lambda m: self._take('cloud', m), self.QOS
        )

    def _take(self, name, message):
        self._waiting[name].append(message)
        for cloud in self._waiting['cloud']:
            matched = [self._closest(cloud, other) for other in ('mask', 'confidence')]
            if all(matched):
                self._waiting['cloud'].remove(cloud)
                self._buffer(*matched, cloud)
                return

    def _closest(self, cloud, name):
        near = [
            m
            for m in self._waiting[name]
            if abs(_nanoseconds(m) - _nanoseconds(cloud)) <= self.MOST_APART_NS
        ]
        return min(near, key=lambda m: abs(_nanoseconds(m) - _nanoseconds(cloud)), default=None)

    def _buffer(self, mask, confidence, cloud):
        if mask.width * mask.height != cloud.width * cloud.height:
            return
        seen = {}
        for v in range(mask.height):
            for u in range(mask.width):
                pixel = v * mask.width + u
                seen[v, u] = mask.data[pixel], confidence.data[pixel]
        self.observations.append((mask, seen))


def _nanoseconds(message):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def test_nav2_segmentation_layer_sees_the_class_of_every_point(driver, start):
    start(output__size='64x48')
    layer = SegmentationLayer(driver)
    points = driver.node.create_publisher(PointCloud2, '/points', 10)
    camera = driver.camera()
    for topic in ('mask', 'confidence'):
        driver.spin_until(
            lambda name=f'/segmentation/{topic}': driver.node.count_publishers(name), topic
        )
    picture = image_message(SPACE.palette[_labels()], number=3)
    cloud = points_message(picture.header, np.zeros((64 * 48, 3), np.float32))
    cloud.header.stamp.sec += 1
    cloud.header.stamp.nanosec = 40_000_000  # the depth camera is 40 ms later

    def observed():
        camera.publish(picture)
        points.publish(cloud)
        driver.executor.spin_once(timeout_sec=0.1)
        return layer.observations

    driver.spin_until(observed, 'mask, confidence and cloud together')
    mask, seen = layer.observations[0]
    assert (mask.width, mask.height) == (64, 48)
    assert len(mask.data) == 64 * 48
    blocks = _labels()[::16, ::16]
    for row in range(6):
        for column in range(8):
            id_, confidence = seen[row * 8 + 4, column * 8 + 4]
            assert id_ == blocks[row, column]
            assert confidence > 127


def test_nav2_segmentation_layer_knows_the_classes_before_the_first_mask(driver, start):
    messages = pytest.importorskip('vision_msgs.msg')
    start()
    latched = QoSProfile(depth=5, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    infos = driver.collect(messages.LabelInfo, 'label_info', latched)
    driver.spin_until(lambda: infos, 'the classes, before any image')
    names = {c.class_id: c.class_name for c in infos[0].class_map}
    masks = driver.collect(Image, 'mask')
    camera = driver.camera()
    camera.publish(image_message(SPACE.palette[_labels()]))
    driver.spin_until(lambda: masks, 'a mask')
    assert set(masks[0].data) <= {*names, IGNORE_ID}
    assert names == {c.id: c.name for c in SPACE.classes}
    assert len(infos) == 1  # the layer logs an error for each strange class at every one


def decode_run_lengths(data, rows, columns):
    """Decode as Autoware does: a byte and a native int of four bytes, again and again."""
    pixels = np.zeros(rows * columns, np.uint8)
    at = 0
    for i in range(0, len(data), 5):
        (value,) = struct.unpack_from('B', data, i)
        (length,) = struct.unpack_from('<i', data, i + 1)
        assert length > 0
        assert at + length <= rows * columns, 'the decoder would write behind the image'
        pixels[at : at + length] = value
        at += length
    assert at == rows * columns
    return pixels.reshape(rows, columns)


def test_autoware_decodes_its_mask(driver, start):
    start(output__autoware_mask=True, output__size='network')
    encoded = driver.collect(Image, 'autoware_mask', BEST_EFFORT)
    masks = driver.collect(Image, 'mask')
    confidences = driver.collect(Image, 'confidence')
    camera = driver.camera()
    names = {c.id: c.name for c in AUTOWARE.classes}

    def answer(number):
        picture = np.repeat(np.repeat(SPACE.palette[_labels(number)], 2, axis=0), 3, axis=1)
        message = image_message(picture, number=number)

        def answered():
            camera.publish(message)
            driver.executor.spin_once(timeout_sec=0.1)
            return all(
                any(m.header == message.header for m in got)
                for got in (encoded, masks, confidences)
            )

        driver.spin_until(answered, 'masks of both kinds')
        return (
            next(m for m in got if m.header == message.header)
            for got in (encoded, masks, confidences)
        )

    message, mask, confidence = answer(1)
    assert message.header.frame_id.startswith('camera/optical frame')
    assert (message.height, message.width) == (192, 384)  # the camera's image, not the network's
    assert (message.encoding, message.step) == ('mono8', 384)
    decoded = decode_run_lengths(message.data, message.height, message.width)
    meant = {'road': 'ROAD', 'pavement': 'SIDEWALK', 'car': 'VEHICLE', 'tree': 'VEGETATION'}
    blocks = decoded[16::32, 24::48]
    for row, column in np.ndindex(blocks.shape):
        name = SPACE.names[_labels(1)[row * 16, column * 16]]
        assert names[blocks[row, column]] == meant.get(name, names[blocks[row, column]])
    small = np.frombuffer(mask.data, np.uint8).reshape(SIZE)
    np.testing.assert_array_equal(decoded[1::2, 1::3], autoware_ids(SPACE)[small])

    # What the network is not sure of is UNKNOWN.
    driver.set_parameter('output.min_confidence', 1.0)
    message, mask, confidence = answer(2)
    decoded = decode_run_lengths(message.data, message.height, message.width)[1::2, 1::3]
    unsure = np.frombuffer(confidence.data, np.uint8).reshape(SIZE) < 255
    assert unsure.any()
    assert (decoded[unsure] == 0).all()
    assert (decoded[~unsure] != 0).all()


@pytest.mark.parametrize(
    'image',
    [
        np.full((1, 1), 7),
        np.full((1080, 1920), 9),
        np.arange(256 * 3).reshape(3, 256) % 256,
        np.random.default_rng(0).integers(0, 3, (97, 131)),
    ],
    ids=['one pixel', 'one run', 'runs of one', 'random'],
)
def test_run_lengths_are_decoded_to_the_same_image(image):
    image = image.astype(np.uint8)
    data = run_lengths(image).tobytes()
    np.testing.assert_array_equal(decode_run_lengths(data, *image.shape), image)
    changes = np.count_nonzero(np.diff(image.ravel()))
    assert len(data) == 5 * (changes + 1)


@pytest.mark.parametrize('name', ['idd_level1', 'voc'])
def test_classes_that_autoware_has_not_are_refused(name):
    with pytest.raises(LwsegError, match=f'output.autoware_mask is set, but .* {name}'):
        autoware_ids(LabelSpace.load(name))


def test_a_model_that_autoware_cannot_read_does_not_configure(start, tmp_path):
    torch = pytest.importorskip('torch')
    from lwseg_ros.inference.graph import export_onnx

    space = LabelSpace.load('idd_level1')
    model = tmp_path / 'coarse.onnx'
    network = torch.nn.Conv2d(3, space.num_classes, 1, stride=4).eval()
    export_onnx(network, dataclasses.replace(tiny_info(), label_space=space), model)
    node = start(model__path=model, output__autoware_mask=True)
    assert node.wait() == 1
    errors = [line for line in node.log.splitlines() if '[ERROR]' in line or '[FATAL]' in line]
    assert len(errors) == 1
    assert 'stands for several classes of autoware' in errors[0]
    assert 'Traceback' not in node.log


WITHOUT = """import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {absent!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Absent())
"""


def test_without_optional_packages_the_node_says_once_what_is_lost_and_works(
    driver, start, tmp_path, monkeypatch
):
    absent = ('vision_msgs', 'tf2_msgs', 'bondpy', 'cv_bridge', 'launch_ros')
    (tmp_path / 'sitecustomize.py').write_text(WITHOUT.format(absent=absent))
    monkeypatch.setenv('PYTHONPATH', str(tmp_path), prepend=os.pathsep)
    node = start()
    for again in range(2):
        masks = driver.collect(Image, 'mask')
        camera = driver.camera()
        camera.publish(image_message(SPACE.palette[_labels()]))
        driver.spin_until(lambda masks=masks: masks, 'a mask')
        if not again:
            driver.transition(Transition.TRANSITION_DEACTIVATE)
            driver.transition(Transition.TRANSITION_CLEANUP)
            driver.transition(Transition.TRANSITION_CONFIGURE)
            driver.transition(Transition.TRANSITION_ACTIVATE)
    for sentence in (
        'vision_msgs is not installed: no ~/label_info for Nav2',
        "bondpy is not installed: nav2's lifecycle manager needs bond_timeout: 0.0",
    ):
        assert node.log.count(sentence) == 1
    assert 'Traceback' not in node.log


def test_without_transforms_the_height_of_the_camera_must_be_given(start, tmp_path, monkeypatch):
    (tmp_path / 'sitecustomize.py').write_text(WITHOUT.format(absent=('tf2_msgs',)))
    monkeypatch.setenv('PYTHONPATH', str(tmp_path), prepend=os.pathsep)
    node = start(ground__enable=True)
    assert node.wait() == 1
    assert 'ground.camera_height is not: give the height' in node.log
    assert 'Traceback' not in node.log


def costmap(name):
    """Return the parameters of a costmap of ours, as `ros2 launch` would give them."""
    content = yaml.safe_load(config_file(name).read_text(encoding='utf-8'))
    return content['local_costmap']['local_costmap']['ros__parameters']


def test_the_costmap_of_classes_names_what_the_node_publishes(driver, start):
    layer = costmap('nav2_semantic_layer.yaml')['semantic_layer']
    (source,) = layer['observation_sources'].split()
    source = layer[source]
    start()
    types = {
        'segmentation_topic': 'sensor_msgs/msg/Image',
        'confidence_topic': 'sensor_msgs/msg/Image',
        'labels_topic': 'vision_msgs/msg/LabelInfo',
        'pointcloud_topic': 'sensor_msgs/msg/PointCloud2',
    }

    def published():
        return dict(driver.node.get_topic_names_and_types())

    topics = {
        source[key]: [kind]
        for key, kind in types.items()
        if HAS_VISION_MSGS or key != 'labels_topic'
    }
    driver.spin_until(lambda: topics.items() <= published().items(), f'the topics {topics}')
    classes = [name for kind in source['class_types'] for name in source[kind]['classes']]
    assert len(set(classes)) == len(classes)
    assert {*classes} <= {*SPACE.names}
    assert {c.name for c in SPACE.classes if c.drivable} == {*source['free']['classes']}


def test_the_costmap_of_obstacles_names_what_the_node_publishes(driver, start):
    layer = costmap('nav2_obstacle_layer.yaml')['obstacle_layer']
    start(ground__enable=True, ground__camera_height=1.0)
    for source in layer['observation_sources'].split():
        topic = layer[source]['topic']
        kind = f'sensor_msgs/msg/{layer[source]["data_type"]}'
        driver.spin_until(
            lambda topic=topic, kind=kind: (
                dict(driver.node.get_topic_names_and_types()).get(topic) == [kind]
            ),
            f'{topic} of {kind}',
        )
