"""The figures of an evaluation as tables in the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

FIGURES = (
    *('miou', 'drivable_iou', 'false_drivable_rate', 'missed_drivable_rate', 'pixel_accuracy'),
    *('boundary_f1', 'drivable_boundary_f1', 'calibration_error'),
)
"""The figures over everything, by their names in the result."""


def print_report(result: dict[str, Any], heading: str, console: Console) -> None:
    """Print the figures, those of each class, and the worst images of a result of `evaluate`.

    Which classes were joined is said below them. `result` has the list `worst` too (see
    `worst_images`).
    """
    figures = Table('figure', _right('value'), title=escape(heading), title_justify='left')
    for name in FIGURES:
        figures.add_row(name, _text(result[name]))
    classes = Table('class', _right('iou'), _right('boundary_f1'))
    borders = result['boundary']['classes']
    for name, iou in result['iou'].items():
        classes.add_row(escape(name), _text(iou), _text(borders.get(name, {}).get('f1')))
    called = Table('true class', _right('called drivable'))
    for name, share in result['called_drivable'].items():
        called.add_row(escape(name), _text(share))
    worst = Table('worst images', _right('drivable_iou'), _right('miou'))
    for row in result['worst']:
        worst.add_row(escape(row['name']), _text(row['drivable_iou']), _text(row['miou']))
    for table in (figures, classes, called, worst):
        if table.row_count:
            console.print(table)
    if 'note' in result:
        console.print(result['note'], highlight=False, markup=False)


def _right(name: str) -> Column:
    return Column(name, justify='right')


def _text(value: float | None) -> str:
    return '-' if value is None else f'{value:.4f}'
