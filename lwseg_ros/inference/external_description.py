"""The YAML that describes somebody else's ONNX network.

    label_space: cityscapes            # a shipped name, a .yaml path, or name and classes inline
    input:
      size: [360, 640]                 # height, width; needed only where the file leaves it open
      color: rgb                       # or bgr
      layout: nchw                     # or nhwc
      scale: 1/255                     # the network sees (pixel * scale - mean) / std
      mean: [0, 0, 0]
      std: [1, 1, 1]
    output:
      name: logits                     # needed only where there are several
      kind: logits                     # or probabilities, or labels
      layout: nchw                     # or nhwc

Every line but `label_space` may be left out; above are the defaults. A network of two classes may
have one output plane, that of class 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwseg_ros.errors import DataError, ModelError
from lwseg_ros.label_space import LabelSpace
from lwseg_ros.plain_data import NOT_AS_WANTED, number, read_yaml

_KEYS = {
    '': ('name', 'label_space', 'input', 'output'),
    'input': ('size', 'color', 'layout', 'scale', 'mean', 'std'),
    'output': ('name', 'kind', 'layout'),
}
_CHOICES = {
    'color': ('rgb', 'bgr'),
    'layout': ('nchw', 'nhwc'),
    'kind': ('logits', 'probabilities', 'labels'),
}


@dataclass(frozen=True)
class Description:
    """What the YAML file says; see the module's docstring."""

    name: str
    label_space: LabelSpace
    size: tuple[int, int] | None
    color: str
    input_layout: str
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    output: str | None
    kind: str
    output_layout: str

    @property
    def class_axis(self) -> int:
        """The dimension of the output that has the classes, unless it holds labels."""
        return 1 if self.output_layout == 'nchw' else 3

    @classmethod
    def load(cls, path: Path) -> Description:
        """Read the YAML file; ModelError names the line that is wrong."""
        try:
            content = read_yaml(path, 'description')
        except DataError as error:
            raise ModelError(str(error)) from None
        try:
            return cls._from_content(content, path)
        except (*NOT_AS_WANTED, DataError) as error:
            raise ModelError(f'description {path}: {error}') from None

    @classmethod
    def _from_content(cls, content: Any, path: Path) -> Description:
        top = _section({'': content}, '')
        given, produced = _section(top, 'input'), _section(top, 'output')
        if 'label_space' not in top:
            raise ValueError('label_space is missing: name or list the classes of the output')
        space = top['label_space']
        if isinstance(space, str) and space.endswith(('.yaml', '.yml')):
            space = path.parent / space
        return cls(
            name=str(top.get('name', path.stem)),
            label_space=LabelSpace.from_dict(space, 'label_space')
            if isinstance(space, Mapping)
            else LabelSpace.load(space),
            size=_size(given['size']) if 'size' in given else None,
            color=_choice(given, 'color'),
            input_layout=_choice(given, 'layout'),
            scale=number(given.get('scale', '1/255')),
            mean=_three(given, 'mean', 0.0),
            std=_three(given, 'std', 1.0),
            output=str(produced['name']) if 'name' in produced else None,
            kind=_choice(produced, 'kind'),
            output_layout=_choice(produced, 'layout'),
        )


def _section(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a mapping of the YAML file whose keys are all known."""
    content = parent.get(key) or {}
    where = f' under {key}' if key else ''
    if not isinstance(content, Mapping):
        raise ValueError(f'lines of `key: value` are wanted{where}')
    unknown = ', '.join(sorted(str(k) for k in set(content) - set(_KEYS[key])))
    if unknown:
        raise ValueError(f'unknown key {unknown}{where}; known are {", ".join(_KEYS[key])}')
    return content


def _choice(section: Mapping[str, Any], key: str) -> str:
    value = str(section.get(key, _CHOICES[key][0]))
    if value not in _CHOICES[key]:
        raise ValueError(f'{key} {value!r} is not one of {", ".join(_CHOICES[key])}')
    return value


def _three(section: Mapping[str, Any], key: str, default: float) -> tuple[float, float, float]:
    values = section.get(key, [default] * 3)
    if not isinstance(values, list) or len(values) != 3:
        raise ValueError(f'{key} is a list of three numbers, not {values!r}')
    first, second, third = (number(value) for value in values)
    if key == 'std' and min(first, second, third) <= 0:
        raise ValueError(f'std {values} must be positive')
    return first, second, third


def _size(value: Any) -> tuple[int, int]:
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(type(extent) is int and extent > 0 for extent in value)
    ):
        raise ValueError(f'size is [height, width], not {value!r}')
    return value[0], value[1]
