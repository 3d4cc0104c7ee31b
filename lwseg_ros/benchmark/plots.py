"""The plots of a benchmark."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from lwseg_ros.benchmark.tables import Row


def plots(result: Row) -> dict[str, bytes]:
    """Return the plots as PNG files by name; none without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return {}
    made = {}
    if result.get('engines'):
        rows = sorted(result['engines'], key=lambda row: (row['size'], row['engine_ms']['p50']))
        figure = Figure(figsize=(8, 0.28 * len(rows) + 1), layout='constrained')
        axes = figure.add_subplot()
        labels = [f'{row["model"]} {row["size"]}, {row["engine"]}' for row in rows]
        bars = axes.barh(labels, [row['engine_ms']['p50'] for row in rows], color='tab:blue')
        axes.bar_label(bars, fmt='%.1f', padding=3, fontsize=7)
        axes.margins(x=0.08, y=0.01)
        axes.set_xlabel('engine, ms (p50)')
        axes.tick_params(axis='y', labelsize=7)
        axes.invert_yaxis()
        made['engines'] = _png(figure)
    lines: list[tuple[str, str, Callable[[Row], float], str]] = [
        ('pixels', 'pixels', lambda row: row['engine_ms']['p50'], 'engine, ms'),
        ('pixels', 'pixels', lambda row: row['memory_mb'], 'memory, MB'),
        ('cameras', 'cameras', lambda row: row['age_ms']['p50'], 'age of a result, ms'),
        ('cameras', 'cameras', lambda row: row['memory_mb'], 'memory, MB'),
        ('classes', 'classes', lambda row: row['engine_ms']['p50'], 'engine, ms'),
        ('classes', 'classes', lambda row: 100 * row['share_around_the_network'], 'share, %'),
    ]
    lines = [line for line in lines if result.get(line[0])]
    if lines:
        figure = Figure(figsize=(9, 2.5 * (len(lines) // 2)), layout='constrained')
        for place, (kind, x, y, label) in enumerate(lines, 1):
            axes = figure.add_subplot(len(lines) // 2, 2, place)
            rows = result[kind]
            axes.plot([row[x] for row in rows], [y(row) for row in rows], 'o-')
            axes.set_xlabel(x)
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0)
        made['growth'] = _png(figure)
    return made


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=100, metadata={'Software': None})
    return buffer.getvalue()
