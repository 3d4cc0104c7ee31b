"""The folder of one bag's evaluation: kept when it is finished, else replaced whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lwseg_ros.errors import LwsegError
from lwseg_ros.replay.result import FORMAT, RESULT, Result


def finished(folder: Path, key: str) -> Result | None:
    """Return the result in a folder if it is complete and has this key, else None."""
    try:
        result: Result = json.loads((folder / RESULT).read_text(encoding='utf-8'))
        if result['format'] != FORMAT or result['interrupted'] or result['bags'][0]['key'] != key:
            return None
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return result


def check_replaceable(folder: Path, bag: Path) -> None:
    """Raise LwsegError if a folder holds anything but the result of an evaluation."""
    if bag.resolve().is_relative_to(folder.resolve()):
        raise LwsegError(f'{folder} holds the bag itself: choose another --out')
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RESULT).is_file():
        raise LwsegError(
            f'{folder} holds something else than the result of an evaluation: choose another --out'
        )


@contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """Give a folder that takes the name `folder` at the end, and vanishes on an error."""
    partial = folder.with_name(f'.{folder.name}.part')
    try:
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            yield partial
            old = folder.with_name(f'.{folder.name}.old')
            if folder.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.replace(folder, old)
            os.replace(partial, folder)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise LwsegError(
            f'{folder} cannot be written: {error.strerror or error}; nothing of it is left: free '
            'space, or choose another --out'
        ) from None
