"""Label spaces: class ids, names, colours, what is drivable, and how spaces map to each other.

A label space is data, a file `config/label_spaces/NAME.yaml`:

    name: idd_level1
    description: one sentence, with the source
    classes:
      - {id: 0, name: drivable, color: [128, 64, 128], drivable: true}
      - ...
    mappings:                      # optional, towards other spaces, by class names
      camvid:
        drivable: [road]
        far_objects: [building, tree]   # a coarse class stands for a set of fine ones

A class that a mapping leaves out has no counterpart: its pixels are unlabelled (255) there.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lwseg_ros.errors import DataError
from lwseg_ros.plain_data import NOT_AS_WANTED, flag, number, read_yaml
from lwseg_ros.share import share_directory

IGNORE_ID = 255
"""The id of unlabelled pixels in every label image."""


class LabelClass(NamedTuple):
    """One class: its id in label images, its name, its RGB colour, whether one may drive on it."""

    id: int
    name: str
    color: tuple[int, int, int]
    drivable: bool = False


@dataclass(frozen=True)
class LabelSpace:
    """The classes of one data set or model, and their mappings to other spaces.

    `mappings[target name][class name]` is the tuple of the target's class names that the class
    stands for.
    """

    name: str
    classes: tuple[LabelClass, ...]
    description: str = ''
    mappings: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)

    @classmethod
    def load(cls, name_or_path: str | Path) -> LabelSpace:
        """Read a shipped label space by its name, or any by the path of its YAML file."""
        path = Path(name_or_path)
        if path.suffix not in ('.yaml', '.yml'):
            return _shipped(str(name_or_path))
        return cls.from_dict(read_yaml(path, 'label space'), where=str(path))

    @classmethod
    def from_dict(cls, content: Any, where: str = 'label space') -> LabelSpace:
        """Build a label space from the content of its file (see the module's docstring)."""
        try:
            classes = tuple(
                LabelClass(
                    _class_id(entry['id']),
                    str(entry['name']),
                    _color(entry['color']),
                    _drivable(entry),
                )
                for entry in content['classes']
            )
            mappings = {
                str(target): {str(name): _names(value) for name, value in pairs.items()}
                for target, pairs in (content.get('mappings') or {}).items()
            }
            space = cls(
                str(content['name']), classes, str(content.get('description', '')), mappings
            )
        except NOT_AS_WANTED as error:
            raise DataError(
                f'{where} is not a label space: wanted name and classes with id, name, color '
                f'[r, g, b], drivable; {type(error).__name__}: {error}'
            ) from None
        space._check(where)
        return space

    def _check(self, where: str) -> None:
        ids = [str(c.id) for c in self.classes]
        names = [c.name for c in self.classes]
        if not ids:
            raise DataError(f'{where} has no classes')
        for what, values in (('id', ids), ('name', names)):
            twice = sorted(v for v, number in Counter(values).items() if number > 1)
            if twice:
                raise DataError(f'{where} has the class {what} {", ".join(twice)} twice')
        for target, pairs in self.mappings.items():
            unknown = sorted(set(pairs) - set(names))
            if unknown:
                raise DataError(
                    f'{where} maps {", ".join(unknown)} to {target}, but has no such class'
                )

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads, in plain JSON-able types."""
        return {
            'name': self.name,
            'description': self.description,
            'classes': [
                {'id': c.id, 'name': c.name, 'color': list(c.color), 'drivable': c.drivable}
                for c in self.classes
            ],
            'mappings': {
                target: {name: list(names) for name, names in pairs.items()}
                for target, pairs in self.mappings.items()
            },
        }

    @property
    def num_classes(self) -> int:
        """Return the number of outputs a network for this space has: the largest id + 1."""
        return max(c.id for c in self.classes) + 1

    @property
    def names(self) -> list[str]:
        """Return the name of each id from 0 to num_classes - 1 (`class_<id>` for an unused id)."""
        named = {c.id: c.name for c in self.classes}
        return [named.get(i, f'class_{i}') for i in range(self.num_classes)]

    @property
    def drivable_ids(self) -> tuple[int, ...]:
        """Return the ids of the classes a vehicle may drive on."""
        return tuple(c.id for c in self.classes if c.drivable)

    @property
    def palette(self) -> npt.NDArray[np.uint8]:
        """Return the RGB colour of each id, uint8 `[256, 3]`; ids without a class are black."""
        palette = np.zeros((256, 3), np.uint8)
        for c in self.classes:
            palette[c.id] = c.color
        return palette

    def class_id(self, class_: int | str) -> int:
        """Return the id of a class given by id or name; DataError names the known ones."""
        for c in self.classes:
            if class_ in (c.id, c.name):
                return c.id
        raise DataError(
            f'label space {self.name} has no class {class_!r}; it has '
            + ', '.join(f'{c.id} {c.name}' for c in self.classes)
        )

    def drivable_vector(
        self, classes: Iterable[int | str] | None = None
    ) -> npt.NDArray[np.float32]:
        """Return 1 for each drivable class and 0 for the others, float32 `[num_classes]`.

        `classes` (ids or names) replaces the space's own drivable flags.
        """
        ids = self.drivable_ids if classes is None else [self.class_id(c) for c in classes]
        vector = np.zeros(self.num_classes, np.float32)
        vector[list(ids)] = 1
        return vector

    def label_sets(self, target: LabelSpace) -> dict[int, tuple[int, ...]]:
        """Return for each class id the ids of the target's classes it stands for.

        When only the target has a mapping here, a class stands for the target's classes that
        stand for it. When neither has one, but a shipped space stands between them, a class stands
        for all that its classes there do. A class without a counterpart is not in the result.
        DataError when neither space says anything of the other.
        """
        if target.name == self.name:
            return {c.id: (c.id,) for c in self.classes}
        if target.name not in self.mappings and self.name in target.mappings:
            sets = target.label_sets(self)
            inverse = {
                c.id: tuple(t for t, ids in sets.items() if c.id in ids) for c in self.classes
            }
            return {source: ids for source, ids in inverse.items() if ids}
        if target.name not in self.mappings:
            for middle in map(LabelSpace.load, sorted({*self.mappings} & {*list_label_spaces()})):
                if middle.knows(target):
                    return self._label_sets_through(middle, target)
            known = ', '.join(self.mappings) or 'no other space'
            raise DataError(
                f'label space {self.name} has no mapping to {target.name}, only to {known}: '
                f'add one under `mappings:` of its file'
            )
        return {
            self.class_id(name): tuple(target.class_id(n) for n in names)
            for name, names in self.mappings[target.name].items()
            if names
        }

    def knows(self, other: LabelSpace) -> bool:
        """Tell whether one of the two spaces has a mapping to the other."""
        return other.name in self.mappings or self.name in other.mappings

    def _label_sets_through(
        self, middle: LabelSpace, target: LabelSpace
    ) -> dict[int, tuple[int, ...]]:
        """Return the sets by way of a third space; none where part of a set is lost on it."""
        further = middle.label_sets(target)
        return {
            source: tuple(sorted({t for m in ids for t in further[m]}))
            for source, ids in self.label_sets(middle).items()
            if all(m in further for m in ids)
        }

    def maps_one_to_one(self, target: LabelSpace) -> bool:
        """Tell whether each class stands for at most one class of the target."""
        return all(len(ids) == 1 for ids in self.label_sets(target).values())

    def lookup_table(self, target: LabelSpace) -> npt.NDArray[np.uint8]:
        """Return the table that turns this space's ids into the target's, uint8 `[256]`.

        255 where there is no counterpart. DataError if a class stands for several: then only
        `label_sets` describes the relation.
        """
        table = np.full(256, IGNORE_ID, np.uint8)
        for source, ids in self.label_sets(target).items():
            if len(ids) > 1:
                raise DataError(
                    f'class {self.names[source]} of label space {self.name} stands for several '
                    f'classes of {target.name}: its pixels cannot be remapped one to one'
                )
            table[source] = ids[0]
        return table


def list_label_spaces() -> list[str]:
    """Return the names of the shipped label spaces."""
    return sorted(path.stem for path in _shipped_folder().glob('*.yaml'))


def _shipped_folder() -> Path:
    return share_directory() / 'config' / 'label_spaces'


@functools.cache  # PyYAML takes up to 0.1 s for one
def _shipped(name: str) -> LabelSpace:
    path = _shipped_folder() / f'{name}.yaml'
    if not path.is_file():
        raise DataError(
            f'there is no label space {name!r}: give one of {", ".join(list_label_spaces())}, '
            'or the path of a .yaml file'
        )
    return LabelSpace.from_dict(read_yaml(path, 'label space'), where=str(path))


def _drivable(entry: Mapping[str, Any]) -> bool:
    try:
        return flag(entry.get('drivable', False))
    except ValueError as error:
        raise ValueError(f'drivable of the class {entry["name"]}: {error}') from None


def _class_id(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < IGNORE_ID:
        raise ValueError(f'class id {value!r} is not a whole number from 0 to {IGNORE_ID - 1}')
    return value


def _color(value: Any) -> tuple[int, int, int]:
    red, green, blue = (int(number(v)) for v in value)
    if not all(0 <= v <= 255 for v in (red, green, blue)):
        raise ValueError(f'color {value!r} is not three numbers from 0 to 255')
    return red, green, blue


def _names(value: Any) -> tuple[str, ...]:
    return (str(value),) if isinstance(value, str) else tuple(str(v) for v in value)
