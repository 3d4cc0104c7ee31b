"""The `lwseg` command: a subcommand reads its options and calls one room, imported only then."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console

from lwseg_ros import __version__
from lwseg_ros.cli import bag, make, use
from lwseg_ros.errors import LwsegError

app = typer.Typer(name='lwseg', no_args_is_help=True, pretty_exceptions_enable=False)
_COMMANDS: tuple[Callable[..., None], ...] = (
    *(use.demo, use.segment, use.info, make.evaluate),
    *(make.train, make.export, make.quantize, use.benchmark),
)
for command in _COMMANDS:
    app.command()(command)
app.add_typer(bag.app, name='bag')
app.command(context_settings={'allow_extra_args': True, 'ignore_unknown_options': True})(use.node)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f'lwseg {__version__}')
        raise typer.Exit


@app.callback()
def lwseg(
    version: Annotated[
        bool,
        typer.Option(
            '--version', help='Print the version.', callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Light-weight semantic segmentation for ROS 2: camera images to drivable-area masks."""


def main() -> None:
    """Run the command line; an expected error is one line on stderr and exit status 1."""
    try:
        app(standalone_mode=True)
    except LwsegError as error:
        Console(stderr=True).print(f'lwseg: {error}', style='red', markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
