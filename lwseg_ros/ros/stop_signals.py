"""End the process within a second of SIGINT, SIGTERM or SIGHUP, whatever it is doing.

Or of the end of the command that started it and holds the other end of its standard input.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import TracebackType

GRACE_S = 0.6
CLEAN_UP_S = 0.3

ENDS_WITH_STDIN = 'LWSEG_ENDS_WITH_STDIN'
"""Set in the environment of a node whose standard input ends when it is to end, however killed
who started it: a terminal, /dev/null or nothing at all is no reason for others to end."""


class StopSignals:
    """While entered, SIGINT, SIGTERM and SIGHUP call `stop` from a thread of their own.

    SIGHUP, of a terminal that is closed, does not if it is ignored, as nohup has it.

    Python runs signal handlers in the main thread only, which may sit in a library for seconds
    (building or running a model). A process that has not left the context after the grace period
    is ended hard, after `clean_up` in another thread, with exit status 0: it was asked to stop.

    The end of standard input is such a signal, too, if the environment has `ENDS_WITH_STDIN`.
    """

    def __init__(self, stop: Callable[[], None], clean_up: Callable[[], None]) -> None:
        self._stop = stop
        self._clean_up = threading.Thread(target=clean_up, name='clean up', daemon=True)
        self._left = threading.Event()
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._watcher = threading.Thread(target=self._watch, name='stop signals', daemon=True)

    def __enter__(self) -> StopSignals:
        self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._previous = {
            number: signal.signal(number, lambda *_: None)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        }
        self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._left.set()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        self._writer.close()
        self._watcher.join()
        self._reader.close()

    def _watch(self) -> None:
        stdin = [sys.stdin] if ENDS_WITH_STDIN in os.environ else []
        ready, _, _ = select.select([self._reader, *stdin], [], [])
        if self._reader in ready and not self._reader.recv(1):
            return
        self._stop()
        if not self._left.wait(GRACE_S):
            self._clean_up.start()
            self._clean_up.join(CLEAN_UP_S)
            sys.stderr.flush()
            os._exit(0)
