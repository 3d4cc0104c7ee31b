"""Metrics against a plain count of pixels."""

import numpy as np
import pytest

from lwseg_ros.evaluation.metrics import ConfusionMatrix


@pytest.fixture
def pair():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 4, (40, 50)).astype(np.uint8)
    prediction = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 4, truth.shape))
    prediction = prediction.astype(np.uint8)
    truth[:4] = 255
    prediction[10:12] = 255
    return truth, prediction


def plain_iou(truth, prediction, of_truth, of_prediction):
    valid = truth != 255
    a, b = of_truth[valid], of_prediction[valid]
    return (a & b).sum() / (a | b).sum()


def test_iou_equals_a_plain_count(pair):
    truth, prediction = pair
    confusion = ConfusionMatrix(4)
    confusion.update(truth[:20], prediction[:20])
    confusion.update(truth[20:], prediction[20:])
    expected = [plain_iou(truth, prediction, truth == c, prediction == c) for c in range(4)]
    np.testing.assert_allclose(confusion.iou(), expected)
    assert confusion.mean_iou() == pytest.approx(np.mean(expected))
    group = plain_iou(truth, prediction, truth < 2, prediction < 2)
    assert confusion.group_iou([0, 1]) == pytest.approx(group)
    outside = (truth >= 2) & (truth != 255)
    assert confusion.false_rate([0, 1]) == pytest.approx((prediction[outside] < 2).mean())
    inside = truth < 2
    assert confusion.missed_rate([0, 1]) == pytest.approx((prediction[inside] >= 2).mean())
    assert confusion.pixel_accuracy() == pytest.approx((truth == prediction)[truth != 255].mean())


def test_counts_and_iou_equal_torchmetrics(pair):
    torch = pytest.importorskip('torch')
    classification = pytest.importorskip('torchmetrics.classification')
    truth, prediction = pair
    prediction[prediction == 255] = 3  # torchmetrics takes no prediction outside the classes
    confusion = ConfusionMatrix(4)
    confusion.update(truth, prediction)

    def theirs(metric, truth, prediction):
        prediction, truth = (torch.from_numpy(a.astype(np.int64)) for a in (prediction, truth))
        return metric(prediction, truth).numpy()

    options = {'num_classes': 4, 'ignore_index': 255}
    counts = theirs(classification.MulticlassConfusionMatrix(**options), truth, prediction)
    np.testing.assert_array_equal(confusion.counts[:, :4], counts)
    iou = classification.MulticlassJaccardIndex(average='none', **options)
    np.testing.assert_allclose(confusion.iou(), theirs(iou, truth, prediction), rtol=1e-6)
    mean = classification.MulticlassJaccardIndex(average='macro', **options)
    assert confusion.mean_iou() == pytest.approx(float(theirs(mean, truth, prediction)))
    group = classification.BinaryJaccardIndex(ignore_index=255)
    in_group = np.where(truth == 255, 255, truth < 2)
    expected = float(theirs(group, in_group, prediction < 2))
    assert confusion.group_iou([0, 1]) == pytest.approx(expected)
    accuracy = classification.MulticlassAccuracy(average='micro', **options)
    expected = float(theirs(accuracy, truth, prediction))
    assert confusion.pixel_accuracy() == pytest.approx(expected)


def test_unlabelled_prediction_is_an_error_of_its_class():
    confusion = ConfusionMatrix(2)
    confusion.update(np.zeros((1, 4), np.uint8), np.array([[0, 0, 0, 255]], np.uint8))
    assert confusion.iou()[0] == pytest.approx(0.75)


def test_absent_class_does_not_count():
    confusion = ConfusionMatrix(3)
    confusion.update(np.array([[0, 1]], np.uint8), np.array([[0, 1]], np.uint8))
    assert np.isnan(confusion.iou()[2])
    assert confusion.mean_iou() == 1


def test_no_truth_at_all_is_not_a_number():
    confusion = ConfusionMatrix(3)
    confusion.update(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8))
    assert np.isnan(confusion.mean_iou())


def test_sizes_must_agree():
    with pytest.raises(ValueError, match='truth is'):
        ConfusionMatrix(2).update(np.zeros((2, 2), np.uint8), np.zeros((1, 4), np.uint8))
