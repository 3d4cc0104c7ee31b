"""More frames than the model can take, and time that stands still, jumps and starts anew."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')
pytestmark = pytest.mark.alone

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from ros_for_tests import RELIABLE, image_message  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

FULL_HD = np.zeros((1080, 1920, 3), np.uint8)
SMALL = np.zeros((96, 128, 3), np.uint8)
RATE_HZ = 60
OVERLOAD_S = 6.0
BUSY_HOST_S = 0.5


@pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='reads memory from /proc')
def test_overload_costs_frames_but_neither_age_nor_memory(driver, start):
    node = start(model__input_size='1400x1000', model__warmup_iterations=0, output__size='network')
    masks = driver.collect(Image, 'mask')
    timings = driver.collect(DiagnosticArray, 'timing')
    camera = driver.camera()
    message = image_message(FULL_HD)
    good, bad = message.step, 7
    sent = 0

    def send():
        nonlocal sent
        sent += 1
        message.step = bad if sent % 10 == 0 else good
        message.header.stamp = driver.node.get_clock().now().to_msg()
        camera.publish(message)

    timer = driver.node.create_timer(1 / RATE_HZ, send)
    driver.spin_until(lambda: len(masks) >= 5, 'the first masks')
    before_mb = _memory_mb(node)
    end_s = time.monotonic() + OVERLOAD_S
    driver.spin_until(lambda: time.monotonic() > end_s, 'the end of the overload')
    after_mb = _memory_mb(node)
    timer.cancel()
    counts = driver.counts()

    assert counts['received'] == counts['processed'] + counts['dropped'] + counts['refused']
    assert counts['received'] + counts['lost'] <= sent
    assert counts['dropped: newer frame'] > counts['processed']
    driver.spin_until(lambda: len(masks) == counts['processed'], 'a mask of each processed frame')
    assert after_mb - before_mb < 50  # eight frames
    for timing in timings:
        ms = {value.key: float(value.value) for value in timing.status[0].values}
        work_ms = ms['decode_ms'] + ms['infer_ms'] + ms['publish_ms']
        # One inference and one period, and what a busy host takes; a queue would double it.
        assert ms['age_ms'] <= 1.25 * work_ms + 1e3 * (1 / RATE_HZ + BUSY_HOST_S)


@pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='reads memory from /proc')
def test_a_frame_leaves_nothing_behind(driver, start):
    node = start(input__max_rate_hz=50.0)
    camera = driver.camera()
    message = image_message(SMALL[:8, :8])

    driver.node.create_timer(1e-3, lambda: camera.publish(message))

    def memory_mb_after(frames):
        driver.spin_until(
            lambda: int(driver.diagnostics.get('frames received', 0)) >= frames, f'{frames} frames'
        )
        return _memory_mb(node)

    first_mb = memory_mb_after(2_000)
    assert memory_mb_after(8_000) - first_mb < 1  # 170 bytes a frame


def test_simulated_time_may_jump_and_stamps_be_missing(driver, start):
    start('-p', 'use_sim_time:=true', input__max_age_ms=500.0)
    masks = driver.collect(Image, 'mask')
    camera = driver.camera()
    clock = driver.node.create_publisher(Clock, '/clock', 10)
    driver.spin_until(clock.get_subscription_count, 'the node on /clock')
    outcomes = ('processed', 'dropped: too old')

    def set_clock(seconds):
        """Set the simulated time; the diagnostics are stamped with it."""
        message = Clock()
        message.clock.sec = seconds

        def told():
            clock.publish(message)
            driver.executor.spin_once(timeout_sec=0.05)
            return driver.stamp_s == seconds

        driver.spin_until(told, f'the node at {seconds} s')

    def outcome(seconds):
        """Send a frame of this stamp; return what becomes of it."""
        before = driver.counts()
        message = image_message(SMALL)
        message.header.stamp.sec, message.header.stamp.nanosec = seconds, 0
        camera.publish(message)
        driver.spin_until(
            lambda: driver.counts()['received'] > before['received'], 'the frame received'
        )
        after = driver.counts()
        return [what for what in outcomes if after.get(what, 0) > before.get(what, 0)]

    # The clock has not come yet, frames have; then both run.
    assert outcome(100) == ['processed']
    set_clock(100)
    assert outcome(100) == ['processed']
    assert outcome(90) == ['processed']  # back: the clock is expected to follow
    set_clock(90)
    # Without stamps there is no age.
    assert outcome(0) == ['processed']
    assert outcome(-5) == ['processed']
    # The bag starts anew, and its frames come before its clock.
    assert outcome(95) == ['processed']
    assert outcome(1) == ['processed']
    set_clock(1)
    assert outcome(2) == ['processed']
    # The clock jumps ahead: now a frame is old indeed.
    set_clock(50)

    def found_old():
        return outcome(3) == ['dropped: too old']

    driver.spin_until(found_old, 'an old frame dropped')
    assert driver.diagnostics['level'] == '2'
    assert 'input.max_age_ms is 500' in driver.diagnostics['message']
    masks.clear()
    assert outcome(50) == ['processed']
    assert masks[0].header.stamp.sec == 50


def test_old_stamps_without_simulated_time_are_old_however_they_jump(driver, start):
    start(input__max_age_ms=1000.0)
    masks = driver.collect(Image, 'mask')
    camera = driver.camera(qos=RELIABLE)
    for number in (7, 3, 0):
        camera.publish(image_message(SMALL, number=number))
        driver.spin_until(
            lambda: driver.counts()['received'] == driver.counts().get('dropped: too old'),
            'the old frame dropped',
        )
    assert not masks


def _memory_mb(node):
    pages = int(Path('/proc', str(node.process.pid), 'statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGESIZE') / 1e6
