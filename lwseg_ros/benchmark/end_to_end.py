"""The node in its own process, fed and listened to by another one over the real middleware."""

from __future__ import annotations

import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lwseg_ros.bags.messages import COMPRESSED_IMAGE, IMAGE, TYPESTORE, image_message, jpeg_message
from lwseg_ros.benchmark.engines import Variant, camera_image, engine_task
from lwseg_ros.benchmark.timing import percentiles, time_ms, times_ms
from lwseg_ros.errors import LwsegError
from lwseg_ros.live.latency import CameraTimes
from lwseg_ros.live.node_process import NodeProcess, own_domain_id
from lwseg_ros.live.signals import signals_later, terminable
from lwseg_ros.memory import keep_freed_memory
from lwseg_ros.transport import apply_large_image_profile

if TYPE_CHECKING:
    from lwseg_ros.live.player import Player

NODE = '/segmentation'
OUTPUTS = ('mask', 'drivable_mask')
RATE_HZ = 30.0
CALM_RATES_HZ = (30.0, 20.0, 15.0, 10.0, 5.0, 2.0, 1.0)
CALM_SHARE = 2 / 3
"""Of a frame's period, the most that the bare engine may take for the node to be calm."""
MOST_DROPPED = 0.01
SEARCH_STEPS = 4
_TIMEOUT_S = 120.0
_ANSWER_TIMEOUT_S = 5.0


