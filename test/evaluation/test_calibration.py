"""Calibration of the confidence against its definition and against torchmetrics."""

import numpy as np
import pytest

from lwseg_ros.evaluation.calibration import BINS, Calibration


def sample(seed=0, pixels=400):
    rng = np.random.default_rng(seed)
    confidence = rng.integers(0, 256, pixels).astype(np.uint8)
    confidence[:20] = (0, 17, 34, 254, 255) * 4
    return confidence, rng.random(pixels) < confidence / 300


def test_error_and_bins_equal_the_definition():
    confidence, right = sample()
    calibration = Calibration()
    calibration.update(confidence[:150], right[:150])
    calibration.update(confidence[150:], right[150:])
    bins = calibration.bins()
    error = 0.0
    for b in range(BINS):
        inside = [
            i for i, c in enumerate(confidence) if b * 17 <= c < (b + 1) * 17 + (b == BINS - 1)
        ]
        accuracy = sum(right[i] for i in inside) / len(inside)
        mean = sum(int(confidence[i]) for i in inside) / 255 / len(inside)
        error += len(inside) / len(confidence) * abs(accuracy - mean)
        assert bins[b] == {
            'from': round(b / BINS, 4),
            'to': round((b + 1) / BINS, 4),
            'pixels': len(inside),
            'confidence': pytest.approx(mean, abs=1e-6),
            'accuracy': pytest.approx(accuracy, abs=1e-6),
        }
    assert calibration.error() == pytest.approx(error)


def test_honest_boastful_and_no_confidence():
    honest = Calibration()
    honest.update(np.full(5, 204, np.uint8), np.array([True, True, True, True, False]))
    assert honest.error() == pytest.approx(0)
    boastful = Calibration()
    boastful.update(np.full(5, 255, np.uint8), np.zeros(5, np.bool_))
    assert boastful.error() == 1
    none = Calibration()
    none.update(np.empty(0, np.uint8), np.empty(0, np.bool_))
    assert np.isnan(none.error())
    assert none.bins() == []


def test_error_equals_torchmetrics():
    torch = pytest.importorskip('torch')
    classification = pytest.importorskip('torchmetrics.classification')
    confidence, right = sample(1)
    # Away from the edges of bins, where torchmetrics' float32 decides, and above 1 / classes.
    fit = (confidence % 17 != 0) & (confidence > 90)
    confidence, right = confidence[fit], right[fit]
    top = torch.from_numpy(confidence.astype(np.float64) / 255)
    rest = (1 - top) / 3
    probabilities = torch.stack([top, rest, rest, rest], 1)
    target = torch.where(torch.from_numpy(right), 0, 2)
    metric = classification.MulticlassCalibrationError(4, n_bins=BINS, norm='l1')
    calibration = Calibration()
    calibration.update(confidence, right)
    assert calibration.error() == pytest.approx(float(metric(probabilities, target)), abs=1e-6)
