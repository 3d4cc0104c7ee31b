"""The comparisons in docs: `python docs/experiments.py ablation` and `leave-one-out`.

Each trains its runs under --out with `lwseg train`, goes on where it stopped when started again,
and writes its table beside this file. The recipe is that of `road` with what is named here put
in its place. On a GPU give more --iterations.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
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

from lwseg_ros.benchmark.engines import engine_task
from lwseg_ros.benchmark.timing import time_in_turns
from lwseg_ros.datasets.dataset import open_dataset
from lwseg_ros.errors import LwsegError
from lwseg_ros.inference.segmenter import Segmenter, Size

SEEDS = (0, 1, 2)
ENCODER = '../weights/efficientvit_b0_cityscapes.safetensors'
NETWORKS = {
    'FPN': 'fpn_efficientvit_b0',
    '+ PPM': 'fpn_ppm_efficientvit_b0',
    '+ ASPP': 'fpn_aspp_efficientvit_b0',
    '+ DNL, last stage': 'fpn_dnl_efficientvit_b0',
    '+ FRM, `top`': 'frm_top_efficientvit_b0',
    '+ FRM, `split`': 'frm_split_efficientvit_b0',
    'Light-Weight RefineNet': 'lw_refinenet_efficientvit_b0',
}
CONTRAST = {'without': 0.0, 'with': 0.1}
FIGURES = {'miou': 'mIoU', 'drivable_iou': 'road'}
JUDGED_BY = {
    'camvid': 'camvid',
    'idd_lite': 'idd',
    'cityscapes_512x256': 'cityscapes',
    'bdd_drivable': 'bdd',
}
"""By the folder of data that are trained on: the set that tells what they are good for."""

app = typer.Typer(add_completion=False)
Root = Annotated[Path, typer.Option('--data-root', envvar='LWSEG_DATA')]
Out = Annotated[Path, typer.Option(help='Folder of the runs.')]
Iterations = Annotated[int, typer.Option(help='Of each run.')]
Jobs = Annotated[int, typer.Option(help='Runs side by side, each with its share of the cores.')]


@app.command()
def ablation(
    data_root: Root,
    out: Out = Path('runs/ablation'),
    iterations: Iterations = 800,
    jobs: Jobs = 1,
) -> None:
    """Which context module wins, with and without the contrastive term."""
    recipe = road_recipe(iterations) | {'crop_size': [192, 288], 'batch_size': 4}
    runs = {
        f'{network}_{contrast}_{seed}': recipe
        | {
            'network': network,
            'contrastive_weight': weight,
            'contrastive_warmup': iterations // 4,
            'seed': seed,
        }
        for seed in SEEDS  # so that an early end leaves fewer seeds, not fewer networks
        for network in NETWORKS.values()
        for contrast, weight in CONTRAST.items()
    }
    results = train_all(runs, out, data_root, jobs)
    size: Size = tuple(recipe['input_size'])
    milliseconds = latencies(
        [out / f'{network}_without_{SEEDS[0]}' for network in NETWORKS.values()], size
    )
    titles = [set_title(v['data']) for v in recipe['validate']]
    headings = [f'{title} {name}' for title in titles for name in FIGURES.values()]
    lines = [
        f'| network | parameters | MACs | latency | contrast | {" | ".join(headings)} |',
        '|' + '---|' * (5 + len(headings)),
    ]
    for (title, network), taken in zip(NETWORKS.items(), milliseconds, strict=True):
        parameters, macs = cost(network, size)
        costs = [f'{parameters / 1e6:.2f} M', f'{macs / 1e9:.2f} G', f'{taken:.1f} ms']
        for contrast in CONTRAST:
            cells = [title, *costs] if contrast == 'without' else ['', '', '', '']
            cells.append(contrast)
            cells += [
                mean_and_spread(of_seeds(results, network, contrast, index, name))
                for index in range(len(titles))
                for name in FIGURES
            ]
            lines.append(f'| {" | ".join(cells)} |')
    plot_ablation(results, titles)
    lines += ['', '![The mIoU of every run, and the means](ablation.png)']
    write_between(HERE / 'ablation.md', 'table', lines)


@app.command()
def leave_one_out(
    data_root: Root,
    out: Out = Path('runs/leave_one_out'),
    iterations: Iterations = 800,
    jobs: Jobs = 1,
) -> None:
    """What the model does on a data set that it was not trained on."""
    recipe = road_recipe(iterations) | {'crop_size': [192, 288], 'batch_size': 4}
    folders = [source['data'].partition(':')[2] for source in recipe['train']]
    runs = {'nothing': recipe}
    for folder in folders:
        others = [s for s in recipe['train'] if s['data'].partition(':')[2] != folder]
        runs[folder] = recipe | {'train': others}
    train_all(runs, out, data_root, jobs)
    sets = [name for name in SETS if name != 'bdd']
    headings = [f'{SETS[name].title}: road, mIoU' for name in sets]
    headings.append('BDD: lane found, own car, upper third')
    lines = [
        f'| trained without | {" | ".join(headings)} |',
        '|' + '---|' * (1 + len(headings)),
    ]
    for name in runs:
        left_out = JUDGED_BY.get(name, '')
        cells = []
        for key in (*sets, 'bdd'):
            text = 'trained on'
            if key != 'bdd' or left_out == 'bdd':
                text = unseen_figures(out / name / 'last.safetensors', key, data_root, out)
            cells.append(f'**{text}**' if key == left_out else text)
        lines.append(f'| {name} | {" | ".join(cells)} |')
    write_between(HERE / 'leave_one_out.md', 'table', lines)


def unseen_figures(checkpoint: Path, key: str, data_root: Path, out: Path) -> str:
    """Return what is said of a model on a set, in percent."""
    set_ = SETS[key]
    candidate = model_candidate(str(checkpoint))
    truth = open_dataset(set_.data, set_.split, data_root).label_space
    counts = counts_of(judge(candidate, set_, data_root, out / 'judged'))
    road = road_figures(counts, truth, candidate.space)
    classes = class_figures(counts, truth, candidate.space)
    found: list[Any] = [road['road_iou'], classes and classes['miou']]
    if not set_.road_everywhere:
        called: Any = road['called_road']
        found = [called[name] for name in ('drivable', 'own_car', 'above')]
    return ', '.join('–' if value is None else f'{100 * value:.1f}' for value in found)


def road_recipe(iterations: int) -> dict[str, Any]:
    """Return the recipe of `road` on the real data, shorter, from the public encoder.

    Without teacher: it has seen what a run is to be judged on.
    """
    text = (HERE.parent / 'config/recipes/road.yaml').read_text(encoding='utf-8')
    recipe: dict[str, Any] = {
        key: value
        for key, value in yaml.safe_load(text).items()
        if not key.startswith(
            ('teacher', 'distillation', 'initial_', 'blend_', 'stages', 'epochs')
        )
    }
    recipe['train'] = [s for s in recipe['train'] if s['data'] != 'generated_drive']
    return recipe | {
        'network': NETWORKS['Light-Weight RefineNet'],
        'initial_weights': ENCODER,
        'iterations': iterations,
        'validate_every': iterations,
        'ema_decay': 0.99,  # the averages of a short run must not lag behind
        'seed': 0,
    }


def train_all(
    runs: Mapping[str, dict[str, Any]], out: Path, data_root: Path, jobs: int
) -> dict[str, Any]:
    """Train what is not there yet; return each run's result.

    LwsegError if what is there is of another recipe.
    """
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    out.mkdir(parents=True, exist_ok=True)
    for name, recipe in runs.items():
        path, text = out / f'{name}.yaml', yaml.safe_dump(recipe | {'name': name})
        if path.exists() and path.read_text(encoding='utf-8') != text:
            raise LwsegError(f'{path} is of another recipe: give another --out')
        path.write_text(text, encoding='utf-8')

    def train(name: str) -> dict[str, Any]:
        result = out / name / 'result.json'
        if not result.exists():
            command = [sys.executable, '-m', 'lwseg_ros.cli', 'train', out / f'{name}.yaml']
            command += ['--data-root', data_root, '--out', out / name]
            if (out / name / 'state.pt').exists():
                command.append('--resume')
            with (out / f'{name}.log').open('a') as log:
                subprocess.run(
                    [str(c) for c in command],
                    check=True,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, 'OMP_NUM_THREADS': threads},
                )
            print(time.strftime('%H:%M:%S'), name, flush=True)
        figures: dict[str, Any] = json.loads(result.read_text(encoding='utf-8'))
        return figures

    with ThreadPoolExecutor(jobs) as pool:
        return dict(zip(runs, pool.map(train, runs), strict=True))


def cost(network: str, size: Size) -> tuple[int, int]:
    """Return the parameters, and the multiply-accumulates at a size, with 11 classes."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from lwseg_ros.networks import create_network

    with torch.device('meta'):
        model = create_network(network, 11).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, 3, *size))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2


