"""What the node says of itself on /diagnostics, without diagnostic_updater."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

SILENCE_S = 2.0
"""Without a frame for so long, a camera counts as silent (our choice)."""

_WORDS = {b'\x00': 'OK', b'\x01': 'WARN', b'\x02': 'ERROR'}


class Diagnostics:
    """Publishes one status with the worst thing that is known, and all figures.

    The publisher is a plain one: it speaks in every lifecycle state.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._processed = 0
        self._at = time.monotonic()
        self.rate_hz = 0.0

    def measure_rate(self, processed: int) -> None:
        """Take the count of processed frames, for the rate since the last call."""
        now = time.monotonic()
        self.rate_hz = (processed - self._processed) / max(now - self._at, 1e-3)
        self._processed, self._at = processed, now

    def publish(self, findings: list[tuple[bytes, str]], values: Mapping[str, Any]) -> None:
        """Publish the worst of the findings (level, sentence) as the message, and the values."""
        level, message = max(findings, key=lambda finding: finding[0])
        status = DiagnosticStatus(
            level=level,
            name=f'{self._node.get_fully_qualified_name()[1:]}: segmentation',
            message=message,
            hardware_id=self._node.get_fully_qualified_name(),
            values=[KeyValue(key=key, value=_text(value)) for key, value in values.items()],
        )
        stamp = self._node.get_clock().now().to_msg()
        array = DiagnosticArray(status=[status])
        array.header.stamp = stamp
        self._publisher.publish(array)


def _text(value: Any) -> str:
    return f'{value:.2f}' if isinstance(value, float) else str(value)
