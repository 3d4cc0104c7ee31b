"""Boundary F1 against its definition, pixel by pixel."""

import itertools

import cv2
import numpy as np
import pytest

from lwseg_ros.evaluation.boundary import BoundaryCounts

AREAS = ((0,), (1,), (2,), (3,), (0, 1))


def blobs(seed, shape=(26, 34), classes=4):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (5, 6)).astype(np.uint8)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_NEAREST)


def plain_counts(truth, prediction, area, num_classes, radius):
    """Return what BoundaryCounts counts for one area, by loops over pixels."""
    height, width = truth.shape
    pixels = list(itertools.product(range(height), range(width)))
    is_void = truth >= num_classes

    def borders(labels, void):
        found = []
        for y, x in pixels:
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            around = [(v, u) for v, u in around if 0 <= v < height and 0 <= u < width]
            out = [labels[p] not in area for p in around if not void[p]]
            if not void[y, x] and labels[y, x] in area and any(out):
                found.append((y, x))
        return found

    def near(pixel, others):
        return any((pixel[0] - y) ** 2 + (pixel[1] - x) ** 2 <= radius**2 for y, x in others)

    true = borders(truth, is_void)
    predicted = borders(prediction, np.zeros_like(is_void))
    void = [p for p in pixels if is_void[p]]
    judged = [p for p in predicted if not near(p, void)]
    return [
        len(true),
        sum(near(p, predicted) for p in true),
        len(judged),
        sum(near(p, true) for p in judged),
    ]


@pytest.mark.parametrize(('tolerance', 'radius'), [(0.0075, 1.0), (0.08, 0.08 * np.hypot(26, 34))])
def test_counts_equal_the_definition(tolerance, radius):
    truth, prediction = blobs(1), np.roll(blobs(1), (1, 2), (0, 1))
    prediction[5:9, 20:] = 255
    truth[18:21, 4:12] = 255
    counts = BoundaryCounts(AREAS, 4, tolerance)
    counts.update(truth, prediction)
    expected = [plain_counts(truth, prediction, area, 4, radius) for area in AREAS]
    assert counts.counts.tolist() == expected
    once = counts.counts.copy()
    counts.update(truth, prediction)
    assert (counts.counts == 2 * once).all()
    (true, found, predicted, confirmed) = once.T
    precision, recall = confirmed / predicted, found / true
    np.testing.assert_allclose(counts.precision(), precision)
    np.testing.assert_allclose(counts.recall(), recall)
    np.testing.assert_allclose(counts.f1(), 2 / (1 / precision + 1 / recall))


def test_more_areas_than_bits():
    truth = blobs(2, classes=70)
    prediction = np.roll(truth, 1, 0)
    counts = BoundaryCounts([(i,) for i in range(70)], 70)
    counts.update(truth, prediction)
    for area in (0, 31, 63, 64, 69):
        assert counts.counts[area].tolist() == plain_counts(truth, prediction, {area}, 70, 1.0)


def test_perfect_shifted_and_empty_predictions():
    truth = np.zeros((40, 60), np.uint8)
    truth[20:] = 1
    for shift, f1 in ((0, 1), (1, 1), (3, 0)):
        counts = BoundaryCounts([(0,), (1,), (2,)], 3)
        counts.update(truth, np.roll(truth, shift, 0))
        np.testing.assert_array_equal(counts.recall(), [f1, f1, np.nan])
    perfect = BoundaryCounts([(0,), (1,), (2,)], 3)
    perfect.update(truth, truth)
    np.testing.assert_array_equal(perfect.f1(), [1, 1, np.nan])
    empty = BoundaryCounts([(0,), (1,), (2,)], 3)
    empty.update(truth, np.zeros_like(truth))
    np.testing.assert_array_equal(empty.f1(), [0, 0, np.nan])
    assert np.isnan(empty.precision()).all()


def test_void_has_no_border():
    truth = np.zeros((40, 60), np.uint8)
    truth[20:] = 255
    prediction = np.zeros_like(truth)
    prediction[22:] = 1
    counts = BoundaryCounts([(0,), (1,)], 2)
    counts.update(truth, prediction)
    assert not counts.counts.any()
    # A border that the truth rules out counts, if it is farther from void than the tolerance.
    prediction[10:15] = 1
    counts.update(truth, prediction)
    assert counts.counts[1].tolist() == [0, 0, 2 * 60, 0]


def test_a_true_border_is_found_by_a_predicted_one_in_void():
    truth = np.zeros((40, 60), np.uint8)
    truth[:, 30:] = 1
    truth[:, 31:34] = 255
    prediction = np.zeros_like(truth)
    prediction[:, 31:] = 1
    counts = BoundaryCounts([(0,), (1,)], 2)
    counts.update(truth, prediction)
    assert counts.recall().tolist() == [1, 1]
