"""Flicker is what changes though the scene does not: motion alone is none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lwseg_ros.inference.segmenter import Segmentation
from lwseg_ros.replay.stability import Stability

HEIGHT, WIDTH = 180, 320


def world() -> tuple[np.ndarray, np.ndarray]:
    """Return a textured picture larger than the image, and its labels."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)
    picture = cv2.resize(noise, (800, 480), interpolation=cv2.INTER_CUBIC)
    labels = np.zeros((480, 800), np.uint8)
    labels[200:] = 3
    cv2.circle(labels, (330, 220), 60, 8, -1)
    return picture, labels


def answer(labels: np.ndarray) -> Segmentation:
    return Segmentation(
        labels, np.full_like(labels, 200), np.where(labels == 3, 255, 0).astype(np.uint8)
    )


def view(x: float, y: float) -> tuple[np.ndarray, Segmentation]:
    """Return the image and labels as the camera sees them, moved by parts of pixels too."""
    matrix = np.array([[1, 0, -x], [0, 1, -y]], np.float64)
    picture, labels = world()
    return (
        cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT)),
        answer(cv2.warpAffine(labels, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_NEAREST)),
    )


def changes(frames, period_ns: int = 50_000_000):
    stability = Stability()
    return [stability.update(*frame, i * period_ns) for i, frame in enumerate(frames)]


def test_a_still_picture_does_not_flicker() -> None:
    first, second = changes([view(100, 100)] * 2)
    assert first is None
    assert second == (HEIGHT * WIDTH, 0, second.drivable_either, second.drivable_either, 0.0)
    assert second.drivable_either == np.count_nonzero(view(100, 100)[1].labels == 3)


def test_motion_is_no_flicker() -> None:
    frames = [view(100 + 3.4 * i, 100 - 1.7 * i) for i in range(6)]
    for change in changes(frames)[1:]:
        assert change.compared > 0.9 * HEIGHT * WIDTH
        assert change.changed <= 0.001 * change.compared
        assert change.drivable_both >= 0.97 * change.drivable_either
        moved = np.hypot(3.4, 1.7) / np.hypot(HEIGHT, WIDTH)
        assert change.moved == pytest.approx(moved, rel=0.1)


def test_labels_that_change_are_counted_and_only_those() -> None:
    frames = []
    for i in range(6):
        image, segmentation = view(100 + 2 * i, 100)
        labels = segmentation.labels.copy()
        if i % 2:
            labels[20:60, 200:260] = 5  # comes and goes
        frames.append((image, answer(labels)))
    for change in changes(frames)[1:]:
        assert change.changed == pytest.approx(40 * 60, rel=0.1)


def test_a_road_that_comes_and_goes_is_unstable() -> None:
    image, segmentation = view(100, 100)
    less = segmentation.labels.copy()
    less[150:] = 4
    (_, change) = changes([(image, segmentation), (image, answer(less))])
    lost = np.count_nonzero(segmentation.labels[150:] == 3)
    total = np.count_nonzero(segmentation.labels == 3)
    assert change.drivable_both / change.drivable_either == pytest.approx(1 - lost / total)


def test_frames_far_apart_or_of_another_size_are_not_compared() -> None:
    frame = view(100, 100)
    assert changes([frame, frame], period_ns=600_000_000) == [None, None]
    assert changes([frame, frame], period_ns=0) == [None, None]
    small = cv2.resize(frame[0], (160, 90)), answer(cv2.resize(frame[1].labels, (160, 90)))
    assert changes([frame, small, small])[:2] == [None, None]
    assert changes([frame, small, small])[2] is not None


def test_large_images_are_compared_on_the_grid() -> None:
    image, segmentation = view(100, 100)
    large = (
        cv2.resize(image, (1280, 720)),
        answer(cv2.resize(segmentation.labels, (1280, 720), interpolation=cv2.INTER_NEAREST)),
    )
    assert changes([large, large])[1].compared == HEIGHT * WIDTH
