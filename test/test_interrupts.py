"""Ctrl-C while a command starts: it ends at once, without a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from paths_for_tests import ROOT

# Ctrl-C at the moment when a module is first looked for: no clock decides what the test meets.
PROGRAM = """
import os, signal, sys

awaited, module, *sys.argv[1:] = sys.argv[1:]

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == awaited:
            sys.meta_path.remove(Finder)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder)
__import__(module)
sys.exit(sys.modules[module].main())
"""
EVALUATE = ('evaluate', 'road', '--data', 'folder:nowhere', '--split', 'val')


def interrupted(*arguments: str, ignored: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, '-c', PROGRAM, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL
        ),
    )


@pytest.mark.parametrize(
    'module',
    ['rich', 'typer', 'lwseg_ros.cli.use', 'lwseg_ros.evaluation.run', 'numpy', 'cv2'],
)
def test_ctrl_c_while_a_command_is_imported_is_silent(module: str) -> None:
    done = interrupted(module, 'lwseg_ros.cli', *EVALUATE)
    assert (done.returncode, done.stdout, done.stderr) == (130, '', '')


def test_ctrl_c_while_the_node_is_imported_is_silent() -> None:
    pytest.importorskip('rclpy')
    done = interrupted('rclpy.lifecycle', 'lwseg_ros.ros')
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


def test_a_command_that_is_to_ignore_ctrl_c_does() -> None:
    done = interrupted('typer', 'lwseg_ros.cli', '--version', ignored=True)
    assert (done.returncode, done.stderr) == (0, '')
