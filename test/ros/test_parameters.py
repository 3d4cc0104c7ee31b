"""The table of parameters, the shipped file and what the node declares are the same thing."""

from __future__ import annotations

import math

import pytest
import yaml

from lwseg_ros.errors import LwsegError
from lwseg_ros.share import config_file

rclpy = pytest.importorskip('rclpy')

from rcl_interfaces.msg import ParameterType  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from lwseg_ros.ros.parameter_table import (  # noqa: E402
    AT_START,
    LIVE,
    PARAMETERS,
    UNCONFIGURED,
)
from lwseg_ros.ros.parameters import declare_parameters  # noqa: E402

NAMES = [parameter.name for parameter in PARAMETERS]


@pytest.fixture(scope='module')
def context():
    context = rclpy.Context()
    rclpy.init(context=context)
    yield context
    rclpy.shutdown(context=context)


@pytest.fixture
def make_node(context):
    nodes = []

    def make(is_configured=bool, **given):
        overrides = [Parameter(name.replace('__', '.'), value=v) for name, v in given.items()]
        node = rclpy.create_node('parameters', context=context, parameter_overrides=overrides)
        nodes.append(node)
        declare_parameters(node, is_configured)
        return node

    yield make
    for node in nodes:
        node.destroy_node()


def _flat(tree, prefix=''):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f'{prefix}{key}.')
        else:
            yield prefix + key, value


def test_the_shipped_file_equals_the_table():
    content = yaml.safe_load(config_file('segmentation.param.yaml').read_text())
    assert list(content) == ['/**']
    shipped = dict(_flat(content['/**']['ros__parameters']))
    assert shipped == {parameter.name: parameter.default for parameter in PARAMETERS}
    assert {n: type(v) for n, v in shipped.items()} == {
        p.name: type(p.default) for p in PARAMETERS
    }


def test_the_declared_parameters_equal_the_table(make_node):
    node = make_node()
    for parameter in PARAMETERS:
        assert node.get_parameter(parameter.name).value == parameter.default
        descriptor = node.describe_parameter(parameter.name)
        assert descriptor.description == parameter.description
        assert parameter.wanted in descriptor.additional_constraints
        assert descriptor.read_only == (parameter.changes == AT_START)
        for limits in (*descriptor.floating_point_range, *descriptor.integer_range):
            assert (limits.from_value, limits.to_value) == parameter.range
        has_range = bool(descriptor.floating_point_range or descriptor.integer_range)
        assert has_range == (parameter.range is not None)


def test_names_are_unique_and_described():
    assert len(set(NAMES)) == len(NAMES)
    for parameter in PARAMETERS:
        assert parameter.description.endswith('.')
        assert parameter.changes in (AT_START, UNCONFIGURED, LIVE)
        assert parameter.accepts(parameter.default)


@pytest.mark.parametrize(
    ('name', 'value', 'wanted'),
    [
        ('model__backend', 'tensorflow', 'one of auto, tensorrt'),
        ('model__warmup_iterations', -1, 'from 0 to 1000'),
        ('input__max_rate_hz', 10, 'a number with a decimal point'),
        ('input__reliability', 'RELIABLE', 'one of auto, reliable, best_effort'),
        ('output__min_confidence', 1.5, 'from 0 to 1'),
        ('output__min_confidence', math.nan, 'from 0 to 1'),
        ('output__size', '0x480', 'WIDTHxHEIGHT'),
        ('output__size', '640', 'WIDTHxHEIGHT'),
        ('autostart', 'yes', 'true or false'),
        ('label_space__drivable_classes', 'road', 'a list of texts'),
        ('cameras', 'front', 'a list of different names'),
        ('cameras', 5, 'a list of different names'),
        ('cameras', ['front', 'front'], 'a list of different names'),
        ('cameras', ['front', 'rear left'], 'a letter, then letters, digits and single _'),
        ('cameras', ['/front'], 'a letter, then letters, digits and single _'),
        ('cameras', ['2nd'], 'a letter, then letters, digits and single _'),
    ],
)
def test_a_wrong_value_at_start_is_refused_with_what_is_right(make_node, name, value, wanted):
    with pytest.raises(LwsegError, match=wanted):
        make_node(**{name: value})


def test_an_unknown_name_is_refused_with_the_one_that_was_meant(make_node):
    with pytest.raises(LwsegError, match=r'model\.pth: did you mean model\.path\?'):
        make_node(model__pth='road')


def test_a_name_like_one_of_ours_is_warned_of(make_node, capfd):
    make_node(camera=['front'])
    assert 'there is no parameter camera: did you mean cameras?' in capfd.readouterr().err


def test_other_names_are_left_to_other_nodes(make_node, capfd):
    make_node(planner__speed=3.0, speed=3.0, use_sim_time=False)
    assert 'there is no parameter' not in capfd.readouterr().err


@pytest.mark.parametrize('size', ['source', 'network', '640x480', '1x1'])
def test_sizes_are_taken(make_node, size):
    assert make_node(output__size=size).get_parameter('output.size').value == size


@pytest.mark.parametrize('names', [[''], ['front'], ['front', 'rear_left', 'Camera2']])
def test_camera_names_are_taken(make_node, names):
    assert make_node(cameras=names).get_parameter('cameras').value == names


@pytest.mark.parametrize('name', ['cameras', 'label_space.publish_classes'])
def test_an_empty_list_is_the_default(context, name):
    arguments = ['--ros-args', '-p', f'{name}:=[]']
    node = rclpy.create_node('parameters', context=context, cli_args=arguments)
    declare_parameters(node, bool)
    assert node.get_parameter(name).value == ['']
    node.destroy_node()


def test_an_empty_list_where_none_is_wanted_is_refused(context):
    arguments = ['--ros-args', '-p', 'output.min_confidence:=[]']
    node = rclpy.create_node('parameters', context=context, cli_args=arguments)
    with pytest.raises(LwsegError, match=r'output\.min_confidence is \[\]: wanted a number'):
        declare_parameters(node, bool)
    node.destroy_node()


def _set(node, name, value):
    return node.set_parameters([Parameter(name, value=value)])[0]


def test_live_parameters_change_while_configured_and_others_do_not(make_node):
    configured = []
    node = make_node(lambda: bool(configured))
    configured.append(True)
    for parameter in PARAMETERS:
        result = _set(node, parameter.name, parameter.default)
        assert result.successful == (parameter.changes == LIVE), parameter.name
        assert result.successful or result.reason


def test_unconfigured_node_takes_all_but_those_read_at_start(make_node):
    node = make_node()
    for parameter in PARAMETERS:
        result = _set(node, parameter.name, parameter.default)
        assert result.successful == (parameter.changes != AT_START), parameter.name


def test_later_wrong_values_are_refused_with_a_reason(make_node):
    node = make_node()
    result = _set(node, 'output.size', 'huge')
    assert not result.successful
    assert 'wanted one of source, network, WIDTHxHEIGHT' in result.reason
    assert not _set(node, 'output.overlay_alpha', 2.0).successful
    assert not _set(node, 'output.overlay_alpha', 'half').successful
    assert node.get_parameter('output.overlay_alpha').value == 0.5


def test_types_are_what_ros_calls_them(make_node):
    node = make_node()
    types = {name: node.describe_parameter(name).type for name in NAMES}
    assert types['label_space.publish_classes'] == ParameterType.PARAMETER_STRING_ARRAY
    assert types['input.max_age_ms'] == ParameterType.PARAMETER_DOUBLE
