"""A bag through the real node over the real middleware: how fast, how old, what was dropped.

The node runs in a process of its own, started as a user starts it, and is played to at the bag's
own speed or a multiple of it. What comes out depends on the machine and on the moment, so these
figures are kept apart from those of quality, in live.json.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lwseg_ros import __version__
from lwseg_ros.errors import DataError, LwsegError
from lwseg_ros.evaluation.latency import CameraTimes, frame_figures, percentiles
from lwseg_ros.evaluation.playback import (
    BagSource,
    Pace,
    PlayableFrame,
    PlayableFrames,
    camera_info_topic,
)
from lwseg_ros.inference.model_file import find_model, sha256, write_atomically
from lwseg_ros.memory import keep_freed_memory
from lwseg_ros.ros.node_process import NodeProcess, Usage, own_domain_id, signals_later, terminable
from lwseg_ros.ros.transport import PROFILE_VARIABLES, apply_large_image_profile

if TYPE_CHECKING:
    from lwseg_ros.ros.replay import Replay

FORMAT = 'lwseg live 1'
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
    precision: str = 'auto'
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
    network = find_model(settings.model)
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
        played = [camera for camera in cameras if camera.replay.sent_s]
        _wait_for_the_end(played, node)
        node.stop()
    times = {camera.topic: _times(camera.replay) for camera in played}
    if not any(camera.answered_s for camera in times.values()):
        raise interrupt or LwsegError(
            f'the node answered none of the frames of {bag}: {node.last_words()}'
        )
    result = {
        'format': FORMAT,
        'interrupted': interrupt is not None,
        **live_figures(list(times.values()), usage),
        'stages_ms': _stages([camera.replay for camera in played]),
        'topics': {topic: live_figures([camera], []) for topic, camera in times.items()},
        'restamped': sum(camera.frames.restamped for camera in played),
        'bag': str(bag),
        'rate': settings.rate,
        'model': {
            'name': network.info.name,
            'sha256': sha256(network.path),
            'engine': played[0].replay.diagnostics.get('backend', ''),
        },
        'machine': f'{platform.machine()}, {os.cpu_count()} cores',
        'middleware': {
            'rmw': os.environ.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp'),
            'profile': Path(os.environ.get(PROFILE_VARIABLES[0], '')).name,
        },
        'versions': {'lwseg': __version__, 'python': platform.python_version()},
    }
    rows = ''.join(json.dumps(row) + '\n' for row in _frame_rows(times))
    write_atomically(folder / 'live_frames.jsonl', rows.encode())
    write_atomically(folder / 'live.json', (json.dumps(result, indent=2) + '\n').encode())
    if interrupt is not None:
        raise interrupt
    return result


def live_figures(cameras: Sequence[CameraTimes], usage: Sequence[Usage]) -> dict[str, Any]:
    """Return frames, latencies, ages and, from samples over time, what the node used."""
    ages = [camera.ages_ms() for camera in cameras]
    figures = {**frame_figures(cameras), 'age_ms': percentiles(np.concatenate(ages))}
    if not usage:
        return figures
    seconds = usage[-1].at_s - usage[0].at_s
    memory = [sample.memory_mb for sample in usage]
    return {
        **figures,
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
    replay: Replay


def _open_cameras(
    bag: Path, topics: Sequence[str], domain_id: int, stack: ExitStack
) -> list[_Camera]:
    try:
        from lwseg_ros.ros.replay import Replay
    except ImportError:
        raise LwsegError(
            'a live replay needs ROS 2: source a ROS distribution, or pip install "lwseg_ros[ros]"'
        ) from None
    apply_large_image_profile(os.environ)
    keep_freed_memory()
    cameras = []
    for number, topic in enumerate(topics):
        source = BagSource(bag, topic)
        stack.callback(source.close)
        place = f'{NODE_NAME}/{_camera_name(number)}' if len(topics) > 1 else NODE_NAME
        replay = Replay(
            source.topic,
            source.message_type,
            camera_info_topic(source),
            lambda answer: None,
            domain_id,
            place,
            (ANSWER,),
        )
        cameras.append(_Camera(source.topic, source, PlayableFrames(source), replay))
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
    from lwseg_ros.ros.replay import node_arguments

    parameters = {
        'model.path': settings.model,
        'model.backend': settings.backend,
        'model.precision': settings.precision,
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
            camera.topic, camera.source.message_type, camera_info_topic(camera.source), prefix
        )
    with signals_later():
        node = stack.enter_context(NodeProcess(log, arguments, domain_id))
    for camera in cameras:
        stack.enter_context(camera.replay)
    for camera in cameras:
        camera.replay.wait_for_node(node.check, START_TIMEOUT_S)
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
        camera.replay.publish(frame.stamp_ns, frame.image, frame.info)
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
        camera.replay.wait_for_answers(node.check, ANSWER_TIMEOUT_S)
    for camera in cameras:
        camera.replay.wait_for_counts(node.check, ANSWER_TIMEOUT_S)


def _times(replay: Replay) -> CameraTimes:
    return CameraTimes(
        replay.sent_s,
        replay.answered[ANSWER],
        replay.node_count('received'),
        replay.node_count('refused'),
    )


def _stages(replays: Sequence[Replay]) -> dict[str, dict[str, float | None]]:
    """Return the percentiles of each stage of the node; age by the stamp is that of the bag."""
    names = dict.fromkeys(name for replay in replays for name in replay.stages_ms)
    return {
        name: percentiles([ms for replay in replays for ms in replay.stages_ms.get(name, [])])
        for name in names
        if name != 'age'
    }


def _frame_rows(times: dict[str, CameraTimes]) -> Iterator[dict[str, Any]]:
    """Yield of every frame when it was sent, seconds after the first, and its latency."""
    begin_s = min(next(iter(camera.sent_s.values())) for camera in times.values())
    for topic, camera in times.items():
        for stamp_ns, sent_s in camera.sent_s.items():
            answered_s = camera.answered_s.get(stamp_ns)
            yield {
                'topic': topic,
                'stamp_ns': stamp_ns,
                'sent_s': round(sent_s - begin_s, 4),
                'latency_ms': None
                if answered_s is None
                else round((answered_s - sent_s) * 1e3, 2),
            }


def _camera_name(number: int) -> str:
    return f'camera{number}'
