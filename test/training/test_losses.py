"""The losses against plain loops: values, gradients, and what they do with nothing to learn."""

import math
from itertools import groupby

import pytest

torch = pytest.importorskip('torch')

from torch.nn import functional as F  # noqa: E402

from lwseg_ros.training.contrastive import (  # noqa: E402
    ProjectionHead,
    contrastive_loss,
    pixel_contrast,
    sample_anchors,
    single_class,
)
from lwseg_ros.training.losses import (  # noqa: E402
    hard_pixels,
    label_set_loss,
    soft_jaccard_loss,
)


def random_batch(classes=11, unlabelled=2):
    """Logits [2, classes, 6, 5] with gradients, labels (-1 = none) and the same as bit sets."""
    torch.manual_seed(0)
    logits = (2 * torch.randn(2, classes, 6, 5)).requires_grad_()
    labels = torch.randint(0, classes, (2, 6, 5))
    labels[0, :unlabelled] = -1
    return logits, labels, torch.where(labels >= 0, 1 << labels.clamp(min=0), 0)


def test_one_allowed_class_is_weighted_cross_entropy():
    logits, labels, allowed = random_batch()
    weights = torch.rand(11) + 0.5
    loss = label_set_loss(logits, allowed, weights)
    expected = F.cross_entropy(logits, labels, weights, ignore_index=-1)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[0, :, :2].any()


def test_a_set_trains_the_log_of_its_summed_probability():
    logits = torch.randn(1, 4, 1, 1)
    allowed = torch.tensor([[[0b1010]]])
    probability = logits.softmax(1)[0, [1, 3]].sum()
    torch.testing.assert_close(label_set_loss(logits, allowed), -probability.log())
    weights = torch.tensor([9.0, 2.0, 9.0, 3.0])
    both = torch.cat([logits, logits], 3)
    sets = torch.tensor([[[0b1010, 0b0001]]])
    single = -logits.log_softmax(1)[0, 0, 0, 0]
    expected = (2 * -probability.log() + 9 * single) / (2 + 9)
    torch.testing.assert_close(label_set_loss(both, sets, weights), expected)


@pytest.mark.parametrize('loss', [label_set_loss, soft_jaccard_loss])
def test_a_pixel_that_may_be_anything_changes_nothing(loss):
    logits, _, allowed = random_batch(classes=4)
    anything = torch.where(allowed == 0, 0b1111, allowed)
    torch.testing.assert_close(loss(logits, anything), loss(logits, allowed))


@pytest.mark.parametrize('loss', [label_set_loss, soft_jaccard_loss])
def test_anything_but_a_class_takes_from_that_class_alone(loss):
    logits = torch.zeros(1, 3, 1, 2, requires_grad=True)
    loss(logits, torch.tensor([[[0b010, 0b101]]])).backward()
    other, never, third = logits.grad[0, :, 0, 1]
    assert never > 0
    assert other == third < 0


@pytest.mark.parametrize('loss', [label_set_loss, soft_jaccard_loss])
def test_no_labelled_pixel_gives_zero(loss):
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    value = loss(logits, torch.zeros(1, 2, 2, dtype=torch.int64))
    value.backward()
    assert value == 0
    assert not logits.grad.any()


@pytest.mark.parametrize(('threshold', 'min_kept'), [(0.7, 0.1), (0.02, 0.3), (0.5, 1.0)])
def test_hard_pixels_are_those_below_the_threshold_and_the_hardest(threshold, min_kept):
    logits, labels, allowed = random_batch()
    losses = F.cross_entropy(logits, labels, ignore_index=-1, reduction='none').detach()
    kept = []
    for image_losses, image_labels in zip(losses, labels, strict=True):
        hardest = sorted(image_losses[image_labels >= 0], reverse=True)
        least = math.ceil(len(hardest) * min_kept - 1e-6)
        kept += [v for k, v in enumerate(hardest) if k < least or math.exp(-v) < threshold]
    expected = torch.stack(kept).mean()
    torch.testing.assert_close(
        label_set_loss(logits, allowed, None, threshold, min_kept), expected
    )
    mask = hard_pixels(losses, labels >= 0, threshold, min_kept)
    assert mask.sum() == len(kept)
    assert not mask[labels < 0].any()


def test_soft_jaccard_is_the_loop_over_classes():
    logits, labels, allowed = random_batch(classes=4)
    allowed[1, 0] = 0b0110  # a set counts against the classes outside it
    labels[1, 0] = -1
    probability = logits.softmax(1)
    ratios = []
    for c in range(4):
        hits = union = 0.0
        for place in (labels >= 0).nonzero().tolist():
            n, y, x = place
            p, truth = probability[n, c, y, x], float(labels[n, y, x] == c)
            hits += p * truth
            union += p + truth - p * truth
        if c in (0, 3):
            union += probability[1, c, 0].sum()
        ratios.append(hits / union)
    torch.testing.assert_close(soft_jaccard_loss(logits, allowed), 1 - sum(ratios) / 4)


