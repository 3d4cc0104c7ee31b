"""The README says what the code does: its parameter table is the declared one."""

import re

import pytest
from paths_for_tests import ROOT

pytest.importorskip('rclpy')

from lwseg_ros.ros.parameters import PARAMETERS

README = ROOT / 'README.md'


def shown(default):
    if isinstance(default, bool):
        return str(default).lower()
    return repr(default).replace("'", '"') if isinstance(default, (str, list)) else str(default)


def rows():
    for p in PARAMETERS:
        yield f'| `{p.name}` | `{shown(p.default)}` | {p.description} | {p.wanted}; {p.changes} |'


def test_parameter_table_equals_the_declared_parameters():
    table = re.search(r'\n## Parameters\n[^|]*((?:\|.*\n)+)', README.read_text())
    lines = table.group(1).splitlines()
    assert lines[2:] == list(rows())
