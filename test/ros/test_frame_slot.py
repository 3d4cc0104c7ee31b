"""One place for each camera, the newest wins, and no frame is lost without being counted."""

import threading
from collections import Counter

import pytest

from lwseg_ros.ros.frame_slot import FrameSlots


def test_newest_replaces_the_waiting_one():
    slots = FrameSlots()
    assert slots.put('front', 1)
    assert not slots.put('front', 2)
    assert slots.take() == [('front', 2)]
    assert slots.put('front', 3)


def test_close_ends_the_waiting():
    slots = FrameSlots()
    taken = []
    waiter = threading.Thread(target=lambda: taken.append(slots.take()))
    waiter.start()
    assert slots.close() == []
    waiter.join(5)
    assert taken == [[]]


def test_close_gives_back_the_loss_and_stays_closed():
    slots = FrameSlots()
    slots.put('left', 1)
    slots.put('right', 1)
    assert slots.close() == ['left', 'right']
    assert slots.is_closed
    assert slots.take() == []
    assert not slots.put('left', 2)
    assert slots.take() == []
    assert slots.close() == []


def test_clear_leaves_the_others_and_stays_open():
    slots = FrameSlots()
    slots.put('left', 1)
    slots.put('right', 2)
    assert slots.clear('left')
    assert not slots.clear('left')
    assert slots.take(5) == [('right', 2)]
    assert slots.put('left', 3)
    assert slots.take() == [('left', 3)]


def test_a_fast_camera_does_not_keep_the_others_waiting():
    slots = FrameSlots()
    served = Counter()
    for number in range(300):
        for _ in range(5):
            slots.put('fast', number)
        slots.put('slow', number)
        slots.put('slower', number // 10)
        ((camera, _),) = slots.take()
        served[camera] += 1
    assert served == {'fast': 100, 'slow': 100, 'slower': 100}


def test_frames_that_wait_together_are_taken_together():
    slots = FrameSlots()
    for camera in ('front', 'left', 'right'):
        slots.put(camera, 1)
    slots.put('front', 2)
    assert slots.take(2) == [('front', 2), ('left', 1)]
    slots.put('front', 3)
    assert slots.take(9) == [('right', 1), ('front', 3)]


@pytest.mark.parametrize('cameras', [1, 3])
def test_every_frame_is_taken_or_reported_lost(cameras):
    slots = FrameSlots()
    taken = {str(camera): [] for camera in range(cameras)}

    def take_all():
        while frames := slots.take(2):
            for camera, frame in frames:
                taken[camera].append(frame)

    worker = threading.Thread(target=take_all)
    worker.start()
    lost = sum(not slots.put(str(i % cameras), i) for i in range(20_000))
    lost += len(slots.close())
    worker.join(5)
    assert sum(map(len, taken.values())) + lost == 20_000
    assert all(frames == sorted(frames) for frames in taken.values())
