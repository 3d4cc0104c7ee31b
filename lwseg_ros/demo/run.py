"""The demo: a drive, a bag or a video through the real node over the real middleware.

The node runs in a process of its own. Every stamped frame that is played is accounted for: it was
either processed, which its mask proves, or dropped.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lwseg_ros import __version__
from lwseg_ros.demo.drive import GeneratedDrive
from lwseg_ros.demo.recording import Accuracy, Recorder
from lwseg_ros.demo.sources import (
    TYPESTORE,
    BagSource,
    DriveSource,
    Source,
    VideoSource,
    header,
    stamp_of,
)
from lwseg_ros.errors import DataError, LwsegError
from lwseg_ros.evaluation.bag import CAMERA_INFO
from lwseg_ros.inference.model_file import ModelSource, find_model, sha256
from lwseg_ros.memory import keep_freed_memory
from lwseg_ros.ros.transport import apply_large_image_profile

if TYPE_CHECKING:
    from lwseg_ros.ros.replay import Replay

NODE_NAME = '/segmentation'
DRIVE_SEED = 1
DRIVE_SIZE = (768, 432)
DRIVE_FRAMES = 120
DRIVE_RATE_HZ = 15.0

START_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 5.0

_LOG_PREFIX = re.compile(r'^\[(?:ERROR|FATAL)\] \[[\d.]+\] \[[^]]*\]: ')


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
        stack.enter_context(_terminable())
        folder = stack.enter_context(_result_folder(out))
        progress = stack.enter_context(_progress(console))
        source = _open_source(bag, video, topic, seed, seconds, progress)
        stack.callback(source.close)
        result = _play(source, network, model, backend, rate, seconds, folder, progress)
        (folder / 'result.json').write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    console.print(_table(result))
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
    from lwseg_ros.ros.replay import Answer, Replay, node_arguments

    apply_large_image_profile(os.environ)
    keep_freed_memory()
    domain_id = int(os.environ.get('ROS_DOMAIN_ID') or random.randint(1, 101))
    info_topic = None
    if source.camera_info is not None:
        info_topic = source.topic.removesuffix('/compressed').rpartition('/')[0] + '/camera_info'
    accuracy = Accuracy(network.info.label_space)
    frames = _Frames(source, seconds)
    arguments = ['-p', f'model.path:={model}', '-p', f'model.backend:={backend}']
    arguments += node_arguments(source.topic, source.message_type, info_topic)
    with ExitStack() as stack:
        starting = progress.add_task('starting the node', total=None)
        with _signals_later():
            node = stack.enter_context(_NodeProcess(folder / 'node.log', arguments, domain_id))
        recorder = Recorder(
            folder, source.topic, source.message_type, info_topic, NODE_NAME, accuracy
        )
        stack.callback(recorder.abort)

        def record(answer: Answer) -> None:
            recorder.add_output(answer.output, answer.stamp_ns, answer.data)

        replay = stack.enter_context(
            Replay(source.topic, source.message_type, info_topic, record, domain_id, NODE_NAME)
        )
        replay.wait_for_node(node.check, START_TIMEOUT_S)
        progress.update(starting, total=1, completed=1)
        playing = progress.add_task('playing', total=frames.expected)
        start_s = time.monotonic()
        for _ in _stream(frames, source, rate, replay, recorder):
            node.check()
            progress.update(playing, advance=1)
        if not replay.sent_s:
            raise DataError(f'{source.name} has no frames')
        replay.wait_for_answers(node.check, ANSWER_TIMEOUT_S)
        end_s = time.monotonic()
        progress.update(playing, total=len(replay.sent_s))
        replay.wait_for_counts(node.check, ANSWER_TIMEOUT_S)
        if not replay.answered['mask']:
            raise LwsegError(
                f'the node answered none of {len(replay.sent_s)} frames: {node.last_words()}'
            )
        node.stop()
        writing = progress.add_task('writing the results', total=None)
        recorder.close(
            lambda done, total: progress.update(writing, completed=done, total=max(total, 1))
        )
        progress.update(writing, total=1, completed=1)
        return {
            'source': source.name,
            **_accounts(replay, end_s - start_s),
            'frames_restamped': frames.restamped,
            'played_at_hz': _rate(list(replay.sent_s.values())),
            **accuracy.figures(),
            'drivable_share': _mean(recorder.drivable_shares),
            'frames_with_drivable_area': sum(share > 0.01 for share in recorder.drivable_shares),
            'model': network.info.name,
            'model_sha256': sha256(network.path),
            'engine': replay.diagnostics.get('backend', ''),
            'machine': f'{platform.machine()}, {os.cpu_count()} cores',
            'rmw': os.environ.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp'),
            'python': platform.python_version(),
            'lwseg': __version__,
        }


def _stream(
    frames: _Frames, source: Source, rate: float, replay: Replay, recorder: Recorder
) -> Iterator[None]:
    """Record and publish one frame after the other, each when its time has come."""
    paused_s = 0.0
    start_s: float | None = None
    for message, play_s, truth in frames:
        image = bytes(TYPESTORE.serialize_cdr(message, source.message_type))
        info = None
        if source.camera_info is not None:
            stamped = dataclasses.replace(source.camera_info, header=message.header)
            info = bytes(TYPESTORE.serialize_cdr(stamped, CAMERA_INFO))
        recorder.add_input(message, image, info, play_s / rate, truth)
        start_s = time.monotonic() if start_s is None else start_s
        time.sleep(max(0.0, start_s + paused_s + play_s / rate - time.monotonic()))
        replay.publish(stamp_of(message), image, info)
        yield
        while recorder.is_full:
            time.sleep(0.01)
            paused_s += 0.01


class _Frames:
    """The frames of a source, each with a stamp of its own; iterate it once.

    A stamp that is missing or was there before is replaced by the time of recording.
    """

    def __init__(self, source: Source, seconds: float | None) -> None:
        self.restamped = 0
        self.expected = source.frames if seconds is None else None
        self._source = source
        self._seconds = math.inf if seconds is None else seconds

    def __iter__(self) -> Iterator[tuple[Any, float, Any]]:
        """Yield message, time to play it, and truth."""
        seen: set[int] = set()
        for message, play_s, record_ns, truth in self._source:
            if play_s >= self._seconds:
                return
            stamp_ns = stamp_of(message)
            if not stamp_ns or stamp_ns in seen:
                self.restamped += 1
                stamp_ns = max(record_ns, 1)
                while stamp_ns in seen:
                    stamp_ns += 1
                stamped = header(stamp_ns, message.header.frame_id)
                message = dataclasses.replace(message, header=stamped)
            seen.add(stamp_ns)
            yield message, play_s, truth


class _NodeProcess:
    """The segmentation node as a user starts it; a context manager that leaves no process."""

    def __init__(self, log: Path, arguments: list[str], domain_id: int) -> None:
        self._log = log
        parents = [str(Path(__file__).resolve().parents[2]), os.environ.get('PYTHONPATH', '')]
        environment = {
            **os.environ,
            'ROS_DOMAIN_ID': str(domain_id),
            'PYTHONPATH': os.pathsep.join(filter(None, parents)),
            'RCUTILS_COLORIZED_OUTPUT': '0',
        }
        command = [sys.executable, '-m', 'lwseg_ros.ros.node', '--ros-args', *arguments]
        with log.open('wb') as file:
            # In a session of its own, Ctrl-C reaches the demo alone, which then stops the node.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def __enter__(self) -> _NodeProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def check(self) -> None:
        """LwsegError with the node's last error if its process has ended."""
        status = self._process.poll()
        if status is not None:
            raise LwsegError(
                f'the segmentation node ended with status {status}: {self.last_words()}'
            )

    def last_words(self) -> str:
        """Return the last error that the node has logged, else the last line."""
        lines = self._log.read_text(encoding='utf-8', errors='replace').splitlines()
        errors = [line for line in lines if _LOG_PREFIX.match(line)]
        spoken = [line for line in lines if line.strip()]
        last = (errors or spoken or ['it said nothing'])[-1]
        return _LOG_PREFIX.sub('', last)

    def stop(self) -> None:
        """Ask the node to end; kill it if it does not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


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


@contextmanager
def _terminable() -> Iterator[None]:
    """Make SIGTERM end the program as Ctrl-C does, so that the node and partial files go, too."""
    with _handlers({signal.SIGTERM: lambda *_: sys.exit(128 + signal.SIGTERM)}):
        yield


@contextmanager
def _signals_later() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait: a process that is just being started would be forgotten."""
    came: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        came.append(number)

    with _handlers({signal.SIGINT: remember, signal.SIGTERM: remember}):
        yield
    for number in came:
        signal.raise_signal(number)