def latencies(runs: Sequence[Path], size: Size, seconds: float = 5) -> list[float]:
    """Return the engines' median times in ms, in turns: OpenVINO, fp32, pixels to labels."""
    from lwseg_ros.inference.export import export_checkpoint

    with ExitStack() as stack:
        tasks = {}
        for folder in runs:
            model = folder / 'model.onnx'
            if not model.exists():
                export_checkpoint(folder / 'last.safetensors', model)
            segmenter = Segmenter.load(model, 'openvino', precision='fp32', input_size=size)
            tasks[folder] = engine_task(stack.enter_context(segmenter))
        times: dict[Path, list[float]] = {folder: [] for folder in runs}
        for turn in time_in_turns(tasks, seconds):
            times[turn.key] += turn.times_ms
    return [statistics.median(taken) for taken in times.values()]


def plot_ablation(results: Mapping[str, Any], titles: Sequence[str]) -> None:
    """Draw the mIoU of every run, and the means, a panel for each set, into ablation.png."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(3.2 * len(titles), 3), layout='constrained')
    panels = drawing.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for index, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        for shift, contrast in ((-0.12, 'without'), (0.12, 'with')):
            color = 'tab:blue' if contrast == 'without' else 'tab:orange'
            for row, network in enumerate(NETWORKS.values()):
                values = [100 * v for v in of_seeds(results, network, contrast, index, 'miou')]
                axes.plot(values, [row + shift] * len(values), '.', color=color, alpha=0.5)
                label = f'{contrast} contrast' if row == 0 else None
                mean = statistics.mean(values)
                axes.plot(mean, row + shift, 'D', color=color, markersize=5, label=label)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel('mIoU, %')
        axes.grid(axis='x', alpha=0.3)
    names = [title.replace('`', '') for title in NETWORKS]
    panels[0].set_yticks(range(len(NETWORKS)), names, fontsize=8)
    panels[0].invert_yaxis()
    panels[-1].legend(fontsize=7)
    drawing.savefig(HERE / 'ablation.png', dpi=100, metadata={'Software': None})


def of_seeds(
    results: Mapping[str, Any], network: str, contrast: str, index: int, figure: str
) -> list[float]:
    """Return a figure of one validation set from the runs of all seeds."""
    runs = [results[f'{network}_{contrast}_{seed}'] for seed in SEEDS]
    return [result['sets'][index][figure] for result in runs]


def mean_and_spread(values: Sequence[float]) -> str:
    """Return the mean and half the range, in percent."""
    half = (max(values) - min(values)) / 2
    return f'{100 * statistics.mean(values):.1f} ± {100 * half:.1f}'


def set_title(data: str) -> str:
    """Return what a validation set is called here."""
    return next((set_.title for set_ in SETS.values() if set_.data == data), data)


if __name__ == '__main__':
    run(app)
