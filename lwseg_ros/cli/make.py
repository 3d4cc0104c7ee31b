"""Commands that make models and judge them: train, evaluate, export, quantize."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lwseg_ros.cli.options import (
    Backend,
    DataRoot,
    InputSize,
    Model,
    Precision,
)
from lwseg_ros.errors import LwsegError


def train(
    recipe: Annotated[Path, typer.Argument(help='A recipe, as config/recipes/road.yaml.')],
    out: Annotated[Path | None, typer.Option(help='Folder of the run; runs/NAME.')] = None,
    data_root: DataRoot = None,
    resume: Annotated[bool, typer.Option('--resume', help='Continue an interrupted run.')] = False,
    device: Annotated[str, typer.Option(help='auto, cpu or cuda.')] = 'auto',
) -> None:
    """Train a network by a recipe; Ctrl-C saves, --resume continues.

    On several GPUs: torchrun --nproc-per-node 4 --no-python lwseg train RECIPE
    """
    from lwseg_ros.training.recipe import load_recipe
    from lwseg_ros.training.trainer import train as run

    plan = load_recipe(recipe)
    run(plan, out or Path('runs') / plan.name, data_root, resume, device)


def evaluate(
    model: Model,
    data: Annotated[str, typer.Option(help='FORMAT:PATH, for example camvid:/data/camvid.')],
    split: Annotated[str, typer.Option(help='train, val, ...; all for a set without splits.')],
    json_: Annotated[
        Path | None, typer.Option('--json', help='Write the figures to this file.')
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help='Draw the worst images into this PNG file.')
    ] = None,
    worst: Annotated[int, typer.Option(min=1, help='How many images are the worst.')] = 6,
    backend: Backend = 'auto',
    precision: Precision = None,
    input_size: InputSize = 'model',
    data_root: DataRoot = None,
) -> None:
    """Measure a model on labelled images; docs/metrics.md defines the figures."""
    from lwseg_ros.evaluation.run import Outputs, run_evaluation

    run_evaluation(
        model,
        data,
        split,
        Outputs(json_, sheet, worst),
        backend=backend,
        precision=precision,
        input_size=input_size,
        data_root=data_root,
        console=Console(),
    )


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(help='best.safetensors of `lwseg train`, say; with --engine any model.'),
    ],
    out: Annotated[Path | None, typer.Option(help='The .onnx file to write.')] = None,
    name: Annotated[str | None, typer.Option(help="The model's name.")] = None,
    network: Annotated[
        str | None,
        typer.Option(help="Network of somebody else's checkpoint; writes a .safetensors too."),
    ] = None,
    label_space: Annotated[
        str | None, typer.Option(help='Label space of such a checkpoint: a name or a .yaml file.')
    ] = None,
    input_size: Annotated[
        str | None,
        typer.Option(
            help='WxH: default network size of such a checkpoint (512x512), or the size of the '
            "engine (the model's own)."
        ),
    ] = None,
    round_to_bf16: Annotated[
        bool,
        typer.Option('--round-to-bf16', help='Round the weights, so that bf16 agrees with fp32.'),
    ] = False,
    engine: Annotated[
        bool, typer.Option('--engine', help='Build the TensorRT engine of this GPU.')
    ] = False,
    precision: Annotated[
        str, typer.Option(help='Precision of the engine: auto, fp32, fp16 or int8.')
    ] = 'auto',
    batch: Annotated[
        int, typer.Option(min=1, help='The most images of the engine, for several cameras.')
    ] = 1,
    engine_cache_dir: Annotated[
        str, typer.Option(help="Folder that keeps engines; empty: the user's cache.")
    ] = '',
    force_rebuild: Annotated[
        bool, typer.Option('--force-rebuild', help='Build the engine although it is kept.')
    ] = False,
) -> None:
    """Turn a checkpoint into an ONNX model that says everything about itself, and check it.

    With --engine, build the TensorRT engine of that model, or of any other, on its GPU.
    """
    if (network is None) != (label_space is None):
        raise LwsegError('--network and --label-space go together')
    if out is None and (network is not None or not engine):
        raise LwsegError('--out is missing: the .onnx file to write')
    report = {}
    if out is not None:
        from lwseg_ros.inference.export import export_checkpoint

        if network is not None and label_space is not None:
            from lwseg_ros.inference.segmenter import parse_size
            from lwseg_ros.training.checkpoint_import import import_checkpoint

            weights = out.with_suffix('.safetensors')
            default_size = parse_size(input_size or '512x512')
            import_checkpoint(checkpoint, weights, network, label_space, default_size)
            checkpoint = weights
        report = export_checkpoint(checkpoint, out, name, round_to_bf16)
    if engine:
        from lwseg_ros.inference.export_engine import export_engine

        logging.basicConfig(level=logging.INFO, format='%(message)s')
        report |= export_engine(
            out or checkpoint, precision, input_size, batch, engine_cache_dir, force_rebuild
        )
    Console().print_json(data=report)


def quantize(
    model: Model,
    data: Annotated[
        list[str],
        typer.Option(help='FORMAT:PATH of labelled images to calibrate on; may be repeated.'),
    ],
    out: Annotated[Path, typer.Option(help='The .onnx file to write.')],
    split: Annotated[str, typer.Option(help='Split of the data.')] = 'train',
    check_split: Annotated[
        str, typer.Option(help='Split to measure the loss on, all of it; else other images.')
    ] = '',
    images: Annotated[
        int, typer.Option(min=1, help='Images of each data set for ranges, and as many to check.')
    ] = 32,
    max_loss: Annotated[
        float, typer.Option(min=0, help='Points of mIoU or drivable IoU that may be lost.')
    ] = 0.5,
    minutes: Annotated[
        float, typer.Option(min=0, help='Most time for finding out which layers lose most.')
    ] = 10.0,
    data_root: DataRoot = None,
) -> None:
    """Make an int8 model, calibrated on real images, that keeps its accuracy."""
    from lwseg_ros.training.quantize import quantize as run

    console = Console()
    report = run(
        model, data, out, split, check_split, data_root, images, max_loss, minutes, console
    )
    console.print_json(data=report)
