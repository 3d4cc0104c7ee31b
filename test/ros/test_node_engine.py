"""The node that builds an engine ahead: on a stand-in for the GPU, in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip('rclpy')
pytest.importorskip('onnxruntime')

from ros_for_tests import NodeProcess, node_command

from lwseg_ros.inference.backends.cuda import has_gpu

WITH_GPU = """
import sys
import pytest
from gpu_for_tests import install
install(pytest.MonkeyPatch())
from lwseg_ros.ros.node import main
sys.exit(main())
"""


@pytest.fixture
def parameters(tiny_model: Path, tmp_path: Path) -> dict[str, object]:
    return {
        'model.path': tiny_model,
        'model.build_only': True,
        'model.engine_cache_dir': tmp_path / 'engines',
    }


def test_build_only_keeps_an_engine_and_exits(
    parameters: dict[str, object], tmp_path: Path
) -> None:
    program = WITH_GPU
    _, _, _, *arguments = node_command(parameters)
    node = NodeProcess(tmp_path / 'log', [sys.executable, '-c', program, *arguments])
    assert node.wait() == 0, node.log
    assert len(list((tmp_path / 'engines').iterdir())) == 1
    assert 'building the TensorRT engine of tiny for Fake GPU: fp16, 1x96x128' in node.log
    assert 'the engine is kept in ' in node.log


@pytest.mark.skipif(has_gpu(), reason='with a GPU there is something to build')
def test_build_only_without_a_gpu_fails_and_says_why(
    parameters: dict[str, object], tmp_path: Path
) -> None:
    node = NodeProcess(tmp_path / 'log', node_command(parameters))
    assert node.wait() == 1
    assert 'passed over tensorrt: no NVIDIA GPU' in node.log
    assert 'model.build_only: nothing was built, as the model runs on ' in node.log
