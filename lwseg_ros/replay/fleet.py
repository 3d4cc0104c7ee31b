"""Many bags at once: each in a process of its own on this machine, or as a task of a Ray cluster.

What is done to a bag is the same everywhere, so that results do not depend on where it was done.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

from lwseg_ros.errors import DataError, LwsegError
from lwseg_ros.replay.evaluation import evaluate_bag
from lwseg_ros.replay.result import Result
from lwseg_ros.replay.settings import Settings

ATTEMPTS = 3
"""How often a bag is tried whose worker dies, killed for want of memory, say (our choice)."""

_POLL_S = 0.2

Progress = Callable[[str, int, int], None]
"""Called with the name of a bag, its messages done, and in all."""


class Task(NamedTuple):
    """A bag to evaluate."""

    name: str
    bag: Path
    folder: Path
    settings: Settings


Answer = Result | LwsegError
"""What becomes of a bag: its result, or why it has none; a DataError is about this bag alone."""


def run_here(tasks: Sequence[Task], progress: Progress) -> Iterator[tuple[Task, Answer]]:
    """Evaluate one bag after the other in this process; Ctrl-C ends it after the one under way."""
    for task in tasks:
        try:
            answer = _evaluate(task, partial(progress, task.name))
        except KeyboardInterrupt:
            return
        yield task, answer
        if not isinstance(answer, LwsegError) and answer['interrupted']:
            return


def run_in_processes(
    tasks: Sequence[Task], workers: int, progress: Progress
) -> Iterator[tuple[Task, Answer]]:
    """Evaluate bags in so many processes at once; yield each when it has ended.

    Every bag has a process of its own, so that one that dies takes no other with it; it is tried
    again. The processes share the cores evenly unless the settings name a number of threads.
    Ctrl-C ends the bags that are under way early, as interrupted, and begins no others.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    stop = Event()
    # Processes inherit what their thread blocks: Ctrl-C in the terminal reaches this one alone.
    # The tracker comes first, as Python up to 3.12 unblocks Ctrl-C in the thread that starts it.
    resource_tracker.ensure_running()
    with ThreadPoolExecutor(workers, initializer=_block_ctrl_c) as pool:
        try:
            running: dict[Future[Answer | None], Task] = {}
            for task in tasks:
                own = replace(task.settings, threads=task.settings.threads or threads)
                running[pool.submit(_retry, task._replace(settings=own), progress, stop)] = task
            while running:
                try:
                    done, _ = wait(running, _POLL_S, FIRST_COMPLETED)
                except KeyboardInterrupt:
                    stop.set()
                    continue
                for future in done:
                    task, answer = running.pop(future), future.result()
                    if answer is not None:
                        yield task, answer
        finally:
            stop.set()


def run_on_ray(tasks: Sequence[Task]) -> Iterator[tuple[Task, Answer]]:
    """Evaluate bags as tasks of a Ray cluster that runs already; yield each when it has ended.

    `RAY_ADDRESS` names the cluster, else it is the one of this machine. Bags and results must have
    the same paths on all of its machines. A task takes as many CPUs as the settings name threads,
    else one. Ray tries a bag again whose worker dies. Ctrl-C as with processes.
    """
    try:
        import ray
    except ImportError:
        raise LwsegError('--ray needs the ray package: pip install ray') from None
    if not ray.is_initialized():
        try:
            ray.init(address='auto', log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError:
            raise LwsegError(
                'there is no Ray cluster to use: start one with `ray start --head`, or name one '
                'in RAY_ADDRESS'
            ) from None
    references = {}
    for task in tasks:
        threads = task.settings.threads or 1
        remote = ray.remote(num_cpus=threads, max_retries=ATTEMPTS - 1)(_evaluate_in)
        own = task._replace(settings=replace(task.settings, threads=threads))
        references[remote.remote(own, Path.cwd())] = task
    interrupted = False
    while references:
        try:
            done, _ = ray.wait(list(references), timeout=_POLL_S)
        except KeyboardInterrupt:
            interrupted = True
            for reference in references:
                ray.cancel(reference)
            continue
        for reference in done:
            task = references.pop(reference)
            try:
                yield task, ray.get(reference)
            except ray.exceptions.RayError as error:
                if not interrupted:
                    yield task, DataError(f'{task.bag}: {_first_line(error)}')


def _evaluate(task: Task, report: Callable[[int, int], None] | None = None) -> Answer:
    try:
        return evaluate_bag(task.bag, task.folder, task.settings, report)
    except LwsegError as error:
        return error
    # Whatever a bag leads to, the others are evaluated.
    except Exception as error:
        traceback.print_exc()
        return DataError(f'{task.bag}: {type(error).__name__}: {_first_line(error)}')


def _retry(task: Task, progress: Progress, stop: Event) -> Answer | None:
    """Evaluate a bag in a process of its own; None if it was not to begin any more."""
    context = multiprocessing.get_context('spawn')
    for _ in range(ATTEMPTS):
        if stop.is_set():
            return None
        ours, its = context.Pipe()
        process = context.Process(target=_work, args=(task, its), daemon=True)
        process.start()
        its.close()
        answer = _listen(ours, task.name, progress, stop)
        process.join()
        ours.close()
        if answer is not None:
            return answer
    return DataError(
        f'{task.bag}: its worker process died {ATTEMPTS} times, killed for want of memory '
        'perhaps: take fewer --jobs'
    )


def _listen(connection: Connection, name: str, progress: Progress, stop: Event) -> Answer | None:
    """Pass on what a worker reports until its answer comes; None if it dies before."""
    told = False
    while True:
        if stop.is_set() and not told:
            told = True
            _send(connection, 'stop')
        try:
            if not connection.poll(_POLL_S):
                continue
            said = connection.recv()
        except (EOFError, OSError):
            return None
        if not isinstance(said, tuple):
            answer: Answer = said
            return answer
        progress(name, *said)


def _work(task: Task, connection: Connection) -> None:
    """Evaluate a bag, in a worker process."""

    def report(done: int, total: int) -> None:
        _send(connection, (done, total))
        # What can be read is the word to stop, or the end of the process that would say it.
        if connection.poll():
            raise KeyboardInterrupt

    _send(connection, _evaluate(task, report))


def _send(connection: Connection, what: Any) -> None:
    """Send if somebody is there."""
    try:
        connection.send(what)
    except OSError:
        return


def _evaluate_in(task: Task, folder: Path) -> Answer:
    """Evaluate a bag, in a worker of Ray, whose own folder is another than the user's."""
    os.chdir(folder)
    return _evaluate(task)


def _block_ctrl_c() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), '')
