"""Which files hold a recording, and what its metadata.yaml says. Needs no library of bags."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lwseg_ros.errors import DataError
from lwseg_ros.plain_data import NOT_AS_WANTED

METADATA = 'metadata.yaml'
BAG_SUFFIXES = ('.bag', '.active', '.mcap', '.db3')

_ZSTD = ('', '.zstd', '.zst')
_FILES = tuple(suffix + zstd for suffix in BAG_SUFFIXES for zstd in _ZSTD)
_IN_FOLDERS = tuple(suffix + zstd for suffix in ('.mcap', '.db3') for zstd in _ZSTD)


class Metadata(NamedTuple):
    """What a bag folder's metadata.yaml tells."""

    files: tuple[str, ...]
    messages: dict[str, int]
    """By topic."""
    error: str
    """Why it cannot be read, or ''."""


def is_bag(path: Path) -> bool:
    """Tell by its name, or by the names in a folder, whether something is a recording."""
    if not path.is_dir():
        return path.name == METADATA or path.name.lower().endswith(_FILES)
    return (path / METADATA).is_file() or bool(_files_in(path))


def bags_at(path: Path) -> list[Path]:
    """Return the bags that a path means, none if it means none.

    A metadata.yaml stands for its folder, a folder that is no bag for the ROS 1 bags in it.
    """
    if path.name == METADATA and path.is_file():
        return [path.parent]
    if is_bag(path):
        return [path]
    return sorted(f for f in path.iterdir() if is_bag(f) and f.is_file()) if path.is_dir() else []


def bag_files(path: Path) -> list[Path]:
    """Return the files that hold a bag's messages, in their order; DataError if it is no bag.

    Those that metadata.yaml names, also by another compression than it says, if any is there.
    """
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
        inside = [bag.name for bag in bags_at(path)]
        if inside:
            raise DataError(f'{path} holds {len(inside)} bags, give one: {", ".join(inside)}')
        raise DataError(f'{path} is no ROS 2 bag: it holds no .mcap or .db3 file')
    by_name = {_without_zstd(file.name): file for file in files}
    named = [_without_zstd(name) for name in read_metadata(path).files]
    return [by_name[name] for name in named if name in by_name] or files


def read_metadata(path: Path) -> Metadata:
    """Read the metadata.yaml of a bag folder; what it does not tell is empty."""
    file = path / METADATA
    if not file.is_file():
        return Metadata((), {}, '')
    try:
        # Written by programs and as long as they like, so by libyaml; and taken apart here only.
        loader: Any = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
        with file.open('rb') as content:
            information = yaml.load(content, loader)['rosbag2_bagfile_information']
        messages: dict[str, int] = {}
        for topic in information['topics_with_message_count']:
            name = str(topic['topic_metadata']['name'])
            messages[name] = messages.get(name, 0) + int(topic['message_count'])
        names = [Path(str(name)).name for name in information.get('relative_file_paths') or ()]
    except (OSError, yaml.YAMLError, *NOT_AS_WANTED):
        return Metadata((), {}, f'its {METADATA} cannot be read')
    return Metadata(tuple(names), messages, '')


def _files_in(folder: Path) -> list[Path]:
    return sorted(
        (file for file in folder.iterdir() if file.name.lower().endswith(_IN_FOLDERS)),
        key=lambda file: [int(p) if p.isdigit() else p for p in re.split(r'(\d+)', file.name)],
    )


def _without_zstd(name: str) -> str:
    return name.removesuffix('.zstd').removesuffix('.zst')
