"""Live replay: a bag through the real node in a process of its own, over the real middleware."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from paths_for_tests import ROOT

pytest.importorskip('rclpy')
pytest.importorskip('rosbags')

from rosbags.rosbag2 import Writer

from lwseg_ros.bags.messages import COMPRESSED_IMAGE, IMAGE, TYPESTORE, image_message, jpeg_message
from lwseg_ros.errors import DataError, LwsegError
from lwseg_ros.live.latency import CameraTimes, frame_figures
from lwseg_ros.live.replay import LiveSettings, merge_live, replay_live

PERIOD_NS = 50_000_000
FRONT, REAR = '/front/image', '/rear/image'


def write_bag(path: Path, frames: int, topics: tuple[str, ...] = (FRONT,)) -> Path:
    """Write a bag of raw images at 20 Hz; the topics take turns, half a period apart."""
    with Writer(path, version=8) as writer:
        for number, topic in enumerate(topics):
            connection = writer.add_connection(topic, IMAGE, typestore=TYPESTORE)
            for frame in range(frames):
                stamp_ns = 10**18 + frame * PERIOD_NS + number * PERIOD_NS // 2
                picture = np.full((96, 160, 3), 20 * (frame % 10), np.uint8)
                message = image_message(picture, 'rgb8', stamp_ns)
                writer.write(connection, stamp_ns, TYPESTORE.serialize_cdr(message, IMAGE))
    return path


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / 'live_frames.jsonl').read_text().splitlines()]


@pytest.mark.alone
def test_every_frame_is_accounted_for_and_timed(tiny_model: Path, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'drive', 20)
    seen: list[tuple[int, int]] = []
    settings = LiveSettings(str(tiny_model), rate=2.0)
    result = replay_live(bag, [FRONT], tmp_path, settings, lambda *n: seen.append(n))
    assert json.loads((tmp_path / 'live.json').read_text()) == result
    assert seen == [(number, 20) for number in range(1, 21)]
    assert not result['interrupted']
    assert result['frames_in'] == 20 == result['frames_processed'] + result['frames_dropped']
    assert result['played_at_hz'] == pytest.approx(40, rel=0.25)
    assert 0 < result['latency_ms']['p50'] <= result['latency_ms']['p99'] <= 10_000
    assert result['age_ms']['p50'] > result['latency_ms']['p50'], 'an answer ages until the next'
    assert result['stages_ms']['infer']['p50'] < result['latency_ms']['max']
    assert result['cpu_cores'] > 0
    assert 20 < result['memory_mb']['first'] <= result['memory_mb']['max'] < 4000
    assert result['model']['name'] == 'tiny'
    frames = rows(tmp_path)
    assert [row['stamp_ns'] for row in frames] == [10**18 + n * PERIOD_NS for n in range(20)]
    answered = [row['latency_ms'] for row in frames if row['latency_ms'] is not None]
    assert len(answered) == result['frames_processed']
    assert all(row['stages_ms'] for row in frames if row['latency_ms'] is not None)
    assert np.percentile(answered, 99) == pytest.approx(result['latency_ms']['p99'], abs=0.02)

    one, two = merge_live([tmp_path]), merge_live([tmp_path, tmp_path])
    same = {name for name, value in result.items() if one.get(name) == value}
    assert {'frames_in', 'dropped_share', 'stages_ms', 'memory_mb', 'cpu_cores'} <= same
    for name in ('latency_ms', 'age_ms'):
        assert one[name] == pytest.approx(result[name], abs=0.1)
    assert two['frames_in'] == 40
    assert two['frames_refused_by_node'] == 0
    for name in ('p50', 'p95', 'p99'):  # of each latency twice: p99 lies between others then
        both = np.percentile(2 * answered, float(name[1:]))
        assert two['latency_ms'][name] == pytest.approx(both, abs=0.02)
    assert two['latency_ms']['max'] == one['latency_ms']['max']
    assert two['duration_s'] == pytest.approx(2 * result['duration_s'], abs=0.02)


def test_several_topics_are_the_cameras_of_one_node(tiny_model: Path, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'drive', 10, (FRONT, REAR))
    result = replay_live(bag, [FRONT, REAR], tmp_path, LiveSettings(str(tiny_model)))
    assert result['frames_in'] == 20
    assert list(result['topics']) == [FRONT, REAR]
    for topic in (FRONT, REAR):
        assert result['topics'][topic]['frames_in'] == 10
        assert result['topics'][topic]['frames_processed'] > 0
    sent = {
        topic: [r['sent_s'] for r in rows(tmp_path) if r['topic'] == topic]
        for topic in (FRONT, REAR)
    }
    assert sent[FRONT] == sorted(sent[FRONT])
    assert 0 < sent[REAR][0] < sent[FRONT][-1], 'they are played together'


def test_raw_and_compressed_images_together_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'drive', 1)
    with Writer(tmp_path / 'mixed', version=8) as writer:
        picture = np.zeros((96, 160, 3), np.uint8)
        for topic, kind, message in (
            (FRONT, IMAGE, image_message(picture, 'rgb8', 10**18)),
            (REAR, COMPRESSED_IMAGE, jpeg_message(picture, 10**18, 'camera')),
        ):
            connection = writer.add_connection(topic, kind, typestore=TYPESTORE)
            writer.write(connection, 10**18, TYPESTORE.serialize_cdr(message, kind))
    with pytest.raises(DataError, match='--topic'):
        replay_live(tmp_path / 'mixed', [FRONT, REAR], tmp_path, LiveSettings(str(tiny_model)))
    with pytest.raises(LwsegError, match=r'node ended .*model\.backend .*nonsense'):
        replay_live(bag, [FRONT], tmp_path, LiveSettings(str(tiny_model), backend='nonsense'))
    assert not (tmp_path / 'live.json').exists()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_the_figures_of_what_was_played(
    tiny_model: Path, tmp_path: Path, number: int
) -> None:
    bag = write_bag(tmp_path / 'drive', 1200)
    program = (
        'import sys\nfrom pathlib import Path\n'
        'from lwseg_ros.live.replay import LiveSettings, replay_live\n'
        f'replay_live(Path({str(bag)!r}), [{FRONT!r}], Path({str(tmp_path)!r}),'
        f' LiveSettings({str(tiny_model)!r}), lambda n, _: n == 5 and print("played", flush=True))'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', program],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == 'played\n'
        process.send_signal(number)
        start = time.monotonic()
        assert process.wait(30) != 0
    finally:
        process.kill()
        process.communicate()
    assert time.monotonic() - start < 25
    result = json.loads((tmp_path / 'live.json').read_text())
    assert result['interrupted']
    assert 5 <= result['frames_in'] == len(rows(tmp_path)) < 1200


def test_latencies_ages_and_drops_follow_from_the_times() -> None:
    # Frames every 100 ms; the second is dropped, the third answered late.
    sent = {1: 10.0, 2: 10.1, 3: 10.2, 4: 10.3}
    camera = CameraTimes(sent, {1: 10.04, 3: 10.26, 4: 10.34}, received=4, refused=0)
    figures = frame_figures([camera])
    assert (figures['frames_in'], figures['frames_processed'], figures['frames_dropped']) == (
        4,
        3,
        1,
    )
    assert figures['latency_ms'] == {'p50': 40.0, 'p95': 58.0, 'p99': 59.6, 'max': 60.0}
    assert figures['duration_s'] == 0.34
    assert figures['frames_not_received_by_node'] == 0
    # From 40 to 260 ms while the second is missed, then from 60 to 140 ms.
    ages = camera.ages_ms()
    assert ages.min() == pytest.approx(40, abs=1.1)
    assert ages.max() == pytest.approx(260, abs=1.1)
    assert np.mean(ages > 140) == pytest.approx(120 / 300, abs=0.01)
    nothing = frame_figures([CameraTimes(sent, {})])
    assert (nothing['frames_dropped'], nothing['latency_ms']['p99']) == (4, None)
    assert nothing['frames_not_received_by_node'] is None


def test_an_evaluation_with_a_live_replay(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip('jinja2')
    from rich.console import Console

    from lwseg_ros.replay.run import RunOptions, evaluate_bags
    from lwseg_ros.replay.settings import Settings

    bags = [write_bag(tmp_path / name, 12) for name in ('one', 'two')]
    settings = Settings(model=str(tiny_model), mcap=False, video=False)
    options = RunOptions(live_rate=2.0, fail_if=('p99_ms<=0', 'dropped_share>1'))
    out = tmp_path / 'out'
    done = evaluate_bags(bags, out, settings, Console(quiet=True), options)
    assert done.live == json.loads((out / 'live.json').read_text())
    assert done.live['frames_in'] == 24
    assert [check.failed for check in done.checks] == [False, False]
    result = json.loads((out / 'result.json').read_text())
    assert 'latency' not in str(result), 'what depends on the moment is not among the figures'
    assert 'Latency in the live replay' in (out / 'report.html').read_text()

    before = (out / 'two' / 'live.json').stat().st_mtime_ns
    assert evaluate_bags(bags, out, settings, Console(quiet=True), options).live == done.live
    assert (out / 'two' / 'live.json').stat().st_mtime_ns == before, 'a finished bag is left'
