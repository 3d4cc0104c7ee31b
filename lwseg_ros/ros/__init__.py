"""The ROS 2 node."""

from __future__ import annotations

from lwseg_ros import interrupts


def main() -> int:
    """Run the node; return its exit status. Until it is imported, Ctrl-C ends it silently."""
    interrupts.end_silently(0)
    from lwseg_ros.ros.node import main as run

    return run()
