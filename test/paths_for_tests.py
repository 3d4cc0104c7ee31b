"""Where the checkout is, and the real data beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get('LWSEG_DATA') or ROOT.parent / 'shared' / 'data')


def shared(name: str) -> Path:
    """Return a file or folder beside the data sets, which are at `LWSEG_DATA` or `../shared/data`.

    Without it the test is skipped; where `LWSEG_REQUIRE_DATA` says that it is there, it fails.
    """
    path = DATA.parent / name
    if not path.exists():
        missing = f'no {path}: set LWSEG_DATA to the folder of data sets'
        if os.environ.get('LWSEG_REQUIRE_DATA'):
            pytest.fail(missing)
        pytest.skip(missing)
    return path
