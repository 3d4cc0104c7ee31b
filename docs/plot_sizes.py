"""Accuracy against time: `python docs/plot_sizes.py MODEL... --data-root DATA`.

For sizes and widths. Times are of the engine alone, OpenVINO in fp32, in turns with a reference
on an otherwise idle machine. What was judged is kept in --out, by the digests of model and data;
times never are.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from judging import (
    HERE,
    SETS,
    class_figures,
    counts_of,
    judge,
    model_candidate,
    road_figures,
    run,
    write_between,
)
from rich.console import Console
from rich.progress import track

from lwseg_ros.benchmark.engines import engine_task
from lwseg_ros.benchmark.environment import environment
from lwseg_ros.benchmark.timing import time_in_turns
from lwseg_ros.datasets.dataset import open_dataset, read_image
from lwseg_ros.files import write_atomically, write_json
from lwseg_ros.inference.segmenter import Segmenter, Size

# The same areas, once for each camera's aspect, once in 3:2; 641x193 is KITTI's.
SIZES = (
    *('481x321', '513x385', '641x481', '769x577', '961x721'),
    *('area:124000', 'area:154000', 'area:198000', 'area:308000', 'area:444000', 'area:693000'),
)
PANELS = (('camvid', 'miou'), ('cityscapes', 'miou'), ('idd', 'road_iou'), ('lums', 'road_iou'))
NAMES = {'miou': 'mIoU', 'road_iou': 'road IoU'}

TOGETHER = 8
"""Engines in memory at a time, beside the reference."""

Engine = tuple[str, Size]
"""A model file and a network size (height, width)."""

app = typer.Typer(add_completion=False)


@app.command()
def plot(
    models: Annotated[list[str], typer.Argument(help='Names of shipped models, or .onnx files.')],
    data_root: Annotated[Path, typer.Option(envvar='LWSEG_DATA', help='Folder of the data sets.')],
    reference: Annotated[
        str, typer.Option(help='The model whose time at its default size is 1.')
    ] = 'road',
    size: Annotated[
        list[str] | None, typer.Option(help='WxH, area:N or model; a list of sizes.')
    ] = None,
    out: Annotated[Path, typer.Option(help='Folder of the results.')] = Path('runs/sizes'),
    seconds: Annotated[float, typer.Option(help='To time each engine for.')] = 3.0,
    page: Annotated[bool, typer.Option('--page', help='Write into docs/accuracy.md.')] = False,
) -> None:
    """Judge models at many sizes, time their engines in turns, and plot one against the other."""
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    opened = {name: open_dataset(s.data, s.split, data_root) for name, s in SETS.items()}
    pictures = {name: read_image(d.pairs[0].image).shape[:2] for name, d in opened.items()}
    points: list[dict[str, Any]] = []
    wanted = [(model, text) for model in models for text in size or SIZES]
    for model, text in track(wanted, 'judging', console=console, transient=True):
        candidate = model_candidate(f'{model}@{text}')
        figures, engines = {}, {}
        for name, set_ in SETS.items():
            judged = judge(candidate, set_, data_root, out / 'judged')
            truth, counts = opened[name].label_space, counts_of(judged)
            classes = class_figures(counts, truth, candidate.space) or {}
            figures[name] = classes | road_figures(counts, truth, candidate.space)
            engines[name] = candidate.size_for(pictures[name])
        points.append({'model': model, 'size': text, 'sets': figures, 'engines': engines})
    base = (reference, model_candidate(reference).size_for(pictures['camvid']))
    timed = {(p['model'], one) for p in points for one in p['engines'].values()}
    ratios, base_ms = time_engines(sorted(timed - {base}), base, seconds, console)
    for point in points:
        of_sets = [ratios[point['model'], one] for one in point['engines'].values()]
        point['time'] = round(statistics.mean(of_sets), 3)
    result = {
        'command': 'python docs/plot_sizes.py MODEL... --data-root DATA',
        **environment(),
        'reference': {'model': reference, 'size': text_of(base[1]), 'ms': round(base_ms, 2)},
        'engines': [
            {'model': model, 'size': text_of(one), 'time': round(ratio, 3)}
            for (model, one), ratio in ratios.items()
        ],
        'points': points,
    }
    write_json(out / 'sizes.json', result)
    lines = table_lines(points)
    write_atomically(out / 'sizes.md', '\n'.join(lines).encode())
    write_atomically(out / 'sizes.png', picture(points))
    if page:
        write_atomically(HERE / 'accuracy_sizes.png', picture(points))
        shown = '![Accuracy against engine time](accuracy_sizes.png)'
        write_between(HERE / 'accuracy.md', 'sizes', [*lines, '', shown])
    console.print('\n'.join(lines), markup=False, highlight=False, soft_wrap=True)


def time_engines(
    engines: Sequence[Engine], base: Engine, seconds: float, console: Console
) -> tuple[dict[Engine, float], float]:
    """Return each engine's time as a ratio to the reference's, and the reference's in ms.

    Some engines take turns with the reference; a ratio is the median over the rounds of that
    between medians of one round.
    """
    ratios, base_ms = {base: 1.0}, []
    starts = range(0, len(engines), TOGETHER)
    for start in track(starts, 'timing', console=console, transient=True):
        chosen = (base, *engines[start : start + TOGETHER])
        with ExitStack() as stack:
            tasks = {}
            for model, size in chosen:
                segmenter = Segmenter.load(model, 'openvino', precision='fp32', input_size=size)
                tasks[model, size] = engine_task(stack.enter_context(segmenter))
            rounds: dict[Engine, list[float]] = {engine: [] for engine in chosen}
            for turn in time_in_turns(tasks, seconds):
                rounds[turn.key].append(statistics.median(turn.times_ms))
        base_ms += rounds[base]
        for engine in chosen[1:]:
            pairs = zip(rounds[engine], rounds[base], strict=True)
            ratios[engine] = statistics.median(its / one for its, one in pairs)
    return ratios, statistics.median(base_ms)


def table_lines(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table in Markdown: time as a ratio, figures in percent."""
    columns = [
        (f'{SETS[name].title} {NAMES[figure]}', name, figure)
        for name in SETS
        if SETS[name].road_everywhere
        for figure in NAMES
    ]
    lines = [f'| model | size | time | {" | ".join(column[0] for column in columns)} |']
    lines.append('|' + '---|' * (3 + len(columns)))
    for point in sorted(points, key=lambda point: (point['model'], point['time'])):
        cells = [100 * point['sets'][name][figure] for _, name, figure in columns]
        text = ' | '.join(f'{cell:.1f}' for cell in cells)
        lines.append(
            f'| {Path(point["model"]).stem} | {point["size"]} | {point["time"]:.2f} | {text} |'
        )
    return lines


