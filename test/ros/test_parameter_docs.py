"""The table of docs/parameters.md is that of the declared parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from paths_for_tests import ROOT

pytest.importorskip('rclpy')

from lwseg_ros.ros.parameter_table import PARAMETERS


def shown(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return repr(default).replace("'", '"') if isinstance(default, (str, list)) else str(default)


def rows() -> Iterator[str]:
    for p in PARAMETERS:
        yield f'| `{p.name}` | `{shown(p.default)}` | {p.description} | {p.wanted}; {p.changes} |'


def test_parameter_table_equals_the_declared_parameters() -> None:
    page = (ROOT / 'docs' / 'parameters.md').read_text(encoding='utf-8')
    table = re.search(r'(?:^\|.*\n)+', page, re.MULTILINE)
    assert table is not None
    assert table.group().splitlines()[2:] == list(rows())
