"""The demo: a drive, a bag or a video through the real node over the real middleware.

The node runs in a process of its own. Every stamped frame that is played is accounted for: it was
either processed, which its mask proves, or dropped.
"""

from __future__ import annotations

import math
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lwseg_ros import __version__
from lwseg_ros.demo.recording import Accuracy, Recorder
from lwseg_ros.demo.sources import DriveSource, VideoSource
from lwseg_ros.errors import DataError, LwsegError
from lwseg_ros.files import write_json
from lwseg_ros.inference.model_source import ModelSource, find_model
from lwseg_ros.live.frames import (
    BagSource,
    Pace,
    PlayableFrames,
    Source,
    info_topic_of,
)
from lwseg_ros.live.latency import CameraTimes, frame_figures
from lwseg_ros.live.node_process import NodeProcess, own_domain_id
from lwseg_ros.live.signals import signals_later, terminable
from lwseg_ros.memory import keep_freed_memory
from lwseg_ros.synthetic.drive import GeneratedDrive
from lwseg_ros.transport import apply_large_image_profile

NODE_NAME = '/segmentation'
DRIVE_SEED = 1
DRIVE_SIZE = (768, 432)
DRIVE_FRAMES = 120
DRIVE_RATE_HZ = 15.0

START_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 5.0


def run_demo(
    bag: Path | None = None,
    video: Path | None = None,
    out: Path = Path('demo_output'),
    model: str = 'road',
    backend: str = 'auto',
    topic: str | None = None,
    rate: float = 1.0,
    seconds: float | None = None,
    seed: int = DRIVE_SEED,
    console: Console | None = None,
) -> dict[str, Any]:
    """Play camera frames to the segmentation node and record what it answers.

    Without `bag` or `video` a drive is generated from `seed`. `topic` chooses a bag's images,
    `rate` is a factor on the input's own speed, `seconds` ends it early. Leaves `result.json`,
    `overlay.mp4` and `bag/` in `out` and returns what `result.json` holds; prints progress and a
    table to `console`. LwsegError, and nothing in `out`, if it cannot be done.
    """
    console = console or Console()
    if bag is not None and video is not None:
        raise LwsegError('a bag and a video were given: the demo plays one of them')
    if topic is not None and bag is None:
        raise LwsegError('a topic was given without a bag: only bags have topics')
    if not (math.isfinite(rate) and rate > 0) or (seconds is not None and not seconds > 0):
        raise LwsegError('rate and seconds must be above 0')
    network = find_model(model)
    with ExitStack() as stack:
        stack.enter_context(terminable())
        folder = stack.enter_context(_result_folder(out))
        progress = stack.enter_context(_progress(console))
        source = _open_source(bag, video, topic, seed, seconds, progress)
        stack.callback(source.close)
        result = _play(source, network, model, backend, rate, seconds, folder, progress)
        write_json(folder / 'result.json', result)
    console.print(_table(result))
    for sentence in filter(None, [result['damage'], *result['notes']]):
        console.print(sentence, highlight=False, markup=False)
    console.print(f'results: {out}/result.json, {out}/overlay.mp4, {out}/bag (MCAP for Foxglove)')
    return result


def _open_source(
    bag: Path | None,
    video: Path | None,
    topic: str | None,
    seed: int,
    seconds: float | None,
    progress: Progress,
) -> Source:
    if bag is not None:
        return BagSource(bag, topic)
    if video is not None:
        return VideoSource(video)
    frames = DRIVE_FRAMES
    if seconds is not None:
        frames = max(1, round(seconds * DRIVE_RATE_HZ))
    width, height = DRIVE_SIZE
    drive = GeneratedDrive(seed, width, height, frames, DRIVE_RATE_HZ, kind='city')
    return DriveSource(
        drive, lambda numbers: progress.track(numbers, description='rendering a drive')
    )


