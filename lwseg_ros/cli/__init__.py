"""The `lwseg` command: a subcommand reads its options and calls one room, imported only then."""

from __future__ import annotations

import sys

from lwseg_ros import interrupts


def main() -> None:
    """Run the command line; an expected error is one line on stderr and exit status 1.

    Ctrl-C ends it with status 130, and silently while nothing has begun.
    """
    interrupts.end_silently(130)
    from rich.console import Console

    from lwseg_ros.cli.commands import app
    from lwseg_ros.errors import LwsegError

    try:
        interrupts.raise_again()
        app(standalone_mode=True)
    except LwsegError as error:
        Console(stderr=True).print(f'lwseg: {error}', style='red', markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        interrupts.end_silently(130)
