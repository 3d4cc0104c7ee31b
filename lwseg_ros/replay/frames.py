"""The frames of a bag in order: read, decoded and answered by the models."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lwseg_ros.bags.messages import header, stamp_of
from lwseg_ros.bags.order import RawMessage, in_order
from lwseg_ros.errors import FrameError, InferenceError
from lwseg_ros.image_messages import ImageDecoder
from lwseg_ros.inference.segmenter import Segmentation
from lwseg_ros.replay.plan import Plan
from lwseg_ros.replay.settings import Models
from lwseg_ros.replay.truth import Fetch


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


class Item(NamedTuple):
    """A message in the order of evaluation.

    `bits` is the depth that the pictures of its topic have shown up to it, 0 if they have 8 bits.
    """

    number: int
    message: RawMessage
    truth: Fetch | None
    bits: int


class Answer(NamedTuple):
    """What the models said of a frame; without a segmentation `error` says why."""

    frame: Frame
    segmentation: Segmentation | None
    against: Segmentation | None
    error: str
    infer_ms: float


def messages(plan: Plan) -> Iterator[Item]:
    """Yield the messages of the cameras in the order of evaluation."""
    recorded = plan.recording.messages(list(plan.cameras))
    decoders: dict[str, ImageDecoder] = {}
    for number, message in in_order(recorded, plan.order):
        truth = plan.cameras[message.topic].truth
        fetch = truth.labels() if truth is not None and number in truth.frames else None
        decoder = decoders.get(message.topic)
        if decoder is None or decoder.bits:
            # A depth follows from all frames before: those of 16 bits are looked at here, too.
            decoder = decoders.setdefault(message.topic, ImageDecoder())
            with suppress(FrameError):
                decoder.decode(plan.recording.decode(message))
        yield Item(number, message, fetch, decoder.bits)


def decode(plan: Plan, item: Item) -> Frame:
    """Return one of the `messages` with its pixels and their truth."""
    number, message, fetch, bits = item
    started = time.perf_counter()
    head = image = truth = None
    error = truth_error = ''
    try:
        decoded = plan.recording.decode(message)
        head = header(stamp_of(decoded), decoded.header.frame_id)
        image = ImageDecoder(bits).decode(decoded)
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


def infer(models: Models, frame: Frame) -> Answer:
    """Return what the models say of a frame."""
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
