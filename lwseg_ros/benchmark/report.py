"""What people look at: tables, plots, a page for the documentation, a comparison of two runs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from lwseg_ros.benchmark.engines import BARE, CAMERA, EAGER
from lwseg_ros.errors import DataError
from lwseg_ros.files import write_atomically

FORMAT = 'lwseg benchmark 1'
NAME = 'performance'
RESULT = f'{NAME}.json'

Row = Mapping[str, Any]


class Section(NamedTuple):
    """One table: its heading, what it shows, the names of its columns, and its rows."""

    title: str
    text: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def sections(result: Row) -> list[Section]:
    """Return the tables of a result, those that have rows."""
    made = [make(result[name]) for name, make in _SECTIONS if result.get(name)]
    return [section for section in made if section.rows]


def _engines(rows: Sequence[Row]) -> Section:
    def cells(row: Row) -> list[str]:
        eager = _baseline(rows, row, EAGER)
        bare = _baseline(rows, row, BARE)
        return [
            row['model'],
            row['size'],
            row['engine'],
            _three(row['engine_ms']),
            _three(row.get('segmenter_ms')),
            _cell(row.get('segmenter_to_engine')),
            _cell(row['engine_processor_ms']),
            *(_times(other, row) for other in (eager, bare)),
            *([f'{1e3 * row["engine_joules"]:.0f}'] if 'engine_joules' in row else []),
        ]

    columns = [
        'model',
        'network size',
        'engine',
        'engine ms',
        'Segmenter ms',
        'ratio',
        'processor ms',
    ]
    columns += ['times PyTorch eager', 'times ONNX Runtime']
    if any('engine_joules' in row for row in rows):
        columns.append('mJ a frame')
    width, height = CAMERA
    return Section(
        'Engines',
        'Batch 1. "engine": a uint8 image of the network size to uint8 labels, confidence and '
        f'drivable score; "Segmenter": a {width}x{height} image to the same at its size; '
        '"ratio": of the two. p50 / p90 / p99. The two baselines run the same weights in fp32: '
        'PyTorch eager in its default layout NCHW with everything that the engine does, and ONNX '
        'Runtime with the network alone, to its logits at stride 4; "times": how much faster than '
        'they, by the clock / by processor time, that of all threads, which other programs '
        'disturb less. All of one size took turns.',
        columns,
        [cells(row) for row in rows],
    )


def _end_to_end(rows: Sequence[Row]) -> Section:
    return Section(
        'End to end',
        'A process publishes 1280x720 frames, the node runs in another, and the mask comes back '
        'to the first. "engine": the bare engine in the sending process, one run after another; '
        '"at rate": the same at the rate of the frames, as a processor that has rested is slower; '
        '"latency": from the stamp to the arrival of the mask at that rate; each p50 / p90 / p99. '
        '"over engine": p50 and p99 of the latency less the p50 of the engine, one run after '
        'another. "dropped at 30 Hz"; "age at 30 Hz": how old the newest '
        'mask is, p50 / p90 / p99; "highest rate" with less than 1 % dropped; "first mask": from '
        'the start of the process, its engine having run on this machine before.',
        (
            *('model', 'engine', 'input', 'engine ms', 'rate Hz', 'at rate ms', 'latency ms'),
            'over engine ms',
            *('dropped at 30 Hz', 'age at 30 Hz ms', 'highest rate Hz', 'memory MB'),
            'first mask s',
        ),
        [
            [
                row['model'],
                row['engine'],
                row['transport'],
                _three(row['engine_ms']),
                _cell(row['rate_hz']),
                _three(row['engine_at_rate_ms']),
                _three(row['latency_ms']),
                f'{row["over_engine_ms"]["p50"]:+.1f} / {row["over_engine_ms"]["p99"]:+.1f}',
                f'{row["at_30_hz"]["dropped_share"]:.1%}',
                _three(row['at_30_hz']['age_ms']),
                _cell(row['throughput_hz']),
                _cell(row['memory_mb']),
                _cell(row['first_mask_s']),
            ]
            for row in rows
        ],
    )


def _stages(rows: Sequence[Row]) -> Section:
    names = list(dict.fromkeys(n for row in rows for n in row['stages_ms'] if n != 'age'))
    return Section(
        "The node's own work",
        'Of each frame, p50 in ms: "wait" for the worker, "decode" the message to pixels, "infer" '
        '(fit to the network, run it, enlarge the answers, make the drivable mask), "publish".',
        ('model', 'engine', 'input', *names),
        [
            [
                row['model'],
                row['engine'],
                row['transport'],
                *(f'{row["stages_ms"][name]["p50"]:.2f}' for name in names),
            ]
            for row in rows
            if row['stages_ms']
        ],
    )


def _startup(rows: Sequence[Row]) -> Section:
    return Section(
        'Start-up',
        'Fresh processes that load a model and label one 1280x720 image with `Segmenter`: seconds '
        'of the first one ever, then medians of later ones, by part.',
        ('model', 'backend', 'first s', 'later s', 'import s', 'load s', 'labels s', 'memory MB'),
        [
            [
                row['model'],
                row['backend'],
                *(_cell(row[k]) for k in ('cold_s', 'total_s', 'import_s', 'load_s')),
                *(_cell(row[k]) for k in ('first_labels_s', 'memory_mb')),
            ]
            for row in rows
        ],
    )


def _imports(rows: Sequence[Row]) -> Section:
    return Section(
        'Imports',
        'Seconds that a fresh process takes to import a module, and what heavy comes with it.',
        ('module', 's', 'loads'),
        [[row['module'], _cell(row['s']), ', '.join(row['loads'])] for row in rows],
    )


def _pixels(rows: Sequence[Row]) -> Section:
    return Section(
        'Cost and pixels',
        'The engine at several network sizes, and the memory of a process that holds it.',
        ('network size', 'pixels', 'engine ms', 'ns a pixel', 'memory MB'),
        [
            [
                row['size'],
                str(row['pixels']),
                _three(row['engine_ms']),
                f'{1e6 * row["engine_ms"]["p50"] / row["pixels"]:.0f}',
                _cell(row['memory_mb']),
            ]
            for row in rows
        ],
    )


def _cameras(rows: Sequence[Row]) -> Section:
    return Section(
        'Cost and cameras',
        'One node with several cameras, each of 1280x720 at 30 Hz from one other process. '
        'Receiving what cannot be answered costs, so take cameras at the rate you need.',
        ('cameras', 'frames a second in all', 'age of a result ms', 'memory MB'),
        [
            [
                str(row['cameras']),
                _cell(row['processed_hz']),
                _three(row['age_ms']),
                _cell(row['memory_mb']),
            ]
            for row in rows
        ],
    )


def _classes(rows: Sequence[Row]) -> Section:
    return Section(
        'Cost and classes',
        'An untrained Light-Weight RefineNet on MobileNet-v2 at 512x512: the network alone to its '
        'logits, run by the same library as that has it, and the engine from pixels to labels, '
        'confidence and drivable score. The share is what is not the network.',
        ('classes', 'engine', 'network ms', 'engine ms', 'share'),
        [
            [
                str(row['classes']),
                row['engine'],
                _three(row['network_ms']),
                _three(row['engine_ms']),
                f'{row["share_around_the_network"]:.0%}',
            ]
            for row in rows
        ],
    )


_SECTIONS: tuple[tuple[str, Callable[[Sequence[Row]], Section]], ...] = (
    ('engines', _engines),
    ('end_to_end', _end_to_end),
    ('end_to_end', _stages),
    ('startup', _startup),
    ('imports', _imports),
    ('pixels', _pixels),
    ('cameras', _cameras),
    ('classes', _classes),
)
"""What of a result goes into which table."""


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
    plots = _plots(result)
    for name, picture in plots.items():
        write_atomically(out / f'{NAME}_{name}.png', picture)
    write_atomically(out / f'{NAME}.md', _page(result, list(plots)).encode())
    write_atomically(out / RESULT, (json.dumps(result, indent=1) + '\n').encode())


def _page(result: Row, plots: Sequence[str]) -> str:
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
        if name in plots:
            lines += [f'![{section.title}]({NAME}_{name}.png)', '']
    if result.get('skipped'):
        lines += ['## Left out', '', *(f'- {line}' for line in result['skipped']), '']
    return '\n'.join(lines)


def _plots(result: Row) -> dict[str, bytes]:
    """Return the plots as PNG files by name; none without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return {}
    plots = {}
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
        plots['engines'] = _png(figure)
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
        plots['growth'] = _png(figure)
    return plots


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=100, metadata={'Software': None})
    return buffer.getvalue()


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
    return found


def _baseline(rows: Sequence[Row], row: Row, name: str) -> Row | None:
    """Return the row of a baseline of the same network at the same size."""
    original = row['model'].removesuffix('-int8')
    return next(
        (
            other
            for other in rows
            if (other['model'], other['size'], other['backend']) == (original, row['size'], name)
        ),
        None,
    )


def _times(baseline: Row | None, row: Row) -> str:
    if baseline is None:
        return ''
    clock = baseline['engine_ms']['p50'] / row['engine_ms']['p50']
    processor = baseline['engine_processor_ms'] / row['engine_processor_ms']
    return f'{clock:.1f} / {processor:.1f}'


def _three(times: Mapping[str, float] | None) -> str:
    return '' if times is None else ' / '.join(f'{times[k]:.1f}' for k in ('p50', 'p90', 'p99'))


def _cell(value: float | None) -> str:
    return '' if value is None else f'{value:g}'
