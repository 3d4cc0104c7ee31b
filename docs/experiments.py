"""The comparisons in docs: `python docs/experiments.py ablation` and `leave-one-out`.

Each trains its runs under --out with `lwseg train`, goes on where it stopped when started again,
and writes its table beside this file. On a GPU give more --iterations.
"""

import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from lwseg_ros.datasets.dataset import open_dataset
from lwseg_ros.evaluation.evaluate import evaluate
from lwseg_ros.inference.segmenter import Segmenter

HERE = Path(__file__).resolve().parent
SEEDS = (0, 1)
NETWORKS = {
    'FPN': 'fpn_mobilenet_v2_compact',
    '+ PPM': 'fpn_ppm_mobilenet_v2_compact',
    '+ ASPP': 'fpn_aspp_mobilenet_v2_compact',
    '+ DNL, last stage': 'fpn_dnl_mobilenet_v2_compact',
    '+ FRM, `top`': 'frm_top_mobilenet_v2_compact',
    '+ FRM, `split`': 'frm_split_mobilenet_v2_compact',
}
OTHERS = {'Light-Weight RefineNet': 'lw_refinenet_mobilenet_v2_torchvision'}
SETS = {
    'CamVid': ('camvid:camvid', 'val'),
    'IDD-Lite': ('idd_lite:idd_lite', 'val'),
    'Cityscapes': ('cityscapes_label_ids:cityscapes_256x128', 'all'),
}

app = typer.Typer(add_completion=False)
Root = Annotated[Path, typer.Option('--data-root', envvar='LWSEG_DATA')]
Out = Annotated[Path, typer.Option(help='Folder of the runs.')]
Iterations = Annotated[int, typer.Option(help='Of each run.')]
Jobs = Annotated[int, typer.Option(help='Runs side by side, each with its share of the cores.')]


@app.command()
def ablation(
    data_root: Root,
    out: Out = Path('runs/ablation'),
    iterations: Iterations = 150,
    jobs: Jobs = 1,
) -> None:
    """Which context module wins, with and without the contrastive term."""
    networks = NETWORKS | OTHERS
    terms = dict.fromkeys(NETWORKS.values(), (0.0, 0.1))
    runs = {}
    for seed in SEEDS:
        for network in networks.values():
            for contrastive in terms.get(network, (0.0,)):
                recipe = road_recipe(iterations, seed) | {
                    'network': network,
                    'contrastive_weight': contrastive,
                    'contrastive_warmup': iterations // 4,
                    'crop_size': [161, 225],
                    'batch_size': 4,
                    'initial_weights': 'road',
                }
                runs[f'{network}_{contrastive:g}_{seed}'] = recipe
    results = train_all(runs, out, data_root, jobs)
    lines = [
        '| network | parameters | MACs | latency | CamVid val mIoU | + contrast | road IoU |'
        ' + contrast | IDD-Lite val drivable IoU | + contrast |',
        '|' + '---|' * 10,
    ]
    checkpoints = [out / f'{name}_0_{SEEDS[0]}' / 'last.safetensors' for name in networks.values()]
    for (title, network), milliseconds in zip(
        networks.items(), latencies(checkpoints), strict=True
    ):
        parameters, macs = cost(network)
        cells = [f'{parameters / 1e6:.2f} M', f'{macs / 1e9:.2f} G', f'{milliseconds:.0f} ms']
        for index, figure in ((0, 'miou'), (0, 'drivable_iou'), (1, 'drivable_iou')):
            for contrastive in (0.0, 0.1):
                values = [
                    results[run]['sets'][index][figure]
                    for run in (f'{network}_{contrastive:g}_{seed}' for seed in SEEDS)
                    if run in results
                ]
                cells.append(mean_and_spread(values) if values else '')
        lines.append(f'| {title} | {" | ".join(cells)} |')
    write_table('ablation.md', lines)


