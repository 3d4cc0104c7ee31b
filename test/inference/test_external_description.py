"""docs/external_models.md says of the YAML beside a model what the code reads."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from paths_for_tests import ROOT

from lwseg_ros.errors import ModelError
from lwseg_ros.inference.external_description import _CHOICES, _KEYS, Description

PAGE = (ROOT / 'docs' / 'external_models.md').read_text(encoding='utf-8')
ROWS = re.findall(r'^\| `([\w.]+)` \| (.+?) \| (.+?) \| .+ \|$', PAGE, re.MULTILINE)
EXAMPLES = re.findall(r'^```yaml\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)


def code(cell: str) -> str | None:
    """Return the content of a cell that is one piece of code, None for words."""
    match = re.fullmatch('`([^`]+)`', cell)
    return match[1] if match else None


def load(folder: Path, content: Any) -> Description:
    path = folder / 'model.yaml'
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return Description.load(path)


def test_the_table_has_every_entry() -> None:
    entries = [
        f'{section}.{key}'.lstrip('.')
        for section, keys in _KEYS.items()
        for key in keys
        if key not in _KEYS
    ]
    assert [entry for entry, _, _ in ROWS] == entries


def test_the_table_has_every_choice() -> None:
    chosen = {}
    for entry, wanted, _ in ROWS:
        choices = tuple(re.findall(r'`(\w+)`', wanted))
        if choices and wanted == ', '.join(f'`{choice}`' for choice in choices):
            chosen[entry] = choices
    assert chosen == {
        f'{section}.{key}': _CHOICES[key]
        for section, keys in _KEYS.items()
        for key in keys
        if key in _CHOICES
    }


def test_defaults_of_the_table_are_those_of_the_code(tmp_path: Path) -> None:
    said: dict[str, Any] = {'label_space': 'camvid', 'input': {}, 'output': {}}
    in_words = set()
    for entry, _, cell in ROWS:
        default = code(cell)
        section, _, key = entry.rpartition('.')
        if default is None:
            in_words.add(entry)
        else:
            said[section][key] = yaml.safe_load(default)
    assert in_words == {'name', 'label_space', 'input.size', 'output.name'}
    least = load(tmp_path, 'label_space: camvid')
    assert load(tmp_path, said) == least
    assert (least.name, least.size, least.output) == ('model', None, None)
    with pytest.raises(ModelError, match='label_space is missing'):
        load(tmp_path, 'name: model')


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    text = 'label_space: camvid\ninput: {scale: 1e-2, mean: [1e-1, 2e-1, 0.3], std: [1, 2, 3]}'
    read = load(tmp_path, text)
    assert (read.scale, read.mean, read.std) == (0.01, (0.1, 0.2, 0.3), (1, 2, 3))


def test_every_example_can_be_read(tmp_path: Path) -> None:
    shipped = Description.load(ROOT / 'config' / 'models' / 'twinlitenet_bdd100k.yaml')
    read = [load(tmp_path, example) for example in EXAMPLES]
    assert len(read) == 4
    assert shipped in [replace(description, name=shipped.name) for description in read]
