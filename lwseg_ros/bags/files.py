"""Which files hold a recording. Needs no library that reads them."""

from __future__ import annotations

import re
from pathlib import Path

from lwseg_ros.errors import DataError

BAG_SUFFIXES = ('.bag', '.active', '.mcap', '.db3')
_IN_FOLDERS = ('.mcap', '.db3', '.mcap.zstd', '.db3.zstd')


def is_bag(path: Path) -> bool:
    """Tell by its name, or by the names in a folder, whether something is a recording."""
    if not path.is_dir():
        return path.suffix.lower() in BAG_SUFFIXES
    return (path / 'metadata.yaml').is_file() or bool(_files_in(path))


def bag_files(path: Path) -> list[Path]:
    """Return the files that hold a bag's messages, in their order; DataError if it is no bag."""
    if not path.exists():
        raise DataError(f'there is no bag at {path}')
    if not path.is_dir():
        if not is_bag(path):
            raise DataError(
                f'{path} is no bag: wanted a ROS 1 .bag, a ROS 2 bag folder, or an .mcap or .db3 '
                'file'
            )
        return [path]
    files = _files_in(path)
    if not files:
        raise DataError(f'{path} is no ROS 2 bag: it holds no .mcap or .db3 file')
    return files


def _files_in(folder: Path) -> list[Path]:
    return sorted(
        (file for file in folder.iterdir() if file.name.endswith(_IN_FOLDERS)),
        key=lambda file: [int(p) if p.isdigit() else p for p in re.split(r'(\d+)', file.name)],
    )