@contextmanager
def _handlers(handlers: Mapping[int, Callable[[int, FrameType | None], object]]) -> Iterator[None]:
    """Set signal handlers for a while; only the main thread can, others go without."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handlers[number]) for number in handlers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn('{task.description:<22}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _accounts(replay: Any, duration_s: float) -> dict[str, Any]:
    """Return what became of the frames, and how long it took."""
    sent, masks = replay.sent_s, replay.answered['mask']
    latencies_ms = [(at - sent[stamp]) * 1e3 for stamp, at in masks.items() if stamp in sent]
    processed = len(latencies_ms)
    received = replay.node_count('received')
    percentiles = np.percentile(latencies_ms, [50, 95, 99, 100])
    return {
        'frames_in': len(sent),
        'frames_processed': processed,
        'frames_dropped': len(sent) - processed,
        'frames_refused_by_node': replay.node_count('refused'),
        'frames_not_received_by_node': None if received is None else max(0, len(sent) - received),
        'latency_ms': {
            name: round(float(value), 2)
            for name, value in zip(('p50', 'p95', 'p99', 'max'), percentiles, strict=True)
        },
        'fps': round(processed / duration_s, 2),
        'duration_s': round(duration_s, 2),
    }


def _rate(times_s: list[float]) -> float | None:
    span = times_s[-1] - times_s[0]
    return round((len(times_s) - 1) / span, 2) if span > 0 else None


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
