"""OpenVINO's core, of which a process has one."""

from __future__ import annotations

from functools import cache

import openvino


@cache
def openvino_core() -> openvino.Core:
    """Return the one core of the process, which lives as long as that.

    OpenVINO's CPU plugin gives the thread that loads it an alternative signal stack, and unmaps it
    when the last model is freed, in whatever thread that is: the next signal kills the process.
    """
    return openvino.Core()
