"""The ROS 2 node: camera images in, label image and drivable mask out.

The executor's thread runs the lifecycle (this file) and receives frames (camera_input.py), which
wait, one of each camera (frame_slot.py), for the worker's thread: it decodes, infers and publishes
(worker.py, outputs.py). A third thread ends the process when a signal asks for it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import SetBool

from lwseg_ros.errors import LwsegError
from lwseg_ros.files import sha256
from lwseg_ros.inference.model_source import find_model
from lwseg_ros.inference.segmenter import Segmenter
from lwseg_ros.memory import keep_freed_memory
from lwseg_ros.ros.bond import ManagerBond
from lwseg_ros.ros.camera import Camera
from lwseg_ros.ros.diagnostics import Diagnostics
from lwseg_ros.ros.log import forward_log
from lwseg_ros.ros.outputs import HAS_VISION_MSGS, published_space
from lwseg_ros.ros.parameter_table import chosen
from lwseg_ros.ros.parameters import declare_parameters
from lwseg_ros.ros.stop_signals import StopSignals
from lwseg_ros.ros.transform_listener import TransformListener
from lwseg_ros.ros.worker import Worker
from lwseg_ros.transport import apply_large_image_profile

WATCH_PERIOD_S = 0.1

MEMORY_ARENAS = 2
"""With more, memory grows by two images at each of the first activations (our choice)."""

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
    """Segments the newest images of its cameras, with one model, while the node is active.

    `fault` says why the node is not working, and is empty while nothing is wrong.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('segmentation', **kwargs)
        self.fault = ''
        self._segmenter: Segmenter | None = None
        self._model_sha256 = ''
        self._worker: Worker | None = None
        self._cameras: list[Camera] = []
        self._enabled = True
        self._bond = ManagerBond(self)
        self._transforms = TransformListener(self)
        forward_log(self.get_logger())
        declare_parameters(self, lambda: self._segmenter is not None)
        self._name_cameras()
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

    def build(self) -> bool:
        """Build and keep the TensorRT engine; return whether that succeeded, else see `fault`."""
        if self.trigger_configure() != SUCCESS or self._segmenter is None:
            return False
        description = self._segmenter.description
        if description.startswith('tensorrt'):
            return True
        self.fault = f'model.build_only: nothing was built, as the model runs on {description}'
        self.get_logger().error(self.fault)
        return False

    def destroy_node(self) -> None:
        """Leave the graph and give the middleware's shared memory back, 35 MB of it."""
        super().destroy_node()
        # rclpy forgets the lifecycle's own services, which keep the DDS participant alive.
        self._state_machine.destroy_when_not_in_use()

    @property
    def is_busy(self) -> bool:
        """Whether an inference is still running."""
        return self._worker is not None and self._worker.is_alive

    # The lifecycle

    @_logged
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and warm it up; FAILURE, with one sentence logged, if that cannot be."""
        self.fault = ''
        self._name_cameras()
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
        self._start()
        return result

    @_logged
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let no more frames in, nor results out; ERROR if it is done because of a fault."""
        self._stop()
        for camera in self._cameras:
            camera.withdraw()
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

    def _name_cameras(self) -> None:
        names = chosen(self._value('cameras')) or ['']
        if names != [camera.name for camera in self._cameras]:
            self._cameras = [Camera(self, name) for name in names]

    def _load(self) -> None:
        size = self._value('model.input_size')
        path = self._value('model.path')
        has_depth = 'depth' in find_model(path).info.measures
        segmenter = self._segmenter = Segmenter.load(
            path,
            backend=self._value('model.backend'),
            device=self._value('model.device'),
            precision=self._value('model.precision'),
            input_size=None if size == 'model' else size,
            drivable_classes=chosen(self._value('label_space.drivable_classes')) or None,
            batch=self._value('model.max_batch') or None,
            engine_cache_dir=self._value('model.engine_cache_dir'),
            force_rebuild=self._value('model.force_rebuild'),
            depth=has_depth,
        )
        self._model_sha256 = sha256(segmenter.path)
        segmenter.warm_up(self._value('model.warmup_iterations'), len(self._cameras))
        space = published_space(segmenter.label_space, self._value('label_space.path'))
        classes = chosen(self._value('label_space.publish_classes'))
        for camera in self._cameras:
            camera.configure(segmenter.label_space, space, classes, self._transforms, has_depth)
        if not HAS_VISION_MSGS:
            self.get_logger().warning(
                'vision_msgs is not installed: no ~/label_info for Nav2', once=True
            )

    def release(self) -> None:
        """Undo configure and activate, as far as they came."""
        self._stop()
        for camera in self._cameras:
            camera.cleanup()
        self._transforms.close()
        if self._segmenter is not None and not self.is_busy:
            self._segmenter.close()
        self._segmenter = None

    def _start(self) -> None:
        assert self._segmenter is not None
        self._worker = Worker(self, self._segmenter, self._cameras)
        for camera in self._cameras:
            camera.activate(self._worker.slots)
            camera.enable(self._enabled)
        if self._value('bond'):
            self._bond.form()

    def _stop(self) -> None:
        self._bond.end()
        for camera in self._cameras:
            camera.deactivate()
        if self._worker is not None:
            self._worker.stop()
            if not self.is_busy:
                self._worker = None

    def _watch(self) -> None:
        """Follow the publishers of the cameras; leave the active state after a fault."""
        for camera in self._cameras:
            camera.match_publishers()
        if self._worker is not None and self._worker.fault:
            self.fault = self._worker.fault
            self.trigger_deactivate()

    def _diagnose(self) -> None:
        about = {}
        if self._segmenter is not None:
            about = {
                'model': self._segmenter.info.name,
                'model_sha256': self._model_sha256,
                'backend': self._segmenter.description,
            }
        stuck = self._worker.stuck if self._worker is not None else ''
        self._diagnostics.publish(self.fault or stuck, self._cameras, about)

    # Services

    def _on_enable(self, request: Any, response: Any) -> Any:
        """Subscribe to the cameras or unsubscribe: a disabled node costs nothing."""
        self._enabled = request.data
        for camera in self._cameras:
            camera.enable(self._enabled)
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
                self.get_logger().error(f'transition refused: {_sentence(error)}')
                response.success = False
                return response

        self._service_change_state.callback = answer

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; return the exit status, 1 if it could not start."""
    apply_large_image_profile(os.environ)
    keep_freed_memory(arenas=MEMORY_ARENAS)
    stop = threading.Event()
    executor: Any = None

    def ask_to_stop() -> None:
        stop.set()
        if executor is not None:
            executor.create_task(lambda: None)  # what is waited for need not come

    def leave_graph() -> None:
        with contextlib.suppress(Exception):  # the main thread may be leaving, too
            if node is not None:
                node.destroy_node()

    node: SegmentationNode | None = None
    with StopSignals(ask_to_stop, leave_graph):
        try:
            rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
            executor = SingleThreadedExecutor()
            node = SegmentationNode()
            executor.add_node(node)
            if node.get_parameter('model.build_only').value:
                return 0 if node.build() else 1
            if node.get_parameter('autostart').value and not node.start():
                return 1
            _spin(executor, node, stop)
        except UnknownROSArgsError as error:
            get_logger('segmentation').fatal(f'these are no ROS arguments: {error}')
            return 1
        except (LwsegError, ParameterException, RCLError) as error:
            get_logger('segmentation').fatal(_sentence(error))
            return 1
        finally:
            if node is not None:
                node.release()
                node.destroy_node()
            if rclpy.ok():
                rclpy.shutdown()
            if stop.is_set() or (node is not None and node.is_busy):
                # Python's own end takes seconds on a busy machine, and a running inference must
                # not have the interpreter taken from under it.
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(0)
    return 0


def _sentence(error: Exception) -> str:
    """Return the words of an error in one line, without the source lines that rcl adds."""
    return ' '.join(str(error).split(', at /')[0].split())


def _spin(executor: SingleThreadedExecutor, node: SegmentationNode, stop: threading.Event) -> None:
    """Spin until told to stop, whatever a callback raises.

    Not `spin_until_future_complete`: it keeps some 300 bytes for every callback until its end.
    """
    while not stop.is_set() and rclpy.ok():
        try:
            executor.spin_once()
        except Exception:
            node.get_logger().error(f'a callback failed\n{traceback.format_exc()}')


if __name__ == '__main__':
    sys.exit(main())
