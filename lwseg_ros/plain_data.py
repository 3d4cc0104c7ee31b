"""YAML and JSON of unknown origin, read without running into what they can be made to do."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from lwseg_ros.errors import DataError

NOT_AS_WANTED = (
    *(ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError),
)
"""What taking apart read data raises where it is not of the wanted shape."""

_MAX_YAML_BYTES = 200_000  # our choice: ten times any label space; PyYAML takes a second for it


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):  # ten lines of them can stand for gigabytes
            raise yaml.YAMLError('it refers to another place by *name: write it out')
        return super().compose_node(parent, index)


def read_yaml(path: Path, what: str) -> Any:
    """Return the content of a YAML file; DataError says what is wrong with it, `what` what it is.

    Aliases are refused, and files too long for what people write by hand.
    """
    try:
        with path.open('rb') as file:
            content = file.read(_MAX_YAML_BYTES + 1)
    except OSError as error:
        raise DataError(f'{what} {path} cannot be read: {error.strerror}') from None
    if len(content) > _MAX_YAML_BYTES:
        raise DataError(f'{what} {path} is longer than {_MAX_YAML_BYTES} bytes')
    try:
        return yaml.load(content.decode(), _Loader)
    except (yaml.YAMLError, *NOT_AS_WANTED) as error:
        reason = ' '.join(str(error).split())[:300]
        raise DataError(f'{what} {path} is not YAML: {reason}') from None


def flag(value: Any) -> bool:
    """Return what YAML or JSON reads as a boolean; ValueError of anything else, be it "false"."""
    if not isinstance(value, bool):
        raise ValueError(f'{value!r} is no flag: write true or false, without quotes')
    return value


def number(value: Any) -> float:
    """Return a finite number, a text of one, or of a fraction; ValueError of a flag and the rest.

    `1e-4` and `1/255` are texts in YAML 1.1.
    """
    if isinstance(value, bool):
        raise ValueError(f'{value!r} is a flag: write a number')
    try:
        found = float(Fraction(value) if isinstance(value, str) and '/' in value else value)
    except ArithmeticError:
        found = math.inf
    if not math.isfinite(found):
        raise ValueError(f'{value!r} is no finite number')
    return found


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; ValueError also for a key that stands twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) != len(pairs):
            raise ValueError('a key stands twice')
        return content

    return json.loads(text, object_pairs_hook=unique)
