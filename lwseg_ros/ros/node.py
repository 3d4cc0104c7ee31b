"""The ROS 2 node: camera images in, label image and drivable mask out.

Three threads of control: the executor receives frames and runs the lifecycle, one worker infers
the newest frame and publishes, and a watcher ends the process when a signal asks for it.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from rclpy.time import Time
from std_srvs.srv import SetBool

from lwseg_ros.drivable.mask import drivable_mask
from lwseg_ros.errors import FrameError, LwsegError
from lwseg_ros.inference.segmenter import Segmenter
from lwseg_ros.ros.camera_input import CameraInput, Frame, FrameCounts
from lwseg_ros.ros.diagnostics import SILENCE_S, Diagnostics
from lwseg_ros.ros.image_messages import image_from_message
from lwseg_ros.ros.outputs import HAS_VISION_MSGS, Outputs, published_space
from lwseg_ros.ros.parameters import chosen, declare_parameters
from lwseg_ros.ros.stop_signals import StopSignals
from lwseg_ros.ros.transport import apply_large_image_profile, keep_freed_memory

MAX_FAILURES_IN_A_ROW = 5
"""Inferences that fail one after another before the node goes to its error state (our choice)."""

WATCH_PERIOD_S = 0.1
WORKER_GRACE_S = 0.5
LOG_PERIOD_S = 5.0

RCLError = rclpy_implementation.RCLError
UnknownROSArgsError = rclpy_implementation.UnknownROSArgsError
SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE
ERROR = TransitionCallbackReturn.ERROR

Transition = Callable[[Any, LifecycleState], TransitionCallbackReturn]


def _logged(transition: Transition) -> Transition:
    """Log what a transition raises, which rclpy would swallow, and turn it into its result."""

    @functools.wraps(transition)
    def wrapper(node: SegmentationNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except LwsegError as error:
            node.fault = str(error)
            node.get_logger().error(node.fault)
            return FAILURE
        except Exception as error:
            node.fault = f'{transition.__name__} raised {type(error).__name__}: {error}'
            node.get_logger().error(f'{node.fault}\n{traceback.format_exc()}')
            return ERROR

    return wrapper


class SegmentationNode(LifecycleNode):
    """Segments the newest image of a camera, with one model, while the node is active.

    `fault` says why the node is not working, and is empty while nothing is wrong.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('segmentation', **kwargs)
        self.fault = ''
        self._segmenter: Segmenter | None = None
        self._outputs: Outputs | None = None
        self._camera: CameraInput | None = None
        self._worker: threading.Thread | None = None
        self._enabled = True
        self._failures_in_a_row = 0
        self._counts = FrameCounts()
        self._times_ms: dict[str, float] = {}
        declare_parameters(self, lambda: self._segmenter is not None)
        self._diagnostics = Diagnostics(self)
        self.create_service(SetBool, '~/enable', self._on_enable)
        self._answer_impossible_transitions()
        # Steady timers: simulated time may stand still or jump.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(WATCH_PERIOD_S, self._watch, clock=steady)
        self.create_timer(self._value('diagnostics.period_s'), self._diagnose, clock=steady)

    def start(self) -> bool:
        """Configure and activate; return whether that succeeded, else see `fault`."""
        return self.trigger_configure() == SUCCESS and self.trigger_activate() == SUCCESS

    @property
    def is_busy(self) -> bool:
        """Whether an inference is still running."""
        return self._worker is not None and self._worker.is_alive()

    # The lifecycle

    @_logged
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and warm it up; FAILURE, with one sentence logged, if that cannot be."""
        self.fault = ''
        try:
            self._load()
        except Exception:
            self.release()
            raise
        return super().on_configure(state)

    @_logged
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let frames in."""
        self.fault = ''
        if self.is_busy:
            raise LwsegError('the inference of before is still running: activate again later')
        result = super().on_activate(state)
        self._failures_in_a_row = 0
        self._open_camera()
        return result

    @_logged
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let no more frames in, nor results out; ERROR if it is done because of a fault."""
        self._close_camera()
        result = super().on_deactivate(state)
        return ERROR if self.fault else result

    @_logged
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and take the topics away."""
        self.release()
        return super().on_cleanup(state)

    @_logged
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free everything."""
        self.release()
        return super().on_shutdown(state)

    @_logged
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything: the node is unconfigured then, and can be configured again."""
        self.get_logger().error(f'stopped, configure and activate to go on: {self.fault}')
        self.release()
        return super().on_error(state)

    def _load(self) -> None:
        size = self._value('model.input_size')
        segmenter = self._segmenter = Segmenter.load(
            self._value('model.path'),
            backend=self._value('model.backend'),
            device=self._value('model.device'),
            precision=self._value('model.precision'),
            input_size=None if size == 'model' else size,
            drivable_classes=chosen(self._value('label_space.drivable_classes')) or None,
        )
        segmenter.warm_up(self._value('model.warmup_iterations'))
        space = published_space(segmenter.label_space, self._value('label_space.path'))
        self._outputs = Outputs(
            self, segmenter.label_space, space, chosen(self._value('label_space.publish_classes'))
        )
        self.get_logger().info(f'model {segmenter.info.name} on {segmenter.description}')
        if not HAS_VISION_MSGS:
            self.get_logger().warning('vision_msgs is not installed: no ~/label_info for Nav2')

    def release(self) -> None:
        """Undo configure and activate, as far as they came."""
        self._close_camera()
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None
        if self._segmenter is not None and not self.is_busy:
            self._segmenter.close()
        self._segmenter = None

    # Frames

    def _open_camera(self) -> None:
        segmenter, outputs = self._segmenter, self._outputs
        if segmenter is None or outputs is None:
            raise LwsegError('the node is not configured: configure it first')
        outputs.announce(self._value('output.min_confidence'))
        camera = self._camera = CameraInput(
            self,
            self._value('input.transport'),
            lambda: self._value('input.reliability'),
            lambda: self._value('input.max_rate_hz'),
            self._counts,
        )
        self._worker = threading.Thread(
            target=self._work, args=(camera, segmenter, outputs), name='inference', daemon=True
        )
        self._worker.start()
        self._watch()

    def _close_camera(self) -> None:
        if self._camera is None or self._worker is None:
            return
        self._camera.close()
        self._camera = None
        self._worker.join(WORKER_GRACE_S)

    def _work(self, camera: CameraInput, segmenter: Segmenter, outputs: Outputs) -> None:
        """Process the newest frame, again and again, until the camera is closed."""
        while (frame := camera.slot.take()) is not None:
            try:
                self._process(frame, camera, segmenter, outputs)
            except FrameError as error:
                self._counts.add('refused')
                self._complain(f'frame refused: {error}')
            except Exception as error:
                self._counts.add('dropped: inference failed')
                self._failures_in_a_row += 1
                self._complain(f'frame dropped: {error or type(error).__name__}')
                if self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
                    self.fault = f'{self._failures_in_a_row} inferences in a row failed: {error}'
                    return

    def _process(
        self, frame: Frame, camera: CameraInput, segmenter: Segmenter, outputs: Outputs
    ) -> None:
        times = _StageTimes(frame.received)
        times.end('wait')
        header = frame.message.header
        limit_ms = self._value('input.max_age_ms')
        if 0 < limit_ms < self._age_ms(header):
            self._counts.add('dropped: too old')
            return
        image = image_from_message(frame.message)
        times.end('decode')
        segmentation = segmenter(image, output_size=self._value('output.size'))
        drivable = drivable_mask(
            segmentation,
            self._value('drivable.min_confidence'),
            self._value('drivable.min_region_fraction'),
            self._value('drivable.ego_connected'),
        )
        self._failures_in_a_row = 0
        times.end('infer')
        if camera.slot.is_closed or not self._enabled:
            self._counts.add('dropped: stopped')
            return
        outputs.publish(
            header,
            image,
            segmentation,
            drivable,
            camera.camera_info,
            self._value('output.min_confidence'),
            self._value('output.overlay_alpha'),
        )
        times.end('publish')
        self._counts.add('processed')
        self._times_ms = {**times.ms, 'age': self._age_ms(header)}
        outputs.publish_timing(header, self._times_ms)

    # Watching

    def _watch(self) -> None:
        """Follow the publishers of the camera; leave the active state after a fault."""
        if self._camera is None:
            return
        if self.fault:
            self.trigger_deactivate()
        elif self._enabled:
            self._camera.match_publisher()

    def _diagnose(self) -> None:
        counts = self._counts.snapshot()
        self._diagnostics.measure_rate(counts['processed'])
        values: dict[str, Any] = {f'frames {what}': number for what, number in counts.items()}
        values['rate (Hz)'] = self._diagnostics.rate_hz
        values.update({f'{stage} (ms)': ms for stage, ms in self._times_ms.items()})
        if self._segmenter is not None:
            values['model'] = self._segmenter.info.name
            values['backend'] = self._segmenter.description
        self._diagnostics.publish(self._findings(), values)

    def _findings(self) -> list[tuple[bytes, str]]:
        """Return what is wrong, and what is right if nothing is: (level, sentence) each."""
        if self.fault:
            return [(DiagnosticStatus.ERROR, self.fault)]
        if self._camera is None:
            return [(DiagnosticStatus.OK, 'not active')]
        if not self._enabled:
            return [(DiagnosticStatus.OK, 'disabled by the enable service')]
        findings = [(DiagnosticStatus.OK, f'{self._diagnostics.rate_hz:.1f} frames a second')]
        if self._camera.silent_s > SILENCE_S:
            why = self._camera.silence()
            self.get_logger().warning(f'no frames: {why}', throttle_duration_sec=30.0)
            findings.append((DiagnosticStatus.ERROR, f'no frames: {why}'))
        min_rate_hz, max_age_ms = (
            self._value('diagnostics.min_rate_hz'),
            self._value('diagnostics.max_age_ms'),
        )
        if self._diagnostics.rate_hz < min_rate_hz:
            findings.append(
                (
                    DiagnosticStatus.WARN,
                    f'{self._diagnostics.rate_hz:.1f} frames a second, wanted {min_rate_hz:g}',
                )
            )
        if 0 < max_age_ms < self._times_ms.get('age', 0.0):
            age_ms = self._times_ms['age']
            findings.append(
                (DiagnosticStatus.WARN, f'results are {age_ms:.0f} ms old, wanted {max_age_ms:g}')
            )
        return findings

    def _age_ms(self, header: Any) -> float:
        """Return the age of a stamp; 0 if it is unknown or time has jumped back."""
        stamp = Time.from_msg(header.stamp, clock_type=self.get_clock().clock_type)
        if not stamp.nanoseconds:
            return 0.0
        return max(0.0, (self.get_clock().now() - stamp).nanoseconds / 1e6)

    # Services

    def _on_enable(self, request: Any, response: Any) -> Any:
        """Subscribe to the camera or unsubscribe: a disabled node costs nothing."""
        self._enabled = request.data
        if self._camera is not None and not self._enabled:
            self._camera.pause()
        response.success = True
        response.message = 'enabled' if self._enabled else 'disabled'
        return response

    def _answer_impossible_transitions(self) -> None:
        """Answer `success: false` where rclpy raises out of the executor and ends the process."""
        change_state = self._service_change_state.callback

        def answer(request: Any, response: Any) -> Any:
            try:
                return change_state(request, response)
            except Exception as error:
                self.get_logger().error(f'transition refused: {error}')
                response.success = False
                return response

        self._service_change_state.callback = answer

    def _complain(self, sentence: str) -> None:
        self.get_logger().error(sentence, throttle_duration_sec=LOG_PERIOD_S)

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value


