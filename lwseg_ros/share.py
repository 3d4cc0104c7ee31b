"""Where the package's data files (config/, launch/) are: a checkout, pip's or colcon's prefix."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lwseg_ros.errors import LwsegError


@cache
def share_directory() -> Path:
    """Return the folder that holds `config/` and `launch/`.

    It is the checkout itself for an editable install, else `<prefix>/share/lwseg_ros`, which pip
    and colcon both fill from `data_files`.
    """
    for parent in Path(__file__).resolve().parents[1:]:
        for folder in (parent, parent / 'share' / 'lwseg_ros'):
            if (folder / 'config' / 'label_spaces').is_dir():
                return folder
    raise LwsegError(
        f'the data files of lwseg_ros (config/label_spaces) were not found above {__file__}: '
        'reinstall the package'
    )


def config_file(name: str) -> Path:
    """Return the path of a shipped file below `config/`; LwsegError if there is none."""
    path = share_directory() / 'config' / name
    if not path.is_file():
        raise LwsegError(f'{path} is missing: reinstall lwseg_ros')
    return path
