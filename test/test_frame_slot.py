"""One place, the newest wins, and no frame is lost without being counted."""

import threading

from lwseg_ros.ros.frame_slot import FrameSlot


def test_newest_replaces_the_waiting_one():
    slot = FrameSlot()
    assert slot.put(1)
    assert not slot.put(2)
    assert slot.take() == 2
    assert slot.put(3)


def test_close_ends_the_waiting():
    slot = FrameSlot()
    taken = []
    waiter = threading.Thread(target=lambda: taken.append(slot.take()))
    waiter.start()
    assert not slot.close()
    waiter.join(5)
    assert taken == [None]


def test_close_gives_back_the_loss_and_stays_closed():
    slot = FrameSlot()
    slot.put(1)
    assert slot.close()
    assert slot.take() is None
    assert not slot.put(2)
    assert slot.take() is None
    assert not slot.close()


def test_clear_leaves_the_slot_open():
    slot = FrameSlot()
    slot.put(1)
    assert slot.clear()
    assert not slot.clear()
    assert slot.put(2)
    assert slot.take() == 2


def test_every_frame_is_taken_or_reported_lost():
    slot = FrameSlot()
    taken = []

    def take_all():
        while True:
            frame = slot.take()
            if frame is None:
                return
            taken.append(frame)

    worker = threading.Thread(target=take_all)
    worker.start()
    lost = sum(not slot.put(i) for i in range(1, 20_001))
    lost += slot.close()
    worker.join(5)
    assert len(taken) + lost == 20_000
    assert taken == sorted(taken)
