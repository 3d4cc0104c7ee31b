"""The frames of a bag in order, read, decoded and answered by the model, a few of them ahead."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from lwseg_ros.bags.messages import header, stamp_of
from lwseg_ros.bags.order import RawMessage, in_order
from lwseg_ros.errors import FrameError, InferenceError
from lwseg_ros.image_messages import image_from_message
from lwseg_ros.inference.segmenter import Segmentation
from lwseg_ros.replay.plan import Plan
from lwseg_ros.replay.settings import Models
from lwseg_ros.replay.truth import Fetch

AHEAD = 4
"""How many frames wait before each stage, beyond those that are worked on."""

T = TypeVar('T')
R = TypeVar('R')


class Frame(NamedTuple):
    """One message, decoded; `image` is None if it is broken, then `error` says why."""

    number: int
    message: RawMessage
    header: Any
    image: npt.NDArray[np.uint8] | None
    truth: npt.NDArray[np.uint8] | None
    error: str
    truth_error: str
    decode_ms: float


class Answer(NamedTuple):
    """What the models said of a frame; without a segmentation `error` says why."""

    frame: Frame
    segmentation: Segmentation | None
    against: Segmentation | None
    error: str
    infer_ms: float


@contextmanager
def answers(plan: Plan, models: Models) -> Iterator[Iterator[Answer]]:
    """Give the answers to the messages of a plan, in its order."""
    with (
        in_threads(2, partial(_decode, plan), _messages(plan)) as frames,
        in_threads(models.streams, partial(_answer, models), frames) as answered,
    ):
        yield answered


@contextmanager
def in_threads(threads: int, work: Callable[[T], R], items: Iterator[T]) -> Iterator[Iterator[R]]:
    """Give `work(item)` of each item in order, done by threads before it is asked for.

    At the end what has begun is completed, and nothing else is begun.
    """
    end: Any = object()
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(1) as taker, ThreadPoolExecutor(threads) as workers:

        def begin() -> None:
            taken = taker.submit(next, items, end)
            waiting.append(
                workers.submit(lambda: end if (item := taken.result()) is end else work(item))
            )

        def results() -> Iterator[R]:
            for _ in range(threads + AHEAD):
                begin()
            while (result := waiting.popleft().result()) is not end:
                begin()
                yield result

        try:
            yield results()
        finally:
            for pool in (workers, taker):
                pool.shutdown(wait=False, cancel_futures=True)


def _messages(plan: Plan) -> Iterator[tuple[int, RawMessage, Fetch | None]]:
    """Yield the messages in the order of evaluation, with what reads their truth."""
    messages = plan.recording.messages(list(plan.cameras))
    for number, message in in_order(messages, plan.order):
        truth = plan.cameras[message.topic].truth
        fetch = truth.labels() if truth is not None and number in truth.frames else None
        yield number, message, fetch


def _decode(plan: Plan, item: tuple[int, RawMessage, Fetch | None]) -> Frame:
    number, message, fetch = item
    started = time.perf_counter()
    head = image = truth = None
    error = truth_error = ''
    try:
        decoded = plan.recording.decode(message)
        head = header(stamp_of(decoded), decoded.header.frame_id)
        image = image_from_message(decoded)
    except FrameError as problem:
        error = str(problem)
    if fetch is not None and image is not None:
        try:
            truth = fetch()
            if truth.shape != image.shape[:2]:
                raise FrameError(
                    f'truth has {truth.shape[1]}x{truth.shape[0]} pixels, its image '
                    f'{image.shape[1]}x{image.shape[0]}'
                )
        except FrameError as problem:
            truth, truth_error = None, str(problem)
    elapsed = 1e3 * (time.perf_counter() - started)
    return Frame(number, message, head, image, truth, error, truth_error, elapsed)


def _answer(models: Models, frame: Frame) -> Answer:
    if frame.image is None:
        return Answer(frame, None, None, frame.error, 0.0)
    try:
        started = time.perf_counter()
        segmentation = models.segmenter(frame.image)
        elapsed = 1e3 * (time.perf_counter() - started)
        against = models.against
        second = None if against is None else against(frame.image)
    except InferenceError as problem:
        return Answer(frame, None, None, str(problem), 0.0)
    return Answer(frame, segmentation, second, '', elapsed)