@app.command()
def leave_one_out(
    data_root: Root,
    out: Out = Path('runs/leave_one_out'),
    iterations: Iterations = 300,
    jobs: Jobs = 1,
) -> None:
    """What the model does on a data set that it was not trained on."""
    runs = {}
    for name in ('nothing', *SETS):
        recipe = road_recipe(iterations, seed=0)
        recipe |= {'crop_size': [193, 289], 'batch_size': 4}
        if name in SETS:
            recipe['train'] = [s for s in recipe['train'] if s['data'] != SETS[name][0]]
        runs[f'without_{name}'] = recipe
    train_all(runs, out, data_root, jobs)
    lines = [
        '| trained without | ' + ' | '.join(f'{name}: drivable IoU, mIoU' for name in SETS) + ' |',
        '|' + '---|' * (1 + len(SETS)),
    ]
    for run in runs:
        cells = []
        for name, (data, split) in SETS.items():
            if name == 'Cityscapes' and run != 'without_Cityscapes':
                cells.append('trained on')
                continue
            images = open_dataset(data, split, data_root)
            with Segmenter.load(out / run / 'last.safetensors', 'torch') as segmenter:
                figures = evaluate(segmenter, segmenter.label_space, images)
            text = f'{figures["drivable_iou"]:.3f}, {figures["miou"]:.3f}'
            cells.append(f'**{text}**' if run == f'without_{name}' else text)
        lines.append(f'| {run.removeprefix("without_")} | {" | ".join(cells)} |')
    write_table('leave_one_out.md', lines)


def road_recipe(iterations: int, seed: int) -> dict[str, Any]:
    """Return the recipe of `road` on the real data, in a shorter form."""
    text = (HERE.parent / 'config/recipes/road.yaml').read_text(encoding='utf-8')
    recipe: dict[str, Any] = yaml.safe_load(text)
    recipe['train'] = [s for s in recipe['train'] if s['data'] != 'generated_drive']
    return recipe | {
        'iterations': iterations,
        'validate_every': iterations,
        'ema_decay': 0.98,  # the averages of a short run must not lag behind
        'seed': seed,
    }


def train_all(
    runs: dict[str, dict[str, Any]], out: Path, data_root: Path, jobs: int
) -> dict[str, Any]:
    """Train what is not there yet; return each run's result."""
    threads = str(max(1, (os.cpu_count() or 1) // jobs))

    def train(name: str) -> dict[str, Any]:
        result = out / name / 'result.json'
        if not result.exists():
            recipe = out / f'{name}.yaml'
            recipe.write_text(yaml.safe_dump(runs[name] | {'name': name}), encoding='utf-8')
            command = [sys.executable, '-m', 'lwseg_ros.cli', 'train', recipe]
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
        figures: dict[str, Any] = yaml.safe_load(result.read_text(encoding='utf-8'))
        return figures

    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        return dict(zip(runs, pool.map(train, runs), strict=True))


def cost(network: str) -> tuple[int, int]:
    """Return the parameters, and the multiply-accumulates at 512x512, 11 classes."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from lwseg_ros.networks import create_network

    with torch.device('meta'):
        model = create_network(network, 11).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, 3, 512, 512))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2


def latencies(checkpoints: list[Path]) -> list[float]:
    """Return the median times of one image at 512x512 in PyTorch, fp32, in ms, taken in turns."""
    segmenters = [Segmenter.load(path, 'torch', input_size=(512, 512)) for path in checkpoints]
    times: list[list[float]] = [[] for _ in segmenters]
    for _ in range(10):
        for segmenter, taken in zip(segmenters, times, strict=True):
            segmenter.warm_up(1)
            start = time.perf_counter()
            segmenter.warm_up(1)
            taken.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(taken) for taken in times]


def mean_and_spread(values: list[float]) -> str:
    """Return the mean and half the range."""
    return f'{statistics.mean(values):.3f} ± {(max(values) - min(values)) / 2:.3f}'


def write_table(name: str, lines: list[str]) -> None:
    """Put the table between the markers of a page in docs."""
    page = HERE / name
    before, _, rest = page.read_text(encoding='utf-8').partition('<!-- table -->\n')
    after = rest.partition('<!-- end of table -->')[2]
    text = '\n'.join(lines)
    page.write_text(
        f'{before}<!-- table -->\n{text}\n<!-- end of table -->{after}', encoding='utf-8'
    )


if __name__ == '__main__':
    app()
