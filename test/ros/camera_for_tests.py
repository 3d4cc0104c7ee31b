"""A camera in a process of its own, for tests that restart it or give it another environment."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
import rclpy
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.qos import LivelinessPolicy, QoSProfile, ReliabilityPolicy
from ros_for_tests import compressed_message, image_message
from sensor_msgs.msg import CompressedImage, Image

GREY = 128


def camera_command(prefix: Sequence[str] = (), **settings: Any) -> list[str]:
    """Return the command line of a camera, behind a prefix such as `env NAME=value`."""
    return [*prefix, sys.executable, __file__, json.dumps(settings)]


def main(
    topic: str = '/image',
    reliability: str = 'RELIABLE',
    rate_hz: float = 10.0,
    size: tuple[int, int] = (48, 64),
    compressed: bool = False,
    qos: str = '',
) -> None:
    """Publish grey images `[height, width]`; none at a rate of 0. `qos` is offered too."""
    rclpy.init()
    node = rclpy.create_node('camera')
    profile = QoSProfile(depth=1, reliability=ReliabilityPolicy[reliability])
    if qos == 'deadline':
        profile.deadline = Duration(seconds=1)
    elif qos == 'liveliness':
        profile.liveliness = LivelinessPolicy.MANUAL_BY_TOPIC
    publisher = node.create_publisher(CompressedImage if compressed else Image, topic, profile)
    grey = np.full((*size, 3), GREY, np.uint8)
    message = compressed_message(grey, '.png') if compressed else image_message(grey)
    message.header.frame_id = reliability
    numbers = count()

    def publish() -> None:
        message.header.stamp.sec = next(numbers)
        publisher.publish(message)

    if rate_hz:
        node.create_timer(1 / rate_hz, publish)
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)


if __name__ == '__main__':
    main(**json.loads(sys.argv[1]))
