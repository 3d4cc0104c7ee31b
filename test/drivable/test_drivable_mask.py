"""The drivable mask never holds a pixel that is not surely drivable."""

from __future__ import annotations

import numpy as np
import pytest

from lwseg_ros.drivable.mask import DrivableArea, drivable_mask
from lwseg_ros.errors import LwsegError
from lwseg_ros.inference.segmenter import Segmentation


def segmentation(score: np.ndarray, confidence: np.ndarray | int = 255) -> Segmentation:
    score = score.astype(np.uint8)
    sure = np.broadcast_to(np.uint8(confidence), score.shape).copy()
    return Segmentation(np.zeros_like(score), sure, score)


def test_score_decides_at_128() -> None:
    score = np.arange(256).reshape(16, 16)
    mask = drivable_mask(segmentation(score))
    assert mask.dtype == np.uint8
    assert (mask == np.where(score >= 128, 255, 0)).all()


def test_low_confidence_is_not_drivable() -> None:
    confidence = np.arange(256).reshape(16, 16)
    mask = drivable_mask(segmentation(np.full((16, 16), 255), confidence), min_confidence=0.75)
    assert (mask == np.where(confidence >= 0.75 * 255, 255, 0)).all()


def test_no_option_adds_a_pixel() -> None:
    random = np.random.default_rng(0)
    answer = segmentation(random.integers(0, 256, (90, 120)), random.integers(0, 256, (90, 120)))
    allowed = (answer.drivable_score >= 128) & (answer.confidence >= 128)
    for options in (
        {'min_region_fraction': 0.001},
        {'ego_connected': True},
    ):
        mask = drivable_mask(answer, min_confidence=0.5, **options)
        assert set(np.unique(mask)) <= {0, 255}
        assert not (mask[~allowed]).any()


def test_small_regions_go() -> None:
    score = np.zeros((100, 100))
    score[:20, :20] = 255
    score[50:55, 50:55] = 255
    mask = drivable_mask(segmentation(score), min_region_fraction=0.01)
    assert mask[:20, :20].all()
    assert np.count_nonzero(mask) == 400


def test_only_the_region_before_the_vehicle_stays() -> None:
    score = np.zeros((100, 90))
    score[40:, 35:50] = 255
    score[40:, :20] = 255
    score[40:60, 70:] = 255
    mask = drivable_mask(segmentation(score), ego_connected=True)
    assert mask[40:, 35:50].all()
    assert np.count_nonzero(mask) == 60 * 15


def test_nothing_before_the_vehicle_is_nothing_drivable() -> None:
    score = np.zeros((100, 90))
    score[:50] = 255
    assert not drivable_mask(segmentation(score), ego_connected=True).any()


@pytest.mark.parametrize(
    'option', [{'min_confidence': 1.5}, {'min_region_fraction': float('nan')}]
)
def test_impossible_options_are_refused(option: dict[str, float]) -> None:
    with pytest.raises(LwsegError, match=next(iter(option))):
        drivable_mask(segmentation(np.zeros((4, 4))), **option)


def confident(*levels: int) -> Segmentation:
    """Return an answer of one row, all drivable, with these confidences."""
    return segmentation(np.full((1, len(levels)), 255), np.array([levels]))


def test_hysteresis_wants_more_of_a_pixel_that_was_not_drivable() -> None:
    area = DrivableArea()
    masks = [
        area.update(confident(*levels), min_confidence=0.4, hysteresis=0.2).tolist()
        for levels in [
            (152, 153, 255, 101),
            (152, 102, 101, 255),
            (255, 102, 152, 102),
            (102, 101, 153, 102),
        ]
    ]
    assert masks == [
        [[0, 255, 255, 0]],
        [[0, 255, 0, 255]],
        [[255, 255, 0, 255]],
        [[255, 0, 255, 255]],
    ]


def test_hysteresis_never_asks_for_more_than_certainty() -> None:
    area = DrivableArea()
    assert area.update(confident(254, 255), min_confidence=0.9, hysteresis=0.5).tolist() == [
        [0, 255]
    ]


@pytest.mark.parametrize('between', ['forget', 'another size'])
def test_a_forgotten_mask_holds_nothing_drivable(between: str) -> None:
    area = DrivableArea()
    assert area.update(confident(255, 255), 0.4, hysteresis=0.2).all()
    if between == 'forget':
        area.forget()
    else:
        area.update(confident(255, 255, 255), 0.4, hysteresis=0.2)
    assert not area.update(confident(120, 120), 0.4, hysteresis=0.2).any()


def test_what_a_region_rule_took_away_was_not_drivable() -> None:
    area = DrivableArea()
    area.update(confident(255, 0, 255, 255), min_region_fraction=0.5, hysteresis=0.2)
    mask = area.update(confident(130, 0, 130, 130), hysteresis=0.2)
    assert mask.tolist() == [[0, 0, 255, 255]]


def test_hysteresis_only_takes_away() -> None:
    random = np.random.default_rng(1)
    area = DrivableArea()
    for _ in range(20):
        answer = segmentation(random.integers(0, 256, (40, 60)), random.integers(0, 256, (40, 60)))
        mask = area.update(answer, min_confidence=0.3, hysteresis=0.3)
        assert mask.any()
        assert not mask[drivable_mask(answer, min_confidence=0.3) == 0].any()
