"""The segmentation node in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from lwseg_ros.errors import LwsegError
from lwseg_ros.ros.stop_signals import ENDS_WITH_STDIN

STOP_TIMEOUT_S = 5.0

_LOG_PREFIX = re.compile(r'^\[(?:ERROR|FATAL)\] \[[\d.]+\] \[[^]]*\]: ')


class Usage(NamedTuple):
    """What a process uses of the machine."""

    at_s: float
    """`time.monotonic()`."""
    cpu_s: float
    """Seconds of computing since it began, over all cores."""
    memory_mb: float
    """Resident memory in 10^6 bytes."""


class NodeProcess:
    """The segmentation node as a user starts it; a context manager that leaves no process.

    Nor does it if this process is killed: the node's standard input ends then.
    """

    def __init__(self, log: Path, arguments: list[str], domain_id: int) -> None:
        self._log = log
        parents = [str(Path(__file__).resolve().parents[2]), os.environ.get('PYTHONPATH', '')]
        environment = {
            **os.environ,
            'ROS_DOMAIN_ID': str(domain_id),
            'PYTHONPATH': os.pathsep.join(filter(None, parents)),
            'RCUTILS_COLORIZED_OUTPUT': '0',
            ENDS_WITH_STDIN: '1',
        }
        command = [sys.executable, '-m', 'lwseg_ros.ros.node', '--ros-args', *arguments]
        with log.open('wb') as file:
            # In a session of its own, Ctrl-C reaches only this process, which stops the node.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def check(self) -> None:
        """LwsegError with the node's last error if its process has ended."""
        status = self._process.poll()
        if status is not None:
            raise LwsegError(
                f'the segmentation node ended with status {status}: {self.last_words()}'
            )

    def last_words(self) -> str:
        """Return the last error that the node has logged, else the last line."""
        lines = self._log.read_text(encoding='utf-8', errors='replace').splitlines()
        errors = [line for line in lines if _LOG_PREFIX.match(line)]
        spoken = [line for line in lines if line.strip()]
        last = (errors or spoken or ['it said nothing'])[-1]
        return _LOG_PREFIX.sub('', last)

    def usage(self) -> Usage:
        """Return what the process uses now; zeros once it has ended. Linux only."""
        place = Path('/proc', str(self._process.pid))
        try:
            # The second field, the name of the program, may itself hold spaces and brackets.
            fields = (place / 'stat').read_text(encoding='utf-8').rpartition(') ')[2].split()
            pages = (place / 'statm').read_text(encoding='ascii').split()[1]
        except OSError:
            return Usage(time.monotonic(), 0.0, 0.0)
        cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
        return Usage(time.monotonic(), cpu_s, int(pages) * os.sysconf('SC_PAGE_SIZE') / 1e6)

    def stop(self) -> None:
        """Ask the node to end; kill it if it does not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


def own_domain_id() -> int:
    """Return the environment's ROS domain, else any, where nobody's robot is in the way."""
    return int(os.environ.get('ROS_DOMAIN_ID') or random.randint(1, 101))
