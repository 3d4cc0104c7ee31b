"""The images of a bag come as they were recorded, and a wrong bag is refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from paths_for_tests import shared

pytest.importorskip('rosbags')

from bags_for_tests import (
    PERIOD_NS,
    ROS1,
    ROS2,
    camera_rows,
    compressed,
    painted,
    raw,
    stamp,
    write_ros1,
    write_ros2,
)
from rosbags.rosbag2 import StoragePlugin

from lwseg_ros.bags.images import BagImages
from lwseg_ros.errors import DataError
from lwseg_ros.image_messages import image_from_message

TOPIC = '/camera/image_raw'


@pytest.fixture(params=['ros1', 'sqlite3', 'mcap', 'mcap_file', 'folder_without_metadata'])
def bag(request, tmp_path: Path) -> Path:
    if request.param == 'ros1':
        return write_ros1(tmp_path / 'drive.bag', camera_rows(5, TOPIC, ROS1))
    plugin = StoragePlugin.SQLITE3 if request.param == 'sqlite3' else StoragePlugin.MCAP
    folder = write_ros2(tmp_path / 'drive', camera_rows(5, TOPIC), plugin)
    if request.param == 'folder_without_metadata':
        (folder / 'metadata.yaml').unlink()
    return folder / 'drive.mcap' if request.param == 'mcap_file' else folder


def test_every_image_comes_once_in_order_as_it_was_recorded(bag: Path) -> None:
    images = BagImages(bag)
    encoding = 'ros1' if bag.suffix == '.bag' else 'cdr'
    assert images.topic == (TOPIC, 'sensor_msgs/msg/Image', 5, encoding)
    assert len(images) == 5
    assert images.rate_hz == 1e9 / PERIOD_NS
    for _ in range(2):
        read = list(images)
        assert [m.stamp_ns for m in read] == [stamp(i) for i in range(5)]
        assert [m.record_ns for m in read] == [m.stamp_ns + 10**6 for m in read]
        for i, entry in enumerate(read):
            np.testing.assert_array_equal(image_from_message(entry.message), painted(i))
            assert entry.message.header.frame_id == 'cam'
    assert images.camera_info() is None


def test_images_come_in_the_order_of_their_stamps(tmp_path: Path) -> None:
    """As `lwseg bag evaluate` takes them; a driver with several threads sends them mixed."""
    rows = camera_rows(6)
    rows[2], rows[3] = rows[3], rows[2]
    rows = [(topic, stamp(i), message) for i, (topic, _, message) in enumerate(rows)]
    read = list(BagImages(write_ros2(tmp_path / 'drive', rows)))
    assert [m.stamp_ns for m in read] == [stamp(i) for i in range(6)]
    assert [m.record_ns for m in read] == [stamp(i) for i in (0, 1, 3, 2, 4, 5)]


def test_a_message_that_is_damaged_costs_itself_only(tmp_path: Path) -> None:
    rows = camera_rows(3)
    kind, message = rows[1][2]
    rows[1] = (*rows[1][:2], (kind, bytes(ROS2.serialize_cdr(message, kind))[:40]))
    read = list(BagImages(write_ros2(tmp_path / 'drive', rows)))
    assert [entry.message is None for entry in read] == [False, True, False]
    assert 'is no sensor_msgs/msg/Image' in read[1].error


def test_unknown_topic_lists_those_of_the_bag(bag: Path) -> None:
    with pytest.raises(
        DataError, match=r'no topic /nope: .*/camera/image_raw \(sensor_msgs/Image, 5'
    ):
        BagImages(bag, '/nope')


def test_a_topic_may_be_named_without_its_slash(bag: Path) -> None:
    assert BagImages(bag, 'camera/image_raw').topic.name == TOPIC


def test_several_cameras_must_be_told_apart(tmp_path: Path) -> None:
    rows = camera_rows(3, '/left/image', ROS1) + camera_rows(2, '/right/image', ROS1)
    path = write_ros1(tmp_path / 'two.bag', rows)
    with pytest.raises(DataError, match=r'several image topics.*/left/image.*/right/image'):
        BagImages(path)
    images = BagImages(path, '/right/image')
    assert images.topic.name == '/right/image'
    assert len(list(images)) == 2


def test_raw_images_are_preferred_to_the_compressed_ones_of_the_same_camera(
    tmp_path: Path,
) -> None:
    rows = [('/cam/image/compressed', stamp(0), compressed(painted(0), stamp(0)))]
    bag = write_ros2(tmp_path / 'both', [*rows, *camera_rows(1, '/cam/image')])
    assert BagImages(bag).topic.name == '/cam/image'


def test_what_the_node_answered_is_no_camera(tmp_path: Path) -> None:
    """A bag that was recorded beside the node holds its masks, which look like images."""
    masks = [('/segmentation/mask', stamp(0), raw(np.zeros((8, 8), np.uint8), stamp(0), 'mono8'))]
    bag = write_ros2(tmp_path / 'drive', [*camera_rows(2), *masks])
    assert BagImages(bag).topic.name == '/cam/image'
    assert BagImages(bag, '/segmentation/mask').topic.name == '/segmentation/mask'


def test_a_bag_without_images_says_what_it_holds(tmp_path: Path) -> None:
    text = ROS2.types['std_msgs/msg/String']('hello')
    bag = write_ros2(tmp_path / 'words', [('/chatter', stamp(0), ('std_msgs/msg/String', text))])
    with pytest.raises(
        DataError, match=r'no camera images: it holds /chatter \(std_msgs/String, 1'
    ):
        BagImages(bag)
    with pytest.raises(DataError, match='carries no images'):
        BagImages(bag, '/chatter')


@pytest.mark.parametrize('keep', [0, 1, 100, 3000, 90_000])
def test_a_cut_bag_gives_its_beginning_or_one_sentence(bag: Path, keep: int) -> None:
    file = next(f for f in sorted(bag.iterdir()) if f.suffix != '.yaml') if bag.is_dir() else bag
    file.write_bytes(file.read_bytes()[:keep])
    try:
        images = BagImages(bag)
    except DataError as error:
        sentence, read = str(error), []
    else:
        sentence, read = images.recording.damage, list(images)
    assert len(read) < 5
    assert [m.stamp_ns for m in read] == [stamp(i) for i in range(len(read))]
    assert sentence
    assert '\n' not in sentence


@pytest.mark.parametrize('name', ['absent.bag', 'absent', 'notes.txt', 'empty_folder'])
def test_what_is_no_bag_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / 'notes.txt').write_text('hello')
    (tmp_path / 'empty_folder').mkdir()
    with pytest.raises(DataError, match=name):
        BagImages(tmp_path / name)


def test_real_ros2_bag() -> None:
    images = BagImages(shared('bags/highway_960x540'))
    assert images.topic.name == '/camera/image_raw/compressed'
    assert len(images) == 221
    assert images.recording.damage == ''
    info = images.camera_info()
    assert info is not None
    assert (info.width, info.height) == (960, 540)
    stamps = [entry.stamp_ns for entry in images]
    assert len(set(stamps)) == 221
    assert stamps == sorted(stamps)
    assert image_from_message(next(iter(images)).message).shape == (540, 960, 3)


def test_real_ros1_bag() -> None:
    images = BagImages(shared('bags/raspicam_ros1.bag'))
    (entry,) = images
    assert entry.stamp_ns > 0
    assert image_from_message(entry.message).ndim == 3
    assert images.camera_info() is not None
