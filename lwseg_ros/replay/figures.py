"""From the counts of blocks of frames to figures with confidence intervals; merging of results.

Definitions: docs/metrics.md. Sums are of whole numbers, so their order does not matter: results
of several bags, merged, are what one process would have counted over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lwseg_ros.errors import DataError
from lwseg_ros.evaluation.evaluate import Accuracy
from lwseg_ros.evaluation.metrics import figure
from lwseg_ros.label_space import LabelSpace
from lwseg_ros.replay.result import (
    FIGURES,
    HIGHER_IS_BETTER,
    AccuracyCounts,
    AgreementCounts,
    Block,
    Counts,
    Extreme,
    Figure,
    FrameRecord,
    LookFirst,
    Part,
    Result,
)

RESAMPLES = 1000
MIN_BLOCKS = 5
"""With fewer blocks an interval would say too little to be shown (our choice)."""
LOOK_FIRST = 6
"""Frames to look at first, for each reason."""
REASONS = (
    *('drivable_iou', 'miou', 'flicker', 'drivable_stability', 'low_confidence'),
    'drivable_agreement',
)
"""What frames are looked at for; miou only where nothing is drivable."""

_SUMS = (
    *('frames', 'frames_with_truth', 'pixels', 'confidence_sum', 'low_confidence', 'drivable'),
    *('compared', 'changed', 'drivable_both', 'drivable_either'),
)
_AGREEMENT = ('pixels', 'equal', 'drivable_both', 'drivable_either')

Vector = npt.NDArray[np.int64]


class Layout(NamedTuple):
    """Where the counts lie in a vector: sums, agreement, then accuracy if there is a space."""

    space: LabelSpace | None

    def vector(self, counts: Counts) -> Vector:
        """Return counts as int64 `[n]`, zeros for what is None."""
        sums = [counts[name] for name in _SUMS]  # type: ignore[literal-required]
        agreement = counts['agreement']
        sums += [agreement[name] if agreement else 0 for name in _AGREEMENT]  # type: ignore[literal-required]
        parts = [np.array(sums, np.int64)]
        if self.space is not None:
            accuracy, given = Accuracy(self.space), counts['accuracy']
            if given is not None:
                tables = (given['confusion'], given['boundary'], given['calibration'])
                for mine, its in zip(accuracy.counts(), tables, strict=True):
                    mine += np.array(its, np.int64)
            parts += [table.ravel() for table in accuracy.counts()]
        return np.concatenate(parts)

    def accuracy(self, vector: Vector) -> Accuracy | None:
        """Return the accuracy that a sum of vectors holds, None without a truth in it."""
        if self.space is None or not vector[1]:
            return None
        accuracy = Accuracy(self.space)
        at = len(_SUMS) + len(_AGREEMENT)
        for table in accuracy.counts():
            table += vector[at : at + table.size].reshape(table.shape)
            at += table.size
        return accuracy

    def figures(self, vector: Vector) -> dict[str, float | None]:
        """Return the figures by the names in FIGURES."""
        sums = dict(zip(_SUMS, vector.tolist(), strict=False))
        agreement = dict(zip(_AGREEMENT, vector[len(_SUMS) :].tolist(), strict=False))
        accuracy = self.accuracy(vector)
        against_truth = {**accuracy.figures(), **accuracy.other_figures()} if accuracy else {}
        others = {
            'flicker': _share(sums['changed'], sums['compared']),
            'drivable_stability': _share(sums['drivable_both'], sums['drivable_either']),
            'low_confidence': _share(sums['low_confidence'], sums['pixels']),
            'confidence': _share(sums['confidence_sum'], 255 * sums['pixels']),
            'agreement': _share(agreement['equal'], agreement['pixels']),
            'drivable_agreement': _share(
                agreement['drivable_both'], agreement['drivable_either']
            ),
            'drivable_share': _share(sums['drivable'], sums['pixels']),
        }  # fmt: skip
        values = {name: figure(value) for name, value in others.items()}
        return {name: values.get(name, against_truth.get(name)) for name in FIGURES}


def _share(part: int, whole: int) -> float:
    """Return part / whole, NaN where the whole is nothing."""
    return part / whole if whole else math.nan


def accuracy_counts(accuracy: Accuracy) -> AccuracyCounts:
    """Return the counts of one image as JSON holds them."""
    confusion, boundary, calibration = (table.tolist() for table in accuracy.counts())
    return AccuracyCounts(confusion=confusion, boundary=boundary, calibration=calibration)


def empty_counts() -> Counts:
    """Return the counts of no frame."""
    counts: Any = {**dict.fromkeys(_SUMS, 0), 'accuracy': None, 'agreement': None}
    result: Counts = counts
    return result


class BlockBuilder:
    """Puts the frames of one topic together in blocks."""

    def __init__(self, bag: str, topic: str, first_ns: int, seconds: float, layout: Layout):
        self._bag, self._topic, self._first_ns = bag, topic, first_ns
        self._length_ns = max(1, round(seconds * 1e9))
        self._layout = layout
        self.blocks: list[Block] = []
        self._sums: list[Vector] = []
        self._agrees: list[bool] = []

    def add(self, record: FrameRecord, counts: Vector, agrees: bool) -> dict[str, float]:
        """Add a frame; return for what it is the worst of its block so far, with the values."""
        number = (record['stamp_ns'] - self._first_ns) // self._length_ns
        if not self.blocks or self.blocks[-1]['number'] != number:
            self.blocks.append(
                Block(
                    bag=self._bag,
                    topic=self._topic,
                    number=number,
                    counts=empty_counts(),
                    worst={},
                )
            )
            self._sums.append(np.zeros_like(counts))
            self._agrees.append(agrees)
        self._sums[-1] += counts
        worst = self.blocks[-1]['worst']
        reasons = {}
        for name, value in looked_at(record['figures']).items():
            if name not in worst or _is_worse(name, value, worst[name]['value']):
                worst[name] = Extreme(
                    value=value, index=record['index'], stamp_ns=record['stamp_ns']
                )
                reasons[name] = value
        return reasons

    def finish(self) -> list[Block]:
        """Return the blocks with their counts."""
        for block, sums, agrees in zip(self.blocks, self._sums, self._agrees, strict=True):
            counts = block['counts']
            counts.update(zip(_SUMS, sums.tolist(), strict=False))  # type: ignore[typeddict-item]
            accuracy = self._layout.accuracy(sums)
            counts['accuracy'] = accuracy_counts(accuracy) if accuracy else None
            values = sums[len(_SUMS) :].tolist()
            counts['agreement'] = (
                AgreementCounts(**dict(zip(_AGREEMENT, values, strict=False)))  # type: ignore[typeddict-item]
                if agrees
                else None
            )
        return self.blocks


def looked_at(figures: Mapping[str, float | None]) -> dict[str, float]:
    """Return the figures of a frame that it may be looked at for."""
    known = {name: value for name in REASONS if (value := figures[name]) is not None}
    if 'drivable_iou' in known:
        known.pop('miou', None)
    return known


def part(blocks: Sequence[Block], space: LabelSpace | None) -> Part:
    """Return the figures over some blocks, with 95 % confidence intervals.

    The percentile bootstrap over blocks, with a fixed seed (Efron, Tibshirani, "An introduction
    to the bootstrap", 1993, ch. 13). Blocks of consecutive frames instead of frames (Kuensch,
    "The jackknife and the bootstrap for general stationary observations", Annals of Statistics
    1989) because neighbours resemble each other; their length is our choice.
    """
    layout = Layout(space)
    rows = np.stack(
        [layout.vector(block['counts']) for block in blocks]
        or [np.zeros_like(layout.vector(empty_counts()))]
    )
    total = rows.sum(0)
    accuracy = layout.accuracy(total)
    values = layout.figures(total)
    iou = accuracy.iou() if accuracy else {}
    samples: dict[str, list[float]] = {name: [] for name in values}
    class_samples: dict[str, list[float]] = {name: [] for name in iou}
    if len(blocks) >= MIN_BLOCKS:
        random = np.random.default_rng(0)
        shares = np.full(len(rows), 1 / len(rows))
        numbers = rows.astype(np.float64)  # whole ones, and exact as such below 2**53
        for _ in range(RESAMPLES):
            sums = (random.multinomial(len(rows), shares) @ numbers).astype(np.int64)
            resampled = layout.accuracy(sums)
            classes = resampled.iou() if resampled else {}
            for into, found in ((samples, layout.figures(sums)), (class_samples, classes)):
                for name, sample in found.items():
                    if sample is not None and name in into:
                        into[name].append(sample)
    return Part(
        frames=int(total[0]),
        frames_with_truth=int(total[1]),
        figures={name: _interval(value, samples[name]) for name, value in values.items()},
        iou={name: _interval(value, class_samples[name]) for name, value in iou.items()},
        confusion=accuracy.confusion.counts.tolist() if accuracy else None,
        accuracy=accuracy.result() if accuracy else None,
    )


def look_first(blocks: Iterable[Block]) -> list[LookFirst]:
    """Return the frames to look at first: of each reason the worst, one of a block."""
    found = []
    for name in REASONS:
        rows = [(block, block['worst'][name]) for block in blocks if name in block['worst']]
        sign = -1 if HIGHER_IS_BETTER[name] else 1
        rows = [row for row in rows if row[1]['value'] != (1 if sign < 0 else 0)]
        rows.sort(
            key=lambda row: (
                -sign * row[1]['value'],
                row[0]['bag'],
                row[0]['topic'],
                row[1]['index'],
            )
        )
        found += [
            LookFirst(
                bag=block['bag'],
                topic=block['topic'],
                index=worst['index'],
                stamp_ns=worst['stamp_ns'],
                reason=name,
                value=worst['value'],
                picture=picture_path(block['topic'], worst['index']),
            )
            for block, worst in rows[:LOOK_FIRST]
        ]
    return found


def picture_path(topic: str, index: int) -> str:
    """Return where the picture of a frame to look at is, below the bag's folder."""
    return f'look_first/{file_name(topic)}_{index:06d}'


