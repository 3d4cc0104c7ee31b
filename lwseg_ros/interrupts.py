"""Ctrl-C before a command has begun and after it has ended, when there is nothing to tell of.

It imports next to nothing: what comes before it is answered with Python's traceback.
"""

from __future__ import annotations

import os
import signal


def end_silently(status: int) -> None:
    """Let Ctrl-C end the process at once, with this exit status."""
    _answer_with(lambda *_: os._exit(status))


def raise_again() -> None:
    """Let Ctrl-C be a KeyboardInterrupt, as Python has it."""
    _answer_with(signal.default_int_handler)


def _answer_with(handler: signal._HANDLER) -> None:
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as nohup and the shell's & have it
        signal.signal(signal.SIGINT, handler)
