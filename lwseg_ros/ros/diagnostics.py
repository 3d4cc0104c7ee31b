"""What the node says of itself on /diagnostics, without diagnostic_updater."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from lwseg_ros.ros.camera_input import CameraInput, FrameCounts
from lwseg_ros.ros.transport import large_image_remedy

SILENCE_S = 2.0
"""Without a frame for so long, a camera counts as silent (our choice)."""

SILENCE_LOG_PERIOD_S = 30.0

LOST_SHARE = 0.1
"""So many of the frames sent may be lost on their way before that is a warning (our choice)."""

Finding = tuple[bytes, str]


class Diagnostics:
    """Publishes one status: the worst thing that is known, and all figures.

    The publisher is a plain one: it speaks in every lifecycle state.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._frames: Mapping[str, int] = {}
        self._at = time.monotonic()

    def publish(
        self,
        fault: str,
        camera: CameraInput | None,
        counts: FrameCounts,
        times_ms: Mapping[str, float],
        about: Mapping[str, str],
    ) -> None:
        """Publish the state of the node.

        `fault` says why it does not work, `camera` is None while it is not active, `times_ms` are
        the stage times of the last frame, `about` is more to tell, by name.
        """
        frames = counts.snapshot()
        news = {what: number - self._frames.get(what, 0) for what, number in frames.items()}
        now = time.monotonic()
        rate_hz = news['processed'] / max(now - self._at, 1e-3)
        self._frames, self._at = frames, now
        findings = self._findings(fault, camera, news, rate_hz, times_ms.get('age', 0.0))
        level, message = max(findings, key=lambda finding: finding[0])
        values = {
            **{f'frames {what}': str(number) for what, number in frames.items()},
            'rate (Hz)': f'{rate_hz:.2f}',
            **{f'{stage} (ms)': f'{ms:.2f}' for stage, ms in times_ms.items()},
            **about,
        }
        name = self._node.get_fully_qualified_name()
        status = DiagnosticStatus(
            level=level,
            name=f'{name[1:]}: camera to mask',
            message=message,
            hardware_id=name,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)

    def _findings(
        self,
        fault: str,
        camera: CameraInput | None,
        news: Mapping[str, int],
        rate_hz: float,
        age_ms: float,
    ) -> list[Finding]:
        """Return what is wrong, and what is right: (level, sentence) each."""
        if fault:
            return [(DiagnosticStatus.ERROR, fault)]
        if camera is None:
            return [(DiagnosticStatus.OK, 'not active')]
        if not camera.is_open:
            return [(DiagnosticStatus.OK, 'disabled by the enable service')]
        findings: list[Finding] = [(DiagnosticStatus.OK, f'{rate_hz:.1f} frames a second')]
        if camera.silent_s > SILENCE_S:
            why = f'no frames: {camera.silence()}'
            self._node.get_logger().warning(why, throttle_duration_sec=SILENCE_LOG_PERIOD_S)
            findings.append((DiagnosticStatus.ERROR, why))
        sent = news['lost'] + news['received']
        if news['lost'] > LOST_SHARE * sent:
            lossy = f'{news["lost"]} of {sent} frames lost on their way: {large_image_remedy()}'
            findings.append((DiagnosticStatus.WARN, lossy))
        min_rate_hz = self._value('diagnostics.min_rate_hz')
        if rate_hz < min_rate_hz:
            slow = f'{rate_hz:.1f} frames a second, wanted {min_rate_hz:g}'
            findings.append((DiagnosticStatus.WARN, slow))
        max_age_ms = self._value('diagnostics.max_age_ms')
        if 0 < max_age_ms < age_ms:
            late = f'results are {age_ms:.0f} ms old, wanted {max_age_ms:g} at most'
            findings.append((DiagnosticStatus.WARN, late))
        return findings

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value
