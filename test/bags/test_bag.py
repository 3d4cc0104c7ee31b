"""Bags are read as they were recorded, and a wrong or broken one is refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from paths_for_tests import shared

pytest.importorskip('rosbags')

from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Ros2Writer
from rosbags.typesys import Stores, get_typestore

from lwseg_ros.bags.images import open_bag
from lwseg_ros.errors import DataError
from lwseg_ros.image_messages import image_from_message

FIRST_NS = 1_700_000_000_123_456_789
PERIOD_NS = 33_333_333


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (24, 32, 3), np.uint8)


def image_message(types, number: int, ros1: bool = False):
    sec, nanosec = divmod(FIRST_NS + number * PERIOD_NS, 10**9)
    stamp = types['builtin_interfaces/msg/Time'](sec, nanosec)
    header = types['std_msgs/msg/Header']
    pixels = picture(number)
    return types['sensor_msgs/msg/Image'](
        header(seq=number, stamp=stamp, frame_id='cam')
        if ros1
        else header(stamp=stamp, frame_id='cam'),
        height=24,
        width=32,
        encoding='rgb8',
        is_bigendian=0,
        step=96,
        data=pixels.reshape(-1),
    )


def write_ros1(path: Path, topics: list[str], count: int = 5) -> Path:
    store = get_typestore(Stores.ROS1_NOETIC)
    with Ros1Writer(path) as writer:
        for topic in topics:
            connection = writer.add_connection(topic, 'sensor_msgs/msg/Image', typestore=store)
            for i in range(count):
                raw = store.serialize_ros1(
                    image_message(store.types, i, ros1=True), 'sensor_msgs/msg/Image'
                )
                writer.write(connection, FIRST_NS + i * PERIOD_NS + 1000, raw)
    return path


def write_ros2(path: Path, topics: list[str], plugin: StoragePlugin, count: int = 5) -> Path:
    store = get_typestore(Stores.ROS2_HUMBLE)
    with Ros2Writer(path, version=8, storage_plugin=plugin) as writer:
        for topic in topics:
            connection = writer.add_connection(topic, 'sensor_msgs/msg/Image', typestore=store)
            for i in range(count):
                raw = store.serialize_cdr(image_message(store.types, i), 'sensor_msgs/msg/Image')
                writer.write(connection, FIRST_NS + i * PERIOD_NS + 1000, raw)
    return path


@pytest.fixture(params=['ros1', 'sqlite3', 'mcap', 'mcap_file', 'folder_without_metadata'])
def bag(request, tmp_path: Path) -> Path:
    if request.param == 'ros1':
        return write_ros1(tmp_path / 'drive.bag', ['/camera/image_raw'])
    plugin = StoragePlugin.SQLITE3 if request.param == 'sqlite3' else StoragePlugin.MCAP
    folder = write_ros2(tmp_path / 'drive', ['/camera/image_raw'], plugin)
    if request.param == 'folder_without_metadata':
        (folder / 'metadata.yaml').unlink()
    return folder / 'drive.mcap' if request.param == 'mcap_file' else folder


def test_every_image_comes_once_in_order_as_it_was_recorded(bag: Path) -> None:
    with open_bag(bag) as images:
        assert images.topic == ('/camera/image_raw', 'sensor_msgs/msg/Image', 5)
        assert len(images) == 5
        for _ in range(2):
            read = list(images)
            assert [m.stamp_ns for m in read] == [FIRST_NS + i * PERIOD_NS for i in range(5)]
            assert [m.record_ns for m in read] == [m.stamp_ns + 1000 for m in read]
            for i, entry in enumerate(read):
                np.testing.assert_array_equal(image_from_message(entry.message), picture(i))
                assert entry.message.header.frame_id == 'cam'
        assert images.camera_info() is None


def test_unknown_topic_lists_those_of_the_bag(bag: Path) -> None:
    with pytest.raises(
        DataError, match=r'no topic /nope: .*/camera/image_raw \(sensor_msgs/Image, 5'
    ):
        open_bag(bag, '/nope')


def test_a_topic_may_be_named_without_its_slash(bag: Path) -> None:
    with open_bag(bag, 'camera/image_raw') as images:
        assert images.topic.name == '/camera/image_raw'


def test_several_cameras_must_be_told_apart(tmp_path: Path) -> None:
    path = write_ros1(tmp_path / 'two.bag', ['/left/image', '/right/image'])
    with pytest.raises(DataError, match=r'several image topics.*/left/image.*/right/image'):
        open_bag(path)
    with open_bag(path, '/right/image') as images:
        assert {m.topic for m in images} == {'/right/image'}


def test_raw_images_are_preferred_to_the_compressed_ones_of_the_same_camera(
    tmp_path: Path,
) -> None:
    store = get_typestore(Stores.ROS2_HUMBLE)
    with Ros2Writer(tmp_path / 'both', version=8) as writer:
        for topic, kind in (('/cam/image/compressed', 'CompressedImage'), ('/cam/image', 'Image')):
            connection = writer.add_connection(topic, f'sensor_msgs/msg/{kind}', typestore=store)
            if kind == 'Image':
                raw = store.serialize_cdr(image_message(store.types, 0), 'sensor_msgs/msg/Image')
                writer.write(connection, FIRST_NS, raw)
    with open_bag(tmp_path / 'both') as images:
        assert images.topic.name == '/cam/image'


def test_a_bag_without_images_says_what_it_holds(tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS2_HUMBLE)
    with Ros2Writer(tmp_path / 'words', version=8) as writer:
        connection = writer.add_connection('/chatter', 'std_msgs/msg/String', typestore=store)
        text = store.types['std_msgs/msg/String']('hello')
        writer.write(connection, FIRST_NS, store.serialize_cdr(text, 'std_msgs/msg/String'))
    with pytest.raises(DataError, match=r'no image topic: it holds /chatter \(std_msgs/String, 1'):
        open_bag(tmp_path / 'words')
    with pytest.raises(DataError, match='carries no images'):
        open_bag(tmp_path / 'words', '/chatter')


@pytest.mark.parametrize('keep', [0, 1, 100, 3000, 7000])
def test_a_truncated_bag_is_one_sentence(bag: Path, keep: int) -> None:
    file = next(f for f in sorted(bag.iterdir()) if f.suffix != '.yaml') if bag.is_dir() else bag
    whole = file.read_bytes()
    file.write_bytes(whole[:keep])
    read = []
    sentence = ''
    try:
        with open_bag(bag) as images:
            read = list(images)
    except DataError as error:
        sentence = str(error)
    assert len(read) < 5
    assert sentence or read
    assert '\n' not in sentence


@pytest.mark.parametrize('name', ['absent.bag', 'absent', 'notes.txt', 'empty_folder'])
def test_what_is_no_bag_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / 'notes.txt').write_text('hello')
    (tmp_path / 'empty_folder').mkdir()
    with pytest.raises(DataError, match=name):
        open_bag(tmp_path / name)


def test_real_ros2_bag() -> None:
    with open_bag(shared('bags/highway_960x540')) as images:
        assert images.topic.name == '/camera/image_raw/compressed'
        assert len(images) == 221
        assert images.camera_info_topic == (
            '/camera/camera_info',
            'sensor_msgs/msg/CameraInfo',
            221,
        )
        info = images.camera_info()
        assert info is not None
        assert (info.width, info.height) == (960, 540)
        stamps = [entry.stamp_ns for entry in images]
        assert len(set(stamps)) == 221
        assert image_from_message(next(iter(images)).message).shape == (540, 960, 3)


def test_real_ros1_bag() -> None:
    with open_bag(shared('bags/raspicam_ros1.bag')) as images:
        (entry,) = images
        assert entry.stamp_ns > 0
        assert image_from_message(entry.message).ndim == 3
        assert images.camera_info() is not None
