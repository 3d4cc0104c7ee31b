"""Print what one model makes of 1, 3 and 6 cameras: `python docs/measure_cameras.py [SECONDS]`.

On a quiet machine. Every camera sends 1280x720 frames at 30 Hz from a process of its own; further
arguments are parameters of the node, such as `model.max_batch:=3`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import Image

from lwseg_ros.demo.drive import GeneratedDrive
from lwseg_ros.ros.transport import apply_large_image_profile

CAMERAS = (1, 3, 6)
SIZE, RATE_HZ = (1280, 720), 30
START_TIMEOUT_S = 60.0


def main() -> None:
    """Start the node with each number of cameras, and count what comes out."""
    duration_s = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    os.environ.setdefault('ROS_DOMAIN_ID', '77')
    apply_large_image_profile(os.environ)
    rclpy.init()
    table = Table('cameras', 'frames/s in all', 'of each camera', 'age, ms', 'memory, MB')
    for number in CAMERAS:
        table.add_row(str(number), *measure(number, duration_s, sys.argv[2:]))
    rclpy.shutdown()
    Console().print(table)


def measure(number: int, duration_s: float, parameters: list[str]) -> list[str]:
    """Return the cells of one row of the table."""
    names = [f'camera{index}' for index in range(number)]
    settings = [f'cameras:=[{",".join(names)}]', 'diagnostics.period_s:=0.5', *parameters]
    options = [part for setting in settings for part in ('-p', setting)]
    node = subprocess.Popen([sys.executable, '-m', 'lwseg_ros.ros.node', '--ros-args', *options])
    cameras = [subprocess.Popen([sys.executable, __file__, 'send', name]) for name in names]
    try:
        return _watch(node, names, duration_s)
    finally:
        for process in (node, *cameras):
            process.terminate()
            process.wait()


def _watch(node: subprocess.Popen[bytes], names: list[str], duration_s: float) -> list[str]:
    listener = rclpy.create_node('measure_cameras')
    newest: dict[str, dict[str, str]] = {}

    def receive(message: DiagnosticArray) -> None:
        for status in message.status:
            camera = status.hardware_id.rpartition('/')[2]
            newest[camera] = {value.key: value.value for value in status.values}

    listener.create_subscription(DiagnosticArray, '/diagnostics', receive, 10)

    def processed() -> list[int]:
        return [int(newest.get(name, {}).get('frames processed', 0)) for name in names]

    start_s = time.monotonic()
    while min(processed()) < 3:
        if node.poll() is not None or time.monotonic() > start_s + START_TIMEOUT_S:
            raise SystemExit('the node does not answer all cameras: see its messages above')
        rclpy.spin_once(listener, timeout_sec=0.1)
    before, start_s = processed(), time.monotonic()
    ages: list[float] = []
    while time.monotonic() < start_s + duration_s:
        rclpy.spin_once(listener, timeout_sec=0.1)
        ages.append(max(float(newest[name]['age (ms)']) for name in names))
    passed_s = time.monotonic() - start_s
    rates = [(now - then) / passed_s for now, then in zip(processed(), before, strict=True)]
    pages = int(Path('/proc', str(node.pid), 'statm').read_text().split()[1])
    memory_mb = pages * os.sysconf('SC_PAGESIZE') / 1e6
    listener.destroy_node()
    each = f'{min(rates):.1f} to {max(rates):.1f}' if len(rates) > 1 else f'{rates[0]:.1f}'
    return [f'{sum(rates):.1f}', each, f'{max(ages):.0f}', f'{memory_mb:.0f}']


def send(name: str) -> None:
    """Be one camera, until terminated."""
    rclpy.init()
    camera = rclpy.create_node(name)
    pixels = GeneratedDrive(1, *SIZE).frame(5).image
    message = Image(encoding='rgb8', width=SIZE[0], height=SIZE[1], step=3 * SIZE[0])
    message.header.frame_id = name
    message.data.frombytes(pixels.tobytes())
    publisher = camera.create_publisher(Image, f'{name}/image', 1)

    def publish() -> None:
        message.header.stamp = camera.get_clock().now().to_msg()
        publisher.publish(message)

    camera.create_timer(1 / RATE_HZ, publish)
    with contextlib.suppress(ExternalShutdownException):
        rclpy.spin(camera)


if __name__ == '__main__':
    if sys.argv[1:2] == ['send']:
        send(sys.argv[2])
    else:
        main()
