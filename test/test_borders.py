"""Who may import whom, and what must work without ROS, PyTorch or any optional library."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter

import pytest
from paths_for_tests import ROOT

PACKAGE = ROOT / 'lwseg_ros'

# What every room may use: the ground floor, which imports none of them. Files, overlays and videos
# are what several commands leave behind.
GROUND_FLOOR = (
    *('__version__', 'errors', 'files', 'share', 'plain_data', 'memory', 'transport'),
    'interrupts',
    *('label_space', 'pictures', 'image_messages', 'camera_topics', 'overlay', 'overlay_video'),
    *('camera_model', 'transforms'),
)
# A room, or one module of it, and what it may import besides itself; the longest name counts.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    'errors': (),
    'files': ('errors',),
    'share': ('errors',),
    'plain_data': ('errors',),
    'memory': (),
    'interrupts': (),
    'transport': ('share',),
    'label_space': ('errors', 'share', 'plain_data'),
    'pictures': ('errors',),
    'image_messages': ('errors', 'pictures'),
    'camera_topics': (),
    'overlay': ('errors', 'label_space'),
    'overlay_video': ('errors',),
    'camera_model': ('errors',),
    'transforms': ('errors',),
    'networks': ('errors',),
    'inference': GROUND_FLOOR,
    'inference.graph': (*GROUND_FLOOR, 'inference', 'networks'),
    'inference.backends.torch': (*GROUND_FLOOR, 'inference', 'networks'),
    'drivable': (*GROUND_FLOOR, 'inference'),
    'points': GROUND_FLOOR,
    'bags': GROUND_FLOOR,
    'datasets': GROUND_FLOOR,
    'synthetic': GROUND_FLOOR,
    # A model is judged on labelled images.
    'evaluation': (*GROUND_FLOOR, 'inference', 'datasets'),
    'ros': (*GROUND_FLOOR, 'inference', 'drivable', 'points'),
    'live': (*GROUND_FLOOR, 'inference', 'bags', 'ros'),
    # `lwseg segment` labels bags, too.
    'segment_files': (*GROUND_FLOOR, 'inference', 'bags'),
    'training': (
        *(*GROUND_FLOOR, 'networks', 'inference'),
        *('datasets', 'synthetic', 'evaluation'),
    ),
    # Truth may be label files, too, which datasets reads.
    'replay': (
        *(*GROUND_FLOOR, 'inference', 'drivable'),
        *('bags', 'datasets', 'evaluation', 'live'),
    ),
    'demo': (*GROUND_FLOOR, 'inference', 'bags', 'synthetic', 'evaluation', 'live'),
    # It sends the node camera messages, which bags makes without ROS.
    'benchmark': (*GROUND_FLOOR, 'inference', 'points', 'bags', 'synthetic', 'live'),
    # PyTorch in eager mode, as the papers' authors ran it, is what the engines are compared with.
    'benchmark.baselines': (*GROUND_FLOOR, 'inference', 'networks'),
    'cli': ('',),
    '': ('inference.segmenter', 'label_space'),
}

# Libraries that only the modules of some rooms may import.
ROS_LIBRARIES = {
    *('ament_index_python', 'bondpy', 'builtin_interfaces', 'cv_bridge', 'diagnostic_msgs'),
    *('geometry_msgs', 'launch', 'launch_ros', 'lifecycle_msgs', 'nav_msgs', 'rcl_interfaces'),
    *('rclpy', 'rosgraph_msgs', 'sensor_msgs', 'std_msgs', 'std_srvs', 'tf2_msgs'),
    'vision_msgs',
}
# The node, what plays to it, and cv_bridge for encodings that have no path of our own.
ROS_ROOMS = ('ros', 'live.player', 'image_messages')
TORCH_LIBRARIES = {'torch', 'lightning_fabric', 'tensorboard'}
TORCH_ROOMS = (
    *('networks', 'training'),
    *('inference.graph', 'inference.export', 'inference.backends.torch', 'benchmark.baselines'),
)
OTHER_OPTIONAL_LIBRARIES = {
    *('jinja2', 'matplotlib', 'onnx', 'onnxruntime', 'openvino', 'ray', 'rosbags', 'safetensors'),
}


@cache
def modules() -> dict[str, set[str]]:
    """Return what each module imports, wherever in the file; names without `lwseg_ros.`."""
    found = {}
    for path in sorted(PACKAGE.rglob('*.py')):
        name = path.relative_to(PACKAGE).with_suffix('').as_posix().replace('/', '.')
        name = '' if name == '__init__' else name.removesuffix('.__init__')
        found[name] = set(imports(ast.parse(path.read_text(encoding='utf-8'))))
    return found


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the full name of everything a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, 'imports name the package in full'
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def within(name: str, room: str) -> bool:
    """Return whether a module or name lies in a room; '' is the whole package."""
    return not room or name == room or name.startswith(f'{room}.')


def rule_of(module: str) -> str:
    """Return the key of MAY_IMPORT that holds for a module."""
    rules = [room for room in MAY_IMPORT if within(module, room) and (room or not module)]
    assert rules, f'lwseg_ros.{module} is in no room of MAY_IMPORT: say what it may import'
    return max(rules, key=len)


@pytest.mark.parametrize('module', modules())
def test_rooms_import_only_their_neighbours(module: str) -> None:
    rule = rule_of(module)
    ours = {
        name.removeprefix('lwseg_ros.')
        for name in modules()[module]
        if name.startswith('lwseg_ros.')
    }
    strangers = {
        name for name in ours if not any(within(name, room) for room in (rule, *MAY_IMPORT[rule]))
    }
    assert not strangers, f'lwseg_ros.{module} must not import {sorted(strangers)}'


@pytest.mark.parametrize('module', modules())
@pytest.mark.parametrize(
    ('libraries', 'rooms'), [(ROS_LIBRARIES, ROS_ROOMS), (TORCH_LIBRARIES, TORCH_ROOMS)]
)
def test_libraries_stay_in_their_rooms(
    module: str, libraries: set[str], rooms: tuple[str, ...]
) -> None:
    used = {name for name in modules()[module] if name.split('.')[0] in libraries}
    assert not used or any(within(module, room) for room in rooms), (
        f'lwseg_ros.{module} must leave {sorted(used)} to {rooms}'
    )


def test_every_rule_has_a_module() -> None:
    assert {room for room in MAY_IMPORT if room not in modules()} == set()


def test_no_circles_between_files() -> None:
    """Imports inside functions count, too: a file can be read once those it imports are."""
    imported = {
        module: {file_of(name) for name in names if within(name, 'lwseg_ros')} - {module, ''}
        for module, names in modules().items()
    }
    try:
        TopologicalSorter(imported).prepare()
    except CycleError as error:
        pytest.fail(f'files import each other: {" <- ".join(error.args[1])}')


def file_of(name: str) -> str:
    """Return the module that a name of ours lies in."""
    name = name.removeprefix('lwseg_ros').removeprefix('.')
    while name not in modules():
        name = name.rpartition('.')[0]
    return name


def run_without(libraries: set[str], program: str) -> None:
    """Run a Python program in which the libraries cannot be imported."""
    block = (
        'import sys\n'
        'class Absent:\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        f'        if name.split(".")[0] in {libraries!r}:\n'
        '            raise ModuleNotFoundError(f"No module named {name!r}", name=name)\n'
        'sys.meta_path.insert(0, Absent())\n'
    )
    command = [sys.executable, '-c', block + program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def outside(rooms: tuple[str, ...]) -> list[str]:
    """Return the modules that lie in none of the rooms."""
    return [name for name in modules() if not any(within(name, room) for room in rooms)]


def import_all(names: list[str]) -> str:
    """Return a program that imports these modules of ours."""
    lines = ['from importlib import import_module']
    lines += [f'import_module("lwseg_ros.{name}".strip("."))' for name in names]
    return '\n'.join(lines)


def test_everything_but_the_node_imports_without_ros() -> None:
    pytest.importorskip('torch')
    run_without(ROS_LIBRARIES, import_all([*outside(ROS_ROOMS), 'image_messages']))


def test_the_node_and_all_but_training_import_without_torch() -> None:
    names = outside(TORCH_ROOMS)
    assert 'ros.node' in names
    run_without(TORCH_LIBRARIES, import_all(names))


def test_the_shell_and_the_segmenter_import_with_the_core_alone() -> None:
    run_without(
        ROS_LIBRARIES | TORCH_LIBRARIES | OTHER_OPTIONAL_LIBRARIES,
        import_all(['cli', 'inference.segmenter', 'label_space']),
    )


def test_the_shipped_model_runs_without_torch_and_ros() -> None:
    run_without(
        ROS_LIBRARIES | TORCH_LIBRARIES,
        'import numpy\n'
        'from lwseg_ros import Segmenter\n'
        "with Segmenter.load('road', input_size=(96, 160)) as segmenter:\n"
        '    result = segmenter(numpy.zeros((120, 200, 3), numpy.uint8))\n'
        'assert result.labels.shape == result.drivable.shape == (120, 200)\n',
    )
