"""The label space in which a model and truth of other classes are compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from lwseg_ros.errors import DataError
from lwseg_ros.label_space import LabelClass, LabelSpace


def common_space(model: LabelSpace, truth: LabelSpace) -> LabelSpace:
    """Return the finest label space to which model and truth are both remapped one to one.

    The model's where each true class has one counterpart there, else the truth's where each class
    of the model has one, else a joined one: classes that overlap across the two spaces are joined
    until each side's are a union of the other's. The mappings of a joined space say what its
    classes are on both sides; its description says so in words. A true class that stands for all
    classes of the model says nothing, and is unlabelled there. So is one that only says what a
    pixel is not, as the own car may be anything but road: one that stands for more than half of
    the model's classes, where narrower ones tell these apart (our choice).

    A joined class may hold drivable classes and others. Where one does, nothing in the joined
    space is drivable: figures of the drivable area would tell of something else.

    DataError if neither space has a mapping to the other, or if they join to a single class.
    """
    if truth.maps_one_to_one(model):
        return model
    if model.maps_one_to_one(truth):
        return truth
    return _joined(model, truth)


class _Group(NamedTuple):
    """Classes that cannot be told apart across two spaces."""

    truth: set[int]
    model: set[int]


def _joined(model: LabelSpace, truth: LabelSpace) -> LabelSpace:
    overlaps: dict[int, set[int]] = {c.id: set() for c in truth.classes}
    for true, modelled in truth.label_sets(model).items():
        overlaps[true].update(modelled)
    for modelled_id, trues in model.label_sets(truth).items():
        for true in trues:
            overlaps[true].add(modelled_id)
    overlaps = {true: ids for true, ids in overlaps.items() if ids}
    silent = {true for true in overlaps if _says_little(true, overlaps, len(model.classes))}
    groups = _groups({true: ids for true, ids in overlaps.items() if true not in silent})
    if len(groups) < 2:
        raise DataError(
            f'label spaces {model.name} and {truth.name} cannot be compared: their classes '
            'overlap so that all would be joined into one; give the classes of one of them fewer '
            'counterparts under `mappings:`'
        )
    sides = [(_of(truth, group.truth), _of(model, group.model)) for group in groups]
    # Where the truth is finer but for what says little, the classes are the model's.
    named = 1 if silent and all(len(group.model) == 1 for group in groups) else 0
    sides.sort(key=lambda both: both[named][0].id)
    flags = [{c.drivable for side in both for c in side} for both in sides]
    mixed = [names(both[0]) for both, flag in zip(sides, flags, strict=True) if len(flag) > 1]
    return LabelSpace(
        f'{truth.name}+{model.name}',
        tuple(
            LabelClass(
                i, names(both[named]), both[named][0].color, not mixed and both[named][0].drivable
            )
            for i, both in enumerate(sides)
        ),
        _description(model, truth, sides, [c.name for c in _of(truth, silent)], mixed),
        {
            space.name: {names(both[named]): tuple(c.name for c in both[side]) for both in sides}
            for side, space in enumerate((truth, model))
        },
    )


def _groups(overlaps: Mapping[int, set[int]]) -> list[_Group]:
    """Return the groups that true classes and what they stand for fall into."""
    groups: list[_Group] = []
    for true, ids in overlaps.items():
        touching = [group for group in groups if group.model & ids]
        groups = [group for group in groups if group not in touching]
        groups.append(
            _Group(
                {true}.union(*(group.truth for group in touching)),
                ids.union(*(group.model for group in touching)),
            )
        )
    return groups


def _says_little(true: int, overlaps: Mapping[int, set[int]], classes: int) -> bool:
    """Tell whether a true class may be any of the model's, or only says what a pixel is not."""
    ids = overlaps[true]
    narrower = {other: theirs for other, theirs in overlaps.items() if len(theirs) < len(ids)}
    told = [group.model & ids for group in _groups(narrower) if group.model & ids]
    apart = len(told) > 1 and set().union(*told) == ids
    return len(ids) == classes or (apart and 2 * len(ids) > classes)


def names(classes: Iterable[LabelClass]) -> str:
    """Return how a joined class is called: by the classes that it joins, the truth's if it can."""
    return '+'.join(c.name for c in classes)


def _of(space: LabelSpace, ids: set[int]) -> list[LabelClass]:
    return [c for c in space.classes if c.id in ids]


def _description(
    model: LabelSpace,
    truth: LabelSpace,
    sides: list[tuple[list[LabelClass], list[LabelClass]]],
    silent: list[str],
    mixed: list[str],
) -> str:
    pairs = '; '.join(
        f'{names(true)} is {", ".join(c.name for c in modelled)}' for true, modelled in sides
    )
    sentences = [f'The finest classes that {truth.name} and {model.name} can both tell: {pairs}.']
    if silent:
        sentences.append(
            f'Unlabelled is {", ".join(silent)}, which may be almost any class of {model.name}.'
        )
    if mixed:
        sentences.append(
            f'No figure of the drivable area can be told: {", ".join(mixed)} joins drivable '
            'classes with others.'
        )
    return ' '.join(sentences)
