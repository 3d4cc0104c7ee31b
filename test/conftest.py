"""What several tests share: a tiny model, the real data, a ROS domain of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from models_for_tests import make_tiny_model

if TYPE_CHECKING:
    from ros_for_tests import Driver

# Tests that run at the same time on one host must not hear each other. 1..101 is what Linux's
# ephemeral ports leave free.
os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 101)


@pytest.fixture(scope='session')
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an ONNX model that names each pixel by the nearest colour of CamVid's palette."""
    pytest.importorskip('torch', reason='the tiny model is exported with PyTorch')
    return make_tiny_model(tmp_path_factory.mktemp('models') / 'tiny.onnx')


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """Return the folder of real data sets, `LWSEG_DATA` or `../shared/data`."""
    path = Path(
        os.environ.get('LWSEG_DATA', Path(__file__).resolve().parents[2] / 'shared' / 'data')
    )
    if not path.is_dir():
        pytest.skip(f'no data sets in {path}: set LWSEG_DATA')
    return path


@pytest.fixture
def driver() -> Iterator[Driver]:
    """Return a node of the test's own, to drive the real one with."""
    pytest.importorskip('rclpy')
    from ros_for_tests import Driver

    driver = Driver()
    yield driver
    driver.close()
