"""Commands on recorded drives: `lwseg bag ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lwseg_ros.cli.options import Alpha, Backend, InputSize, ModelOption, Precision
from lwseg_ros.errors import LwsegError

app = typer.Typer(help='Evaluate models on recorded drives.', no_args_is_help=True)


@app.command('evaluate')
def bag_evaluate(
    bags: Annotated[
        list[Path],
        typer.Argument(
            help='ROS 1 bags or folders of them, ROS 2 bag folders, .mcap or .db3 files.'
        ),
    ],
    out: Annotated[Path, typer.Option(help='Folder for the results, one in it for each bag.')],
    model: ModelOption = 'road',
    backend: Backend = 'auto',
    precision: Precision = None,
    input_size: InputSize = 'model',
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
            help='Label topic of ids or of colours; IMAGE_TOPIC=LABEL_TOPIC for several.'
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
    alpha: Alpha = 0.5,
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


@app.command('compare')
def bag_compare(
    a: Annotated[Path, typer.Argument(help='result.json, or its folder, of one evaluation.')],
    b: Annotated[Path, typer.Argument(help='The same of another one, over the same bags.')],
    json_: Annotated[
        Path | None, typer.Option('--json', help='Write the comparison to this file.')
    ] = None,
) -> None:
    """Show what is better and what worse in B than in A, and what may be chance."""
    from lwseg_ros.files import write_json
    from lwseg_ros.replay.compare import (
        compare,
        compare_live,
        print_comparison,
        read_live_frames,
        read_result,
    )

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