class _StageTimes:
    """How long each stage of one frame took, in milliseconds by name."""

    def __init__(self, start: float) -> None:
        self.ms: dict[str, float] = {}
        self._last = start

    def end(self, stage: str) -> None:
        now = time.monotonic()
        self.ms[stage] = (now - self._last) * 1e3
        self._last = now


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; return the exit status, 1 if it could not start."""
    apply_large_image_profile(os.environ)
    keep_freed_memory()
    stop: Any = Future()
    executor: Any = None

    def ask_to_stop() -> None:
        stop.set_result(None)
        if executor is not None:
            executor.wake()

    with StopSignals(ask_to_stop):
        node = None
        try:
            rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
            executor = SingleThreadedExecutor()
            node = SegmentationNode()
            executor.add_node(node)
            if node.get_parameter('autostart').value and not node.start():
                return 1
            _spin(executor, node, stop)
        except (LwsegError, RCLError, UnknownROSArgsError) as error:
            sentence = str(error).split(', at /')[0]  # rcl adds its source lines
            get_logger('segmentation').fatal(' '.join(sentence.split()))
            return 1
        finally:
            if node is not None:
                node.release()
                node.destroy_node()
            if rclpy.ok():
                rclpy.shutdown()
            if node is not None and node.is_busy:
                os._exit(0)  # the interpreter must not be taken from under a running inference
    return 0


def _spin(executor: SingleThreadedExecutor, node: SegmentationNode, stop: Future) -> None:
    """Spin until told to stop, whatever a callback raises."""
    while not stop.done() and rclpy.ok():
        try:
            executor.spin_until_future_complete(stop)
        except Exception:
            node.get_logger().error(f'a callback failed\n{traceback.format_exc()}')


if __name__ == '__main__':
    sys.exit(main())