def time_end_to_end(
    variants: Sequence[Variant],
    transports: Sequence[str],
    seconds: float,
    advance: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Return for each variant and transport ('raw', 'compressed') what the node does.

    `latency_ms` is from the stamp of a 1280x720 frame to the arrival of its mask in this process,
    at `rate_hz`, the highest of `CALM_RATES_HZ` that leaves the node calm; `at_30_hz` the same at
    `RATE_HZ`, with the share of frames that were dropped; `throughput_hz` the highest rate found
    with less than 1 % dropped. `engine_ms` is the time of the bare engine, in this process, just
    before and after, again and again; `engine_at_rate_ms` the same once for every period, as the
    processor is slower after a pause.
    """
    rows = []
    for variant in variants:
        segmenter = variant.open()
        engine = engine_task(segmenter)
        for transport in transports:
            name = f'{variant.model} {variant.backend} {variant.precision} {transport}'
            advance(f'node with {name}')
            with _Rig(variant, transport) as rig:
                engine_ms = times_ms(engine, seconds)
                rate_hz = _calm_rate_hz(float(np.median(engine_ms)))
                paced_ms = _times_at_rate(engine, rate_hz, seconds / 2)
                calm = rig.play(rate_hz, seconds)
                paced_ms += _times_at_rate(engine, rate_hz, seconds / 2)
                advance(f'{name} at {RATE_HZ:g} Hz')
                full = rig.play(RATE_HZ, seconds)
                advance(f'{name}: highest rate')
                throughput = _throughput(rig, 1e3 / calm['latency_ms']['p50'], seconds)
                engine_ms += times_ms(engine, seconds)
                memory_mb = rig.node.usage().memory_mb
            bare = percentiles(engine_ms)
            rows.append(
                {
                    **variant._asdict(),
                    'engine': rig.engine,
                    'transport': transport,
                    'engine_ms': bare,
                    'engine_at_rate_ms': percentiles(paced_ms),
                    'rate_hz': rate_hz,
                    **calm,
                    'over_engine_ms': {
                        name: round(calm['latency_ms'][name] - bare['p50'], 2)
                        for name in ('p50', 'p99')
                    },
                    'at_30_hz': full,
                    'throughput_hz': throughput,
                    'memory_mb': round(memory_mb, 1),
                    'first_mask_s': rig.first_mask_s,
                }
            )
        segmenter.close()
    return rows


def time_cameras(
    variant: Variant, numbers: Sequence[int], seconds: float, advance: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Return what one node makes of several cameras, each of 1280x720 at `RATE_HZ`."""
    rows = []
    for number in numbers:
        advance(f'{number} cameras')
        with _Rig(variant, 'raw', number) as rig:
            figures = rig.play(RATE_HZ, seconds)
            rows.append(
                {
                    'cameras': number,
                    'processed_hz': figures['processed_hz'],
                    'age_ms': figures['age_ms'],
                    'memory_mb': round(rig.node.usage().memory_mb, 1),
                }
            )
    return rows


class _Rig:
    """The node, `cameras` that send and one who listens; a context manager."""

    def __init__(self, variant: Variant, transport: str, cameras: int = 1) -> None:
        self._variant, self._transport = variant, transport
        self._names = [f'camera{i}/' for i in range(cameras)] if cameras > 1 else ['']
        self.first_mask_s = 0.0
        self.engine = ''

    def __enter__(self) -> _Rig:
        from lwseg_ros.live.player import Player, node_arguments

        with ExitStack() as stack:
            stack.enter_context(terminable())
            apply_large_image_profile(os.environ)
            keep_freed_memory()
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='lwseg_')))
            domain_id = own_domain_id()
            kind = IMAGE if self._transport == 'raw' else COMPRESSED_IMAGE
            suffix = '' if self._transport == 'raw' else '/compressed'
            picture = camera_image()
            message = (
                image_message(picture, 'rgb8', 0)
                if self._transport == 'raw'
                else jpeg_message(picture, 0, 'camera')
            )
            self._message = bytearray(TYPESTORE.serialize_cdr(message, kind))
            settings = {
                'model.path': self._variant.file,
                'model.backend': self._variant.backend,
                'model.precision': self._variant.precision,
                'model.input_size': self._variant.size,
                'diagnostics.period_s': '0.5',
            }
            if len(self._names) > 1:
                names = ','.join(name.rstrip('/') for name in self._names)
                settings['cameras'] = f'[{names}]'
            arguments = [part for k, v in settings.items() for part in ('-p', f'{k}:={v}')]
            self._players: list[Player] = []
            for name in self._names:
                topic = f'/benchmark/{name}image{suffix}'
                arguments += node_arguments(topic, kind, None, name)
                place = f'{NODE}/{name}'.rstrip('/')
                self._players.append(
                    Player(topic, kind, None, lambda answer: None, domain_id, place, OUTPUTS)
                )
            for player in self._players:
                stack.enter_context(player)
            start = time.monotonic()
            with signals_later():
                self.node = stack.enter_context(
                    NodeProcess(folder / 'node.log', arguments, domain_id)
                )
            self._await_first_mask()
            self.first_mask_s = round(time.monotonic() - start, 2)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def play(self, rate_hz: float, seconds: float) -> dict[str, Any]:
        """Send frames at a rate for so long and return what came of them."""
        for player in self._players:
            player.sent_s.clear()
            player.stages_ms.clear()
            for stamps in player.answered.values():
                stamps.clear()
        begin = time.monotonic()
        for _ in _ticks(rate_hz, seconds):
            for player in self._players:
                self._send(player)
            self.node.check()
        end = time.monotonic()
        for player in self._players:
            player.wait_for_answers(self.node.check, _ANSWER_TIMEOUT_S)
        times = [CameraTimes(r.sent_s, r.answered['mask']) for r in self._players]
        latencies = [ms for camera in times for ms in camera.latencies_ms()]
        if not latencies:
            raise LwsegError(f'the node answered nothing: {self.node.last_words()}')
        sent = sum(len(camera.sent_s) for camera in times)
        stages = [stages for player in self._players for stages in player.stages_ms.values()]
        self.engine = self._players[0].diagnostics.get('backend', '')
        return {
            'latency_ms': percentiles(latencies),
            'age_ms': percentiles(np.concatenate([camera.ages_ms() for camera in times])),
            'dropped_share': round(1 - len(latencies) / sent, 4),
            'processed_hz': round(len(latencies) / (end - begin), 1),
            'stages_ms': {
                name: percentiles([each[name] for each in stages])
                for name in (stages[0] if stages else ())
            },
        }

    def _send(self, player: Player) -> None:
        now_ns = time.time_ns()
        struct.pack_into('<iI', self._message, 4, *divmod(now_ns, 10**9))
        player.publish(now_ns, bytes(self._message))

    def _await_first_mask(self) -> None:
        deadline = time.monotonic() + _TIMEOUT_S
        for player in self._players:
            while not player.answered['mask']:
                self.node.check()
                if time.monotonic() > deadline:
                    raise LwsegError(f'no mask came: {self.node.last_words()}')
                self._send(player)
                time.sleep(1 / RATE_HZ)
        for player in self._players:
            player.wait_for_answers(self.node.check, _ANSWER_TIMEOUT_S)


def _ticks(rate_hz: float, seconds: float) -> Iterator[int]:
    """Count the periods of a rate for so long, each when it begins."""
    begin = time.monotonic()
    for number in range(round(rate_hz * seconds)):
        time.sleep(max(0.0, begin + number / rate_hz - time.monotonic()))
        yield number


def _times_at_rate(task: Callable[[], object], rate_hz: float, seconds: float) -> list[float]:
    """Run a task once a period and return how many ms each run took."""
    return [time_ms(task) for _ in _ticks(rate_hz, seconds)]


def _calm_rate_hz(engine_ms: float) -> float:
    """Return the highest rate at which the engine leaves enough of each period free."""
    calm = (rate for rate in CALM_RATES_HZ if engine_ms <= CALM_SHARE * 1e3 / rate)
    return next(calm, CALM_RATES_HZ[-1])


def _throughput(rig: _Rig, guess_hz: float, seconds: float) -> float | None:
    """Return the highest rate found, by halving, with less than 1 % of the frames dropped."""
    low, high, best = 0.3 * guess_hz, 1.3 * guess_hz, None
    for _ in range(SEARCH_STEPS):
        rate = (low + high) / 2
        if rig.play(rate, seconds)['dropped_share'] < MOST_DROPPED:
            low = best = rate
        else:
            high = rate
    return None if best is None else round(best, 1)
