"""Commands that use a model: on the robot, in the demo, on files, against the clock."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lwseg_ros.cli.options import (
    Alpha,
    Backend,
    Description,
    InputSize,
    Model,
    ModelOption,
    Precision,
)


def demo(
    bag: Annotated[Path | None, typer.Option(help='A ROS 1 or ROS 2 bag with images.')] = None,
    video: Annotated[Path | None, typer.Option(help='A video file.')] = None,
    out: Annotated[Path, typer.Option(help='Folder for the results.')] = Path('demo_output'),
    model: ModelOption = 'road',
    backend: Backend = 'auto',
    topic: Annotated[str | None, typer.Option(help="Image topic, of a bag's several.")] = None,
    rate: Annotated[float, typer.Option(min=0.01, help="Times the input's own speed.")] = 1.0,
    seconds: Annotated[float | None, typer.Option(min=0, help='End after this much.')] = None,
    seed: Annotated[int, typer.Option(help='Seed of the generated drive.')] = 1,
) -> None:
    """Run the real node on a generated drive, a bag or a video, and show what it answers."""
    from lwseg_ros.demo.run import run_demo

    run_demo(bag, video, out, model, backend, topic, rate, seconds, seed, Console())


def segment(
    inputs: Annotated[list[Path], typer.Argument(help='Images, folders, videos or bags.')],
    out: Annotated[Path, typer.Option(help='Folder for the results.')],
    model: ModelOption = 'road',
    description: Description = None,
    backend: Backend = 'auto',
    precision: Precision = None,
    input_size: InputSize = 'model',
    alpha: Alpha = 0.5,
    confidence: Annotated[
        bool, typer.Option('--confidence', help='Write NAME_confidence.png too.')
    ] = False,
    drivable: Annotated[
        bool, typer.Option('--drivable', help='Write NAME_drivable.png too.')
    ] = False,
    depth: Annotated[
        bool,
        typer.Option('--depth', help='Write NAME_depth.png too, in mm, of models that have it.'),
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

    options = FileOptions(
        alpha=alpha,
        confidence=confidence,
        drivable=drivable,
        depth=depth,
        frames=frames,
        topic=topic,
    )
    with Segmenter.load(
        model,
        backend,
        precision=precision,
        input_size=None if input_size == 'model' else input_size,
        description=description,
        depth=depth,
    ) as segmenter:
        segment_files(segmenter, inputs, out, options, Console())


def info(
    model: Model,
    description: Description = None,
) -> None:
    """Print what a model file says of itself, as JSON, and which file precision auto runs."""
    from lwseg_ros.inference.int8_form import choose_form
    from lwseg_ros.inference.model_source import find_model, summarize_model

    summary = summarize_model(model, description)
    form = choose_form(model, find_model(model, description))
    if form.why:
        summary['precision_auto'] = {'file': str(form.source.path), 'why': form.why}
    Console().print_json(data=summary)


def node(context: typer.Context) -> None:
    """Run the segmentation node; arguments as for ros2 run: --ros-args -r image:=/camera ..."""
    from lwseg_ros.ros.node import main as run

    sys.argv[1:] = context.args
    sys.exit(run())


def benchmark(
    models: Annotated[
        list[str] | None, typer.Argument(help='Shipped models or paths; road.')
    ] = None,
    out: Annotated[Path, typer.Option(help='Folder for performance.json, .md and plots.')] = Path(
        'benchmark_output'
    ),
    mode: Annotated[
        list[str] | None,
        typer.Option(
            help='engine, startup, end-to-end, growth or points; may be repeated; engine.'
        ),
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
