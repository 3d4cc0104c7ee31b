"""The way of a frame: decode, infer, publish, in a thread that always takes the newest ones."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node

from lwseg_ros.errors import FrameError, LwsegError
from lwseg_ros.inference.segmenter import Segmentation, Segmenter
from lwseg_ros.ros.camera import Camera
from lwseg_ros.ros.camera_input import Frame
from lwseg_ros.ros.frame_slot import FrameSlots

MAX_FAILURES_IN_A_ROW = 5
"""Inferences that fail one after another before the worker gives up (our choice)."""

STUCK_S = 10.0
"""An inference that takes so long may never end (our choice)."""

STOP_GRACE_S = 0.4


class Worker:
    """Turns the frames that come to `slots` into outputs of their cameras, until `stop`.

    Frames that wait together go through the network together, as many as the segmenter takes.
    One frame is decoded, inferred and published after another: on a CPU, to decode the next one
    meanwhile takes from the inference what it saves (of JPEGs at 60 Hz on two cores, 39 instead of
    42 were answered each second, and the masks were 55 instead of 46 ms old).
    `fault` is empty until the worker gives up, and then says why.
    """

    def __init__(self, node: Node, segmenter: Segmenter, cameras: Sequence[Camera]) -> None:
        self.fault = ''
        self.slots: FrameSlots[Frame] = FrameSlots()
        self._node = node
        self._cameras = {camera.name: camera for camera in cameras}
        self._failures_in_a_row = 0
        self._busy_since: float | None = None
        # The thread alone holds the model: it is free when both the node and the thread let go.
        self._thread = threading.Thread(
            target=self._run, args=(segmenter,), name='inference', daemon=True
        )
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread has not ended, be it that an inference takes long."""
        return self._thread.is_alive()

    @property
    def stuck(self) -> str:
        """A sentence on an inference that takes longer than any should, else empty."""
        since = self._busy_since
        seconds = 0.0 if since is None else time.monotonic() - since
        if seconds < STUCK_S:
            return ''
        return (
            f'an inference has been running for {seconds:.0f} s, and no frame gets an answer: '
            'start the node again if it does not end, or take a smaller model'
        )

    def stop(self) -> None:
        """Take no more frames, and wait for the end, but no longer than the grace period.

        An inference cannot be interrupted: one that takes longer ends later, without a result.
        """
        for name in self.slots.close():
            self._cameras[name].counts.add('dropped: stopped')
        self._thread.join(STOP_GRACE_S)

    def _run(self, segmenter: Segmenter) -> None:
        while not self.fault and (taken := self.slots.take(segmenter.batch)):
            self._busy_since = time.monotonic()
            frames = []
            for name, newest in taken:
                camera = self._cameras[name]
                with self._accounted(camera):
                    frames.append(self._decode(camera, newest))
            segmentations = self._together(segmenter, frames)
            for frame, segmentation in zip(frames, segmentations, strict=True):
                with self._accounted(frame.camera):
                    self._answer(frame, segmentation or self._alone(segmenter, frame))
            self._busy_since = None

    def _decode(self, camera: Camera, frame: Frame) -> _DecodedFrame:
        header = frame.message.header
        times = _StageTimes(frame.received)
        times.end('wait')
        if camera.ages.has_jumped_back(header.stamp):
            camera.drivable_area.forget()
        age_ms, max_age_ms = camera.ages.age_ms(header.stamp), self._value('input.max_age_ms')
        if 0 < max_age_ms < age_ms:
            camera.complain(
                f'frame dropped: it is {age_ms:.0f} ms old, input.max_age_ms is {max_age_ms:g}'
            )
            raise _DroppedError('too old')
        image = camera.decoder.decode(frame.message)
        times.end('decode')
        return _DecodedFrame(camera, header, image, times)

    def _together(
        self, segmenter: Segmenter, frames: Sequence[_DecodedFrame]
    ) -> Sequence[Segmentation | None]:
        """Return the segmentations; None for each if there is but one, or one spoils the batch."""
        if len(frames) > 1:
            with contextlib.suppress(Exception):  # want of memory, say: alone they may have room
                return segmenter([f.image for f in frames], self._value('output.size'))
        return [None] * len(frames)

    def _alone(self, segmenter: Segmenter, frame: _DecodedFrame) -> Segmentation:
        return segmenter(frame.image, self._value('output.size'))

    def _answer(self, frame: _DecodedFrame, segmentation: Segmentation) -> None:
        camera, header, image, times = frame
        drivable = camera.drivable_area.update(
            segmentation,
            self._value('drivable.min_confidence'),
            self._value('drivable.min_region_fraction'),
            self._value('drivable.ego_connected'),
            self._value('drivable.hysteresis'),
        )
        camera.same_answer.update(segmentation.labels, image)
        if self._value('drivable.withhold_suspect') and camera.same_answer.is_suspect(
            self._value('diagnostics.suspect_frames')
        ):
            drivable = np.zeros_like(drivable)
        times.end('infer')

        source, outputs = camera.input, camera.outputs
        if source is None or not source.is_open or outputs is None:
            raise _DroppedError('stopped')
        outputs.publish(header, image, segmentation, drivable, source.camera_info)
        times.end('publish')
        camera.times_ms = {**times.ms, 'age': camera.ages.age_ms(header.stamp)}
        outputs.publish_timing(header, camera.times_ms)
        camera.trouble = ''
        camera.counts.add('processed')
        self._failures_in_a_row = 0

    @contextlib.contextmanager
    def _accounted(self, camera: Camera) -> Iterator[None]:
        """Count a frame that ends here without an answer, and keep nothing of those before it."""
        try:
            yield
            return
        except _DroppedError as dropped:
            outcome = f'dropped: {dropped}'
        except FrameError as error:
            outcome = 'refused'
            camera.complain(f'frame refused: {error}')
        except Exception as error:
            outcome = 'dropped: stopped' if self.slots.is_closed else 'dropped: inference failed'
            if not self.slots.is_closed:
                self._fail(camera, error)
        camera.drivable_area.forget()
        camera.counts.add(outcome)

    def _fail(self, camera: Camera, error: Exception) -> None:
        what = str(error) or type(error).__name__
        where = '' if isinstance(error, LwsegError) else f'\n{traceback.format_exc()}'
        camera.complain(f'frame dropped: {what}{where}')
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
            self.fault = f'{self._failures_in_a_row} inferences in a row failed: {what}'

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value


class _DroppedError(Exception):
    """A frame gets no answer, though nothing is wrong with it; the message is the reason."""


class _StageTimes:
    """How long each stage of one frame took, in milliseconds by name."""

    def __init__(self, start: float) -> None:
        self.ms: dict[str, float] = {}
        self._last = start

    def end(self, stage: str) -> None:
        now = time.monotonic()
        self.ms[stage] = (now - self._last) * 1e3
        self._last = now


class _DecodedFrame(NamedTuple):
    camera: Camera
    header: Any
    image: NDArray[np.uint8]
    times: _StageTimes
