"""Several cameras share one model: each has its own topics, headers, counts and its fair share."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')

from rclpy.parameter import Parameter  # noqa: E402
from ros_for_tests import DEADLINE_S, image_message  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from lwseg_ros.inference.segmenter import Segmenter  # noqa: E402
from lwseg_ros.label_space import LabelSpace  # noqa: E402
from lwseg_ros.ros.camera_input import Frame  # noqa: E402
from lwseg_ros.ros.node import SUCCESS, SegmentationNode  # noqa: E402

SPACE = LabelSpace.load('camvid')
SIZES = {'front': (96, 128), 'left': (60, 80), 'right': (97, 131)}


def _plain(name, size=(96, 128), number=1):
    """Return a message of one class all over."""
    return image_message(np.full((*size, 3), SPACE.palette[SPACE.class_id(name)]), number=number)


def _send(driver, cameras, message):
    for camera in cameras:
        camera.publish(message)
    driver.executor.spin_once(timeout_sec=0.02)


@pytest.mark.parametrize('max_batch', [0, 3])
def test_each_camera_has_its_own_topics_and_headers(driver, start, max_batch):
    node = start(cameras=f'[{",".join(SIZES)}]', model__max_batch=max_batch)
    masks = {name: driver.collect(Image, f'{name}/mask') for name in SIZES}
    drivable = {name: driver.collect(Image, f'{name}/drivable_mask') for name in SIZES}
    cameras = {name: driver.camera(topic=f'{name}/image') for name in SIZES}
    classes = dict(zip(SIZES, ('road', 'sky', 'car'), strict=True))
    sent = {name: _plain(classes[name], SIZES[name], i) for i, name in enumerate(SIZES)}
    for _ in range(3):
        for collected in (*masks.values(), *drivable.values()):
            collected.clear()
        for name, camera in cameras.items():
            camera.publish(sent[name])
        driver.spin_until(
            lambda: all(masks.values()) and all(drivable.values()), 'a mask of each camera'
        )
        for name, size in SIZES.items():
            assert masks[name][0].header == drivable[name][0].header == sent[name].header
            assert (masks[name][0].height, masks[name][0].width) == size
            assert set(masks[name][0].data) == {SPACE.class_id(classes[name])}
            assert set(drivable[name][0].data) == {255 if name == 'front' else 0}

    # The others go on without the one that is silent or broken.
    broken = _plain('road')
    broken.step = 7
    cameras['left'].publish(broken)
    driver.spin_until(
        lambda: 'step is 7' in driver.statuses['/segmentation/left']['message'], 'the refusal'
    )
    assert driver.counts('left') == {**driver.counts('front'), 'received': 4, 'refused': 1}
    assert driver.counts('right')['processed'] == 3
    assert driver.statuses['/segmentation/left']['level'] == '2'
    assert driver.node.count_publishers('/segmentation/mask') == 0
    assert node.log.count('model tiny runs on') == 1


def test_no_camera_starves(driver, start):
    rates_hz = {'fast': 60, 'faster': 120, 'slow': 30}
    start(cameras=f'[{",".join(rates_hz)}]', model__input_size='1400x1000')
    for name, rate_hz in rates_hz.items():
        camera = driver.camera(topic=f'{name}/image')
        message = _plain('road')
        driver.node.create_timer(1 / rate_hz, lambda c=camera, m=message: c.publish(m))

    def processed():
        return [
            int(driver.statuses.get(f'/segmentation/{name}', {}).get('frames processed', 0))
            for name in rates_hz
        ]

    driver.spin_until(lambda: min(processed()) > 0, 'an answer of each camera')
    before = processed()
    driver.spin_until(
        lambda: sum(processed()) - sum(before) >= 12, 'answers of an overloaded model'
    )
    answers = [now - then for now, then in zip(processed(), before, strict=True)]
    assert min(answers) >= max(answers) / 2 - 1
    fast = driver.statuses['/segmentation/faster']
    assert int(fast['frames dropped: newer frame']) > 0


def test_the_silence_of_each_camera_is_logged(driver, start):
    node = start(cameras='[front,left]')
    for name in ('front', 'left'):
        driver.spin_until(
            lambda n=name: f'[segmentation.{n}]: no frames: no publisher on /{n}' in node.log, name
        )


def test_a_frame_without_an_answer_does_not_cost_the_batch_its_own(
    driver, start, overflowing_model
):
    start(cameras='[good, bad]', model__path=overflowing_model, model__max_batch=2)
    masks = {name: driver.collect(Image, f'{name}/mask') for name in ('good', 'bad')}
    cameras = [driver.camera(topic=f'{name}/image') for name in ('bad', 'good')]
    bright, grey = (image_message(np.full((96, 128, 3), v, np.uint8)) for v in (200, 128))

    def answered(times):
        wanted = len(masks['good']) + times

        def send_both():
            for camera, message in zip(cameras, (bright, grey), strict=True):
                camera.publish(message)
            driver.executor.spin_once(timeout_sec=0.02)
            return len(masks['good']) >= wanted

        return send_both

    driver.spin_until(answered(10), 'ten masks of the good camera')
    assert not masks['bad']
    assert driver.counts('bad')['dropped: inference failed'] >= 3
    assert 'NaN or infinity' in driver.statuses['/segmentation/bad']['message']
    assert driver.state == 'active'


@contextmanager
def node_here(**parameters):
    """Give an active node in this process, for faults that no message and no model can bring."""
    context = rclpy.Context()
    rclpy.init(context=context)
    given = [Parameter(name.replace('__', '.'), value=v) for name, v in parameters.items()]
    node = SegmentationNode(context=context, parameter_overrides=given)
    try:
        assert node.trigger_configure() == node.trigger_activate() == SUCCESS
        yield node
    finally:
        node.release()
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_a_batch_that_finds_no_memory_does_not_end_the_work(monkeypatch, tiny_model):
    def call(self, image, *size):
        if isinstance(image, list):
            raise MemoryError
        return answer(self, image, *size)

    answer = Segmenter.__call__
    monkeypatch.setattr(Segmenter, '__call__', call)
    cameras = ['front', 'left']
    with node_here(model__path=str(tiny_model), model__max_batch=2, cameras=cameras) as node:
        worker, end = node._worker, time.monotonic() + DEADLINE_S
        while not all(camera.counts.snapshot()['processed'] > 3 for camera in node._cameras):
            assert worker.is_alive
            assert time.monotonic() < end
            for camera in node._cameras:
                worker.slots.put(camera.name, Frame(_plain('road'), time.monotonic()))
        assert node.fault == worker.fault == ''


def test_an_inference_that_does_not_end_is_told(driver, monkeypatch, tiny_model):
    released = threading.Event()
    answer = Segmenter.__call__
    monkeypatch.setattr(Segmenter, '__call__', lambda *a: released.wait() and answer(*a))
    monkeypatch.setattr('lwseg_ros.ros.worker.STUCK_S', 0.2)
    with node_here(model__path=str(tiny_model)) as node:

        def message():
            node._diagnose()
            return driver.diagnostics.get('message', '')

        node._worker.slots.put('', Frame(_plain('road'), time.monotonic()))
        driver.spin_until(lambda: 'has been running for' in message(), 'a word about it')
        assert driver.diagnostics['level'] == '2'
        released.set()
        driver.spin_until(lambda: 'has been running for' not in message(), 'that it ended')
        assert node._cameras[0].counts.snapshot()['processed'] == 1
