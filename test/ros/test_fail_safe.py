"""No pixel is drivable unless its frame was decoded and inferred and its confidence passes.

Every frame has a number, and its header tells it: so each drivable mask that comes back is held
against the frame it claims to be of, whatever was sent in between.
"""

from __future__ import annotations

import contextlib

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')

from lifecycle_msgs.msg import Transition  # noqa: E402
from paths_for_tests import shared  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from ros_for_tests import (  # noqa: E402
    compressed_message,
    image_message,
    with_header,
)
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from std_srvs.srv import SetBool  # noqa: E402

from lwseg_ros.label_space import LabelSpace  # noqa: E402
from lwseg_ros.ros.node import SegmentationNode  # noqa: E402

SPACE = LabelSpace.load('camvid')
ROAD = SPACE.class_id('road')
SIZE = (96, 128)


def _street(seed, size=SIZE):
    """Return a picture of noisy blocks in the colours of the classes, some hard to tell."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, SPACE.num_classes, (6, 8))
    labels[3:] = ROAD
    picture = cv2.resize(
        SPACE.palette[labels.astype(np.uint8)], size[::-1], interpolation=cv2.INTER_NEAREST
    )
    noise = random.normal(0, 25, (*size, 1)) * np.linspace(0, 2, size[1])[:, np.newaxis]
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


class Witness:
    """Sends numbered frames, and holds every drivable mask against the frame it is of."""

    def __init__(self, driver, message_type=Image, topic='image'):
        self.driver = driver
        self.masks = driver.collect(Image, 'drivable_mask')
        self.labels = driver.collect(Image, 'mask')
        self.confidences = driver.collect(Image, 'confidence')
        self._camera_of = (message_type, topic)
        self.camera = driver.camera(message_type, topic)
        self._number = 0
        self._good: dict[int, float] = {}

    def good(self, message, min_confidence=0.5):
        """Send a frame that must be answered, and wait for all of its answers."""
        number = self._send(message)
        self._good[number] = min_confidence
        outputs = (self.masks, self.labels, self.confidences)
        self.driver.spin_until(
            lambda: all(any(_number(m) == number for m in got) for got in outputs),
            f'the answers to frame {number}',
        )

    def bad(self, message, outcome):
        """Send a frame that must have no answer, and wait until the node has counted it."""
        before = self.driver.counts().get(outcome, 0)
        self._send(message)
        self.driver.spin_until(
            lambda: int(self.driver.diagnostics.get(f'frames {outcome}', 0)) == before + 1,
            f'the frame counted as {outcome}',
        )

    def unheard(self, message):
        """Send a frame that nobody may listen to."""
        self._send(message)

    def die_and_return(self):
        """End the camera, wait until the node knows, and come back."""
        self.driver.node.destroy_publisher(self.camera)
        self.driver.spin_until(
            lambda: 'no publisher' in self.driver.diagnostics.get('message', ''), 'the silence'
        )
        self.camera = self.driver.camera(*self._camera_of)

    def wait_for_camera(self):
        """Wait until the node listens again."""
        self.driver.spin_until(self.camera.get_subscription_count, 'the subscription')

    def testify(self):
        """Assert that all answers are of good frames, and drivable only where that is sure."""
        assert sorted(map(_number, self.masks)) == sorted(self._good)
        confidences = {_number(m): _pixels(m) for m in self.confidences}
        labels = {_number(m): _pixels(m) for m in self.labels}
        drivable_pixels = unsure_pixels = 0
        for message in self.masks:
            number, mask = _number(message), _pixels(message)
            sure = confidences[number] >= 255 * self._good[number]
            assert set(np.unique(mask)) <= {0, 255}
            assert not mask[~sure].any()
            if mask.shape == SIZE:  # enlarged, the border may differ by a pixel
                assert (labels[number][mask == 255] == ROAD).all()
            drivable_pixels += np.count_nonzero(mask)
            unsure_pixels += np.count_nonzero(~sure & (labels[number] == ROAD))
        assert drivable_pixels
        return unsure_pixels

    def _send(self, message):
        self._number += 1
        self.camera.publish(with_header(message, self._number))
        return self._number


def _number(message):
    return message.header.stamp.sec - with_header(Image(), 0).header.stamp.sec


def _pixels(message):
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)


def _broken_frames():
    """Yield images of every malformed kind."""
    for field, value in [('step', 100), ('height', 0), ('width', 0), ('encoding', 'rgb9')]:
        message = image_message(_street(0))
        setattr(message, field, value)
        yield message
    message = image_message(_street(0))
    del message.data[-1000:]
    yield message


def test_no_fault_of_frames_or_cameras_makes_a_pixel_drivable(driver, start):
    node = start(drivable__min_confidence=0.7)
    witness = Witness(driver)
    witness.good(image_message(_street(1)), 0.7)
    for broken in _broken_frames():
        witness.bad(broken, 'refused')
        witness.good(image_message(_street(2)), 0.7)

    # Confidence: the parameter acts on the next frame, hysteresis never below it.
    for threshold, hysteresis in ((0.95, 0.0), (0.6, 0.3), (0.8, 0.2)):
        driver.set_parameter('drivable.min_confidence', threshold)
        driver.set_parameter('drivable.hysteresis', hysteresis)
        for seed in (3, 4, 3):
            witness.good(image_message(_street(seed)), threshold)

    # Sizes that change, and time that jumps back, which ends what hysteresis remembers.
    witness.good(image_message(_street(5, (97, 131)), 'bgr8', 3), 0.8)
    witness.good(image_message(_street(5)), 0.8)

    # Stale frames.
    driver.set_parameter('input.max_age_ms', 1000.0)
    witness.bad(image_message(_street(6)), 'dropped: too old')
    driver.set_parameter('input.max_age_ms', 0.0)
    witness.good(image_message(_street(6)), 0.8)

    # A camera that dies, a node that is told not to listen, a node that is not active.
    witness.die_and_return()
    witness.good(image_message(_street(7)), 0.8)
    for off, on in (
        (
            lambda: driver.call(SetBool, 'enable', SetBool.Request(data=False)).success,
            lambda: driver.call(SetBool, 'enable', SetBool.Request(data=True)).success,
        ),
        (
            lambda: driver.transition(Transition.TRANSITION_DEACTIVATE),
            lambda: driver.transition(Transition.TRANSITION_ACTIVATE),
        ),
    ):
        assert off()
        witness.unheard(image_message(_street(8)))
        assert on()
        witness.wait_for_camera()
        witness.good(image_message(_street(8)), 0.8)

    assert witness.testify(), 'the test has no unsure road in it'
    assert 'Traceback' not in node.log


def test_no_broken_jpeg_makes_a_pixel_drivable(driver, start):
    node = start(input__transport='compressed')
    witness = Witness(driver, CompressedImage, 'image/compressed')
    for extension in ('.jpg', '.png'):
        witness.good(compressed_message(_street(1), extension))
        cut = compressed_message(_street(1), extension)
        del cut.data[len(cut.data) // 2 :]
        witness.bad(cut, 'refused')
        empty = compressed_message(_street(1), extension)
        del empty.data[:]
        witness.bad(empty, 'refused')
        witness.good(compressed_message(_street(2), extension))
    witness.testify()
    assert 'Traceback' not in node.log


def test_no_failed_inference_makes_a_pixel_drivable(driver, start, overflowing_model):
    node = start(model__path=overflowing_model)
    witness = Witness(driver)
    road = np.full((*SIZE, 3), 128, np.uint8)
    spoilt = road.copy()
    spoilt[40, 40:80, 0] = 250
    for _ in range(3):
        witness.good(image_message(road))
        witness.bad(image_message(spoilt), 'dropped: inference failed')
    witness.testify()
    assert all((_pixels(mask) == 255).all() for mask in witness.masks)
    assert 'Traceback' not in node.log


@contextlib.contextmanager
def _described(name):
    """Give a node of this process with a reported model and its description."""
    context = rclpy.Context()
    rclpy.init(context=context)
    model = Parameter('model.path', value=str(shared(f'field_cases/onnx/{name}.onnx')))
    node = SegmentationNode(context=context, parameter_overrides=[model])
    try:
        yield node
    finally:
        node.release()
        node.destroy_node()
        rclpy.shutdown(context=context)


@pytest.mark.parametrize(
    'name',
    [
        *('sigmoid_two_as_logits', 'two_softmax_as_logits', 'single_one', 'quoted_false'),
        *('mmseg_mean255_noscale', 'uint8_nhwc_default_scale'),
    ],
)
def test_no_wrong_description_makes_a_pixel_drivable(name):
    with _described(name) as node:
        assert not node.start()
        assert name in node.fault
        assert 'write' in node.fault


@pytest.mark.parametrize('name', ['logits_two', 'mmseg_mean255_scale1', 'labels_quarter'])
def test_of_a_right_description_the_dark_half_is_not_drivable(name, driver):
    image = cv2.imread(str(shared('field_cases/onnx/half.png')))[..., ::-1]
    with _described(name) as node:
        assert node.start()
        driver.executor.add_node(node)
        masks = driver.collect(Image, 'drivable_mask')
        driver.camera().publish(image_message(image))
        driver.spin_until(lambda: masks, 'the mask')
        driver.executor.remove_node(node)
    assert (_pixels(masks[0]) == np.where(image[..., 0] > 128, 255, 0)).all()
