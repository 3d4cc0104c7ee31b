"""The figures of each camera over time: of the worst, if there are many."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lwseg_ros.live.replay import RESULT as LIVE_RESULT
from lwseg_ros.live.replay import read_live_frames
from lwseg_ros.replay.meanings import MEANINGS
from lwseg_ros.replay.plots import Row, Values, plot_rows
from lwseg_ros.replay.result import (
    FRAMES,
    HIGHER_IS_BETTER,
    BagEntry,
    Result,
    read_bag_result,
)

MAX_TIMELINES = 8
"""Of more cameras than this only the worst are drawn over time (our choice)."""
OVER_TIME = (
    *('drivable_iou', 'miou', 'drivable_agreement', 'flicker', 'drivable_stability'),
    *('drivable_share', 'confidence', 'low_confidence'),
)
"""What is plotted, from top to bottom, where it is known."""


def timelines(folder: Path, result: Result) -> tuple[list[dict[str, Any]], str]:
    """Return the plots over time of the cameras, of the worst if there are many, and a note."""
    bags = _worst_first(folder, result['bags'])
    chosen: list[BagEntry] = []
    number = 0
    for bag in bags:
        number += len(bag['topics'])
        if chosen and number > MAX_TIMELINES:
            break
        chosen.append(bag)
    drawn = []
    for bag in sorted(chosen, key=lambda bag: bag['name']):
        series = _read_series(folder / bag['name'] / FRAMES)
        latencies = _latencies(folder / bag['name'])
        first = min((one.stamps[0] for one in series.values() if one.stamps), default=0)
        for topic, one in series.items():
            if len(one.stamps) < 2:
                continue
            rows = _rows(one, first)
            if topic in latencies:
                rows.append(_latency_row(*latencies[topic], first))
            broken = (np.array(one.broken, np.float64) - first) / 1e9
            drawn.append(
                {
                    'title': f'{bag["name"]}  {topic}',
                    'svg': plot_rows(rows, broken),
                }
            )
    notes = []
    if any(topic['broken'] for bag in chosen for topic in bag['topics']):
        notes.append('Red lines: broken messages.')
    if any((folder / bag['name'] / LIVE_RESULT).is_file() for bag in chosen):
        notes.append('Red ticks: frames without an answer in the live replay.')
    if len(chosen) < len(bags):
        notes.append(f'The worst {len(chosen)} of {len(bags)} bags.')
    return drawn, ' '.join(notes)


class _Series:
    """The figures of one camera's frames over time, and where messages are broken."""

    def __init__(self) -> None:
        self.stamps: array[int] = array('q')
        self.values = {name: array('d') for name in OVER_TIME}
        self.broken: array[int] = array('q')

    def add(self, record: Mapping[str, Any]) -> None:
        if record['error'] is not None:
            self.broken.append(record['stamp_ns'])
            return
        self.stamps.append(record['stamp_ns'])
        for name, values in self.values.items():
            value = record['figures'].get(name)
            values.append(float('nan') if value is None else value)


def _read_series(path: Path) -> dict[str, _Series]:
    """Read frames.jsonl, line by line, into the series of each camera."""
    series: dict[str, _Series] = {}
    with path.open(encoding='utf-8') as lines:
        for line in lines:
            record = json.loads(line)
            series.setdefault(record['topic'], _Series()).add(record)
    return series


def _rows(series: _Series, first_ns: int) -> list[Row]:
    seconds = (np.array(series.stamps, np.float64) - first_ns) / 1e9
    values = {name: np.array(series.values[name]) for name in OVER_TIME}
    return [
        Row(MEANINGS[name].title, seconds, values[name])
        for name in OVER_TIME
        if not np.isnan(values[name]).all()
    ]


def _latencies(folder: Path) -> dict[str, tuple[Values, Values]]:
    """Return stamps and latencies of each camera in a live replay."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for row in read_live_frames(folder):
        stamps, values = found.setdefault(row['topic'], ([], []))
        stamps.append(row['stamp_ns'])
        values.append(float('nan') if row['latency_ms'] is None else row['latency_ms'])
    return {topic: (np.array(s, np.float64), np.array(v)) for topic, (s, v) in found.items()}


def _latency_row(stamps: Values, values: Values, first_ns: int) -> Row:
    seconds, dropped = (stamps - first_ns) / 1e9, np.isnan(values)
    return Row(
        'Latency in the live replay, ms',
        seconds[~dropped],
        values[~dropped],
        shares=False,
        missing=seconds[dropped],
    )


def _worst_first(folder: Path, bags: Iterable[BagEntry]) -> list[BagEntry]:
    def badness(bag: BagEntry) -> tuple[float, ...]:
        figures = read_bag_result(folder, bag)['overall']['figures']
        ranks = []
        for name in ('drivable_iou', 'miou', 'flicker'):
            value = figures[name]['value']
            better = HIGHER_IS_BETTER[name]
            ranks.append(1.0 if value is None else value if better else -value)
        return tuple(ranks)

    return sorted(bags, key=badness)
