"""What several tests share: a tiny model, the real data, a ROS domain of their own."""

from __future__ import annotations

import fcntl
import functools
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from models_for_tests import (
    make_tiny_model,
    network_for_tests,
    remake_model,
    set_weights,
    tiny_info,
)
from paths_for_tests import DATA, shared

if TYPE_CHECKING:
    from ros_for_tests import Driver, NodeProcess

    Make = Callable[[Path], object]

# Tests that run at the same time on one host must not hear each other. 1..101 is what Linux's
# ephemeral ports leave free; workers of one run (gw0, gw1, ...) have domains of their own.
WORKER = os.environ.get('PYTEST_XDIST_WORKER', '')
_RUN = os.getppid() if WORKER else os.getpid()
os.environ['ROS_DOMAIN_ID'] = str(1 + (_RUN * 8 + int(WORKER.removeprefix('gw') or 0)) % 101)

# nohup and the background of a shell ignore signals for all that is started in them; what tests
# start must hear them.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(scope='session')
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Make], Path]:
    """Return a function that makes a file which all workers of a run use, by its name."""
    folder = tmp_path_factory.getbasetemp()
    if WORKER:
        folder = folder.parent

    def made(name: str, make: Make) -> Path:
        path = folder / name
        with (folder / f'{name}.lock').open('w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                make(path)
        return path

    return made


@pytest.fixture(scope='session')
def tiny_model(made_once: Callable[[str, Make], Path]) -> Path:
    """Return an ONNX model that names each pixel by the nearest colour of CamVid's palette."""
    pytest.importorskip('torch', reason='the tiny model is exported with PyTorch')
    return made_once('tiny.onnx', make_tiny_model)


@pytest.fixture(scope='session')
def exported_network(made_once: Callable[[str, Make], Path]) -> Callable[[str], Any]:
    """Return a function from a network's name to the network and its ONNX file, exported once."""
    pytest.importorskip('torch', reason='networks are exported with PyTorch')

    from lwseg_ros.inference.graph import export_onnx

    @functools.cache
    def export(name: str) -> tuple[Any, Path]:
        network, info = network_for_tests(name)
        return network, made_once(f'{name}.onnx', lambda path: export_onnx(network, info, path))

    return export


@pytest.fixture(scope='session')
def joint_model(made_once: Callable[[str, Make], Path]) -> Path:
    """Return the ONNX model of an untrained joint network, whose depths are around five metres.

    Beside it are its weights as .safetensors.
    """
    pytest.importorskip('torch', reason='networks are exported with PyTorch')

    def make(path: Path) -> None:
        from lwseg_ros.inference.graph import export_onnx, save_safetensors

        network, info = network_for_tests('lw_refinenet_mobilenet_v2_joint_normals')
        network.get_submodule('depth').bias.data.fill_(5.0)
        save_safetensors(network, info, path.with_suffix('.safetensors'))
        export_onnx(network, info, path)

    return made_once('joint.onnx', make)


@pytest.fixture(scope='session')
def overflowing_model(made_once: Callable[[str, Make], Path], tiny_model: Path) -> Path:
    """Return a tiny model that says road, and overflows where red is not 128."""
    info = replace(tiny_info(), mean=(128 / 255,) * 3)

    def change(graph: Any) -> None:
        set_weights(graph, 'mean', 255 * info.mean[0])
        set_weights(graph, 'network.weight', [[[3e38]], [[0]], [[0]]])
        bias = 10 * (np.arange(11) == info.label_space.class_id('road'))
        set_weights(graph, 'network.bias', bias)

    return made_once('overflowing.onnx', lambda path: remake_model(tiny_model, path, info, change))


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
