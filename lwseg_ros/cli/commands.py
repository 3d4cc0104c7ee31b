"""The command line of `lwseg`, put together from the subcommands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from lwseg_ros import __version__
from lwseg_ros.cli import bag, make, use

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
