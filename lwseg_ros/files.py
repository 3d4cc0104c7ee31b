"""Files that appear complete or not at all, and their digests."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from lwseg_ros.errors import LwsegError


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file under a temporary name beside it and rename it: no half file is seen."""
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise LwsegError(f'{path} cannot be written: {error.strerror}') from None
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
