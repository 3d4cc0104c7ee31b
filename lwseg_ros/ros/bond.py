"""The bond by which nav2's lifecycle manager notices that this node has died."""

from __future__ import annotations

from typing import Any

from rclpy.lifecycle import LifecycleNode

try:
    from bondpy.bondpy import Bond
except ImportError:
    Bond = None

TOPIC = 'bond'
HEARTBEAT_PERIOD_S = 0.1
HEARTBEAT_TIMEOUT_S = 4.0
"""The manager expects what nav2's own nodes do: this topic, their name, these times."""


class ManagerBond:
    """A bond that holds while the node is active, if bondpy is installed."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._bond: Any = None

    def form(self) -> None:
        """Begin to send heartbeats; without bondpy say, once, what the manager needs instead."""
        if Bond is None:
            self._node.get_logger().warning(
                "bondpy is not installed: nav2's lifecycle manager needs bond_timeout: 0.0",
                once=True,
            )
            return
        bond = Bond(self._node, TOPIC, self._node.get_name())
        bond.set_heartbeat_period(HEARTBEAT_PERIOD_S)
        bond.set_heartbeat_timeout(HEARTBEAT_TIMEOUT_S)
        bond.start()
        self._bond = bond

    def end(self) -> None:
        """Tell the manager, and free everything."""
        if self._bond is None:
            return
        bond, self._bond = self._bond, None
        bond.shutdown()
        # bondpy destroys what it made, but leaves it in the node's lists.
        self._node.destroy_subscription(bond.sub)
        self._node.destroy_publisher(bond.pub)
