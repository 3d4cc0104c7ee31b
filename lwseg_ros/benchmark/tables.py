"""The tables of a benchmark: what of its result they show, and in which words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from lwseg_ros.benchmark.engines import BARE, CAMERA, EAGER

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


def _points(rows: Sequence[Row]) -> Section:
    return Section(
        'Labels in space',
        'From a message that has come to the bytes of the one that goes out, on one core: a depth '
        'image of 16 bits and its mask to labelled points, a cloud to the same with labels, seen '
        'by a camera of 1280x720. "plain NumPy" does the same anew for each frame, without '
        'finding hidden points. p50 / p90 / p99; both took turns.',
        ('what', 'ms', 'plain NumPy ms', 'times faster'),
        [
            [
                row['what'],
                _three(row['ours_ms']),
                _three(row['plain_ms']),
                _cell(row['times_faster']),
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
    ('points', _points),
)
"""What of a result goes into which table."""


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
