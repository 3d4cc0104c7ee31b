"""A bag through the real node over the real middleware: how fast, how old, what was dropped.

The node runs in a process of its own, started as a user starts it, and is played to at the bag's
own speed or a multiple of it. What comes out depends on the machine and on the moment, so these
figures are kept apart from those of quality, in live.json.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lwseg_ros import __version__
from lwseg_ros.errors import DataError, LwsegError
from lwseg_ros.files import write_atomically, write_json
from lwseg_ros.inference.model_source import find_model, resolve_model
from lwseg_ros.live.frames import (
    BagSource,
    Pace,
    PlayableFrame,
    PlayableFrames,
    info_topic_of,
)
from lwseg_ros.live.latency import CameraTimes, frame_figures, percentiles
from lwseg_ros.live.node_process import NodeProcess, Usage, own_domain_id
from lwseg_ros.live.signals import signals_later, terminable
from lwseg_ros.memory import keep_freed_memory
from lwseg_ros.transport import PROFILE_VARIABLES, apply_large_image_profile

if TYPE_CHECKING:
    from lwseg_ros.live.player import Player

FORMAT = 'lwseg live 1'
RESULT, FRAMES = 'live.json', 'live_frames.jsonl'
NODE_NAME = '/segmentation'
ANSWER = 'drivable_mask'
"""Latency ends with the arrival of this output, the last of those the node always publishes."""

START_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class LiveSettings:
    """How the node is started and played to; the words are those of the node's parameters."""

    model: str = 'road'
    backend: str = 'auto'
    precision: str | None = 'auto'
    """None is `auto` of the file that `model` names."""
    input_size: str = 'model'
    rate: float = 1.0
    """Times the bag's own speed."""


def replay_live(
    bag: Path,
    topics: Sequence[str],
    folder: Path,
    settings: LiveSettings,
    advance: Callable[[int, int], None] = lambda played, expected: None,
) -> dict[str, Any]:
    """Play image topics of a bag to the node, and leave what came of it in `folder`.

    Several topics are the cameras of one node. Writes live.json, which is returned,
    live_frames.jsonl with the latency of every frame, and node.log, what the node said.
    `advance(played, expected)` is called after every frame. Ctrl-C leaves the figures of what was
    played until then, marked as interrupted, and is raised on. LwsegError if the node cannot be
    started, ends by itself or answers nothing.
    """
    find_model(settings.model)  # what is wrong with it is said before anything starts
    with ExitStack() as stack:
        stack.enter_context(terminable())
        domain_id = own_domain_id()
        cameras = _open_cameras(bag, topics, domain_id, stack)
        node = _start_node(cameras, folder / 'node.log', settings, domain_id, stack)
        usage: list[Usage] = []
        interrupt: KeyboardInterrupt | None = None
        try:
            _play(cameras, node, settings.rate, usage, advance)
        except KeyboardInterrupt as error:
            interrupt = error
        played = [camera for camera in cameras if camera.player.sent_s]
        _wait_for_the_end(played, node)
        node.stop()
    said = played[0].player.diagnostics if played else {}
    times = {camera.topic: _times(camera.player) for camera in played}
    if not any(camera.answered_s for camera in times.values()):
        raise interrupt or LwsegError(
            f'the node answered none of the frames of {bag}: {node.last_words()}'
        )
    rows = list(_frame_rows(played))
    result = {
        'format': FORMAT,
        'interrupted': interrupt is not None,
        'bag': str(bag),
        **_figures(list(times.values()), rows),
        **_machine_use(usage),
        'topics': {topic: frame_figures([camera]) for topic, camera in times.items()},
        'restamped': sum(camera.frames.restamped for camera in played),
        'unreadable': sum(camera.source.unreadable for camera in cameras),
        'damage': cameras[0].source.damage,
        'settings': dataclasses.asdict(settings),
        'model': {
            'name': said.get('model', ''),
            'sha256': said.get('model_sha256', ''),
            'engine': said.get('backend', ''),
        },
        'machine': f'{platform.machine()}, {os.cpu_count()} cores',
        'middleware': {
            'rmw': os.environ.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp'),
            'profile': Path(os.environ.get(PROFILE_VARIABLES[0], '')).name,
        },
        'versions': {'lwseg': __version__, 'python': platform.python_version()},
    }
    lines = ''.join(json.dumps(row) + '\n' for row in rows)
    write_atomically(folder / FRAMES, lines.encode())
    write_json(folder / RESULT, result)
    if interrupt is not None:
        raise interrupt
    return result


