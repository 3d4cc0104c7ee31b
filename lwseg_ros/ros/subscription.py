"""A subscription whose quality of service is that of the topic's publishers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from lwseg_ros.ros.publisher_match import MiddlewareEvents, reliability_to_ask


class MatchedSubscription:
    """Subscribes to a topic as soon as it has a publisher, as `input.reliability` says.

    `asked` is the reliability of the present subscription, None without one; `events` are what
    the middleware tells of it. `count_lost` is told each loss.
    """

    def __init__(
        self,
        node: Node,
        message_type: Any,
        type_name: str,
        topic: str,
        callback: Callable[[Any], None],
        count_lost: Callable[[int], None] = lambda number: None,
    ) -> None:
        self.topic = topic
        self.type_name = type_name
        self.asked: ReliabilityPolicy | None = None
        self.events = MiddlewareEvents(count_lost)
        self._node = node
        self._type = message_type
        self._callback = callback
        self._subscription: Any = None

    def match(self) -> bool:
        """Subscribe, or subscribe anew, as the publishers ask; return whether that was needed.

        Call it often.
        """
        setting = self._node.get_parameter('input.reliability').value
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        wanted = reliability_to_ask(publishers, self.type_name, setting)
        if wanted is None or wanted == self.asked:
            return False
        self.drop()
        qos = QoSProfile(depth=1, reliability=wanted)
        self._subscription = self.events.subscribe(
            self._node, self._type, self.topic, self._callback, qos
        )
        self.asked = wanted
        return True

    def drop(self) -> None:
        """Unsubscribe, until `match` is called."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
            self.asked = None
