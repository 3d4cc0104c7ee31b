"""What several tests share: a tiny model, the real data, a ROS domain of their own."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from models_for_tests import make_network_model, make_tiny_model
from paths_for_tests import DATA, shared

if TYPE_CHECKING:
    from ros_for_tests import Driver, NodeProcess

# Tests that run at the same time on one host must not hear each other. 1..101 is what Linux's
# ephemeral ports leave free.
os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 101)

# nohup and the background of a shell ignore signals for all that is started in them; what tests
# start must hear them.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(scope='session')
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an ONNX model that names each pixel by the nearest colour of CamVid's palette."""
    pytest.importorskip('torch', reason='the tiny model is exported with PyTorch')
    return make_tiny_model(tmp_path_factory.mktemp('models') / 'tiny.onnx')


@pytest.fixture(scope='session')
def exported_network(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Return a function from a network's name to the network and its ONNX file, exported once."""
    pytest.importorskip('torch', reason='networks are exported with PyTorch')

    @functools.cache
    def export(name: str) -> tuple[Any, Path]:
        path = tmp_path_factory.mktemp('networks') / f'{name}.onnx'
        return make_network_model(name, path), path

    return export


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """Return the folder of real data sets, `LWSEG_DATA` or `../shared/data`."""
    return shared(DATA.name)


@pytest.fixture
def driver() -> Iterator[Driver]:
    """Return a node of the test's own, to drive the real one with."""
    pytest.importorskip('rclpy')
    from ros_for_tests import Driver

    driver = Driver()
    yield driver
    driver.close()


@pytest.fixture
def start(tiny_model: Path, tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Return a function that starts a node process with these parameters, `__` for a dot."""
    pytest.importorskip('rclpy')
    from ros_for_tests import NodeProcess, node_command

    nodes: list[NodeProcess] = []

    def start_node(*arguments: str, **parameters: Any) -> NodeProcess:
        given = {name.replace('__', '.'): value for name, value in parameters.items()}
        given = {'model.path': tiny_model, 'diagnostics.period_s': 0.2, **given}
        log = tmp_path / f'node{len(nodes)}.log'
        nodes.append(NodeProcess(log, node_command(given, arguments)))
        return nodes[-1]

    yield start_node
    for node in nodes:
        node.close()
