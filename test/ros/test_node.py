"""The real node, in its own process, driven over the real middleware as a robot would."""

from __future__ import annotations

import signal

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from ros_for_tests import (  # noqa: E402
    BEST_EFFORT,
    RELIABLE,
    compressed_message,
    image_message,
    with_header,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest  # noqa: E402
from std_srvs.srv import SetBool  # noqa: E402

from lwseg_ros.files import sha256  # noqa: E402
from lwseg_ros.label_space import IGNORE_ID, LabelSpace  # noqa: E402
from lwseg_ros.ros.outputs import scaled_camera_info  # noqa: E402

SPACE = LabelSpace.load('camvid')
ROAD = SPACE.class_id('road')
NETWORK_SIZE = (96, 128)


def _labels(size=NETWORK_SIZE, seed=0):
    """Return a label image of 16x16 blocks, uint8 [H, W], with some road in it."""
    height, width = size
    blocks = np.random.default_rng(seed).integers(
        0, SPACE.num_classes, (-(-height // 16), -(-width // 16))
    )
    blocks[-1] = ROAD
    return np.kron(blocks, np.ones((16, 16))).astype(np.uint8)[:height, :width]


def _agree(mask, labels):
    """Tell whether both are the same inside each block; edges are the network's affair."""
    height, width = NETWORK_SIZE
    middle = np.kron(np.ones((6, 8)), np.pad(np.ones((8, 8)), 4)).astype(bool)
    return np.array_equal(mask[:height, :width][middle], labels[:height, :width][middle])


def _painted(labels):
    """Return the picture that the tiny model turns into these labels, RGB uint8 [H, W, 3]."""
    return SPACE.palette[labels]


def _pixels(message):
    channels = {'mono8': (), 'rgb8': (3,)}[message.encoding]
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, *channels)


def test_images_in_masks_out(driver, start, tiny_model):
    node = start()
    masks = driver.collect(Image, 'mask')
    confidences = driver.collect(Image, 'confidence')
    drivable_masks = driver.collect(Image, 'drivable_mask')
    camera = driver.camera()
    outputs = (masks, confidences, drivable_masks)

    def send(message):
        for output in outputs:
            output.clear()
        camera.publish(message)
        driver.spin_until(lambda: all(outputs), 'mask, confidence and drivable mask')
        return message.header

    # The size and the encoding change from frame to frame.
    sizes = (NETWORK_SIZE, (97, 131), (192, 256))
    for number, (size, encoding, padding) in enumerate(
        zip(sizes, ('rgb8', 'bgr8', 'rgb8'), (0, 5, 3), strict=True)
    ):
        header = send(image_message(_painted(_labels(size)), encoding, padding, number))
        for (message,) in outputs:
            assert message.header == header
            assert (message.height, message.width) == size
            assert message.encoding == 'mono8'
            assert message.step == message.width
            assert len(message.data) == message.height * message.width
    # At the network's own size the tiny model is exact inside the blocks.
    labels = _labels(seed=1)
    header = send(image_message(_painted(labels), number=9))
    mask, confidence, drivable = (_pixels(output[0]) for output in outputs)
    assert _agree(mask, labels)
    assert np.array_equal(drivable, np.where((mask == ROAD) & (confidence >= 128), 255, 0))
    assert drivable.any()

    # A malformed frame is refused, and says so; the node goes on.
    broken = image_message(_painted(labels))
    broken.step = 7
    camera.publish(broken)
    driver.spin_until(lambda: 'frame refused: step is 7' in node.log, 'the refusal in the log')
    assert driver.counts()['refused'] == 1
    send(image_message(_painted(labels), number=10))

    # Live parameters act on the next frame.
    assert driver.set_parameter('output.min_confidence', 1.0) == (True, '')
    assert driver.set_parameter('drivable.min_confidence', 1.0) == (True, '')
    send(image_message(_painted(labels), number=11))
    confidence = _pixels(confidences[0])
    assert (confidence < 255).any()
    assert np.array_equal(_pixels(masks[0]), np.where(confidence < 255, IGNORE_ID, mask))
    assert not _pixels(drivable_masks[0])[confidence < 255].any()
    driver.set_parameter('drivable.min_confidence', 0.0)
    driver.set_parameter('drivable.min_region_fraction', 1.0)
    send(image_message(_painted(labels), number=12))
    assert not _pixels(drivable_masks[0]).any()
    taken, reason = driver.set_parameter('output.min_confidence', 2.0)
    assert not taken
    assert '1.0' in reason
    taken, reason = driver.set_parameter('model.path', '/other.onnx')
    assert not taken
    assert 'while the node is configured' in reason

    # Frames beyond the rate limit and too old ones are dropped, and every frame is accounted for.
    before = driver.counts()
    driver.set_parameter('input.max_rate_hz', 0.01)
    masks.clear()
    for number in range(30):
        camera.publish(image_message(_painted(labels), number=number))
        driver.executor.spin_once(timeout_sec=0.01)
    counts = driver.counts()
    assert counts['dropped: rate limit'] > 10
    driver.set_parameter('input.max_rate_hz', 0.0)
    driver.set_parameter('input.max_age_ms', 1000.0)  # the stamps are years old
    camera.publish(image_message(_painted(labels)))
    driver.spin_until(
        lambda: driver.diagnostics.get('frames dropped: too old') == '1', 'the old frame dropped'
    )
    counts = driver.counts()
    assert counts['received'] == counts['processed'] + counts['dropped'] + counts['refused']
    assert counts['processed'] - before['processed'] == len(masks)
    assert driver.diagnostics['model_sha256'] == sha256(tiny_model)

    assert node.stop() < 1.0
    assert node.process.returncode == 0
    assert 'Traceback' not in node.log


def test_lazy_outputs(driver, start):
    start(output__size='network', output__overlay_alpha=1.0)
    masks = driver.collect(Image, 'mask')
    camera = driver.camera()
    calibration = driver.node.create_publisher(CameraInfo, 'camera_info', RELIABLE)
    driver.spin_until(calibration.get_subscription_count, 'the node on camera_info')
    labels = _labels()
    picture = cv2.resize(_painted(labels), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    camera.publish(image_message(picture))
    driver.spin_until(lambda: masks, 'the mask of the network size')
    assert _agree(_pixels(masks[0]), labels)
    mask = _pixels(masks[0])

    wanted = {'color_mask': Image, 'overlay': Image, 'camera_info': CameraInfo}
    wanted['timing'] = DiagnosticArray
    collected = {name: driver.collect(kind, name) for name, kind in wanted.items()}
    outputs = {}
    info = CameraInfo(width=256, height=192, distortion_model='plumb_bob', d=[0.1, 0, 0, 0, 0])
    info.k = [200.0, 0, 128, 0, 210, 96, 0, 0, 1]
    info.p = [200.0, 0, 128, -20, 0, 210, 96, 0, 0, 0, 1, 0]

    def everything():
        calibration.publish(info)
        camera.publish(image_message(picture, number=7))
        driver.executor.spin_once(timeout_sec=0.05)
        for name, messages in collected.items():
            for message in messages:
                if message.header == expected:
                    outputs[name] = message
        return len(outputs) == len(wanted)

    expected = with_header(Image(), 7).header
    driver.spin_until(everything, f'all of {list(wanted)} with the header of the frame')
    assert outputs['color_mask'].encoding == outputs['overlay'].encoding == 'rgb8'
    assert np.array_equal(_pixels(outputs['color_mask']), _painted(mask))
    assert np.array_equal(_pixels(outputs['overlay'])[::2, ::2], _painted(mask))
    scaled = outputs['camera_info']
    assert (scaled.width, scaled.height) == (128, 96)
    assert scaled.k.tolist() == [100, 0, 64, 0, 105, 48, 0, 0, 1]
    assert scaled.p.tolist() == [100, 0, 64, -10, 0, 105, 48, 0, 0, 0, 1, 0]
    assert scaled.d == info.d
    times = {value.key: float(value.value) for value in outputs['timing'].status[0].values}
    assert list(times) == ['wait_ms', 'decode_ms', 'infer_ms', 'publish_ms', 'age_ms']
    assert all(ms >= 0 for ms in times.values())


def test_camera_info_of_a_binned_region_fits_its_mask():
    info = CameraInfo(width=1280, height=960, binning_x=2, binning_y=2)
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 320, 200, 640, 480
    info.k = [800.0, 0, 640, 0, 840, 480, 0, 0, 1]
    info.p = [800.0, 0, 640, -40, 0, 840, 480, 0, 0, 0, 1, 0]
    scaled = scaled_camera_info(info, info.header, 160, 120)
    assert (scaled.width, scaled.height) == (160, 120)
    assert scaled.k.tolist() == [200, 0, 80, 0, 210, 70, 0, 0, 1]
    assert scaled.p.tolist() == [200, 0, 80, -10, 0, 210, 70, 0, 0, 0, 1, 0]
    assert (scaled.binning_x, scaled.binning_y, scaled.roi) == (0, 0, RegionOfInterest())
    assert info.k[0] == 800


@pytest.mark.parametrize('first', [RELIABLE, BEST_EFFORT])
def test_late_publisher_of_either_reliability_and_its_restart(driver, start, first):
    start()
    masks = driver.collect(Image, 'mask')
    driver.spin_until(lambda: driver.diagnostics.get('level') == '2', 'an error about silence')
    assert driver.diagnostics['message'] == 'no frames: no publisher on /image'
    second = BEST_EFFORT if first is RELIABLE else RELIABLE
    for qos in (first, second):
        masks.clear()
        camera = driver.camera(qos=qos)

        def answered(camera=camera):
            camera.publish(image_message(_painted(_labels())))
            driver.executor.spin_once(timeout_sec=0.1)
            return masks

        driver.spin_until(answered, 'a mask')
        driver.spin_until(lambda: driver.diagnostics['level'] == '0', 'all well again')
        driver.node.destroy_publisher(camera)
        driver.spin_until(lambda: driver.node.count_publishers('/image') == 0, 'camera gone')


def test_silence_is_explained(driver, start):
    remap = ('-r', 'image:=/front/image', '-r', '~/mask:=/front/mask')
    start(*remap, input__reliability='reliable')
    other = driver.node.create_publisher(Image, '/rear/image', BEST_EFFORT)
    driver.spin_until(
        lambda: (
            driver.diagnostics.get('message') == 'no frames: no publisher on /front/image: '
            'remap it to /rear/image'
        ),
        'the topic that exists',
    )
    driver.node.destroy_publisher(other)
    wrong_type = driver.node.create_publisher(CompressedImage, '/front/image', RELIABLE)
    driver.spin_until(
        lambda: 'carries sensor_msgs/msg/CompressedImage' in driver.diagnostics['message'],
        'the wrong type',
    )
    driver.node.destroy_publisher(wrong_type)
    driver.node.create_publisher(Image, '/front/image', BEST_EFFORT)
    driver.spin_until(
        lambda: 'set it to auto' in driver.diagnostics['message'], 'the wrong reliability'
    )
    assert driver.set_parameter('input.reliability', 'auto') == (True, '')
    driver.spin_until(
        lambda: 'fastdds' in driver.diagnostics['message'], 'the silent camera, with the remedy'
    )


def test_compressed_input_and_enable(driver, start):
    # Of sides 4 n + 1 the network sees every fourth pixel where it is, none that JPEG has smeared.
    node = start(input__transport='compressed', model__input_size='129x97')
    masks = driver.collect(Image, 'mask')
    camera = driver.camera(CompressedImage, 'image/compressed')
    labels = _labels((97, 129))
    for extension in ('.png', '.jpg'):
        masks.clear()
        message = compressed_message(_painted(labels), extension)
        camera.publish(message)
        driver.spin_until(lambda: masks, f'the mask of a {extension}')
        assert masks[0].header == message.header
        assert _agree(_pixels(masks[0]), labels)
    del message.data[200:]
    camera.publish(message)
    driver.spin_until(lambda: 'frame refused: data' in node.log, 'the refusal of a cut-off JPEG')

    assert driver.call(SetBool, 'enable', SetBool.Request(data=False)).success
    driver.spin_until(lambda: camera.get_subscription_count() == 0, 'no subscription')
    assert driver.call(SetBool, 'enable', SetBool.Request(data=True)).success
    driver.spin_until(camera.get_subscription_count, 'the subscription again')
    masks.clear()
    camera.publish(compressed_message(_painted(labels), '.png'))
    driver.spin_until(lambda: masks, 'a mask after enabling')


def test_lifecycle_by_its_services(driver, start, tiny_model):
    node = start(autostart=False, model__path='/no/such/model.onnx')
    assert driver.state == 'unconfigured'
    assert not driver.transition(Transition.TRANSITION_CONFIGURE)
    assert driver.state == 'unconfigured'
    assert "there is no model '/no/such/model.onnx'" in node.log
    assert driver.set_parameter('model.path', str(tiny_model)) == (True, '')
    for _ in range(2):
        assert driver.transition(Transition.TRANSITION_CONFIGURE)
        assert driver.state == 'inactive'
        assert driver.transition(Transition.TRANSITION_ACTIVATE)
        # A transition that is not possible now is answered, and does not end the node.
        assert not driver.transition(Transition.TRANSITION_ACTIVATE)
        assert driver.state == 'active'
        masks = driver.collect(Image, 'mask')
        camera = driver.camera()
        camera.publish(image_message(_painted(_labels())))
        driver.spin_until(lambda masks=masks: masks, 'a mask')
        assert driver.transition(Transition.TRANSITION_DEACTIVATE)
        assert driver.state == 'inactive'
        driver.spin_until(
            lambda camera=camera: camera.get_subscription_count() == 0, 'no subscription'
        )
        assert driver.transition(Transition.TRANSITION_CLEANUP)
        assert driver.state == 'unconfigured'
        assert driver.node.count_publishers('/segmentation/mask') == 0
    assert driver.transition(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert driver.state == 'finalized'
    assert node.stop(signal.SIGTERM) < 1.0
    assert node.process.returncode == 0


def test_label_info_for_late_consumers(driver, start):
    messages = pytest.importorskip('vision_msgs.msg')
    start(label_space__publish_classes='[road, car]', output__min_confidence=0.25)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    infos = driver.collect(messages.LabelInfo, 'label_info', latched)
    driver.spin_until(lambda: infos, 'the label info')
    published = {c.class_name: c.class_id for c in infos[0].class_map}
    assert published == {name: SPACE.class_id(name) for name in ('road', 'car')}
    assert infos[0].threshold == 0.25


def test_failures_in_a_row_end_in_the_error_state_and_the_lifecycle_goes_on(
    driver, start, overflowing_model
):
    node = start(model__path=overflowing_model)
    masks = driver.collect(Image, 'mask')
    drivable_masks = driver.collect(Image, 'drivable_mask')
    camera = driver.camera()
    bright = image_message(np.full((*NETWORK_SIZE, 3), 200, np.uint8))

    def failed():
        camera.publish(bright)
        driver.executor.spin_once(timeout_sec=0.05)
        return 'inferences in a row failed' in driver.diagnostics.get('message', '')

    driver.spin_until(failed, 'the fault in the diagnostics')
    assert driver.diagnostics['level'] == '2'
    assert driver.state == 'unconfigured'
    assert not masks
    assert not drivable_masks
    assert driver.counts()['dropped: inference failed'] == 5
    assert 'Traceback' not in node.log
    assert driver.transition(Transition.TRANSITION_CONFIGURE)
    assert driver.transition(Transition.TRANSITION_ACTIVATE)
    driver.spin_until(camera.get_subscription_count, 'the subscription again')
    camera.publish(image_message(np.full((*NETWORK_SIZE, 3), 128, np.uint8)))
    driver.spin_until(lambda: masks, 'a mask after recovery')


def test_stop_during_a_long_inference(driver, start):
    node = start(model__input_size='4000x4000', model__warmup_iterations=0)
    camera = driver.camera()
    camera.publish(image_message(_painted(_labels())))
    driver.spin_until(
        lambda: driver.diagnostics.get('frames received') == '1', 'the frame in the node'
    )
    assert driver.diagnostics['frames processed'] == '0'
    assert node.stop() < 1.0
    assert node.process.returncode == 0
    assert 'Traceback' not in node.log


@pytest.mark.alone
def test_camera_images_cross_between_processes_without_loss(driver, start):
    start(input__max_rate_hz=1.0)
    camera = driver.camera(qos=BEST_EFFORT)
    message = image_message(np.zeros((720, 1280, 3), np.uint8))
    sent = 60
    numbers = iter(range(sent))
    timer = driver.node.create_timer(
        1 / 30,
        lambda: camera.publish(message) if next(numbers, None) is not None else timer.cancel(),
    )
    driver.spin_until(timer.is_canceled, 'all images sent')
    # Fast DDS's default transport loses three of four; a busy host may be late for one or two.
    assert driver.counts()['received'] >= 0.95 * sent


@pytest.mark.parametrize(
    ('parameters', 'sentence'),
    [
        ({'model__path': '/no/such/model.onnx'}, "there is no model '/no/such/model.onnx'"),
        ({'model__path': __file__}, 'is not a model'),
        ({'label_space__path': 'voc'}, "label_space.path is 'voc'"),
        ({'label_space__drivable_classes': '[lava]'}, "no class 'lava'"),
        ({'output__min_confidence': 7.0}, 'parameter output.min_confidence is 7.0: wanted'),
        ({'output__colour': 1}, 'there is no parameter output.colour'),
        ({'use_sim_time': 'maybe'}, "parameter 'use_sim_time' to 'maybe'"),
    ],
)
def test_a_node_that_cannot_start_says_why_in_one_sentence_and_fails(start, parameters, sentence):
    _fails(start(**parameters), sentence)


def test_unknown_ros_arguments_are_refused(start):
    _fails(start('--no-such'), "these are no ROS arguments: ['--no-such'")


def _fails(node, sentence):
    assert node.wait() == 1
    lines = [line for line in node.log.splitlines() if '[ERROR]' in line or '[FATAL]' in line]
    assert len(lines) == 1
    assert sentence in lines[0]
    assert 'Traceback' not in node.log
