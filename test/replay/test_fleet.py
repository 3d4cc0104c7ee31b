"""Many bags at once, in processes and on a Ray cluster: the results are those of one process."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paths_for_tests import ROOT

pytest.importorskip('rosbags')

from bags_for_tests import by_time, camera_rows, quick_settings, truth_rows, write_ros2
from rich.console import Console

from lwseg_ros.errors import DataError, LwsegError, ModelError
from lwseg_ros.replay.fleet import (
    ATTEMPTS,
    Task,
    run_here,
    run_in_processes,
    run_on_ray,
)
from lwseg_ros.replay.run import RunOptions, evaluate_bags
from lwseg_ros.replay.settings import Settings


@pytest.fixture
def settings(tiny_model: Path) -> Settings:
    return quick_settings(tiny_model)


@pytest.fixture
def bags(tmp_path: Path) -> list[Path]:
    """Return two good bags, and one of them that is none."""
    paths = [
        write_ros2(tmp_path / f'drive{i}', by_time(camera_rows(count), truth_rows(range(count))))
        for i, count in enumerate((40, 12))
    ]
    notes = tmp_path / 'notes.mcap'
    notes.write_text('not a bag')
    return [paths[0], notes, paths[1]]


def tasks_of(bags: list[Path], out: Path, settings: Settings) -> list[Task]:
    return [Task(bag.stem, bag, out / bag.stem, settings) for bag in bags]


def by_name(answers: Iterable[tuple[Task, Any]]) -> dict[str, Any]:
    return {
        task.name: str(answer) if isinstance(answer, LwsegError) else answer
        for task, answer in answers
    }


def unseen(name: str, done: int, total: int) -> None:
    """Report to nobody."""


def test_processes_write_what_one_process_writes(
    bags: list[Path], tmp_path: Path, settings: Settings
) -> None:
    alone, many = tmp_path / 'alone', tmp_path / 'many'
    console = Console(quiet=True)
    options = RunOptions(report=False)
    expected = evaluate_bags(bags, alone, settings, console, options)
    found = evaluate_bags(bags, many, settings, console, RunOptions(jobs=3, report=False))
    assert expected.result['overall']['frames'] == 52
    assert [failure['bag'] for failure in expected.result['failures']] == [str(bags[1])]
    assert '1 of 3 bags could not be evaluated' in ''.join(expected.complaints())
    assert found == expected
    for name in ('result.json', 'drive0/result.json', 'drive1/frames.jsonl'):
        assert (many / name).read_bytes() == (alone / name).read_bytes()


def test_a_killed_worker_is_replaced_and_the_others_do_not_notice(
    bags: list[Path], tmp_path: Path, settings: Settings
) -> None:
    killed: list[int | None] = []

    def kill_first(name: str, done: int, total: int) -> None:
        if not killed:
            child = multiprocessing.active_children()[0]
            killed.append(child.pid)
            child.kill()

    found = by_name(run_in_processes(tasks_of(bags, tmp_path / 'out', settings), 1, kill_first))
    assert len(killed) == 1
    assert found == by_name(run_here(tasks_of(bags, tmp_path / 'here', settings), unseen))


def test_a_bag_whose_workers_always_die_is_given_up(
    bags: list[Path], tmp_path: Path, settings: Settings
) -> None:
    pids: set[int | None] = set()

    def kill(name: str, done: int, total: int) -> None:
        for child in multiprocessing.active_children():
            pids.add(child.pid)
            child.kill()

    tasks = tasks_of(bags[:1], tmp_path / 'out', settings)
    [(_, answer)] = run_in_processes(tasks, 1, kill)
    assert isinstance(answer, DataError)
    assert f'died {ATTEMPTS} times' in str(answer)
    assert len(pids) == ATTEMPTS
    assert not list((tmp_path / 'out').glob('drive*'))


def test_a_model_that_cannot_be_used_ends_it_all(
    bags: list[Path], tmp_path: Path, settings: Settings
) -> None:
    console = Console(quiet=True)
    broken = tmp_path / 'broken.onnx'
    broken.write_bytes(b'no model')
    for jobs in (1, 2):
        with pytest.raises(ModelError, match=r'broken\.onnx'):
            evaluate_bags(
                bags,
                tmp_path / 'out',
                Settings(model=str(broken)),
                console,
                RunOptions(jobs=jobs, report=False),
            )
    assert not (tmp_path / 'out' / 'result.json').exists()


@contextlib.contextmanager
def evaluating(out: Path, settings: Settings, jobs: int) -> Iterator[subprocess.Popen[bytes]]:
    """Give a `lwseg bag evaluate` of two long bags, in a session of its own, that has begun."""
    bags = [write_ros2(out / f'long{i}', camera_rows(1500)) for i in range(2)]
    command = [sys.executable, '-m', 'lwseg_ros.cli', 'bag', 'evaluate', *map(str, bags)]
    command += ['--out', str(out / 'out'), '--model', settings.model, '--jobs', str(jobs)]
    command += ['--no-report', '--no-mcap', '--no-video']
    process = subprocess.Popen(
        command,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        frames = out / 'out' / '.long0.part' / 'frames.jsonl'
        while not frames.exists() or not frames.stat().st_size:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize('jobs', [1, 2])
def test_ctrl_c_leaves_a_result_of_what_was_done(
    jobs: int, tmp_path: Path, settings: Settings
) -> None:
    with evaluating(tmp_path, settings, jobs) as process:
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output.decode()
    assert b'Traceback' not in output
    result = json.loads((tmp_path / 'out' / 'result.json').read_text())
    assert result['interrupted']
    assert 0 < result['overall']['frames'] < 3000
    assert not list((tmp_path / 'out').glob('.*'))


def hears_ctrl_c(pid: int) -> bool:
    """Return whether SIGINT would reach a process, which neither blocks nor ignores it."""
    lines = Path('/proc', str(pid), 'status').read_text().splitlines()
    masks = dict(line.split(':\t') for line in lines if line.startswith(('SigBlk', 'SigIgn')))
    return not any(int(mask, 16) >> (signal.SIGINT - 1) & 1 for mask in masks.values())


def test_workers_do_not_hear_ctrl_c_and_end_with_a_command_that_is_killed(
    tmp_path: Path, settings: Settings
) -> None:
    with evaluating(tmp_path, settings, jobs=2) as process:
        tasks = Path('/proc', str(process.pid), 'task').glob('*/children')
        children = [int(pid) for task in tasks for pid in task.read_text().split()]
        assert len(children) >= 2
        assert not any(hears_ctrl_c(pid) for pid in children)
        workers = [os.pidfd_open(pid) for pid in children]
        process.kill()
        try:
            for worker in workers:
                assert select.select([worker], [], [], 30)[0], 'a worker outlives the command'
        finally:
            for worker in workers:
                os.close(worker)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a Ray cluster on this machine."""
    ray = pytest.importorskip('ray')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def kill_first_worker(killed: list[int]) -> None:
    """Wait until Ray's worker is at a bag, and kill it."""
    deadline = time.monotonic() + 60
    while not killed and time.monotonic() < deadline:
        for place in Path('/proc').glob('[0-9]*'):
            with contextlib.suppress(OSError):
                if (place / 'cmdline').read_bytes().startswith(b'ray::_evaluate_in'):
                    killed.append(int(place.name))
                    os.kill(killed[0], signal.SIGKILL)
                    break
        time.sleep(0.01)


def test_ray_gives_what_one_process_gives_though_a_worker_dies(
    cluster: Any, bags: list[Path], tmp_path: Path, settings: Settings
) -> None:
    killed: list[int] = []
    killer = threading.Thread(target=kill_first_worker, args=(killed,))
    killer.start()
    found = by_name(run_on_ray(tasks_of(bags, tmp_path / 'out', settings)))
    killer.join()
    assert killed
    assert found == by_name(run_here(tasks_of(bags, tmp_path / 'here', settings), unseen))
    for name in ('drive0/result.json', 'drive1/frames.jsonl'):
        assert (tmp_path / 'out' / name).read_bytes() == (tmp_path / 'here' / name).read_bytes()


def test_without_a_ray_cluster_one_sentence_says_so(
    bags: list[Path], tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('ray')
    monkeypatch.delenv('RAY_ADDRESS', raising=False)
    with pytest.raises(LwsegError, match='ray start --head'):
        next(run_on_ray(tasks_of(bags, tmp_path, settings)))
