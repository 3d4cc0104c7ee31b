"""`lwseg bag evaluate` as a process: Ctrl-C, a full disk, and memory that does not grow."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from paths_for_tests import ROOT

pytest.importorskip('rosbags')

from bags_for_tests import camera_rows, painted, raw, stamp, write_ros2
from rosbags.highlevel import AnyReader


def command(*arguments: object) -> list[str]:
    return [sys.executable, '-m', 'lwseg_ros.cli', 'bag', 'evaluate', *map(str, arguments)]


def run(*arguments: object, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    def before() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=before,
        env={**os.environ, 'COLUMNS': '100'},
    )


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_partial_result_and_the_next_run_completes_it(
    tmp_path: Path, tiny_model: Path, number: int
) -> None:
    # So many frames that the run cannot end before the signal reaches it.
    bag = write_ros2(tmp_path / 'drive', camera_rows(300))
    out = tmp_path / 'out'
    arguments = (bag, '--model', tiny_model, '--out', out, '--input-size', '512x384')
    process = subprocess.Popen(
        command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    records = out / '.drive.part' / 'frames.jsonl'
    while process.poll() is None and not (records.exists() and records.stat().st_size):
        os.sched_yield()
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, output + errors
    assert 'Traceback' not in errors
    left = {path.name for path in out.iterdir()}
    assert {'drive', 'result.json'} <= left
    assert not any(name.startswith('.') for name in left)
    result = json.loads((out / 'drive' / 'result.json').read_text())
    frames = result['bags'][0]['frames']
    assert result['interrupted']
    assert 0 < frames < 300
    assert f'interrupted after {frames} frames' in output.replace('\n', ' ')
    assert json.loads((out / 'result.json').read_text())['interrupted']
    assert len((out / 'drive' / 'frames.jsonl').read_text().splitlines()) == frames
    with AnyReader([out / 'drive' / 'replay']) as reader:
        assert reader.topics['/segmentation/cam/image/mask'].msgcount == frames
    done = run(*arguments, '--no-mcap', '--no-video')
    assert done.returncode == 0, done.stderr
    result = json.loads((out / 'result.json').read_text())
    assert not result['interrupted']
    assert result['overall']['frames'] == 300


def test_a_file_that_cannot_grow_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, tiny_model: Path
) -> None:
    bag = write_ros2(tmp_path / 'drive', camera_rows(150))
    done = run(bag, '--model', tiny_model, '--out', tmp_path / 'out', '--no-video', limit=30_000)
    assert done.returncode == 1
    sentence = ' '.join(done.stderr.split())
    assert 'out/drive cannot be written: File too large' in sentence
    assert 'Traceback' not in done.stderr
    assert list((tmp_path / 'out').iterdir()) == []


def test_a_video_that_cannot_grow_is_one_sentence(tmp_path: Path, tiny_model: Path) -> None:
    bag = write_ros2(tmp_path / 'drive', camera_rows(150))
    done = run(bag, '--model', tiny_model, '--out', tmp_path / 'out', '--no-mcap', limit=30_000)
    assert done.returncode == 1
    assert 'cannot be written' in ' '.join(done.stderr.split())
    assert list((tmp_path / 'out').iterdir()) == []


def test_an_output_that_is_a_file_is_one_sentence(tmp_path: Path, tiny_model: Path) -> None:
    bag = write_ros2(tmp_path / 'drive', camera_rows(3))
    (tmp_path / 'out').write_text('a file')
    done = run(bag, '--model', tiny_model, '--out', tmp_path / 'out')
    assert done.returncode == 1
    assert 'cannot be written: File exists' in ' '.join(done.stderr.split())
    assert (tmp_path / 'out').read_text() == 'a file'


def test_memory_does_not_grow_with_the_bag(tmp_path: Path, tiny_model: Path) -> None:
    peaks = []
    for count in (40, 440):
        large = [painted(i).repeat(5, axis=0).repeat(5, axis=1) for i in range(10)]
        rows = [('/cam/image', stamp(i), raw(large[i % 10], stamp(i))) for i in range(count)]
        bag = write_ros2(tmp_path / f'drive{count}', rows)
        program = (
            'import resource, sys\n'
            'from lwseg_ros.cli.commands import app\n'
            'app(sys.argv[1:], standalone_mode=False)\n'
            'print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n'
        )
        arguments = (bag, '--model', tiny_model, '--out', tmp_path / f'out{count}')
        done = subprocess.run(
            [sys.executable, '-c', program, 'bag', 'evaluate', *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    # The 400 frames more are 370 MB of pixels, and as much again of masks and confidence.
    assert peaks[1] - peaks[0] < 80, peaks


def test_a_second_evaluation_into_one_folder_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    bag = write_ros2(tmp_path / 'drive', camera_rows(3))
    out = tmp_path / 'out'
    arguments = (bag, '--model', tiny_model, '--out', out, '--no-mcap', '--no-video')
    assert run(*arguments).returncode == 0
    before = (out / 'result.json').stat().st_mtime_ns
    folder = os.open(out, os.O_RDONLY)  # as the first one has it
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        refused = run(*arguments, '--low-confidence', 0.7)
    finally:
        os.close(folder)
    assert refused.returncode == 1
    assert 'another lwseg bag evaluate writes into' in ' '.join(refused.stderr.split())
    assert (out / 'result.json').stat().st_mtime_ns == before
