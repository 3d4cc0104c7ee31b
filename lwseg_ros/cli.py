"""The `lwseg` command: a subcommand reads its options and calls one room, imported only then."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track as rich_track

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
    str,
    typer.Option(help='auto, tensorrt, openvino, onnxruntime or torch; auto takes the fastest.'),
]
Precision = Annotated[str, typer.Option(help='auto, fp32, fp16, bf16 or int8.')]
bag_app = typer.Typer(help='Evaluate models on recorded drives.', no_args_is_help=True)
app.add_typer(bag_app, name='bag')

DataRoot = Annotated[
    Path | None,
    typer.Option(help='Folder that relative data paths start from; else $LWSEG_DATA.'),
]


@app.command()
def demo(
    bag: Annotated[Path | None, typer.Option(help='A ROS 1 or ROS 2 bag with images.')] = None,
    video: Annotated[Path | None, typer.Option(help='A video file.')] = None,
    out: Annotated[Path, typer.Option(help='Folder for the results.')] = Path('demo_output'),
    model: Annotated[str, typer.Option(help='A shipped model or the path of a file.')] = 'road',
    backend: Backend = 'auto',
    topic: Annotated[str | None, typer.Option(help="Image topic, of a bag's several.")] = None,
    rate: Annotated[float, typer.Option(min=0.01, help="Times the input's own speed.")] = 1.0,
    seconds: Annotated[float | None, typer.Option(min=0, help='End after this much.')] = None,
    seed: Annotated[int, typer.Option(help='Seed of the generated drive.')] = 1,
) -> None:
    """Run the real node on a generated drive, a bag or a video, and show what it answers."""
    from lwseg_ros.demo.run import run_demo

    run_demo(bag, video, out, model, backend, topic, rate, seconds, seed, Console())


@app.command()
def info(
    model: Model,
    description: Annotated[
        Path | None, typer.Option(help="YAML for somebody else's ONNX, if not beside it.")
    ] = None,
) -> None:
    """Print what a model file says of itself, as JSON."""
    from lwseg_ros.inference.model_source import summarize_model

    Console().print_json(data=summarize_model(model, description))


@app.command()
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


@app.command()
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
    precision: Precision = 'auto',
    input_size: Annotated[
        str,
        typer.Option(help="model (the model's own), source (each image's own), or WxH."),
    ] = 'model',
    data_root: DataRoot = None,
) -> None:
    """Measure a model on labelled images; docs/metrics.md defines the figures."""
    from lwseg_ros.datasets.dataset import open_dataset
    from lwseg_ros.evaluation.contact_sheet import contact_sheet, encode_png
    from lwseg_ros.evaluation.evaluate import evaluate as run
    from lwseg_ros.evaluation.evaluate import worst_images
    from lwseg_ros.evaluation.report import print_report
    from lwseg_ros.files import sha256, write_atomically
    from lwseg_ros.inference.model_source import resolve_model
    from lwseg_ros.inference.segmenter import Segmenter

    for path in (json_, sheet):
        if path is not None and not path.parent.is_dir():
            raise LwsegError(f'{path} cannot be written: make the folder {path.parent} first')
    console = Console()
    labelled = open_dataset(data, split, data_root)
    size = None if input_size == 'model' else input_size
    with Segmenter.load(model, backend, precision=precision, input_size=size) as segmenter:
        figures = run(
            segmenter,
            segmenter.label_space,
            labelled,
            lambda pairs: rich_track(
                pairs, 'evaluating', total=len(labelled.pairs), console=console, transient=True
            ),
            per_image=True,
        )
        figures['worst'] = worst_images(figures['per_image'], worst)
        result = {
            'model': segmenter.info.name,
            'model_sha256': sha256(resolve_model(model)),
            'engine': segmenter.description,
            'input_size': input_size,
            'lwseg': __version__,
            **figures,
        }
        if json_ is not None:
            write_atomically(json_, (json.dumps(result, indent=2) + '\n').encode())
        heading = f'{result["model"]} on {result["data"]}, {result["images"]} images'
        if sheet is not None:
            title = f'{heading}: the {len(figures["worst"])} worst'
            picture = contact_sheet(
                segmenter, segmenter.label_space, labelled, figures['worst'], title
            )
            write_atomically(sheet, encode_png(picture))
    print_report(result, heading, console)


@app.command()
def segment(
    inputs: Annotated[list[Path], typer.Argument(help='Images, folders, videos or bags.')],
    out: Annotated[Path, typer.Option(help='Folder for the results.')],
    model: Annotated[str, typer.Option(help='A shipped model or the path of a file.')] = 'road',
    description: Annotated[
        Path | None, typer.Option(help="YAML for somebody else's ONNX, if not beside it.")
    ] = None,
    backend: Backend = 'auto',
    precision: Precision = 'auto',
    input_size: Annotated[
        str, typer.Option(help="model (the model's own), source (the image's), or WxH.")
    ] = 'model',
    alpha: Annotated[
        float, typer.Option(min=0, max=1, help='Share of the label colours in the overlay.')
    ] = 0.5,
    confidence: Annotated[
        bool, typer.Option('--confidence', help='Write NAME_confidence.png too.')
    ] = False,
    drivable: Annotated[
        bool, typer.Option('--drivable', help='Write NAME_drivable.png too.')
    ] = False,
    frames: Annotated[
        bool, typer.Option('--frames', help='Write the labels of each frame of videos and bags.')
    ] = False,
    topic: Annotated[
        str | None, typer.Option(help='Image topic of a bag that has several.')
    ] = None,
) -> None:
    """Label images, folders, videos and bags: class ids as PNG, and overlays to look at."""
    from lwseg_ros.inference.segmenter import Segmenter
    from lwseg_ros.segment_files import FileOptions, segment_files

    size = None if input_size == 'model' else input_size
    options = FileOptions(
        alpha=alpha, confidence=confidence, drivable=drivable, frames=frames, topic=topic
    )
    with Segmenter.load(
        model, backend, precision=precision, input_size=size, description=description
    ) as segmenter:
        segment_files(segmenter, inputs, out, options, Console())


@bag_app.command('evaluate')
def bag_evaluate(
    bags: Annotated[
        list[Path], typer.Argument(help='ROS 1 bags, ROS 2 bag folders, .mcap or .db3 files.')
    ],
    out: Annotated[Path, typer.Option(help='Folder for the results, one in it for each bag.')],
    model: Annotated[str, typer.Option(help='A shipped model or the path of a file.')] = 'road',
    backend: Backend = 'auto',
    precision: Precision = 'auto',
    input_size: Annotated[
        str, typer.Option(help="model (the model's own), source (the image's), or WxH.")
    ] = 'model',
    against: Annotated[
        str, typer.Option(help='A second model, to see where the two disagree.')
    ] = '',
    against_backend: Annotated[
        str, typer.Option(help='Its backend; alone: the same model on another backend.')
    ] = '',
    topic: Annotated[
        list[str] | None,
        typer.Option(help='An image topic, may be repeated; without it every camera.'),
    ] = None,
    truth_topic: Annotated[
        list[str] | None,
        typer.Option(
            help='Label topic with ids, mono8 or mono16; IMAGE_TOPIC=LABEL_TOPIC for several.'
        ),
    ] = None,
    truth_folder: Annotated[
        Path | None,
        typer.Option(help='Folder of label PNG files named by stamp or index: [BAG/][TOPIC/].'),
    ] = None,
    truth_space: Annotated[
        str | None, typer.Option(help="Label space of the truth: a name or .yaml; the model's.")
    ] = None,
    truth_tolerance_ms: Annotated[
        float, typer.Option(min=0, help='How far stamps of truth and image may be apart.')
    ] = 10.0,
    low_confidence: Annotated[
        float, typer.Option(min=0, max=1, help='Confidence below this counts as low.')
    ] = 0.5,
    block_seconds: Annotated[
        float, typer.Option(min=0.01, help='Length of the blocks that intervals resample.')
    ] = 2.0,
    alpha: Annotated[
        float, typer.Option(min=0, max=1, help='Share of the label colours in the overlay.')
    ] = 0.5,
    mcap: Annotated[bool, typer.Option(help='Write the MCAP bag of images and masks.')] = True,
    video: Annotated[bool, typer.Option(help='Write the overlay videos.')] = True,
    copy_topics: Annotated[
        bool, typer.Option('--copy-topics', help="Copy the bag's other topics into the MCAP.")
    ] = False,
    report: Annotated[bool, typer.Option(help='Write report.html.')] = True,
    live: Annotated[
        bool,
        typer.Option('--live', help='Then play the bags to the real node: latency, drops, CPU.'),
    ] = False,
    rate: Annotated[
        float, typer.Option(min=0.01, help='Times the recorded speed, with --live.')
    ] = 1.0,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit status 1 if a figure is so, as in 'drivable_iou<0.95'; may be repeated."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help='Bags at once, each in a process.')] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help='Threads of the network; all, shared by the jobs.')
    ] = None,
    ray: Annotated[
        bool, typer.Option('--ray', help='Spread the bags over the Ray cluster at $RAY_ADDRESS.')
    ] = False,
) -> None:
    """Evaluate a model on every image of recorded drives; docs/replay.md tells what comes out."""
    from lwseg_ros.live.signals import terminable
    from lwseg_ros.replay.run import RunOptions, evaluate_bags
    from lwseg_ros.replay.settings import Settings

    settings = Settings(
        model=model,
        backend=backend,
        precision=precision,
        input_size=input_size,
        threads=threads,
        against=against,
        against_backend=against_backend,
        topics=tuple(topic or ()),
        truth_topics=tuple(truth_topic or ()),
        truth_folder=truth_folder,
        truth_space=truth_space,
        truth_tolerance_ms=truth_tolerance_ms,
        low_confidence=low_confidence,
        block_seconds=block_seconds,
        alpha=alpha,
        mcap=mcap,
        video=video,
        copy_topics=copy_topics,
    )
    options = RunOptions(
        jobs=jobs,
        ray=ray,
        live_rate=rate if live else None,
        fail_if=tuple(fail_if or ()),
        report=report,
    )
    with terminable():
        evaluated = evaluate_bags(bags, out, settings, Console(), options)
    if evaluated.interrupted:
        raise KeyboardInterrupt
    complaints = evaluated.complaints()
    if complaints:
        raise LwsegError('; '.join(complaints))


@bag_app.command('compare')
def bag_compare(
    a: Annotated[Path, typer.Argument(help='result.json, or its folder, of one evaluation.')],
    b: Annotated[Path, typer.Argument(help='The same of another one, over the same bags.')],
    json_: Annotated[
        Path | None, typer.Option('--json', help='Write the comparison to this file.')
    ] = None,
) -> None:
    """Show what is better and what worse in B than in A, and what may be chance."""
    from lwseg_ros.replay.compare import (
        compare,
        compare_live,
        print_comparison,
        read_live_frames,
        read_result,
    )
    from lwseg_ros.replay.result import write_json

    results = read_result(a), read_result(b)
    comparison = compare(*results)
    comparison['live'] = compare_live(
        read_live_frames(a, results[0]),
        read_live_frames(b, results[1]),
        results[0]['configuration']['block_seconds'],
    )
    if json_ is not None:
        write_json(json_, comparison)
    print_comparison(comparison, Console())


@app.command()
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


@app.command()
def quantize(
    model: Model,
    data: Annotated[
        list[str],
        typer.Option(help='FORMAT:PATH of labelled images to calibrate on; may be repeated.'),
    ],
    out: Annotated[Path, typer.Option(help='The .onnx file to write.')],
    split: Annotated[str, typer.Option(help='Split of the data.')] = 'train',
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
    report = run(model, data, out, split, data_root, images, max_loss, minutes, console)
    console.print_json(data=report)


@app.command()
def benchmark(
    models: Annotated[
        list[str] | None, typer.Argument(help='Shipped models or paths; road.')
    ] = None,
    out: Annotated[Path, typer.Option(help='Folder for performance.json, .md and plots.')] = Path(
        'benchmark_output'
    ),
    mode: Annotated[
        list[str] | None,
        typer.Option(help='engine, startup, end-to-end or growth; may be repeated; engine.'),
    ] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help='A backend; may be repeated; auto.')
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help='A precision; may be repeated; auto.')
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(help='Network size, WxH or model (its own); may be repeated; model.'),
    ] = None,
    transport: Annotated[
        list[str] | None,
        typer.Option(help='raw or compressed images, end to end; may be repeated; raw.'),
    ] = None,
    baselines: Annotated[
        bool, typer.Option(help='Time PyTorch eager and bare ONNX Runtime beside, if installed.')
    ] = True,
    seconds: Annotated[float, typer.Option(min=0.1, help='Time for each figure.')] = 4.0,
    threads: Annotated[
        int | None, typer.Option(min=1, help='Threads of the engines, in mode engine; all.')
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help='Measure nothing, compare two performance.json.'),
    ] = None,
) -> None:
    """Measure how fast models, engines and the node are on this machine."""
    if compare is not None:
        from lwseg_ros.benchmark.report import compare as show
        from lwseg_ros.benchmark.report import read_result

        show(read_result(compare[0]), read_result(compare[1]), _wide_console())
        return
    from lwseg_ros.benchmark.run import Plan, run_benchmark

    plan = Plan(
        models=models or ['road'],
        backends=backend or ['auto'],
        precisions=precision or ['auto'],
        sizes=size or ['model'],
        modes=mode or ['engine'],
        transports=transport or ['raw'],
        baselines=baselines,
        seconds=seconds,
        threads=threads,
    )
    run_benchmark(plan, out, _wide_console())


def _wide_console() -> Console:
    """Return a console for wide tables: a file or a pipe has no width of its own."""
    has_width = sys.stdout.isatty() or 'COLUMNS' in os.environ
    return Console(width=None if has_width else 200)


@app.command(context_settings={'allow_extra_args': True, 'ignore_unknown_options': True})
def node(context: typer.Context) -> None:
    """Run the segmentation node; arguments as for ros2 run: --ros-args -r image:=/camera ..."""
    from lwseg_ros.ros.node import main as run

    sys.argv[1:] = context.args
    sys.exit(run())


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
