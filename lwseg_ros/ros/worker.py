"""The way of a frame: decode, infer, publish, in a thread that always takes the newest one."""

from __future__ import annotations

import threading
import time
import traceback
from typing import Any

from rclpy.node import Node
from rclpy.time import Time

from lwseg_ros.drivable.mask import DrivableArea
from lwseg_ros.errors import FrameError, LwsegError
from lwseg_ros.inference.segmenter import Segmenter
from lwseg_ros.ros.camera_input import CameraInput, Frame, FrameCounts
from lwseg_ros.ros.image_messages import image_from_message
from lwseg_ros.ros.outputs import Outputs

MAX_FAILURES_IN_A_ROW = 5
"""Inferences that fail one after another before the worker gives up (our choice)."""

STOP_GRACE_S = 0.4
LOG_PERIOD_S = 5.0


class Worker:
    """Turns one camera's frames into outputs until the camera is closed.

    `fault` is empty until the worker gives up, and then says why. `times_ms` are the stage times
    of the last frame, in milliseconds by name. `counts` learns what became of every frame taken.
    """

    def __init__(
        self,
        node: Node,
        camera: CameraInput,
        segmenter: Segmenter,
        outputs: Outputs,
        counts: FrameCounts,
    ) -> None:
        self.fault = ''
        self.times_ms: dict[str, float] = {}
        self._node = node
        self._camera = camera
        self._segmenter = segmenter
        self._outputs = outputs
        self._counts = counts
        self._failures_in_a_row = 0
        self._drivable_area = DrivableArea()
        self._thread = threading.Thread(target=self._run, name='inference', daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread has not ended, be it that an inference takes long."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait for the end after the camera is closed, but no longer than the grace period.

        An inference cannot be interrupted: one that takes longer ends later, without a result.
        """
        self._thread.join(STOP_GRACE_S)

    def _run(self) -> None:
        while not self.fault and (frame := self._camera.slot.take()) is not None:
            try:
                outcome = self._process(frame)
            except FrameError as error:
                outcome = 'refused'
                self._complain(f'frame refused: {error}')
            except Exception as error:
                outcome = 'dropped: inference failed'
                self._fail(error)
            if outcome != 'processed':
                self._drivable_area.forget()
            self._counts.add(outcome)

    def _process(self, frame: Frame) -> str:
        """Answer one frame; return what became of it."""
        header = frame.message.header
        times = _StageTimes(frame.received)
        times.end('wait')
        if 0 < self._value('input.max_age_ms') < self._age_ms(header):
            return 'dropped: too old'

        image = image_from_message(frame.message)
        times.end('decode')

        segmentation = self._segmenter(image, output_size=self._value('output.size'))
        drivable = self._drivable_area.update(
            segmentation,
            self._value('drivable.min_confidence'),
            self._value('drivable.min_region_fraction'),
            self._value('drivable.ego_connected'),
            self._value('drivable.hysteresis'),
        )
        self._failures_in_a_row = 0
        times.end('infer')

        if not self._camera.is_open:
            return 'dropped: stopped'
        self._outputs.publish(header, image, segmentation, drivable, self._camera.camera_info)
        times.end('publish')
        self.times_ms = {**times.ms, 'age': self._age_ms(header)}
        self._outputs.publish_timing(header, self.times_ms)
        return 'processed'

    def _fail(self, error: Exception) -> None:
        what = str(error) or type(error).__name__
        where = '' if isinstance(error, LwsegError) else f'\n{traceback.format_exc()}'
        self._complain(f'frame dropped: {what}{where}')
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
            self.fault = f'{self._failures_in_a_row} inferences in a row failed: {what}'

    def _age_ms(self, header: Any) -> float:
        """Return the age of a stamp; 0 if it is unknown or time has jumped back."""
        clock = self._node.get_clock()
        stamp = Time.from_msg(header.stamp, clock_type=clock.clock_type)
        if not stamp.nanoseconds:
            return 0.0
        return max(0.0, (clock.now() - stamp).nanoseconds / 1e6)

    def _complain(self, sentence: str) -> None:
        self._node.get_logger().error(sentence, throttle_duration_sec=LOG_PERIOD_S)

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value


class _StageTimes:
    """How long each stage of one frame took, in milliseconds by name."""

    def __init__(self, start: float) -> None:
        self.ms: dict[str, float] = {}
        self._last = start

    def end(self, stage: str) -> None:
        now = time.monotonic()
        self.ms[stage] = (now - self._last) * 1e3
        self._last = now
