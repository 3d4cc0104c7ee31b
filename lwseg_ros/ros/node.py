"""The ROS 2 node: camera images in, label image and drivable mask out.

Three threads: the executor receives frames and runs the lifecycle (this file), the worker decodes,
infers and publishes (worker.py), and a watcher ends the process when a signal asks for it.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from std_srvs.srv import SetBool

from lwseg_ros.errors import LwsegError
from lwseg_ros.inference.segmenter import Segmenter
from lwseg_ros.memory import keep_freed_memory
from lwseg_ros.ros.camera_input import CameraInput, FrameCounts
from lwseg_ros.ros.diagnostics import Diagnostics
from lwseg_ros.ros.outputs import HAS_VISION_MSGS, Outputs, published_space
from lwseg_ros.ros.parameters import chosen, declare_parameters
from lwseg_ros.ros.stop_signals import StopSignals
from lwseg_ros.ros.transport import apply_large_image_profile
from lwseg_ros.ros.worker import Worker

WATCH_PERIOD_S = 0.1

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
        self._worker: Worker | None = None
        self._enabled = True
        self._counts = FrameCounts()
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
        return self._worker is not None and self._worker.is_alive

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
        self._start_camera()
        return result

    @_logged
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let no more frames in, nor results out; ERROR if it is done because of a fault."""
        self._stop_camera()
        if self._outputs is not None:
            self._outputs.withdraw()
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
        self._stop_camera()
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None
        if self._segmenter is not None and not self.is_busy:
            self._segmenter.close()
        self._segmenter = None

    def _start_camera(self) -> None:
        segmenter, outputs = self._segmenter, self._outputs
        if segmenter is None or outputs is None:
            raise LwsegError('the node is not configured: configure it first')
        outputs.announce()
        self._camera = CameraInput(
            self,
            self._value('input.transport'),
            lambda: self._value('input.reliability'),
            lambda: self._value('input.max_rate_hz'),
            self._counts,
        )
        self._worker = Worker(self, self._camera, segmenter, outputs, self._counts)
        if self._enabled:
            self._camera.match_publisher()
        else:
            self._camera.pause()

    def _stop_camera(self) -> None:
        if self._camera is None or self._worker is None:
            return
        self._camera.close()
        self._camera = None
        self._worker.join()

    def _watch(self) -> None:
        """Follow the publishers of the camera; leave the active state after a fault."""
        if self._camera is None or self._worker is None:
            return
        if self._worker.fault:
            self.fault = self._worker.fault
            self.trigger_deactivate()
        else:
            self._camera.match_publisher()

    def _diagnose(self) -> None:
        times_ms = self._worker.times_ms if self._worker is not None else {}
        about = {}
        if self._segmenter is not None:
            about = {'model': self._segmenter.info.name, 'backend': self._segmenter.description}
        self._diagnostics.publish(self.fault, self._camera, self._counts, times_ms, about)

    # Services

    def _on_enable(self, request: Any, response: Any) -> Any:
        """Subscribe to the camera or unsubscribe: a disabled node costs nothing."""
        self._enabled = request.data
        if self._camera is not None:
            if self._enabled:
                self._camera.resume()
            else:
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

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value


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
