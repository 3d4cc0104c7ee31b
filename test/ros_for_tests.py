"""Drive the real node, in a process of its own, from this process over the real middleware."""

from __future__ import annotations

import array
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from paths_for_tests import ROOT
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from lwseg_ros.transport import apply_large_image_profile

DEADLINE_S = 30.0
ALL = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


class NodeProcess:
    """A process with the node in it, and what it says."""

    def __init__(self, log: Path, command: Sequence[str]) -> None:
        self.log_path = log
        places = [str(ROOT), str(ROOT / 'test'), os.environ.get('PYTHONPATH')]
        python_path = os.pathsep.join(filter(None, places))
        environment = {**os.environ, 'PYTHONPATH': python_path, 'ROS_LOG_DIR': str(log.parent)}
        with log.open('wb') as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment
            )

    def close(self) -> None:
        """End the process if it still runs, as hard as it takes."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    @property
    def log(self) -> str:
        """Everything the process has said."""
        return self.log_path.read_text(encoding='utf-8', errors='replace')

    def wait(self) -> int:
        """Return the exit status of a process that ends by itself."""
        return self.process.wait(DEADLINE_S)

    def stop(self, number: signal.Signals = signal.SIGINT) -> float:
        """Send a signal and return the seconds until the process is gone."""
        start = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(DEADLINE_S)
        return time.monotonic() - start


def node_command(parameters: dict[str, Any], arguments: Sequence[str] = ()) -> list[str]:
    """Return the command line that starts the node with these parameters."""
    command = [sys.executable, '-m', 'lwseg_ros.ros.node', '--ros-args', *arguments]
    for name, value in parameters.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        command += ['-p', f'{name}:={text}']
    return command


class Driver:
    """A node of the test: publishes camera messages, collects what comes back."""

    def __init__(self, target: str = '/segmentation') -> None:
        apply_large_image_profile(os.environ)
        self.target = target
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node('driver', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.statuses: dict[str, dict[str, str]] = {target: {}}
        self.stamp_s = 0
        """The node's time, in whole seconds, when it last spoke."""
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._diagnostics, ALL)

    def close(self) -> None:
        """Leave the graph."""
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def spin_until(self, condition: Callable[[], Any], what: str) -> None:
        """Spin until the condition holds; fail, saying what was awaited, after the deadline."""
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, f'in vain: {what}; diagnostics {self.statuses}'
            self.executor.spin_once(timeout_sec=0.05)

    def collect(self, message_type: Any, topic: str, qos: QoSProfile = ALL) -> list[Any]:
        """Subscribe to an output; return the list that its messages will be in, once matched."""
        messages: list[Any] = []
        name = f'{self.target}/{topic}'
        self.node.create_subscription(message_type, name, messages.append, qos)
        self.spin_until(lambda: self.node.count_publishers(name), f'a publisher of {name}')
        return messages

    def camera(
        self, message_type: Any = Image, topic: str = 'image', qos: QoSProfile = RELIABLE
    ) -> Any:
        """Return a publisher that the node has subscribed to."""
        publisher = self.node.create_publisher(message_type, topic, qos)
        self.spin_until(publisher.get_subscription_count, f'the node on {topic}')
        return publisher

    def call(self, service_type: Any, name: str, request: Any) -> Any:
        """Call one of the node's services."""
        client = self.node.create_client(service_type, f'{self.target}/{name}')
        self.spin_until(client.service_is_ready, f'service {name}')
        future = client.call_async(request)
        self.spin_until(future.done, f'answer of {name}')
        self.node.destroy_client(client)
        return future.result()

    def transition(self, number: int) -> bool:
        """Ask for a lifecycle transition; return whether it succeeded."""
        request = ChangeState.Request(transition=Transition(id=number))
        return self.call(ChangeState, 'change_state', request).success

    @property
    def diagnostics(self) -> dict[str, str]:
        """What the node last said of its only camera."""
        return self.statuses.get(self.target, {})

    @property
    def state(self) -> str:
        """The lifecycle state of the node."""
        return self.call(GetState, 'get_state', GetState.Request()).current_state.label

    def set_parameter(self, name: str, value: Any) -> tuple[bool, str]:
        """Set a parameter; return whether it was taken, and the reason if not."""
        parameter = Parameter(name, value=value).to_parameter_msg()
        answer = self.call(
            SetParameters, 'set_parameters', SetParameters.Request(parameters=[parameter])
        )
        return answer.results[0].successful, answer.results[0].reason

    def counts(self, camera: str = '') -> dict[str, int]:
        """Return the counts of a camera once no frame is in progress."""
        place = f'{self.target}/{camera}'.rstrip('/')
        self.statuses[place] = {}
        counts: dict[str, int] = {}

        def settled() -> bool:
            counts.update(
                (key.removeprefix('frames '), int(value))
                for key, value in self.statuses[place].items()
                if key.startswith('frames ')
            )
            return bool(counts) and counts['received'] == sum(
                counts[what] for what in ('processed', 'dropped', 'refused')
            )

        self.spin_until(settled, 'received = processed + dropped + refused')
        return counts

    def _diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.hardware_id.startswith(self.target):
                self.stamp_s = message.header.stamp.sec
                self.statuses[status.hardware_id] = {
                    'level': str(status.level[0]),
                    'message': status.message,
                    **{value.key: value.value for value in status.values},
                }


def image_message(rgb: Any, encoding: str = 'rgb8', padding: int = 0, number: int = 1) -> Image:
    """Return an Image of RGB uint8 `[H, W, 3]` whose stamp and frame_id tell its number."""
    if encoding == 'bgr8':
        rgb = rgb[..., ::-1]
    rows = np.ascontiguousarray(rgb).reshape(len(rgb), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)))
    message = Image(encoding=encoding, height=rgb.shape[0], width=rgb.shape[1], step=rows.shape[1])
    message.data = array.array('B', rows.tobytes())
    return with_header(message, number)


def compressed_message(rgb: Any, extension: str, number: int = 1) -> CompressedImage:
    """Return the same as a CompressedImage, JPEG or PNG by the extension."""
    data = cv2.imencode(extension, rgb[..., ::-1])[1]
    message = CompressedImage(format=extension[1:])
    message.data = array.array('B', data.tobytes())
    return with_header(message, number)


def with_header(message: Any, number: int) -> Any:
    """Give the message the header of the frame with this number."""
    message.header.stamp.sec, message.header.stamp.nanosec = 1_700_000_000 + number, 999_999_999
    message.header.frame_id = f'camera/optical frame {number} \u00e9'
    return message
