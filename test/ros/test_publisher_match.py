"""What the ROS graph says of a camera's publishers, read without any middleware."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy')

from rclpy.qos import QoSProfile, ReliabilityPolicy

from lwseg_ros.ros.publisher_match import reliability_to_ask, why_no_frames

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
RELIABLE = ReliabilityPolicy.RELIABLE
BEST_EFFORT = ReliabilityPolicy.BEST_EFFORT


def _publisher(reliability, type_name=IMAGE):
    qos = QoSProfile(depth=1, reliability=reliability)
    return SimpleNamespace(topic_type=type_name, qos_profile=qos)


@pytest.mark.parametrize(
    ('offered', 'setting', 'asked'),
    [
        ([], 'auto', None),
        ([], 'reliable', None),
        ([RELIABLE], 'auto', RELIABLE),
        ([BEST_EFFORT], 'auto', BEST_EFFORT),
        ([RELIABLE, BEST_EFFORT], 'auto', BEST_EFFORT),
        ([BEST_EFFORT], 'reliable', RELIABLE),
        ([RELIABLE], 'best_effort', BEST_EFFORT),
    ],
)
def test_the_subscription_hears_all_publishers_unless_told_otherwise(offered, setting, asked):
    publishers = [_publisher(reliability) for reliability in offered]
    strangers = [_publisher(BEST_EFFORT, COMPRESSED)]
    assert reliability_to_ask(publishers + strangers, IMAGE, setting) == asked


def _why(publishers=(), asked=None, mismatch='', lost=0, others=None, topic='/image'):
    return why_no_frames(topic, IMAGE, publishers, asked, mismatch, lost, others or {})


@pytest.mark.parametrize(
    ('others', 'sentence'),
    [
        ({'/scan': ['sensor_msgs/msg/LaserScan']}, 'no publisher on /front/image'),
        (
            {'/map': [IMAGE], '/front/img': [IMAGE], '/rear/image': [IMAGE], '/x': [IMAGE]},
            'no publisher on /front/image: remap it to /front/img or /rear/image or /map',
        ),
        (
            {'/rear/image': [IMAGE], '/front/image/compressed': [COMPRESSED]},
            'no publisher on /front/image, but on /front/image/compressed: '
            'set input.transport to compressed',
        ),
    ],
)
def test_a_topic_without_publisher_is_explained_by_the_topics_there_are(others, sentence):
    assert _why(topic='/front/image', others=others) == sentence


def test_masks_of_other_nodes_are_no_remedy():
    others = {'/front/image_mask': [IMAGE], '/unet/labels': [IMAGE], '/x/depth': [IMAGE]}
    assert _why(topic='/front/image', others=others) == 'no publisher on /front/image'
    others['/rear/image_raw'] = [IMAGE]
    assert _why(topic='/front/image', others=others) == (
        'no publisher on /front/image: remap it to /rear/image_raw'
    )


def test_a_camera_that_only_sends_raw_images_is_found():
    others = {'/image': [IMAGE]}
    assert why_no_frames('/image/compressed', COMPRESSED, [], None, '', 0, others) == (
        'no publisher on /image/compressed, but on /image: set input.transport to raw'
    )


@pytest.mark.parametrize(
    ('publishers', 'asked', 'mismatch', 'lost', 'sentence'),
    [
        ([_publisher(RELIABLE, COMPRESSED)], None, '', 0, f'/image carries {COMPRESSED}, not'),
        ([_publisher(BEST_EFFORT)], RELIABLE, 'reliability', 0, 'set it to auto'),
        ([_publisher(RELIABLE), _publisher(BEST_EFFORT)], RELIABLE, '', 0, 'set it to auto'),
        ([_publisher(RELIABLE)], RELIABLE, 'deadline', 0, 'does not offer the deadline'),
        ([_publisher(BEST_EFFORT)], BEST_EFFORT, '', 9, '9 frames of /image were lost on'),
        ([_publisher(BEST_EFFORT)], BEST_EFFORT, '', 0, 'look whether the camera sends any'),
    ],
)
def test_silence_is_explained_with_its_remedy(publishers, asked, mismatch, lost, sentence):
    assert sentence in _why(publishers, asked, mismatch, lost)
