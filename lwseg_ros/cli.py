"""The `lwseg` command: a subcommand reads its options and calls one room, imported only then."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track as rich_track
from rich.table import Table

from lwseg_ros import __version__
from lwseg_ros.errors import LwsegError

app = typer.Typer(
    name='lwseg',
    help='Light-weight semantic segmentation for ROS 2: camera images to drivable-area masks.',
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[str, typer.Argument(help='A shipped model (road) or the path of a model file.')]
Backend = Annotated[
    str, typer.Option(help='auto, openvino, onnxruntime or torch; auto takes the fastest.')
]
Precision = Annotated[str, typer.Option(help='auto, fp32 or bf16.')]
DataRoot = Annotated[
    Path | None,
    typer.Option(help='Folder that relative data paths start from; else $LWSEG_DATA.'),
]


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help='A recipe, as config/recipes/road.yaml.')],
    out: Annotated[Path | None, typer.Option(help='Folder of the run; runs/NAME.')] = None,
    data_root: DataRoot = None,
    resume: Annotated[bool, typer.Option('--resume', help='Continue an interrupted run.')] = False,
) -> None:
    """Train a network by a recipe; Ctrl-C saves, --resume continues."""
    from lwseg_ros.training.recipe import load_recipe
    from lwseg_ros.training.trainer import train as run

    plan = load_recipe(recipe)
    run(plan, out or Path('runs') / plan.name, data_root, resume)


@app.command()
def evaluate(
    model: Model,
    data: Annotated[str, typer.Option(help='FORMAT:PATH, for example camvid:/data/camvid.')],
    split: Annotated[str, typer.Option(help='train, val, ...; all for a set without splits.')],
    json_: Annotated[
        Path | None, typer.Option('--json', help='Write the figures to this file.')
    ] = None,
    backend: Backend = 'auto',
    precision: Precision = 'auto',
    input_size: Annotated[
        str,
        typer.Option(help="source (each image at its own size), model (the model's), or WxH."),
    ] = 'source',
    data_root: DataRoot = None,
) -> None:
    """Measure a model on labelled images."""
    from lwseg_ros.evaluation.dataset import open_dataset
    from lwseg_ros.evaluation.evaluate import evaluate as run
    from lwseg_ros.inference.model_file import resolve_model, sha256
    from lwseg_ros.inference.segmenter import Segmenter

    console = Console()
    labelled = open_dataset(data, split, data_root)
    size = None if input_size == 'model' else input_size
    with Segmenter.load(model, backend, precision=precision, input_size=size) as segmenter:
        figures = run(
            lambda image: segmenter(image).labels,
            segmenter.label_space,
            labelled,
            lambda pairs: rich_track(
                pairs, 'evaluating', total=len(labelled.pairs), console=console, transient=True
            ),
        )
        result = {
            'model': segmenter.info.name,
            'model_sha256': sha256(resolve_model(model)),
            'engine': segmenter.description,
            'input_size': input_size,
            'lwseg': __version__,
            **figures,
        }
    if json_ is not None:
        _write_json(json_, result)
    table = Table(title=f'{result["model"]} on {result["data"]}, {result["images"]} images')
    table.add_column('figure')
    table.add_column('value', justify='right')
    for name in ('miou', 'drivable_iou', 'false_drivable_rate', 'pixel_accuracy'):
        table.add_row(name, _figure(figures[name]))
    table.add_section()
    for name, value in figures['iou'].items():
        table.add_row(f'IoU {name}', _figure(value))
    console.print(table)


@app.command(
    add_help_option=False,
    context_settings={'allow_extra_args': True, 'ignore_unknown_options': True},
)
def node(context: typer.Context) -> None:
    """Run the segmentation node; arguments as for ros2 run: --ros-args -r image:=/camera ..."""
    from lwseg_ros.ros.node import main as run

    sys.argv[1:] = context.args
    run()


def _figure(value: float | None) -> str:
    return '-' if value is None else f'{value:.4f}'


def _write_json(path: Path, content: object) -> None:
    partial = path.with_name(path.name + '.partial')
    try:
        partial.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
        os.replace(partial, path)
    except OSError as error:
        raise LwsegError(f'{path} cannot be written: {error.strerror}') from None


def main() -> None:
    """Run the command line; an expected error is one line on stderr and exit status 1."""
    try:
        app(standalone_mode=True)
    except LwsegError as error:
        Console(stderr=True).print(f'lwseg: {error}', style='red', markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == '__main__':
    main()
