"""Can a description be right for its network? Asked before anything is answered with both."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from lwseg_ros.errors import ModelError
from lwseg_ros.inference.external_description import Description
from lwseg_ros.inference.external_ends import LABELS, PROBABILITIES, GraphEnds
from lwseg_ros.inference.external_run import Seen

LEAST_CONTRAST, MOST_CONTRAST = 0.2, 400.0
"""Between black and white, as a network sees them; 1 to 255 are usual (our choice)."""

LEAST_LEVELS = 64
"""So many numbers a network of whole-numbered input must be able to tell apart (our choice)."""

_ZERO_MARGIN = 0.05  # of the contrast, by which 0 may lie outside
_LEAST_MEAN = 0.01  # of the range of pixels
_TOLERANCE = 0.02  # of a sum of probabilities; half precision rounds them
_OVERSHOOT = 0.25  # of probabilities enlarged by a cubic

_MEANINGS = {
    'logits': 'scores, as before a softmax or sigmoid',
    'probabilities': 'probabilities, as after a softmax or sigmoid',
    'labels': 'class ids, as after an argmax',
}

Shape = tuple[int | None, ...]

_logger = logging.getLogger(__name__)

# The input


def check_input(path: Path, description: Description, source: Any, ends: GraphEnds) -> None:
    """ModelError if no network sees what scale, mean and std make of pixels.

    `source` is the input of the network whose graph `ends` knows.
    """
    flaw = _flaw(description, source, ends)
    if not flaw:
        return
    fixes = (fix for fix, tried in _alternatives(description) if not _flaw(tried, source, ends))
    fix = next(fixes, 'scale, mean and std as it was trained with')
    raise ModelError(
        f'{path} cannot be right with its description: {flaw}, as it gets (pixel * scale - mean) '
        f'/ std of pixels from 0 to 255: write input: {fix}'
    )


def _alternatives(description: Description) -> Iterator[tuple[str, Description]]:
    """Yield what may have been meant, the likeliest first."""
    scale, plain = description.scale, (1.0, 1.0, 1.0)
    if description.std == plain and scale not in (0, 1, 1 / 255):
        std = (1 / abs(scale),) * 3
        text = f'{{scale: 1, mean: {_list(description.mean)}, std: {_list(std)}}}'
        yield text, replace(description, scale=1.0, std=std)
    for text, value in (('1', 1.0), ('1/255', 1 / 255)):
        yield f'{{scale: {text}}}', replace(description, scale=value)
    bare = replace(description, mean=(0.0, 0.0, 0.0), std=plain)
    for text, value in (('1', 1.0), ('1/255', 1 / 255)):
        yield f'{{scale: {text}}}, without mean and std', replace(bare, scale=value)
    middle = replace(bare, scale=1.0, mean=(128.0, 128.0, 128.0))
    yield '{scale: 1, mean: [128, 128, 128]}, without std', middle


def _flaw(description: Description, source: Any, ends: GraphEnds) -> str:
    """Return why pixels cannot be meant to come as they would, or ''."""
    mean, std = np.array(description.mean), np.array(description.std)
    white = 255 * description.scale
    low, high = -mean / std, (white - mean) / std
    element = source.type.tensor_type.elem_type
    dtype = helper.tensor_dtype_to_np_dtype(element)
    if dtype.kind in 'iu':
        holds = np.iinfo(dtype)
        if min(*low, *high) <= holds.min - 1 or max(*low, *high) >= holds.max + 1:
            return (
                f'its input holds whole numbers from {holds.min} to {holds.max} ({dtype}), and '
                f'pixels would come as {_span(low, high)}'
            )
        if np.min(np.abs(high - low)) < LEAST_LEVELS:
            return (
                f'its input holds whole numbers ({dtype}), and pixels would come as '
                f'{_span(low, high)}'
            )
    with np.errstate(all='ignore'):
        low, high = ends.input_range(source.name, low, high)
        contrast = np.abs(high - low)
        outside = np.maximum(np.minimum(low, high), -np.maximum(low, high))
    if not (contrast >= LEAST_CONTRAST).all():
        return f'it would see pixels as {_span(low, high)}, hardly a difference'
    if not (contrast <= MOST_CONTRAST).all():
        return f'it would see pixels as {_span(low, high)}, far too many'
    if (outside > _ZERO_MARGIN * contrast).any():
        return f'it would see pixels as {_span(low, high)}, far from 0'
    if mean.any() and (np.abs(mean) < _LEAST_MEAN * abs(white)).all():
        return f'a mean of {_list(mean)} is next to nothing where pixels go up to {white:g}'
    return ''


def _span(low: Any, high: Any) -> str:
    """Return the range of the channel that has the least contrast, in words."""
    channel = int(np.argmin(np.abs(high - low)))
    return f'{low[channel] + 0.0:.4g} (black) to {high[channel] + 0.0:.4g} (white)'


def _list(values: Any) -> str:
    return f'[{", ".join(f"{value:g}" for value in values)}]'


# The output


def check_output(
    path: Path,
    description: Description,
    ends: GraphEnds,
    name: str,
    shape: Shape,
    seen: Seen | None,
) -> None:
    """ModelError if an output holds something else than the description says.

    `name` is of the output in the graph that `ends` knows, `shape` its own, `seen` what it held
    for test images, if that could be tried.
    """
    if seen is not None and seen.broken:
        _check_finite(path, seen)
    planes = _planes(shape, description)
    possible = _possible(ends.output_kind(name), planes, seen)
    said, space = description.kind, description.label_space
    if planes == 1 and ends.is_softmax_of_one(name):
        raise ModelError(
            f'{path} ends in a softmax over one value, which is always 1: export it with two '
            'planes, or with a sigmoid'
        )
    if space.num_classes == 1:
        kind = said if said in possible else [*possible, said][0]
        raise ModelError(
            f'{path} has the one class {space.names[0]}, and every pixel would be that, whatever '
            'the network says: write two classes under label_space, id 0 for all else and id 1 '
            f'{space.names[0]}, and output: {{kind: {kind}}}'
        )
    held = f' ({seen.low:.4g} to {seen.high:.4g} for test images)' if seen is not None else ''
    if not possible:
        raise ModelError(
            f'{path} ends in a softmax or sigmoid, but what it gives{held} are no probabilities: '
            'export it without what comes after that'
        )
    if said not in possible:
        raise ModelError(
            f'{path} gives {_MEANINGS[possible[0]]}{held}, but its description says {said}: '
            f'write output: {{kind: {possible[0]}}}'
        )
    if said == 'labels' and seen is not None and seen.high >= space.num_classes:
        _logger.warning(
            'model %s gives ids up to %g, but %s has 0 to %d: the others are unlabelled',
            path, seen.high, space.name, space.num_classes - 1,
        )  # fmt: skip


def _check_finite(path: Path, seen: Seen) -> None:
    if seen.broken == seen.images:
        raise ModelError(
            f'{path} gives NaN or infinity for all of {seen.images} test images: look at scale, '
            'mean and std of its description, or export it again'
        )
    _logger.warning(
        'model %s gives NaN or infinity for %d of %d test images: such frames have no answer',
        path, seen.broken, seen.images,
    )  # fmt: skip


def _planes(shape: Shape, description: Description) -> int | None:
    """Return how many planes an output has, None if that is open."""
    if sum(extent != 1 for extent in (shape[1:] if len(shape) > 2 else shape)) <= 2:
        return 1
    return shape[description.class_axis] if len(shape) == 4 else None


def _possible(kind: str, planes: int | None, seen: Seen | None) -> list[str]:
    """Return the kinds that an output may be of, the likeliest first; none if it is scaled."""
    if seen is None:
        if kind == PROBABILITIES:
            return ['probabilities']
        return ['labels'] if (kind, planes) == (LABELS, 1) else list(_MEANINGS)
    in_unit = seen.low >= -_TOLERANCE and seen.high <= 1 + _TOLERANCE
    if kind == PROBABILITIES:
        is_near = seen.low >= -_OVERSHOOT and seen.high <= 1 + _OVERSHOOT
        return ['probabilities'] if is_near else []
    if planes == 1:
        # True scores of a class are above and below 0, on images as unlike as these.
        is_score = seen.low == seen.high or not (in_unit or (seen.whole and seen.low >= 0))
        may_be = {
            'labels': seen.whole,
            'probabilities': in_unit,
            'logits': is_score and kind != LABELS,
        }
        return [kind for kind, may in may_be.items() if may]
    adds_up = seen.sums is not None and max(abs(s - 1) for s in seen.sums) <= _TOLERANCE
    return ['probabilities'] if in_unit and adds_up else ['logits']