def file_name(topic: str) -> str:
    """Return a topic as part of a file name."""
    return topic.strip('/').replace('/', '_')


def merge(results: Sequence[Result]) -> Result:
    """Return the result over all bags of some results, as if one process had counted them.

    DataError if they are of different models or configurations, or have a bag twice.
    """
    if not results:
        raise DataError('there are no results to merge')
    first = results[0]
    described: list[Any] = list(results)
    for other in described[1:]:
        for what in ('format', 'model', 'against', 'versions', 'configuration', 'label_space'):
            if other[what] != described[0][what]:
                raise DataError(
                    f'results of different {what} cannot be merged: evaluate the bags anew with '
                    f'one {what}'
                )
    results = sorted(results, key=lambda result: result['bags'][0]['name'])
    bags = [bag for result in results for bag in result['bags']]
    names = [bag['name'] for bag in bags]
    if len(set(names)) < len(names):
        raise DataError(f'a bag is among the results twice: {", ".join(sorted(names))}')
    blocks = [block for result in results for block in result['blocks']]
    spaces = [s for result in results if (s := result['comparison_space']) is not None]
    if any(space != spaces[0] for space in spaces):
        raise DataError('results whose truth is of different label spaces cannot be merged')
    space = LabelSpace.from_dict(spaces[0]) if spaces else None
    return Result(
        format=first['format'],
        model=first['model'],
        against=first['against'],
        versions=first['versions'],
        configuration=first['configuration'],
        label_space=first['label_space'],
        comparison_space=spaces[0] if spaces else None,
        interrupted=any(result['interrupted'] for result in results),
        bags=bags,
        failures=[failure for result in results for failure in result['failures']],
        overall=(overall := part(blocks, space)),
        topics=by_topic(blocks, space, overall),
        look_first=look_first(blocks),
        blocks=blocks,
    )


def by_topic(blocks: Sequence[Block], space: LabelSpace | None, overall: Part) -> dict[str, Part]:
    """Return the figures of each topic; of the only one, those over all."""
    topics = sorted({block['topic'] for block in blocks})
    if len(topics) == 1:
        return {topics[0]: overall}
    return {topic: part([b for b in blocks if b['topic'] == topic], space) for topic in topics}


def _interval(value: float | None, samples: Sequence[float]) -> Figure:
    if value is None or not samples:
        return Figure(value=value, low=None, high=None)
    low, high = np.percentile(samples, [2.5, 97.5])
    return Figure(value=value, low=figure(float(low)), high=figure(float(high)))


def _is_worse(name: str, value: float, than: float) -> bool:
    return value < than if HIGHER_IS_BETTER[name] else value > than
