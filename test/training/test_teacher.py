"""Teachers of the student's classes or of others: the groups, the places, the loss by a loop."""

from pathlib import Path

import pytest

torch = pytest.importorskip('torch')

from paths_for_tests import shared  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

from lwseg_ros.datasets.dataset import open_dataset, read_pair  # noqa: E402
from lwseg_ros.errors import DataError, ModelError  # noqa: E402
from lwseg_ros.inference.model_source import resolve_model  # noqa: E402
from lwseg_ros.label_space import LabelClass, LabelSpace  # noqa: E402
from lwseg_ros.networks import create_network  # noqa: E402
from lwseg_ros.training.positions import at_logits, seen_at  # noqa: E402
from lwseg_ros.training.teacher import (  # noqa: E402
    Teacher,
    distillation_loss,
    shared_groups,
)

CAMVID, CITYSCAPES, IDD = (LabelSpace.load(n) for n in ('camvid', 'cityscapes', 'idd_level1'))
EACH = tuple((c,) for c in range(5))


def named(space, groups):
    return [[space.names[i] for i in group] for group in groups]


def test_a_finer_teacher_is_summed_into_the_students_classes():
    own, groups = shared_groups(CITYSCAPES, CAMVID)
    assert groups == tuple((c,) for c in range(11))
    of = dict(zip(CAMVID.names, named(CITYSCAPES, own), strict=True))
    assert of['road'] == ['road']
    assert of['car'] == ['car', 'truck', 'bus', 'train']
    assert sorted(i for group in own for i in group) == list(range(19))


def test_a_coarser_teacher_leaves_open_which_of_several_classes():
    own, groups = shared_groups(IDD, CAMVID)
    of = dict(zip((names[0] for names in named(IDD, own)), named(CAMVID, groups), strict=True))
    assert of['drivable'] == ['road']
    assert of['far_objects'] == ['building', 'tree']
    assert of['living_things'] == ['pedestrian', 'bicyclist']


def space(name, names, mappings=None):
    classes = tuple(LabelClass(i, n, (i, 0, 0)) for i, n in enumerate(names))
    return LabelSpace(name, classes, mappings=mappings or {})


def test_what_stands_for_nothing_is_a_group_of_its_own():
    mine = space('mine', ['way', 'wall', 'lamp'])
    told = {'street': ('way',), 'house': ('wall',)}
    yours = space('yours', ['street', 'boat', 'house'], {'mine': told})
    assert shared_groups(yours, mine) == (((0,), (2,), (1,)), ((0,), (1,)))


def test_the_same_classes_under_another_name_are_each_a_group():
    renamed = space('renamed', CAMVID.names)
    assert shared_groups(renamed, CAMVID) == ((*((c,) for c in range(11)),),) * 2


def test_spaces_without_two_classes_in_common_cannot_teach():
    with pytest.raises(DataError, match='fewer than two classes in common'):
        shared_groups(LabelSpace.load('bdd100k_drivable'), CAMVID)
    with pytest.raises(DataError, match='but have other classes'):
        shared_groups(space('camvid', ['way', 'wall']), CAMVID)
    with pytest.raises(DataError, match='mapping'):
        shared_groups(LabelSpace.load('voc'), CAMVID)


def test_of_equal_classes_it_is_the_softened_divergence():
    torch.manual_seed(1)
    student, teacher = torch.randn(2, 5, 3, 2, requires_grad=True), torch.randn(2, 5, 3, 2)
    unlabelled = torch.zeros(2, 3, 2, dtype=torch.int64)
    loss = distillation_loss(student, teacher, EACH, unlabelled, 3.0)
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    torch.testing.assert_close(loss, 9 * (p * (p / q).log()).sum(1).mean())
    right = 1 << teacher.argmax(1)  # a teacher that is right teaches the labelled pixels, too
    assert torch.equal(distillation_loss(student, teacher, EACH, right, 3.0), loss)
    assert abs(float(distillation_loss(teacher, teacher, EACH, unlabelled, 3.0))) < 1e-6


def loop(logits, taught, groups, allowed, temperature, confidence):
    """Return the loss, pixel by pixel, and how many pixels count."""
    losses = []
    for place in (allowed >= 0).nonzero().tolist():
        n, y, x = place
        bits = int(allowed[n, y, x])
        labels = {c for c in range(62) if bits >> c & 1} or set(range(62))
        single = len(labels) == 1
        p, student = taught[n, :, y, x].softmax(0), logits[n, :, y, x].softmax(0)
        top = int(p.argmax())
        fits = [g for g, group in enumerate(groups) if labels & set(group)]
        if top not in fits or p[top] < confidence:
            continue
        left = range(len(groups)) if single else fits
        if len(left) < 2:
            continue
        q = torch.stack([sum(student[c] for c in groups[g]) for g in left])
        p, q = p[list(left)] ** (1 / temperature), q ** (1 / temperature)
        p, q = p / p.sum(), q / q.sum()
        losses.append((p * (p / q).log()).sum() * temperature**2)
    return (torch.stack(losses).mean() if losses else torch.zeros(())), len(losses)


@pytest.mark.parametrize('confidence', [0.0, 0.6])
@pytest.mark.parametrize('rest', [0, 1])
def test_it_is_the_loop_over_pixels_with_its_gradients(rest, confidence):
    torch.manual_seed(3)
    groups = ((0, 2), (1,), (4, 5))  # the teacher knows nothing of the student's class 3
    logits = (2 * torch.randn(2, 6, 12, 9, dtype=torch.float64)).requires_grad_()
    taught = (2 * torch.randn(2, 3 + rest, 12, 9, dtype=torch.float64)).requires_grad_()
    sets = torch.tensor([0, 0b000001, 0b000010, 0b001000, 0b000101, 0b010010, 0b111111, 0b100111])
    allowed = sets[torch.randint(len(sets), (2, 12, 9))]
    arguments = (taught, groups, allowed, 2.0, confidence)
    expected, count = loop(logits, *arguments)
    assert 20 < count < allowed.numel()
    loss = distillation_loss(logits, *arguments)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0])
    assert not gradient[:, 3].any()