def test_soft_jaccard_counts_only_the_classes_at_hand():
    logits = torch.full((1, 3, 1, 4), -30.0)
    logits[0, 1] = 30
    assert soft_jaccard_loss(logits, torch.full((1, 1, 4), 0b010)) < 1e-6
    assert soft_jaccard_loss(logits, torch.full((1, 1, 4), 0b100)) > 1 - 1e-6


def loop_contrast(anchors, labels):
    """Equation 4 of the paper, term by term."""
    losses = []
    for i in range(len(labels)):
        positives = [j for j in range(len(labels)) if j != i and labels[j] == labels[i]]
        negatives = [j for j in range(len(labels)) if labels[j] != labels[i]]
        terms = []
        for p in positives:
            near = (anchors[i] @ anchors[p] / 0.1).exp()
            far = sum((anchors[i] @ anchors[n] / 0.1).exp() for n in negatives)
            terms.append(-(near / (near + far)).log())
        if terms:
            losses.append(sum(terms) / len(terms))
    return sum(losses) / len(losses) * (0.1 / 0.07)


def test_contrastive_loss_is_the_loop_with_its_gradients():
    torch.manual_seed(2)
    labels = torch.tensor([0, 1, 1, 0, 2, 1, 3, 3])  # class 2 is alone
    raw = torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
    loss = contrastive_loss(F.normalize(raw, dim=1), labels)
    expected = loop_contrast(F.normalize(raw, dim=1), labels.tolist())
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, raw)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, raw)[0])


@pytest.mark.parametrize('labels', [[], [4], [0, 1, 2]])
def test_contrast_without_a_pair_is_zero(labels):
    raw = torch.randn(len(labels), 6, requires_grad=True)
    loss = contrastive_loss(F.normalize(raw, dim=1), torch.tensor(labels, dtype=torch.int64))
    loss.backward()
    assert loss == 0
    assert raw.grad.isfinite().all()
    assert not raw.grad.any()


@pytest.mark.parametrize('labels', [-1, 3])
def test_contrast_of_a_batch_with_no_or_one_class_is_zero(labels):
    embeddings = F.normalize(torch.randn(2, 8, 4, 4), dim=1).requires_grad_()
    allowed = torch.full((2, 4, 4), 0 if labels < 0 else 1 << labels)
    loss = pixel_contrast(embeddings, torch.randn(2, 5, 4, 4), allowed, torch.Generator())
    loss.backward()
    assert abs(float(loss)) < 1e-5
    torch.testing.assert_close(embeddings.grad, torch.zeros_like(embeddings), atol=1e-5, rtol=0)


def test_anchors_are_half_hard_and_shared_by_the_classes():
    labels = torch.full((2, 20, 30), -1)
    wrong = torch.zeros(2, 20, 30, dtype=torch.bool)
    labels[0, :10], wrong[0, :5] = 0, True  # 150 hard, 150 easy
    labels[0, 10:], wrong[0, 10, :7] = 1, True  # 7 hard, 293 easy
    labels[1, :2] = 1  # 60 easy
    labels[1, 5, :3], wrong[1, 5, :3] = 2, True  # 3 hard
    wrong[1, 10:] = True  # unlabelled: none of these
    anchors = sample_anchors(labels, wrong, torch.Generator().manual_seed(0))
    assert len(set(anchors.tolist())) == len(anchors)
    image, classes, hard = (
        t.flatten()[anchors]
        for t in (torch.arange(2).view(2, 1, 1).expand_as(labels), labels, wrong)
    )
    rows = sorted(zip(image.tolist(), classes.tolist(), hard.tolist(), strict=True))
    counts = {key: len(list(group)) for key, group in groupby(rows)}
    assert counts == {
        (0, 0, False): 50,
        (0, 0, True): 50,
        (0, 1, False): 93,
        (0, 1, True): 7,
        (1, 1, False): 60,
        (1, 2, True): 3,
    }
    few = sample_anchors(labels, wrong, torch.Generator().manual_seed(0), max_anchors=40)
    assert torch.bincount(labels.flatten()[few]).tolist() == [10, 20, 3]
    again = sample_anchors(labels, wrong, torch.Generator().manual_seed(0))
    other = sample_anchors(labels, wrong, torch.Generator().manual_seed(1))
    assert torch.equal(anchors, again)
    assert not torch.equal(anchors, other)


def test_every_class_up_to_62_is_told_from_its_bit():
    classes = torch.arange(62)
    assert torch.equal(single_class(1 << classes), classes)
    assert single_class(torch.tensor([0, 0b11, 0b101 << 40])).tolist() == [-1, -1, -1]


def test_embeddings_have_unit_length():
    embeddings = ProjectionHead(12)(torch.randn(2, 12, 3, 4))
    assert embeddings.shape == (2, 256, 3, 4)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2, 3, 4))
