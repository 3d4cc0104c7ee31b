"""What people look at: tables in the terminal, a page with plots, a comparison of two runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lwseg_ros.benchmark.plots import plots
from lwseg_ros.benchmark.tables import Row, sections
from lwseg_ros.errors import DataError
from lwseg_ros.files import write_atomically, write_json

FORMAT = 'lwseg benchmark 1'
NAME = 'performance'
RESULT = f'{NAME}.json'


def print_tables(result: Row, console: Console) -> None:
    """Print every table."""
    for section in sections(result):
        table = Table(*section.columns, title=section.title)
        for row in section.rows:
            table.add_row(*row)
        console.print(table)
    for line in result.get('skipped', ()):
        console.print(f'left out: {line}', style='yellow', markup=False)


def write_report(result: Row, out: Path) -> None:
    """Write performance.json, performance.md and its plots into the folder `out`."""
    pictures = plots(result)
    for name, picture in pictures.items():
        write_atomically(out / f'{NAME}_{name}.png', picture)
    write_atomically(out / f'{NAME}.md', _page(result, list(pictures)).encode())
    write_json(out / RESULT, result)


def _page(result: Row, pictures: Sequence[str]) -> str:
    environment = result['environment']
    machine = environment['machine']
    board = machine['board'] or ('a virtual machine' if machine['virtual'] else 'a computer')
    versions = ', '.join(f'{name} {v}' for name, v in environment['versions'].items())
    middleware = environment['middleware']
    lines = [
        '# Performance',
        '',
        'Written by the commands',
        '',
        *(f'    {command}' for command in result['commands']),
        '',
        f'on {board} with {machine["cores"]} cores of {machine["processor"]} '
        f'({", ".join(machine["flags"])}), {machine["memory_gb"]} GB, energy from '
        f'{result["energy_source"] or "nothing that can be read"}; {versions}; '
        f'{middleware["rmw"]} with {middleware["profile"]}. The load before was '
        f'{environment["load_before"]}. Times do not carry over to another machine, ratios '
        f'roughly do. Everything is in [{NAME}.json]({NAME}.json); two such files are compared by',
        '',
        '    lwseg benchmark --compare before.json after.json',
        '',
        '| model | SHA-256 |',
        '|---|---|',
        *(f'| `{name}` | {digest[:16]}… |' for name, digest in result['models'].items()),
        '',
    ]
    for section in sections(result):
        lines += [f'## {section.title}', '', section.text, '']
        lines += [f'| {" | ".join(section.columns)} |', '|' + '---|' * len(section.columns)]
        lines += [f'| {" | ".join(row)} |' for row in section.rows]
        lines.append('')
        name = {'Engines': 'engines', 'Cost and classes': 'growth'}.get(section.title, '')
        if name in pictures:
            lines += [f'![{section.title}]({NAME}_{name}.png)', '']
    if result.get('skipped'):
        lines += ['## Left out', '', *(f'- {line}' for line in result['skipped']), '']
    return '\n'.join(lines)


def read_result(path: Path) -> dict[str, Any]:
    """Read a performance.json; DataError if it is none."""
    try:
        result = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise DataError(f'{path} cannot be read: {error}') from None
    if not isinstance(result, dict) or result.get('format') != FORMAT:
        raise DataError(f'{path} is not the JSON of `lwseg benchmark`')
    return result


def compare(a: Row, b: Row, console: Console) -> None:
    """Print what both results have, side by side, and the ratio B / A."""
    table = Table('what', 'A', 'B', 'B / A', title='p50')
    before, after = _comparable(a), _comparable(b)
    for name in before:
        if name in after and before[name]:
            ratio = after[name] / before[name]
            table.add_row(name, f'{before[name]:g}', f'{after[name]:g}', f'{ratio:.2f}')
    if not table.row_count:
        raise DataError('the two results have no model, engine and size in common')
    console.print(table)
    if a['environment']['machine'] != b['environment']['machine']:
        console.print('A and B are of different machines', style='yellow')


def _comparable(result: Row) -> dict[str, float]:
    """Return the figures of a result by what identifies them."""
    found: dict[str, float] = {}
    for row in result.get('engines', ()):
        place = f'{row["model"]} {row["backend"]} {row["precision"]} {row["size"]}'
        for what in ('engine', 'segmenter'):
            if f'{what}_ms' in row:
                found[f'{what} ms: {place}'] = row[f'{what}_ms']['p50']
    for row in result.get('end_to_end', ()):
        place = f'{row["model"]} {row["backend"]} {row["precision"]} {row["transport"]}'
        found[f'latency ms: {place}'] = row['latency_ms']['p50']
        found[f'memory MB: {place}'] = row['memory_mb']
        if row['throughput_hz']:
            found[f'highest rate Hz: {place}'] = row['throughput_hz']
    for row in result.get('startup', ()):
        found[f'start-up s: {row["model"]} {row["backend"]} {row["precision"]}'] = row['total_s']
    for row in result.get('points', ()):
        found[f'ms: {row["what"]}'] = row['ours_ms']['p50']
    return found
