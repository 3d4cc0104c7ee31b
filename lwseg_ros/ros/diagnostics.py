"""What the node says of itself on /diagnostics, without diagnostic_updater."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from lwseg_ros.ros.camera import Camera
from lwseg_ros.transport import large_image_remedy

SILENCE_S = 2.0
"""Without a frame for so long, a camera counts as silent (our choice)."""

LOG_PERIOD_S = 30.0

LOST_SHARE = 0.1
"""So many of the frames sent may be lost on their way before that is a warning (our choice)."""

Finding = tuple[bytes, str]


class Diagnostics:
    """Publishes one status for each camera: the worst thing that is known, and all figures.

    The publisher is a plain one: it speaks in every lifecycle state.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._frames: dict[str, Mapping[str, int]] = {}
        self._at = time.monotonic()

    def publish(self, fault: str, cameras: Iterable[Camera], about: Mapping[str, str]) -> None:
        """Publish the state of the cameras.

        `fault` says why the node does not work, `about` is more to tell, by name.
        """
        now = time.monotonic()
        passed_s, self._at = max(now - self._at, 1e-3), now
        array = DiagnosticArray(status=[self._status(c, passed_s, fault, about) for c in cameras])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)

    def _status(
        self, camera: Camera, passed_s: float, fault: str, about: Mapping[str, str]
    ) -> DiagnosticStatus:
        frames, before = camera.counts.snapshot(), self._frames.get(camera.name, {})
        self._frames[camera.name] = frames
        news = {what: number - before.get(what, 0) for what, number in frames.items()}
        rate_hz = news['processed'] / passed_s
        findings = self._findings(fault, camera, news, rate_hz)
        level, message = max(findings, key=lambda finding: finding[0])
        values = {
            **{f'frames {what}': str(number) for what, number in frames.items()},
            'rate (Hz)': f'{rate_hz:.2f}',
            **{f'{stage} (ms)': f'{ms:.2f}' for stage, ms in camera.times_ms.items()},
            **(camera.outputs.spatial.figures() if camera.outputs is not None else {}),
            **about,
        }
        place = f'{self._node.get_fully_qualified_name()}/{camera.name}'.rstrip('/')
        return DiagnosticStatus(
            level=level,
            name=f'{place[1:]}: camera to mask',
            message=message,
            hardware_id=place,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )

    def _findings(
        self, fault: str, camera: Camera, news: Mapping[str, int], rate_hz: float
    ) -> list[Finding]:
        """Return what is wrong, and what is right: (level, sentence) each."""
        if fault:
            return [(DiagnosticStatus.ERROR, fault)]
        if camera.input is None:
            return [(DiagnosticStatus.OK, 'not active')]
        if not camera.input.is_open:
            return [(DiagnosticStatus.OK, 'disabled by the enable service')]
        findings: list[Finding] = [(DiagnosticStatus.OK, f'{rate_hz:.1f} frames a second')]
        if camera.trouble:
            findings.append((DiagnosticStatus.ERROR, camera.trouble))
        if camera.same_answer.is_suspect(self._value('diagnostics.suspect_frames')):
            suspect = camera.same_answer.sentence(camera.class_names)
            if self._value('drivable.withhold_suspect'):
                suspect += '; until that changes, the drivable mask is empty'
            camera.logger.warning(suspect, throttle_duration_sec=LOG_PERIOD_S)
            findings.append((DiagnosticStatus.WARN, suspect))
        if camera.outputs is not None:
            troubles = camera.outputs.spatial.troubles
            findings += [(DiagnosticStatus.WARN, trouble) for trouble in troubles]
        if camera.input.silent_s > SILENCE_S:
            why = f'no frames: {camera.input.silence()}'
            camera.logger.warning(why, throttle_duration_sec=LOG_PERIOD_S)
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
        age_ms = camera.times_ms.get('age', 0.0)
        if 0 < max_age_ms < age_ms:
            late = f'results are {age_ms:.0f} ms old, wanted {max_age_ms:g} at most'
            findings.append((DiagnosticStatus.WARN, late))
        return findings

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value
