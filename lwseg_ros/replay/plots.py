"""Plots of a replay over time, as SVG that takes its colours from the page it stands in."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Values = npt.NDArray[np.float64]

MAX_POINTS = 1200
"""Longer lines are drawn as mean and range of this many stretches of time (our choice)."""

_WIDTH_IN, _ROW_IN, _AXIS_IN = 9.8, 0.98, 0.3

# Colours that nothing else has, and the page's variables that take their place.
_COLORS = {
    name: f'#0{number}0{number}0{number}'
    for number, name in enumerate(('ink', 'faint', 'line', 'first', 'bad'), 1)
}


class Row(NamedTuple):
    """One of the plots that stand above each other."""

    title: str
    seconds: Values
    values: Values
    """NaN where there is none."""
    shares: bool = True
    """Whether the values are between 0 and 1."""
    missing: Values = np.empty(0)
    """Seconds of frames without a value: ticks at the lower edge."""


def plot_rows(rows: Sequence[Row], broken: Values) -> str:
    """Return the rows over the same seconds as an SVG element, `broken` messages marked in all."""
    settings: Any = {
        'svg.fonttype': 'none',
        'svg.hashsalt': 'lwseg',
        'font.size': 9,
        'axes.edgecolor': _COLORS['line'],
        'text.color': _COLORS['ink'],
        'axes.labelcolor': _COLORS['faint'],
        'xtick.color': _COLORS['faint'],
        'ytick.color': _COLORS['faint'],
    }
    with matplotlib.rc_context(settings):
        height = _ROW_IN * len(rows) + _AXIS_IN
        figure = Figure((_WIDTH_IN, height))
        FigureCanvasSVG(figure)
        every = figure.subplots(len(rows), sharex=True, squeeze=False)[:, 0]
        for axes, row in zip(every, rows, strict=True):
            _draw(axes, row, broken)
        every[-1].set_xlabel('seconds since the first frame')
        figure.subplots_adjust(
            left=0.05, right=0.985, top=1 - 0.26 / height, bottom=0.46 / height, hspace=0.55
        )
        text = io.StringIO()
        figure.savefig(text, format='svg', transparent=True, metadata={'Date': None})
    return _for_a_page(text.getvalue())


def _draw(axes: Axes, row: Row, broken: Values) -> None:
    for side in ('top', 'right', 'left'):
        axes.spines[side].set_visible(False)
    axes.grid(axis='y', color=_COLORS['line'], linewidth=0.6)
    axes.tick_params(length=0)
    _draw_line(axes, row.seconds, row.values)
    for seconds in broken:
        axes.axvline(seconds, color=_COLORS['bad'], linewidth=0.8, alpha=0.7)
    bottom, top = axes.get_ylim()
    axes.set_ylim((max(bottom, 0), min(top, 1.005) if row.shares else top))
    if row.missing.size:
        axes.plot(
            row.missing,
            np.zeros_like(row.missing),
            linestyle='',
            marker='|',
            markersize=5,
            color=_COLORS['bad'],
            transform=axes.get_xaxis_transform(),
            clip_on=False,
        )
    axes.margins(x=0.005)
    axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axes.set_title(row.title, loc='left', fontsize=9, pad=4)


def _draw_line(axes: Axes, seconds: Values, values: Values) -> None:
    color = _COLORS['first']
    if seconds.size <= MAX_POINTS:
        known = np.pad(~np.isnan(values), 1)
        alone = known[1:-1] & ~known[:-2] & ~known[2:]
        axes.plot(seconds, values, color=color, linewidth=1.1)
        axes.plot(seconds[alone], values[alone], 'o', color=color, markersize=2.2)
        return
    middles, low, mean, high = _stretches(seconds, values)
    axes.fill_between(middles, low, high, color=color, alpha=0.25, linewidth=0)
    axes.plot(middles, mean, color=color, linewidth=1.1)


def _stretches(seconds: Values, values: Values) -> tuple[Values, Values, Values, Values]:
    """Return the time, least, mean and greatest value of `MAX_POINTS` stretches that have any."""
    edges = np.linspace(seconds.min(), seconds.max(), MAX_POINTS + 1)
    known = ~np.isnan(values)
    values, seconds = values[known], seconds[known]
    place = np.clip(np.searchsorted(edges, seconds, 'right') - 1, 0, MAX_POINTS - 1)
    count = np.bincount(place, minlength=MAX_POINTS)
    full = count > 0
    low, high = np.full(MAX_POINTS, np.inf), np.full(MAX_POINTS, -np.inf)
    np.minimum.at(low, place, values)
    np.maximum.at(high, place, values)
    mean = np.bincount(place, values, MAX_POINTS)[full] / count[full]
    return ((edges[:-1] + edges[1:]) / 2)[full], low[full], mean, high[full]


def _for_a_page(svg: str) -> str:
    """Return the SVG element alone, as wide as its place, with the page's colours and font."""
    element = svg[svg.index('<svg') :]
    element = re.sub(r' (width|height)="[\d.]+pt"', '', element, count=2)
    element = re.sub(r'<(metadata|style)[ >].*?</\1>', '', element, flags=re.DOTALL)
    element = re.sub(r'<g id="[^"]*"', '<g', element)
    # Older releases of matplotlib write the font's size and family in one property.
    element = re.sub(r'font: ([\d.]+px) [^;"]*', r'font-size: \1', element)
    element = re.sub(r'font-family: [^;"]*;', '', element)
    for name, color in _COLORS.items():
        element = element.replace(color, f'var(--{name})')
    return element