def _play(
    source: Source,
    network: ModelSource,
    model: str,
    backend: str,
    rate: float,
    seconds: float | None,
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    from lwseg_ros.live.player import Answer, Player, node_arguments

    apply_large_image_profile(os.environ)
    keep_freed_memory()
    domain_id = own_domain_id()
    info_topic = info_topic_of(source)
    accuracy = Accuracy(network.info.label_space)
    frames = PlayableFrames(source, seconds)
    arguments = ['-p', f'model.path:={model}', '-p', f'model.backend:={backend}']
    arguments += node_arguments(source.topic, source.message_type, info_topic)
    with ExitStack() as stack:
        starting = progress.add_task('starting the node', total=None)
        with signals_later():
            node = stack.enter_context(NodeProcess(folder / 'node.log', arguments, domain_id))
        recorder = Recorder(
            folder, source.topic, source.message_type, info_topic, NODE_NAME, accuracy
        )
        stack.callback(recorder.abort)

        def record(answer: Answer) -> None:
            recorder.add_output(answer.output, answer.stamp_ns, answer.data)

        player = stack.enter_context(
            Player(source.topic, source.message_type, info_topic, record, domain_id, NODE_NAME)
        )
        player.wait_for_node(node.check, START_TIMEOUT_S)
        progress.update(starting, total=1, completed=1)
        playing = progress.add_task('playing', total=frames.expected)
        pace = Pace(rate)
        for frame in frames:
            recorder.add_input(frame, frame.play_s / rate)
            pace.wait(frame.play_s)
            player.publish(frame.stamp_ns, frame.image, frame.info)
            node.check()
            progress.update(playing, advance=1)
            while recorder.is_full:
                pace.pause(0.01)
        if not player.sent_s:
            raise DataError(f'{source.name} has no frames')
        player.wait_for_answers(node.check, ANSWER_TIMEOUT_S)
        progress.update(playing, total=len(player.sent_s))
        player.wait_for_counts(node.check, ANSWER_TIMEOUT_S)
        if not player.answered['mask']:
            raise LwsegError(
                f'the node answered none of {len(player.sent_s)} frames: {node.last_words()}'
            )
        node.stop()
        times = CameraTimes(
            player.sent_s,
            player.answered['mask'],
            player.node_count('received'),
            player.node_count('refused'),
        )
        writing = progress.add_task('writing the results', total=None)
        recorder.close(
            lambda done, total: progress.update(writing, completed=done, total=max(total, 1))
        )
        progress.update(writing, total=1, completed=1)
        return {
            'source': source.name,
            **frame_figures([times]),
            'frames_restamped': frames.restamped,
            'frames_unreadable': source.unreadable,
            'damage': source.damage,
            'notes': list(source.notes),
            **accuracy.figures(),
            'drivable_share': _mean(recorder.drivable_shares),
            'frames_with_drivable_area': sum(share > 0.01 for share in recorder.drivable_shares),
            'model': player.diagnostics.get('model', ''),
            'model_sha256': player.diagnostics.get('model_sha256', ''),
            'engine': player.diagnostics.get('backend', ''),
            'machine': f'{platform.machine()}, {os.cpu_count()} cores',
            'rmw': os.environ.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp'),
            'python': platform.python_version(),
            'lwseg': __version__,
        }


@contextmanager
def _result_folder(out: Path) -> Iterator[Path]:
    """Give a folder whose content replaces that of `out` at the end, and vanishes on an error."""
    created = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix='.partial-', dir=out))
    except OSError as error:
        raise DataError(f'{out} cannot be written: {error.strerror}') from None
    try:
        yield partial
        for item in sorted(partial.iterdir()):
            target = out / item.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(item, target)
        created = False
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if created:
            shutil.rmtree(out, ignore_errors=True)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn('{task.description:<22}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _mean(values: list[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def _table(result: dict[str, Any]) -> Table:
    table = Table(title=f'{result["source"]} -> {result["model"]} on {result["engine"]}')
    table.add_column('figure')
    table.add_column('value', justify='right')
    in_, processed = result['frames_in'], result['frames_processed']
    refused, lost = result['frames_refused_by_node'], result['frames_not_received_by_node']
    table.add_row('frames in', str(in_))
    table.add_row('processed', f'{processed} ({processed / in_:.0%})')
    table.add_row('dropped', str(result['frames_dropped']))
    if refused:
        table.add_row('  refused as malformed', str(refused))
    if lost:
        table.add_row('  never reached the node', str(lost))
    if result['frames_restamped']:
        table.add_row(
            'frames without a stamp of their own, restamped', str(result['frames_restamped'])
        )
    if result['frames_unreadable']:
        table.add_row('damaged messages, left out', str(result['frames_unreadable']))
    latency = result['latency_ms']
    table.add_row(
        'latency p50 / p95 / p99, ms',
        f'{latency["p50"]:.1f} / {latency["p95"]:.1f} / {latency["p99"]:.1f}',
    )
    table.add_row(
        'frames a second, played -> processed', f'{result["played_at_hz"]} -> {result["fps"]}'
    )
    if result['miou'] is not None:
        table.add_row('mIoU', f'{result["miou"]:.3f}')
    if result['drivable_iou'] is not None:
        table.add_row('drivable IoU', f'{result["drivable_iou"]:.3f}')
    if result['drivable_share'] is not None:
        table.add_row('drivable share of the picture', f'{result["drivable_share"]:.1%}')
        table.add_row('frames with drivable area', str(result['frames_with_drivable_area']))
    return table