def picture(points: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the plot as PNG: a line for each model and form of size, a panel for each figure."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(10, 7), layout='constrained')
    for axes, (name, figure) in zip(drawing.subplots(2, 2).flat, PANELS, strict=True):
        for number, model in enumerate(dict.fromkeys(point['model'] for point in points)):
            for kept, style in ((False, 'o-'), (True, 's--')):
                line = sorted(
                    (point['time'], 100 * point['sets'][name][figure], point['size'])
                    for point in points
                    if point['model'] == model and point['size'].startswith('area:') == kept
                )
                label = Path(model).stem + (", the camera's aspect" if kept else '')
                x, y = [point[0] for point in line], [point[1] for point in line]
                axes.plot(x, y, style, color=f'C{number}', label=label, markersize=4)
                for time, value, text in line:
                    axes.annotate(text.removeprefix('area:'), (time, value), fontsize=5)
        axes.set_title(f'{SETS[name].title}: {NAMES[figure]}, %', fontsize=9)
        axes.set_xlabel('engine time against the reference', fontsize=8)
        axes.grid(alpha=0.3)
    drawing.axes[0].legend(fontsize=6)
    buffer = io.BytesIO()
    drawing.savefig(buffer, format='png', dpi=110, metadata={'Software': None})
    return buffer.getvalue()


def text_of(size: Size) -> str:
    """Return WIDTHxHEIGHT of (height, width)."""
    return f'{size[1]}x{size[0]}'


if __name__ == '__main__':
    run(app)
