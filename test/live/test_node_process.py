"""The node in a process of its own ends with the command that started it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from paths_for_tests import ROOT

pytest.importorskip('rclpy')

DEADLINE_S = 30.0

COMMAND = """
import sys, time
from pathlib import Path
from lwseg_ros.live.node_process import NodeProcess

log, awaited, *arguments = sys.argv[1:]
node = NodeProcess(Path(log), arguments, int(sys.stdin.readline()))
deadline = time.monotonic() + 30
while awaited not in Path(log).read_text():
    node.check()
    assert time.monotonic() < deadline
print('started', flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize('awaited', ['', 'tiny runs on'], ids=['while it starts', 'while it runs'])
def test_the_node_of_a_killed_command_ends(awaited: str, tiny_model: Path, tmp_path: Path) -> None:
    arguments = ['-p', f'model.path:={tiny_model}']
    with subprocess.Popen(
        [sys.executable, '-c', COMMAND, str(tmp_path / 'node.log'), awaited, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdin is not None
        assert command.stdout is not None
        command.stdin.write(os.environ['ROS_DOMAIN_ID'] + '\n')
        command.stdin.flush()
        assert command.stdout.readline() == 'started\n'
        (pid,) = Path(f'/proc/{command.pid}/task/{command.pid}/children').read_text().split()
        node = os.pidfd_open(int(pid))
        try:
            command.kill()
            ended, _, _ = select.select([node], [], [], DEADLINE_S)
            if not ended:
                signal.pidfd_send_signal(node, signal.SIGKILL)
            assert ended, 'the node outlives the command'
        finally:
            os.close(node)


def test_a_node_that_a_user_starts_does_not_end_with_its_input(tmp_path: Path) -> None:
    from ros_for_tests import Driver, NodeProcess, node_command

    command = ['bash', '-c', 'exec "$@" < /dev/null', 'bash', *node_command({'autostart': False})]
    node = NodeProcess(tmp_path / 'node.log', command)
    try:
        driver = Driver()
        driver.spin_until(lambda: driver.diagnostics, 'diagnostics of the node')
        driver.close()
        assert node.process.poll() is None
        assert node.stop() < DEADLINE_S
    finally:
        node.close()
