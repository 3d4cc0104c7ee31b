"""Declares the node's parameters, and refuses wrong values and names with what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from rcl_interfaces.msg import SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from lwseg_ros.errors import LwsegError
from lwseg_ros.ros.parameter_table import PARAMETERS, UNCONFIGURED


def declare_parameters(node: Node, is_configured: Callable[[], bool]) -> None:
    """Declare all parameters, with the values given at start, and check every later change.

    LwsegError if a value given at start is wrong, or none of ours has the name.
    """
    _refuse_unknown_names(node)
    table = {parameter.name: parameter for parameter in PARAMETERS}

    def check(changes: list[Parameter]) -> SetParametersResult:
        for change in changes:
            parameter = table.get(change.name)
            if parameter is None:
                continue
            if not parameter.accepts(change.value):
                return _refused(f'{change.name} is {change.value!r}: wanted {parameter.wanted}')
            if parameter.changes == UNCONFIGURED and is_configured():
                return _refused(f'{change.name} is {UNCONFIGURED}: clean it up first')
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check)
    # A list without elements has no type in ROS: it comes as None.
    given = {n: [] if p.value is None else p.value for n, p in _given_at_start(node).items()}
    for parameter in PARAMETERS:
        name, default = parameter.name, parameter.default
        is_empty_list = given.get(name) == []
        try:
            if is_empty_list and not isinstance(default, list):
                raise InvalidParameterValueException(name, [], parameter.wanted)
            node.declare_parameter(
                name, default, parameter.descriptor(), ignore_override=is_empty_list
            )
        except (InvalidParameterTypeException, InvalidParameterValueException):
            raise LwsegError(
                f'parameter {name} is {given[name]!r}: wanted {parameter.wanted}'
            ) from None


def _refused(reason: str) -> SetParametersResult:
    return SetParametersResult(successful=False, reason=reason)


def _given_at_start(node: Node) -> dict[str, Parameter]:
    return getattr(node, '_parameter_overrides', {})


def _refuse_unknown_names(node: Node) -> None:
    """Refuse names like `model.pth`, and warn of `camera`: others may be meant for other nodes."""
    names = [parameter.name for parameter in PARAMETERS]
    groups = {name.split('.')[0] for name in names if '.' in name}
    for given in _given_at_start(node):
        if given in names:
            continue
        ours = given.split('.')[0] in groups
        for alike in difflib.get_close_matches(given, names, n=1, cutoff=0 if ours else 0.8):
            sentence = f'there is no parameter {given}: did you mean {alike}?'
            if ours:
                raise LwsegError(sentence)
            node.get_logger().warning(sentence)
