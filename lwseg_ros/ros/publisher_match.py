"""What a camera's publishers offer, what to ask of them, and why no frames come.

Pure functions over what the ROS graph says: the endpoint information of the topic's publishers
(`get_publishers_info_by_topic`) and the names and types of all topics.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rclpy.qos import ReliabilityPolicy

from lwseg_ros.ros.transport import PROFILE_VARIABLES, large_image_profile

_RELIABILITIES = {
    'reliable': ReliabilityPolicy.RELIABLE,
    'best_effort': ReliabilityPolicy.BEST_EFFORT,
}


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
    other_topics: Iterable[tuple[str, Sequence[str]]],
) -> str:
    """Return why no frame comes on `topic`, as far as can be seen, and the remedy.

    `asked` is the reliability of the present subscription, `other_topics` are the topics, with
    their types, that the camera might be on instead.
    """
    if not publishers:
        others = [name for name, types in other_topics if type_name in types]
        remedy = f': remap it to {" or ".join(others)}' if others else ''
        return f'no publisher on {topic}{remedy}'
    fitting = [p for p in publishers if p.topic_type == type_name]
    if not fitting:
        return (
            f'{topic} carries {publishers[0].topic_type}, not {type_name}: '
            'set input.transport or remap the topic'
        )
    best_effort = ReliabilityPolicy.BEST_EFFORT
    if asked == ReliabilityPolicy.RELIABLE and all(
        p.qos_profile.reliability == best_effort for p in fitting
    ):
        return (
            f'the publisher of {topic} is best effort, input.reliability is reliable: '
            'set it to auto'
        )
    return (
        f'{topic} has a publisher, but no frame comes: the camera sends none, or they '
        'are larger than the shared memory of its transport; then start the camera, too, with '
        f'{" and ".join(PROFILE_VARIABLES)} = {large_image_profile()}'
    )
