"""Files that appear complete or not at all, and their digests."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from lwseg_ros.errors import LwsegError


def is_leftover(path: PurePath) -> bool:
    """Tell whether a path below some folder is what a system or an editor leaves there.

    macOS's `._x.jpg` and `.DS_Store`, Jupyter's `.ipynb_checkpoints`, every other hidden file or
    folder, and `Thumbs.db` of Windows.
    """
    return any(part.startswith('.') or part == 'Thumbs.db' for part in path.parts)


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file under a temporary name beside it and rename it: no half file is seen.

    LwsegError if it cannot be written; then nothing of it is left.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise LwsegError(f'{path} cannot be written: {error.strerror}') from None
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write a file of JSON, complete or not at all; LwsegError if it cannot be."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + '\n'
    # The name of a file may hold bytes that are no text; JSON has escapes for them.
    write_atomically(path, text.encode(errors='backslashreplace'))


def user_cache() -> Path:
    """Return the folder of what is kept to spare work; it need not be there yet."""
    return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'lwseg_ros'


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
