"""Conditions on the figures of a replay, for continuous integration: `--fail-if 'p99_ms>80'`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lwseg_ros.errors import LwsegError
from lwseg_ros.replay.result import FIGURES, Result

LIVE_FIGURES: dict[str, tuple[str, ...]] = {
    **{f'{name}_ms': ('latency_ms', name) for name in ('p50', 'p95', 'p99', 'max')},
    **{f'age_{name}_ms': ('age_ms', name) for name in ('p50', 'p95', 'p99', 'max')},
    'dropped_share': ('dropped_share',),
    'fps': ('fps',),
    'cpu_cores': ('cpu_cores',),
    'memory_mb': ('memory_mb', 'max'),
}
"""Names in conditions of what live.json holds, and where it is there."""

CLASS_PREFIX = 'iou.'

_COMPARE = {'<': operator.lt, '<=': operator.le, '>': operator.gt, '>=': operator.ge}
_FORM = re.compile(r'\s*(?P<name>[^<>=]+?)\s*(?P<sign>[<>]=?)\s*(?P<limit>[-+.\w]+)\s*')


class Condition(NamedTuple):
    """A condition under which an evaluation fails."""

    name: str
    """One of FIGURES or LIVE_FIGURES, 'broken_messages', or 'iou.' and the name of a class."""
    sign: str
    limit: float

    def __str__(self) -> str:
        """Return it as it is written on the command line."""
        return f'{self.name}{self.sign}{self.limit:g}'

    def holds(self, value: float | None) -> bool:
        """Return whether the evaluation fails: a figure that is not known fails, too."""
        return value is None or math.isnan(value) or _COMPARE[self.sign](value, self.limit)


class Check(NamedTuple):
    """What became of a condition."""

    condition: str
    name: str
    value: float | None
    failed: bool

    def __str__(self) -> str:
        """Return a sentence."""
        if self.value is None:
            return f'{self.name} is not known, so {self.condition} counts as failed'
        return f'{self.name} is {self.value:g}: --fail-if {self.condition!r}'


def parse_conditions(texts: Iterable[str], classes: Sequence[str], live: bool) -> list[Condition]:
    """Return the conditions that texts like 'drivable_iou<0.95' mean.

    `classes` are those that may follow 'iou.'; figures of the live replay need `live`. LwsegError
    that lists the known names, or says what a condition looks like.
    """
    conditions = []
    for text in texts:
        match = _FORM.fullmatch(text)
        limit = _number(match['limit']) if match else None
        if match is None or limit is None:
            raise LwsegError(
                f'--fail-if {text!r} is no condition: wanted a name, one of < <= > >= and a '
                "number, as in 'drivable_iou<0.95'"
            )
        name = match['name']
        if name in LIVE_FIGURES and not live:
            raise LwsegError(f'--fail-if {text!r}: {name} is measured by --live, add that')
        known = [*FIGURES, 'broken_messages', *(f'{CLASS_PREFIX}{c}' for c in classes)]
        if name not in known and name not in LIVE_FIGURES:
            raise LwsegError(
                f'--fail-if {text!r}: there is no figure {name!r}, there are '
                f'{", ".join(known)}; with --live {", ".join(LIVE_FIGURES)}'
            )
        conditions.append(Condition(name, match['sign'], limit))
    return conditions


def check(
    conditions: Iterable[Condition], result: Result, live: Mapping[str, Any] | None
) -> list[Check]:
    """Return what becomes of each condition, by the figures over all bags."""
    values = _values(result, live)
    return [
        Check(str(c), c.name, values.get(c.name), c.holds(values.get(c.name))) for c in conditions
    ]


def _values(result: Result, live: Mapping[str, Any] | None) -> dict[str, float | None]:
    overall = result['overall']
    values = {name: figure['value'] for name, figure in overall['figures'].items()}
    for name, figure in overall['iou'].items():
        values[f'{CLASS_PREFIX}{name}'] = figure['value']
    values['broken_messages'] = sum(t['broken'] for bag in result['bags'] for t in bag['topics'])
    if live is not None:
        for name, path in LIVE_FIGURES.items():
            value: Any = live
            for key in path:
                value = None if value is None else value.get(key)
            values[name] = value
    return values


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number
