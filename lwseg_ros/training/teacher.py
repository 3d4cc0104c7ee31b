"""A trained model that a student learns from, of the student's classes or of others.

Teacher and student are compared on groups of classes: the finest classes to which both label
spaces map one to one, as in evaluation (`common_space`). The probability of a group is the sum of
its classes' probabilities on either side: several classes of the teacher may be one of the
student, and one of the teacher's may leave open which of several the student should see. Classes
of the student that the teacher lacks take no part. Where both have the same classes, each is a
group. All of it is our choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lwseg_ros.errors import DataError, ModelError
from lwseg_ros.evaluation.common_space import common_space
from lwseg_ros.inference.graph import load_network
from lwseg_ros.inference.model_file import METADATA_KEY, read_metadata, read_model_info
from lwseg_ros.inference.model_info import IMAGENET_MEAN, IMAGENET_STD
from lwseg_ros.inference.segmenter import aligned_size
from lwseg_ros.label_space import LabelSpace
from lwseg_ros.networks import create_network
from lwseg_ros.training.checkpoint_import import load_weights
from lwseg_ros.training.losses import Total, has_one_class, only_here
from lwseg_ros.training.positions import interpolated, seen_at
from lwseg_ros.training.samples import normalised

if TYPE_CHECKING:
    from lwseg_ros.networks.layers import SegmentationNetwork

Groups = tuple[tuple[int, ...], ...]
"""For each group the ids of its classes."""

_LEFT_OUT = -1e4  # the logit of a group that takes no part; its gradient is exactly 0


class Teacher(nn.Module):
    """Gives the logits of groups of classes for images uint8 `[N, H, W, 3]`.

    `path` is a model file, or a checkpoint of the catalog's `network` with the classes of
    `label_space` that takes ImageNet's normalisation. `groups` are the student's classes, of
    `space`; `centred` tells where the student's logits are (see `SegmentationNetwork`). The
    teacher sees images enlarged by `scale` to a size that suits it (`aligned_size`), and computes
    within `autocast()`. ModelError if it cannot teach these classes.
    """

    def __init__(
        self,
        path: Path,
        space: LabelSpace,
        centred: bool = False,
        network: str = '',
        label_space: str = '',
        scale: float = 1.0,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        super().__init__()
        self.centred, self.scale, self.autocast = centred, scale, autocast
        self.mean, self.std = IMAGENET_MEAN, IMAGENET_STD
        if network:
            own_space = LabelSpace.load(label_space)
            self.network = create_network(network, own_space.num_classes).eval()
            load_weights(self.network, path)
        elif METADATA_KEY not in read_metadata(path):
            raise ModelError(
                f'teacher {path} does not say what it is: give teacher_network and '
                'teacher_label_space in the recipe'
            )
        else:
            info = read_model_info(path)
            own_space, self.mean, self.std = info.label_space, info.mean, info.std
            self.network = cast('SegmentationNetwork', load_network(path, info))
        self.network.requires_grad_(False)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        try:
            self.own_groups, self.groups = shared_groups(own_space, space)
        except DataError as error:
            raise ModelError(f'teacher {path} cannot teach {space.name}: {error}') from None

    @torch.no_grad()
    def forward(self, images: Tensor, size: Sequence[int]) -> Tensor:
        """Return, float `[N, G, *size]`, the log of each group's probability up to a constant.

        They lie where the student's logits of that size do. Those of the classes that stand for
        nothing are one group more, the last.
        """
        corners = not self.network.centred
        own_size = aligned_size(
            (round(images.shape[1] * self.scale), round(images.shape[2] * self.scale)),
            (32 + corners, 32 + corners),
        )
        x = normalised(images, self.mean, self.std)
        if x.shape[2:] != own_size:
            x = F.interpolate(x, size=own_size, mode='bilinear', align_corners=corners)
        with self.autocast():
            logits = self.network(x)
        planes = summed(logits.float(), self.own_groups)
        extents = images.shape[1:3]
        places = [seen_at(*both, self.centred) for both in zip(extents, size, strict=True)]
        return interpolated(planes, places, extents, self.network.centred)


def shared_groups(teacher: LabelSpace, student: LabelSpace) -> tuple[Groups, Groups]:
    """Return the groups in which both can be compared: the teacher's ids, and the student's.

    If classes of the teacher stand for nothing, they are one group more on its side, the last.
    DataError if there are fewer than two to tell apart.
    """
    if teacher.names == student.names:
        each = tuple((i,) for i in range(student.num_classes))
        return each, each
    if teacher.name == student.name:
        raise DataError(f'both label spaces are called {student.name}, but have other classes')
    # The student's own classes if the teacher's map one to one to them, else the teacher's.
    common = common_space(model=student, truth=teacher)
    tables = [space.lookup_table(common) for space in (teacher, student)]
    both = [
        tuple(
            tuple(i for i in range(space.num_classes) if table[i] == c.id)
            for space, table in zip((teacher, student), tables, strict=True)
        )
        for c in common.classes
    ]
    pairs = [(own, theirs) for own, theirs in both if own and theirs]
    if len(pairs) < 2:
        raise DataError(
            f'label spaces {teacher.name} and {student.name} have fewer than two classes in common'
        )
    own_groups, groups = zip(*pairs, strict=True)
    told = {i for group in own_groups for i in group}
    rest = tuple(i for i in range(teacher.num_classes) if i not in told)
    return (*own_groups, rest) if rest else own_groups, groups


def distillation_loss(
    logits: Tensor,
    taught: Tensor,
    groups: Groups,
    allowed: Tensor,
    temperature: float = 1.0,
    confidence: float = 0.0,
    total: Total = only_here,
) -> Tensor:
    """Return the mean divergence of the student from the teacher, both softened.

    `logits` are the student's, float `[N, C, h, w]`, and `taught` what `Teacher` returns, float
    `[N, G, h, w]` or one group more; `groups` are the student's classes of each, at most 62.
    `allowed` is int64 `[N, h, w]` as in `label_set_loss`.

    T^2 KL(softmax(teacher / T) || softmax(student / T)) per pixel, over the groups, T the
    temperature (Hinton et al. 2015, arXiv 1503.02531); the factor keeps the gradients' size
    whatever T. The rest is our choice:

    - The classes of a group are summed first, then softened. So the loss is 0 exactly where the
      groups' probabilities are equal, whatever T; summed afterwards, a group would be worth more
      the more classes it has.
    - A pixel counts where the teacher's most probable group is one that the label allows (else
      it is wrong, or sees what the student has no class for), with a probability of at least
      `confidence`. Unlabelled pixels allow all.
    - Where the label is a set of classes, both sides are restricted to the groups with classes of
      the set, and renormalised: the teacher says which of them, the label that it is one of them.
    - Where it is one class, they are not restricted: what else the teacher thinks likely is what
      a student learns from it.

    0 when no pixel counts.
    """
    bits = torch.tensor([sum(1 << c for c in group) for group in groups], device=logits.device)
    may_be = (allowed.unsqueeze(1) & bits.view(1, -1, 1, 1)) != 0
    may_be |= (allowed == 0).unsqueeze(1)
    single = has_one_class(allowed)
    own, top = taught[:, : len(groups)], taught.amax(1)
    right = own.masked_fill(~may_be, _LEFT_OUT).amax(1) == top
    sure = (top - taught.logsumexp(1)).exp() >= confidence
    compared = may_be | single.unsqueeze(1)
    counts = right & sure & (compared.sum(1) > 1)
    teacher_log, student_log = (
        (side.masked_fill(~compared, _LEFT_OUT) / temperature).log_softmax(1)
        for side in (own, summed(logits, groups))
    )
    divergence = (teacher_log.exp() * (teacher_log - student_log)).sum(1)
    weights = counts.to(divergence.dtype)
    mean = total((divergence * weights).sum()) / total(weights.sum()).clamp(min=1)
    return mean * temperature**2


def summed(logits: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Return the log of the summed exponentials of each group's logits, float `[N, G, h, w]`."""
    planes = logits.unbind(1)
    return torch.stack(
        [
            planes[group[0]]
            if len(group) == 1
            else torch.stack([planes[c] for c in group]).logsumexp(0)
            for group in groups
        ],
        1,
    )
