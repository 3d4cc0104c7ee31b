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


@pytest.mark.parametrize(
    ('publishers', 'asked', 'others', 'sentence'),
    [
        ([], None, [('/scan', ['sensor_msgs/msg/LaserScan'])], 'no publisher on /image'),
        ([], None, [('/rear/image', [IMAGE])], 'no publisher on /image: remap it to /rear/image'),
        ([_publisher(RELIABLE, COMPRESSED)], None, [], f'/image carries {COMPRESSED}, not'),
        ([_publisher(BEST_EFFORT)], RELIABLE, [], 'set it to auto'),
        ([_publisher(BEST_EFFORT)], BEST_EFFORT, [], 'has a publisher, but no frame comes'),
        ([_publisher(BEST_EFFORT), _publisher(RELIABLE)], RELIABLE, [], 'has a publisher, but'),
    ],
)
def test_silence_is_explained_with_its_remedy(publishers, asked, others, sentence):
    assert sentence in why_no_frames('/image', IMAGE, publishers, asked, others)