def test_the_label_restricts_the_teacher_and_the_teacher_chooses_within_it():
    taught = torch.tensor([0.2, 0.5, 0.3, 0.0]).log().clamp(min=-60).view(1, 4, 1, 1)
    logits = torch.zeros(1, 4, 1, 1, requires_grad=True)
    each = EACH[:4]

    def gradient(label):
        loss = distillation_loss(logits, taught, each, torch.tensor([[[label]]]))
        return torch.autograd.grad(loss, logits)[0].flatten()

    # Of 1 and 2 the teacher says 5 : 3; what the label rules out is not its business.
    torch.testing.assert_close(gradient(0b0110), torch.tensor([0, 0.5 - 0.625, 0.5 - 0.375, 0]))
    torch.testing.assert_close(gradient(0b0010), 0.25 - torch.tensor([0.2, 0.5, 0.3, 0]))
    torch.testing.assert_close(gradient(0), 0.25 - torch.tensor([0.2, 0.5, 0.3, 0]))
    assert not gradient(0b0001).any()  # the teacher is wrong
    assert not gradient(0b1101).any()


def test_nothing_to_learn_from_is_zero():
    logits = torch.randn(1, 5, 2, 2, requires_grad=True)
    wrong = torch.full((1, 2, 2), 1 << 3)
    loss = distillation_loss(logits, torch.eye(5)[None, :, :1, None], EACH, wrong)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


class Ramp(nn.Module):
    """Logits at stride 4 that say where they lie: how bright the image is there."""

    def __init__(self, centred: bool) -> None:
        super().__init__()
        self.centred = centred

    def forward(self, x):
        grey = x[:, :1]
        seen = nn.functional.avg_pool2d(grey, 4) if self.centred else grey[:, :, ::4, ::4]
        return torch.cat([seen] * 11, 1)


@pytest.mark.parametrize('scale', [1.0, 1.5, 2.0])
@pytest.mark.parametrize('teacher_centred', [False, True])
@pytest.mark.parametrize('centred', [False, True])
def test_what_is_taught_lies_where_the_students_logits_do(centred, teacher_centred, scale):
    teacher = Teacher(resolve_model('road', '.safetensors'), CAMVID, centred, scale=scale)
    teacher.network, teacher.mean, teacher.std = Ramp(teacher_centred), (0, 0, 0), (1, 1, 1)
    height, width = (128, 224) if centred else (129, 225)
    size = -(-height // 4), -(-width // 4)
    ramp = torch.arange(width, dtype=torch.uint8)
    images = ramp.view(1, 1, -1, 1).expand(1, height, -1, 3)
    taught = teacher(images, size)
    assert taught.shape == (1, 11, *size)
    places = seen_at(width, size[1], centred)
    assert places[:2].tolist() == ([1.5, 5.5] if centred else [0, 4])
    inner = slice(2, -2)  # at the borders there is nothing to interpolate with
    torch.testing.assert_close(
        255 * taught[0, 0, 0, inner].double(), places[inner], atol=0.1, rtol=0
    )
    labels = ramp.long().expand(1, height, -1)
    nearest = at_logits(labels, size, centred)[0, 0]
    assert (nearest - places).abs().max() <= 0.5


def test_a_bare_checkpoint_teaches_when_the_recipe_says_what_it_is(tmp_path: Path):
    torch.manual_seed(0)
    network = create_network('lw_refinenet_mobilenet_v2_nano', 19).eval()
    path = tmp_path / 'bare.safetensors'
    save_file(network.state_dict(), path)
    with pytest.raises(ModelError, match='give teacher_network and teacher_label_space'):
        Teacher(path, CAMVID)
    with pytest.raises(ModelError, match='another class count'):
        Teacher(path, CAMVID, False, 'lw_refinenet_mobilenet_v2_nano', 'camvid')
    teacher = Teacher(path, CAMVID, False, 'lw_refinenet_mobilenet_v2_nano', 'cityscapes')
    assert not any(p.requires_grad for p in teacher.parameters())
    images = torch.randint(0, 256, (1, 65, 97, 3), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        probability = network(((images / 255 - mean) / std).movedim(3, 1)).softmax(1)
    taught = teacher(images, (17, 25)).softmax(1)
    car = CAMVID.class_id('car')
    torch.testing.assert_close(taught[:, car], probability[:, 13:17].sum(1), atol=1e-5, rtol=1e-3)


def test_a_street_network_of_others_teaches_our_classes(shared_data):
    public = shared('weights') / 'efficientvit_b0_cityscapes.safetensors'
    teacher = Teacher(public, CAMVID, True, 'efficientvit_seg_b0', 'cityscapes', 2.0)
    right = labelled = 0
    for pair in open_dataset('camvid:camvid', 'val', shared_data).pairs[::25]:
        image, labels = (torch.from_numpy(a)[None] for a in read_pair(pair))
        size = image.shape[1] // 4, image.shape[2] // 4
        truth = at_logits(labels.long(), size, True)
        right += int((teacher(image, size).argmax(1) == truth).sum())
        labelled += int((truth < 11).sum())
    assert right > 0.85 * labelled
