"""Which image topics of a bag are taken for cameras."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from paths_for_tests import shared

pytest.importorskip('rosbags')

from bags_for_tests import by_time, compressed, labels, raw, stamp, write_ros2

from lwseg_ros.bags.cameras import camera_topics
from lwseg_ros.bags.images import BagImages
from lwseg_ros.bags.recording import Recording
from lwseg_ros.errors import DataError
from lwseg_ros.synthetic.drive import GeneratedDrive

RNG = np.random.default_rng(0)
SCENE = cv2.resize(RNG.integers(0, 256, (24, 32, 3), np.uint8), (128, 96))
IDS = labels(0)
COLORS = RNG.integers(0, 256, (12, 3), np.uint8)[IDS]
BARS = np.repeat(255 * (np.arange(8)[:, None] >> np.arange(3) & 1), 16, 0).astype(np.uint8)
BARS = np.broadcast_to(BARS, (96, 128, 3))
CHECKERS = (np.indices((96, 128)) // 16).sum(0).astype(np.uint8) % 2 * 255
RAMP = cv2.resize(np.array([[0, 10], [4, 16]], np.uint8), (128, 96))

CAMERAS = {
    'a scene': ('rgb8', SCENE),
    'grey': ('mono8', SCENE[..., 0]),
    'noise at night': ('mono8', RNG.poisson(2, (96, 128)).astype(np.uint8)),
    'a filtered night': ('mono8', RAMP),
    'a night in colour': ('bgr8', np.stack([RAMP, RAMP + 1, RAMP // 2], -1)),
    'a covered lens': ('mono8', np.zeros((96, 128), np.uint8)),
    'colour bars': ('rgb8', BARS),
    'a checkerboard': ('mono8', CHECKERS),
    'a Bayer pattern': ('bayer_rggb8', IDS),
    'a generated drive': ('rgb8', GeneratedDrive(0, 128, 96, 1, 10.0, kind='city').frame(0).image),
}
MASKS = {
    'ids': ('mono8', IDS),
    'ids and void': ('8UC1', np.where(IDS == 1, 255, IDS).astype(np.uint8)),
    'two ids': ('mono8', (IDS > 2).astype(np.uint8)),
    'ids in 16 bits': ('mono16', IDS.astype(np.uint16)),
    'ids in equal channels': ('rgb8', np.repeat(IDS[..., None], 3, -1)),
    'ids in the red channel': ('bgr8', np.stack([0 * IDS, 0 * IDS, IDS], -1)),
    'ids in 32 bits': ('32SC1', IDS.astype(np.int32)),
    'distances': ('32FC1', IDS.astype(np.float32)),
}
PAINTED = {
    'colours': ('rgb8', COLORS),
    'colours and alpha': ('bgra8', np.dstack([COLORS, np.full_like(IDS, 255)])),
    '0 and 255': ('mono8', 255 * (IDS > 2).astype(np.uint8)),
}


def chosen(path: Path, topics: dict[str, tuple[str, np.ndarray]]) -> tuple[list[str], list[str]]:
    """Return which topics of a bag are taken and which are passed over."""
    rows = [
        [(topic, stamp(i), raw(picture, stamp(i), encoding)) for i in range(2)]
        for topic, (encoding, picture) in topics.items()
    ]
    cameras, others = camera_topics(Recording(write_ros2(path / 'drive', by_time(*rows))))
    return [camera.name for camera in cameras], others


@pytest.mark.parametrize('what', CAMERAS)
def test_a_camera_is_taken(what: str, tmp_path: Path) -> None:
    topics = {'/cam/image_raw': CAMERAS['a scene'], '/other/image_raw': CAMERAS[what]}
    assert chosen(tmp_path, topics) == (['/cam/image_raw', '/other/image_raw'], [])


@pytest.mark.parametrize(
    'what', [w for w in CAMERAS if w not in ('colour bars', 'a checkerboard')]
)
def test_a_camera_of_any_name_is_taken(what: str, tmp_path: Path) -> None:
    topics = {'/cam/image_raw': CAMERAS['a scene'], '/robot/eye': CAMERAS[what]}
    assert chosen(tmp_path, topics) == (['/cam/image_raw', '/robot/eye'], [])


@pytest.mark.parametrize('what', CAMERAS)
def test_the_only_camera_is_taken_whatever_it_shows(what: str, tmp_path: Path) -> None:
    assert chosen(tmp_path, {'/robot/eye': CAMERAS[what]}) == (['/robot/eye'], [])


@pytest.mark.parametrize('what', MASKS)
def test_a_mask_is_passed_over(what: str, tmp_path: Path) -> None:
    """Even where it is called as a camera is."""
    topics = {'/cam/image_raw': CAMERAS['a scene'], '/net/image': MASKS[what]}
    assert chosen(tmp_path, topics) == (['/cam/image_raw'], ['/net/image'])


@pytest.mark.parametrize('what', PAINTED)
def test_a_painted_mask_is_passed_over(what: str, tmp_path: Path) -> None:
    topics = {'/cam/image_raw': CAMERAS['a scene'], '/net/output': PAINTED[what]}
    assert chosen(tmp_path, topics) == (['/cam/image_raw'], ['/net/output'])


def test_masks_in_png_are_passed_over(tmp_path: Path) -> None:
    rows = [
        [('/net/out/compressed', stamp(0), compressed(IDS, stamp(0)))],
        [('/cam/image/compressed', stamp(0), compressed(SCENE, stamp(0)))],
        [('/rear/image/compressed', stamp(0), compressed(SCENE, stamp(0), '.jpg'))],
    ]
    cameras, others = camera_topics(Recording(write_ros2(tmp_path / 'drive', by_time(*rows))))
    assert [camera.name for camera in cameras] == [
        '/cam/image/compressed',
        '/rear/image/compressed',
    ]
    assert others == ['/net/out/compressed']


def test_name_decides_where_content_leaves_none(tmp_path: Path) -> None:
    topics = {
        '/front/out': PAINTED['colours'],
        '/rear/out': PAINTED['0 and 255'],
        '/rear/debug': CAMERAS['a scene'],
    }
    assert chosen(tmp_path, topics) == (['/front/out', '/rear/out'], ['/rear/debug'])


def test_what_is_asked_for_is_taken(tmp_path: Path) -> None:
    bag = shared('field_cases/truth_topics/isaac_unet')
    images = BagImages(bag, '/unet/raw_segmentation_mask')
    assert images.topic.name == '/unet/raw_segmentation_mask'
    assert images.notes == []


def test_what_was_taken_and_what_not_is_said() -> None:
    images = BagImages(shared('field_cases/truth_topics/isaac_unet'))
    assert images.topic.name == '/image_rect'
    assert images.notes == [
        '/image_rect taken for a camera, not /unet/colored_segmentation_mask, '
        '/unet/raw_segmentation_mask, /yolo/dbg_image: choose others by --topic'
    ]


def test_a_bag_of_masks_only_has_no_camera(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='if /unet/mask is a camera, say so by --topic'):
        chosen(tmp_path, {'/unet/mask': MASKS['ids']})
