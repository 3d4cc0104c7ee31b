"""What the rooms without ROS say by `logging` goes to the node's log: an engine being built."""

from __future__ import annotations

import logging
from typing import Any

_PACKAGE = 'lwseg_ros'


class _Forward(logging.Handler):
    def __init__(self, ros_logger: Any) -> None:
        super().__init__(logging.INFO)
        self._ros_logger = ros_logger

    def emit(self, record: logging.LogRecord) -> None:
        # One line for each severity: rclpy refuses another one from the same line.
        if record.levelno >= logging.WARNING:
            self._ros_logger.warning(record.getMessage())
        else:
            self._ros_logger.info(record.getMessage())


def forward_log(ros_logger: Any) -> None:
    """Send the package's messages from INFO on to an rclpy logger, and to that one only."""
    log = logging.getLogger(_PACKAGE)
    for handler in [handler for handler in log.handlers if isinstance(handler, _Forward)]:
        log.removeHandler(handler)
    log.addHandler(_Forward(ros_logger))
    log.setLevel(logging.INFO)
