"""Two results of `lwseg bag evaluate` over the same drives: what got better, what got worse."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from lwseg_ros.errors import DataError
from lwseg_ros.evaluation.metrics import figure
from lwseg_ros.label_space import LabelSpace
from lwseg_ros.plain_data import NOT_AS_WANTED
from lwseg_ros.replay.figures import MIN_BLOCKS, RESAMPLES, Layout
from lwseg_ros.replay.result import FIGURES, FORMAT, HIGHER_IS_BETTER, Block, Result

FRAMES = 'live_frames.jsonl'

CLASS_FREE = (
    *('drivable_iou', 'false_drivable_rate', 'missed_drivable_rate', 'drivable_boundary_f1'),
    *('flicker', 'drivable_stability', 'low_confidence', 'confidence', 'drivable_share'),
    *('agreement', 'drivable_agreement'),
)
"""Figures that can be compared though the classes differ."""

LIVE_FIGURES = ('p50_ms', 'p95_ms', 'p99_ms', 'dropped_share')
"""Figures of live replays: percentiles of latency, and the share of frames without an answer."""

BETTER, WORSE, CHANGED = 'better', 'worse', 'changed'
NO_DIFFERENCE, UNKNOWN = 'no clear difference', 'too few frames to tell'


Values = dict[str, float | None]


class Difference(TypedDict):
    """A figure of both results over the frames that both have, and of their difference B - A."""

    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    """Low and high: the 95 % confidence interval of the difference."""
    verdict: str | None
    """BETTER, WORSE or CHANGED if the interval excludes 0; None where A or B has no value."""


def read_result(path: Path) -> Result:
    """Read a result.json, or that of a folder; DataError if it is none."""
    path = path / 'result.json' if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise DataError(f'{path} cannot be read: {error.strerror}') from None
    except ValueError as error:
        raise DataError(f'{path} is no result of lwseg bag evaluate: {error}') from None
    if not isinstance(content, dict) or content.get('format') != FORMAT:
        raise DataError(
            f'{path} is no result.json of lwseg bag evaluate (wanted the format {FORMAT!r})'
        )
    result: Result = content  # type: ignore[assignment]
    return result


def compare(a: Result, b: Result) -> dict[str, Any]:
    """Return the figures of both results over what both have, and how sure the differences are.

    The paired bootstrap over blocks of consecutive frames (our choice): both results are resampled
    by the same blocks, so what is hard for both does not blur their difference. DataError if they
    have no block in common.
    """
    mine, its = _blocks(a), _blocks(b)
    shared = [key for key in mine if key in its]
    if not shared:
        raise DataError('the two results have no frames in common: they are of different bags')
    if a['configuration'].get('block_seconds') != b['configuration'].get('block_seconds'):
        raise DataError(
            'the two results have blocks of different length: evaluate with one --block-seconds'
        )
    space_a, space_b = _space(a), _space(b)
    same_classes = space_a == space_b
    sides = (
        _Side([mine[key] for key in shared], space_a),
        _Side([its[key] for key in shared], space_b),
    )
    names = FIGURES if same_classes else CLASS_FREE
    random = np.random.default_rng(0)
    picks = random.multinomial(len(shared), [1 / len(shared)] * len(shared), RESAMPLES)
    enough = len(shared) >= MIN_BLOCKS
    samples = [side.samples(picks if enough else picks[:0]) for side in sides]
    values = [side.values() for side in sides]
    rows = {
        name: _difference(name, values, samples)
        for name in dict.fromkeys([*values[0], *values[1]])
        if name in names or (same_classes and name.startswith(_CLASS))
    }
    return {
        'format': 'lwseg comparison 1',
        'models': [a['model'], b['model']],
        'frames': [int(side.rows.sum(0)[0]) for side in sides],
        'blocks': len(shared),
        'blocks_of_one_only': [len(mine) - len(shared), len(its) - len(shared)],
        'same_classes': same_classes,
        'figures': {k: v for k, v in rows.items() if not k.startswith(_CLASS)},
        'iou': {k.removeprefix(_CLASS): v for k, v in rows.items() if k.startswith(_CLASS)},
    }


LiveFrames = dict[tuple[str, str, int], float]
"""Latencies in ms by content of the bag, topic and stamp; NaN for a frame without an answer."""


def read_live_frames(path: Path, result: Result) -> LiveFrames:
    """Return the frames of the live replays beside a result.json or in its folder, if any."""
    folder = path if path.is_dir() else path.parent
    frames = {}
    for bag in result['bags']:
        file = next(
            (f for f in (folder / bag['name'] / FRAMES, folder / FRAMES) if f.is_file()), None
        )
        try:
            for line in file.read_text(encoding='utf-8').splitlines() if file else ():
                row = json.loads(line)
                took = row['latency_ms']
                frames[bag['sha256'], str(row['topic']), int(row['stamp_ns'])] = (
                    float('nan') if took is None else float(took)
                )
        except (OSError, *NOT_AS_WANTED) as error:
            raise DataError(f'{file} is not of a live replay: {error}') from None
    return frames


def compare_live(a: LiveFrames, b: LiveFrames, block_seconds: float) -> dict[str, Difference]:
    """Return the figures of two live replays over the frames that both were played.

    The paired bootstrap over blocks as in `compare`: the interval tells what chance of frames may
    do, not what another day on the machine may. Empty where one of them has no live replay.
    """
    shared = sorted(a.keys() & b.keys())
    if not shared:
        return {}
    first: dict[tuple[str, str], int] = {}
    for bag, topic, stamp_ns in shared:
        first.setdefault((bag, topic), stamp_ns)
    length_ns = round(block_seconds * 1e9)
    blocks = [
        (bag, topic, (stamp_ns - first[bag, topic]) // length_ns)
        for bag, topic, stamp_ns in shared
    ]
    numbers = {block: number for number, block in enumerate(dict.fromkeys(blocks))}
    of_frame = np.array([numbers[block] for block in blocks])
    latencies = [np.array([side[key] for key in shared]) for side in (a, b)]
    values = [_live_figures(side) for side in latencies]
    picks = np.empty((0, len(numbers)), np.int64)
    if len(numbers) >= MIN_BLOCKS:
        random = np.random.default_rng(0)
        picks = random.multinomial(len(numbers), [1 / len(numbers)] * len(numbers), RESAMPLES)
    samples = [
        [_live_figures(np.repeat(side, pick[of_frame])) for pick in picks] for side in latencies
    ]
    return {name: _difference(name, values, samples) for name in LIVE_FIGURES}


def _live_figures(latencies_ms: npt.NDArray[np.float64]) -> Values:
    answered = latencies_ms[~np.isnan(latencies_ms)]
    percentiles = np.percentile(answered, [50, 95, 99]).tolist() if len(answered) else [None] * 3
    return dict(
        zip(LIVE_FIGURES, (*percentiles, 1 - len(answered) / len(latencies_ms)), strict=True)
    )


def print_comparison(comparison: Mapping[str, Any], console: Console) -> None:
    """Print the figures of both, those of the classes, and what is better and worse."""
    models = [model['name'] for model in comparison['models']]
    title = f'{models[0]} (A) and {models[1]} (B), {comparison["frames"][0]} frames'
    table = Table(
        'figure',
        *(Column(name, justify='right') for name in ('A', 'B', 'B - A', '95 %')),
        '',
        title=escape(title),
        title_justify='left',
        box=SIMPLE_HEAD,
        padding=0,
    )
    rows = {
        **comparison['figures'],
        **{f'iou {k}': v for k, v in comparison['iou'].items()},
        **{f'live {k}': v for k, v in comparison.get('live', {}).items()},
    }
    for name, row in rows.items():
        if row['verdict'] is None:
            continue
        low, high = row['low'], row['high']
        word, style = _WORDS[row['verdict']]
        table.add_row(
            escape(name),
            f'{row["a"]:.4f}',
            f'{row["b"]:.4f}',
            f'{row["difference"]:+.4f}',
            '-' if low is None else f'{low:+.4f} to {high:+.4f}',
            Text(word, style),
        )
    console.print(table)
    for verdict in (BETTER, WORSE):
        names = [name for name, row in rows.items() if row['verdict'] == verdict]
        console.print(f'{verdict}: {", ".join(names) or "nothing"}', markup=False)
    if not comparison['same_classes']:
        console.print('the classes differ: only figures that need none are compared')
    if any(comparison['blocks_of_one_only']):
        one, other = comparison['blocks_of_one_only']
        console.print(f'left out, of A alone {one} and of B alone {other} blocks of frames')


_WORDS = {
    BETTER: (BETTER, 'green'),
    WORSE: (WORSE, 'red'),
    CHANGED: (CHANGED, ''),
    NO_DIFFERENCE: ('unclear', 'dim'),
    UNKNOWN: ('too few', 'dim'),
}
_CLASS = 'iou.'


class _Side:
    """The counts of one result, a row for each block."""

    def __init__(self, blocks: list[Block], space: LabelSpace | None) -> None:
        self._layout = Layout(space)
        self.rows = np.stack([self._layout.vector(block['counts']) for block in blocks])

    def values(self) -> Values:
        """Return the figures over all blocks, those of classes after 'iou.'."""
        return self._figures(self.rows.sum(0))

    def samples(self, picks: npt.NDArray[np.int64]) -> list[Values]:
        """Return the figures of each resampling `[n, blocks]`: how often it has each block."""
        return [self._figures(sums) for sums in (picks @ self.rows).astype(np.int64)]

    def _figures(self, sums: npt.NDArray[np.int64]) -> Values:
        accuracy = self._layout.accuracy(sums)
        classes = accuracy.iou() if accuracy else {}
        return {
            **self._layout.figures(sums),
            **{f'{_CLASS}{name}': value for name, value in classes.items()},
        }


def _difference(name: str, values: list[Values], samples: list[list[Values]]) -> Difference:
    a, b = (side.get(name) for side in values)
    if a is None or b is None:
        return Difference(a=a, b=b, difference=None, low=None, high=None, verdict=None)
    pairs = [(x.get(name), y.get(name)) for x, y in zip(*samples, strict=True)]
    known = [y - x for x, y in pairs if x is not None and y is not None]
    low, high = np.percentile(known, [2.5, 97.5]).tolist() if known else (None, None)
    return Difference(
        a=a,
        b=b,
        difference=figure(b - a),
        low=None if low is None else figure(low),
        high=None if high is None else figure(high),
        verdict=_verdict(name, low, high),
    )


def _verdict(name: str, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return UNKNOWN
    if low <= 0 <= high:
        return NO_DIFFERENCE
    higher_is_better = HIGHER_IS_BETTER.get(name)
    if name.startswith(_CLASS) or name in LIVE_FIGURES:
        higher_is_better = name.startswith(_CLASS)
    if higher_is_better is None:
        return CHANGED
    return BETTER if (low > 0) == higher_is_better else WORSE


def _blocks(result: Result) -> dict[tuple[str, str, int, int], Block]:
    """Return the blocks by the content of their bag (names may differ) and by their frames."""
    content = {bag['name']: bag['sha256'] for bag in result['bags']}
    return {
        (content[b['bag']], b['topic'], b['number'], b['counts']['frames']): b
        for b in result['blocks']
    }


def _space(result: Result) -> LabelSpace | None:
    given: Mapping[str, Any] | None = result['comparison_space']
    return None if given is None else LabelSpace.from_dict(given)
