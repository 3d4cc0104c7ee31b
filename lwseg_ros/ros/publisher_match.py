"""What a camera's publishers offer, what to ask of them, and why no frames come.

The functions know only what they are told: the endpoint information of the topic's publishers
(`get_publishers_info_by_topic`), the names and types of all topics, the middleware's events.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rclpy.qos import ReliabilityPolicy, qos_policy_name_from_kind

from lwseg_ros.camera_topics import may_be_camera
from lwseg_ros.transport import large_image_remedy

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

_RELIABILITIES = {
    'reliable': ReliabilityPolicy.RELIABLE,
    'best_effort': ReliabilityPolicy.BEST_EFFORT,
}
_COMPRESSED = '/compressed'
_MAX_NAMED_TOPICS = 3


class MiddlewareEvents:
    """What the middleware tells of a subscription beside its messages, since the last of them.

    `lost` counts messages that were sent and did not arrive, `mismatch` names the quality of
    service that a publisher offers too little of, or is empty. `count_lost` is told each loss.
    """

    def __init__(self, count_lost: Callable[[int], None]) -> None:
        self._count_lost = count_lost
        self.clear()

    def clear(self) -> None:
        """Forget: a message has come."""
        self.lost, self.mismatch = 0, ''

    def subscribe(self, node: Any, *arguments: Any) -> Any:
        """Return `node.create_subscription(*arguments)`, whose events are noted from now on."""
        self.clear()
        events = SubscriptionEventCallbacks(
            incompatible_qos=self._on_incompatible_qos, message_lost=self._on_message_lost
        )
        try:
            return node.create_subscription(*arguments, event_callbacks=events)
        except UnsupportedEventTypeError:
            return node.create_subscription(*arguments)

    def _on_incompatible_qos(self, event: Any) -> None:
        self.mismatch = qos_policy_name_from_kind(event.last_policy_kind).lower()

    def _on_message_lost(self, event: Any) -> None:
        self.lost += event.total_count_change
        self._count_lost(event.total_count_change)


def reliability_to_ask(
    publishers: Sequence[Any], type_name: str, setting: str
) -> ReliabilityPolicy | None:
    """Return what a subscription must ask for to hear all publishers of its type.

    `setting` is `input.reliability`; anything but `auto` overrules the publishers. None while
    there is no publisher of the type.
    """
    offered = [p.qos_profile.reliability for p in publishers if p.topic_type == type_name]
    if not offered:
        return None
    best_effort = ReliabilityPolicy.BEST_EFFORT
    automatic = best_effort if best_effort in offered else ReliabilityPolicy.RELIABLE
    return _RELIABILITIES.get(setting, automatic)


def why_no_frames(
    topic: str,
    type_name: str,
    publishers: Sequence[Any],
    asked: ReliabilityPolicy | None,
    mismatch: str,
    lost: int,
    other_topics: Mapping[str, Sequence[str]],
) -> str:
    """Return why no frame comes on `topic`, as far as can be seen, and the remedy.

    `asked` is the reliability of the present subscription, `mismatch` and `lost` are its events
    since the last frame, `other_topics` has the types of each topic that somebody publishes.
    """
    fitting = [p for p in publishers if p.topic_type == type_name]
    if not publishers:
        return f'no publisher on {topic}{_other_place(topic, type_name, other_topics)}'
    if not fitting:
        return (
            f'{topic} carries {publishers[0].topic_type}, not {type_name}: '
            'set input.transport or remap the topic'
        )
    best_effort = ReliabilityPolicy.BEST_EFFORT
    if asked == ReliabilityPolicy.RELIABLE and any(
        p.qos_profile.reliability == best_effort for p in fitting
    ):
        return (
            f'a publisher of {topic} is best effort, input.reliability is reliable: set it to auto'
        )
    if mismatch:
        return (
            f'a publisher of {topic} does not offer the {mismatch} that a profile of the '
            "middleware asks for in this node's name: change that profile or the publisher"
        )
    if lost:
        return f'{lost} frames of {topic} were lost on their way: {large_image_remedy()}'
    return (
        f'{topic} has a publisher, but no frame comes: look whether the camera sends any; if it '
        f'does, and its images are large, {large_image_remedy()}'
    )


def _other_place(topic: str, type_name: str, other_topics: Mapping[str, Sequence[str]]) -> str:
    """Return where the camera seems to be instead, and what to do about it; '' if nowhere."""
    if topic.removesuffix(_COMPRESSED) in other_topics:
        return f', but on {topic.removesuffix(_COMPRESSED)}: set input.transport to raw'
    if topic + _COMPRESSED in other_topics:
        return f', but on {topic + _COMPRESSED}: set input.transport to compressed'
    names = [
        name for name, types in other_topics.items() if type_name in types and may_be_camera(name)
    ]
    nearest = difflib.get_close_matches(topic, names, n=_MAX_NAMED_TOPICS, cutoff=0)
    return f': remap it to {" or ".join(nearest)}' if nearest else ''
