"""A camera whose every picture gets one and the same label is told of, and can be held back."""

from __future__ import annotations

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')

from ros_for_tests import image_message  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from lwseg_ros.label_space import LabelSpace  # noqa: E402

SPACE = LabelSpace.load('camvid')
ROAD, SKY = (np.array(SPACE.palette[SPACE.class_id(name)], int) for name in ('road', 'sky'))
SIZE = (96, 128)


def _road(number: int) -> np.ndarray:
    """Return road all over, a little brighter with each number."""
    return np.full((*SIZE, 3), ROAD + 2 * number, np.uint8)


def _street() -> np.ndarray:
    street = _road(0)
    street[: SIZE[0] // 2] = SKY
    return street


class Watched:
    """A camera of the node, the last drivable mask of it, and what is said of it."""

    def __init__(self, driver, name):
        self._driver, self._name = driver, name
        self._masks = driver.collect(Image, f'{name}/drivable_mask')
        self._camera = driver.camera(topic=f'{name}/image')

    def drivable(self, picture):
        """Send a picture; return the share of it that is drivable."""
        before = len(self._masks)
        self._camera.publish(image_message(picture, number=before))
        self._driver.spin_until(lambda: len(self._masks) > before, 'the mask')
        mask = np.frombuffer(self._masks[-1].data, np.uint8)
        return np.count_nonzero(mask) / mask.size

    def says(self, level, words=''):
        """Wait until the diagnostics have this level and these words."""

        def said():
            status = self._driver.statuses.get(f'/segmentation/{self._name}', {})
            return status.get('level') == str(level) and words in status['message']

        self._driver.spin_until(said, f'level {level} and {words!r} of {self._name}')


def test_one_label_all_over_is_a_warning_and_can_be_withheld(driver, start):
    node = start(cameras='[floor, street]', diagnostics__suspect_frames=3)
    floor, street = Watched(driver, 'floor'), Watched(driver, 'street')
    for number in (0, 1, 1, 1):
        assert floor.drivable(_road(number)) == 1
        assert 0.4 < street.drivable(_street()) < 0.6
    floor.says(0)
    assert floor.drivable(_road(2)) == 1
    floor.says(1, 'all of the last 3 different pictures is road')
    street.says(0)
    assert 'pictures is road' in node.log

    assert driver.set_parameter('drivable.withhold_suspect', True) == (True, '')
    assert floor.drivable(_road(2)) == 0
    assert floor.drivable(_road(3)) == 0
    floor.says(1, 'until that changes, the drivable mask is empty')
    assert street.drivable(_street()) > 0.4

    assert 0.4 < floor.drivable(_street()) < 0.6
    floor.says(0)
    assert floor.drivable(_road(4)) == floor.drivable(_road(5)) == 1
    assert floor.drivable(_road(6)) == 0
    assert driver.set_parameter('diagnostics.suspect_frames', 0) == (True, '')
    assert floor.drivable(_road(7)) == 1
    floor.says(0)
