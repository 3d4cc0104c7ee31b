"""What pip, colcon, rosdep and make are told about the package agrees with what it is."""

from __future__ import annotations

import ast
import re
import runpy
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import setuptools
from paths_for_tests import ROOT

import lwseg_ros

# Module names that are not those of the distributions (pip) that hold them.
DISTRIBUTIONS = {
    'cv2': 'opencv-python-headless',
    'lightning_fabric': 'lightning-fabric',
    'yaml': 'pyyaml',
}
# ROS packages used when they are installed; package.xml names them in a comment.
OPTIONAL_ROS = {'bondpy', 'cv_bridge', 'vision_msgs'}


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py tells setuptools."""
    told: dict[str, Any] = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, 'setup', told.update)
    runpy.run_path('setup.py')
    return told


@pytest.fixture
def manifest() -> ElementTree.Element:
    return ElementTree.parse(ROOT / 'package.xml').getroot()


def required(setup: dict[str, Any]) -> set[str]:
    """Return the distributions that setup.py names, extras included."""
    lines = [*setup['install_requires'], *sum(setup['extras_require'].values(), [])]
    return {re.split(r'[\[<>=~! ]', line)[0].lower() for line in lines}


def test_name_version_and_licence_agree(
    setup: dict[str, Any], manifest: ElementTree.Element
) -> None:
    assert manifest.findtext('name') == setup['name'] == 'lwseg_ros'
    assert manifest.findtext('version') == setup['version'] == lwseg_ros.__version__
    assert manifest.findtext('license') == setup['license'] == 'Apache-2.0'
    assert manifest.find('maintainer').get('email') == setup['maintainer_email']  # type: ignore[union-attr]
    assert f'[{lwseg_ros.__version__}]' in (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')


def test_every_data_file_is_installed(setup: dict[str, Any]) -> None:
    installed = {
        f'{folder}/{Path(file).name}': Path(file)
        for folder, files in setup['data_files']
        for file in files
    }
    assert all((ROOT / file).is_file() for file in installed.values())
    assert 'share/ament_index/resource_index/packages/lwseg_ros' in installed
    assert 'share/lwseg_ros/package.xml' in installed
    for path in [*(ROOT / 'config').rglob('*'), *(ROOT / 'launch').rglob('*')]:
        if path.is_file() and path.suffix != '.pyc':
            assert f'share/lwseg_ros/{path.relative_to(ROOT).as_posix()}' in installed


def test_every_file_of_the_package_is_installed(setup: dict[str, Any]) -> None:
    package = ROOT / 'lwseg_ros'
    data = {path for glob in setup['package_data']['lwseg_ros'] for path in package.glob(glob)}
    code = {
        path for name in setup['packages'] for path in (ROOT / name.replace('.', '/')).glob('*.py')
    }
    files = {
        path for path in package.rglob('*') if path.is_file() and '__pycache__' not in path.parts
    }
    assert files - data - code == set()
    assert {'py.typed', 'road.onnx', 'road.safetensors'} <= {path.name for path in data}


def test_executables_exist(setup: dict[str, Any]) -> None:
    for line in setup['entry_points']['console_scripts']:
        module, function = line.split('=')[1].strip().split(':')
        place = ROOT / module.replace('.', '/')
        source = place / '__init__.py' if place.is_dir() else place.with_suffix('.py')
        tree = ast.parse(source.read_text(encoding='utf-8'))
        assert function in {getattr(node, 'name', None) for node in tree.body}


def test_every_imported_library_is_declared(
    setup: dict[str, Any], manifest: ElementTree.Element
) -> None:
    declared = required(setup) | OPTIONAL_ROS
    declared |= {element.text or '' for element in manifest if element.tag == 'exec_depend'}
    for path in [*(ROOT / 'lwseg_ros').rglob('*.py'), *(ROOT / 'launch').glob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ''] if isinstance(node, ast.ImportFrom) else []
            for library in {name.split('.')[0] for name in names} - set(sys.stdlib_module_names):
                name = DISTRIBUTIONS.get(library, library)
                assert name == 'lwseg_ros' or name in declared, f'{path} imports {library}'


def test_the_ros_wheels_are_those_that_package_xml_names(
    setup: dict[str, Any], manifest: ElementTree.Element
) -> None:
    not_on_pypi = {'launch', 'launch_ros', 'tf2_msgs'}
    packages = {
        element.text
        for element in manifest.findall('exec_depend')
        if element.text and not element.text.startswith('python3-')
    }
    wheels = {
        re.split(r'[\[~]', line)[0].removeprefix('ros-').replace('-', '_')
        for line in setup['extras_require']['ros']
    }
    assert wheels == packages - not_on_pypi


@pytest.mark.skipif(shutil.which('make') is None, reason='make is not installed')
def test_make_says_which_python_it_wants(tmp_path: Path) -> None:
    environment = tmp_path / 'environment'
    command = ['make', 'demo', f'VENV={environment}', 'PYTHON=/nowhere/python3', 'ROS_DISTRO=']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert 'no Python 3.10, 3.11 or 3.12 found among: /nowhere/python3' in done.stderr
    assert not environment.exists()