def require_ros() -> None:
    """Raise LwsegError if ROS 2 is not here, before long work that would end with a replay."""
    try:
        import lwseg_ros.live.player  # noqa: F401
    except ImportError:
        raise LwsegError(
            'a live replay needs ROS 2: source a ROS distribution, or pip install "lwseg_ros[ros]"'
        ) from None


def read_live(folder: Path) -> dict[str, Any] | None:
    """Return the live.json of a folder, None if there is none."""
    path = folder / RESULT
    if not path.is_file():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
    return result


def read_live_frames(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of the live_frames.jsonl of a folder, none if there is none."""
    path = folder / FRAMES
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def merge_live(folders: Sequence[Path]) -> dict[str, Any]:
    """Return the figures over the live replays of some folders, as if one had followed the other.

    All frames are pooled, so percentiles are those of all; CPU is the mean by duration, memory the
    most of any.
    """
    results = [result for folder in folders if (result := read_live(folder)) is not None]
    times: list[CameraTimes] = []
    every: list[dict[str, Any]] = []
    start_s = 0.0
    for folder, result in zip(folders, results, strict=True):
        rows = read_live_frames(folder)
        every += rows
        for topic, figures in result['topics'].items():
            times.append(
                _times_of_rows([r for r in rows if r['topic'] == topic], figures, start_s)
            )
        start_s += result['duration_s']
    used = [r for r in results if r['cpu_cores'] is not None]
    busy_s = sum(result['cpu_cores'] * result['duration_s'] for result in used)
    seconds = sum(result['duration_s'] for result in used)
    memory = [result['memory_mb'] for result in results]
    first = results[0]
    return {
        'format': FORMAT,
        'interrupted': any(result['interrupted'] for result in results),
        'bags': [result['bag'] for result in results],
        **_figures(times, every),
        'cpu_cores': round(busy_s / seconds, 2) if seconds else None,
        'memory_mb': {
            'first': memory[0]['first'],
            'last': memory[-1]['last'],
            'max': max(m['max'] for m in memory),
        },
        'restamped': sum(result['restamped'] for result in results),
        'unreadable': sum(result.get('unreadable', 0) for result in results),
        **{
            name: first[name]
            for name in ('settings', 'model', 'machine', 'middleware', 'versions')
        },
    }


def _figures(cameras: Sequence[CameraTimes], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return frames, latencies, ages, and how long the stages of the node took."""
    stages = [row['stages_ms'] for row in rows if row['stages_ms'] is not None]
    return {
        **frame_figures(cameras),
        'age_ms': percentiles(np.concatenate([camera.ages_ms() for camera in cameras])),
        'stages_ms': {
            name: percentiles([each[name] for each in stages])
            for name in dict.fromkeys(name for each in stages for name in each)
        },
    }


def _machine_use(usage: Sequence[Usage]) -> dict[str, Any]:
    """Return what the node used, from samples taken while it was played to."""
    seconds = usage[-1].at_s - usage[0].at_s
    memory = [sample.memory_mb for sample in usage]
    return {
        'cpu_cores': round((usage[-1].cpu_s - usage[0].cpu_s) / seconds, 2) if seconds else None,
        'memory_mb': {
            'first': round(memory[0], 1),
            'last': round(memory[-1], 1),
            'max': round(max(memory), 1),
        },
    }


class _Camera(NamedTuple):
    topic: str
    source: BagSource
    frames: PlayableFrames
    player: Player


def _open_cameras(
    bag: Path, topics: Sequence[str], domain_id: int, stack: ExitStack
) -> list[_Camera]:
    require_ros()
    from lwseg_ros.live.player import Player

    apply_large_image_profile(os.environ)
    keep_freed_memory()
    cameras = []
    for number, topic in enumerate(topics):
        source = BagSource(bag, topic)
        stack.callback(source.close)
        place = f'{NODE_NAME}/{_camera_name(number)}' if len(topics) > 1 else NODE_NAME
        player = Player(
            source.topic,
            source.message_type,
            info_topic_of(source),
            lambda answer: None,
            domain_id,
            place,
            (ANSWER,),
        )
        cameras.append(_Camera(source.topic, source, PlayableFrames(source), player))
    kinds = {camera.source.message_type: camera.topic for camera in cameras}
    if len(kinds) > 1:
        raise DataError(
            f'{" and ".join(kinds.values())} of bag {bag} are raw and compressed images, which '
            'one node cannot take together: choose among them by --topic'
        )
    return cameras


def _start_node(
    cameras: Sequence[_Camera],
    log: Path,
    settings: LiveSettings,
    domain_id: int,
    stack: ExitStack,
) -> NodeProcess:
    """Start the node and return once every camera is connected with it."""
    from lwseg_ros.live.player import node_arguments

    parameters = {
        'model.path': settings.model if settings.precision else resolve_model(settings.model),
        'model.backend': settings.backend,
        'model.precision': settings.precision or 'auto',
        'model.input_size': settings.input_size,
    }
    prefixes = ['']
    if len(cameras) > 1:
        names = [_camera_name(number) for number in range(len(cameras))]
        parameters['cameras'] = f'[{",".join(names)}]'
        prefixes = [f'{name}/' for name in names]
    arguments = [part for name, v in parameters.items() for part in ('-p', f'{name}:={v}')]
    for prefix, camera in zip(prefixes, cameras, strict=True):
        arguments += node_arguments(
            camera.topic, camera.source.message_type, info_topic_of(camera.source), prefix
        )
    with signals_later():
        node = stack.enter_context(NodeProcess(log, arguments, domain_id))
    for camera in cameras:
        stack.enter_context(camera.player)
    for camera in cameras:
        camera.player.wait_for_node(node.check, START_TIMEOUT_S)
    return node


def _play(
    cameras: Sequence[_Camera],
    node: NodeProcess,
    rate: float,
    usage: list[Usage],
    advance: Callable[[int, int], None],
) -> None:
    """Publish every frame when its time has come, and look at what the node uses then."""
    expected = sum(camera.frames.expected or 0 for camera in cameras)
    pace = Pace(rate)
    for number, (play_s, camera, frame) in enumerate(_in_order(cameras), 1):
        pace.wait(play_s)
        camera.player.publish(frame.stamp_ns, frame.image, frame.info)
        node.check()
        usage.append(node.usage())
        advance(number, expected)


def _in_order(cameras: Sequence[_Camera]) -> Iterator[tuple[float, _Camera, PlayableFrame]]:
    """Yield the frames of all cameras, each with its time after the first one of the bag."""
    started = []
    for camera in cameras:
        frames = iter(camera.frames)
        first = next(frames, None)
        if first is not None:
            started.append((first.record_ns, camera, itertools.chain([first], frames)))
    begin_ns = min((record_ns for record_ns, _, _ in started), default=0)

    def timed(
        start_s: float, camera: _Camera, frames: Iterable[PlayableFrame]
    ) -> Iterator[tuple[float, _Camera, PlayableFrame]]:
        for frame in frames:
            yield start_s + frame.play_s, camera, frame

    return heapq.merge(
        *(
            timed((record_ns - begin_ns) / 1e9, camera, frames)
            for record_ns, camera, frames in started
        ),
        key=lambda entry: entry[0],
    )


def _wait_for_the_end(cameras: Sequence[_Camera], node: NodeProcess) -> None:
    for camera in cameras:
        camera.player.wait_for_answers(node.check, ANSWER_TIMEOUT_S)
    for camera in cameras:
        camera.player.wait_for_counts(node.check, ANSWER_TIMEOUT_S)


def _times(player: Player) -> CameraTimes:
    return CameraTimes(
        player.sent_s,
        player.answered[ANSWER],
        player.node_count('received'),
        player.node_count('refused'),
    )


def _frame_rows(cameras: Sequence[_Camera]) -> Iterator[dict[str, Any]]:
    """Yield of every frame when it was sent, seconds after the first, and how long it took."""
    begin_s = min(next(iter(camera.player.sent_s.values())) for camera in cameras)
    for topic, _, _, player in cameras:
        answered_s = player.answered[ANSWER]
        for stamp_ns, sent_s in player.sent_s.items():
            took_s = answered_s[stamp_ns] - sent_s if stamp_ns in answered_s else None
            # The node's age is that by the stamp, which is of the day of the recording.
            stages = dict(player.stages_ms.get(stamp_ns, {}))
            stages.pop('age', None)
            yield {
                'topic': topic,
                'stamp_ns': stamp_ns,
                'sent_s': round(sent_s - begin_s, 6),
                'latency_ms': None if took_s is None else round(took_s * 1e3, 3),
                'stages_ms': stages or None,
            }


def _times_of_rows(
    rows: Sequence[Mapping[str, Any]], figures: Mapping[str, Any], start_s: float
) -> CameraTimes:
    """Return the times of a camera as live_frames.jsonl and live.json have them."""
    sent = {row['stamp_ns']: start_s + row['sent_s'] for row in rows}
    answered = {
        row['stamp_ns']: start_s + row['sent_s'] + row['latency_ms'] / 1e3
        for row in rows
        if row['latency_ms'] is not None
    }
    lost = figures['frames_not_received_by_node']
    received = None if lost is None else len(sent) - lost
    return CameraTimes(sent, answered, received, figures['frames_refused_by_node'])


def _camera_name(number: int) -> str:
    return f'camera{number}'
