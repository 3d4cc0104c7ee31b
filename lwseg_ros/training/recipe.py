"""A training recipe: one YAML file that says everything a run depends on."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lwseg_ros.errors import DataError

T = TypeVar('T')


@dataclass(frozen=True)
class Source:
    """One data set to train on: `data` is FORMAT:PATH, `share` its part of the samples.

    `scale` is the range of the random enlargement of its images. `data: generated_drive` renders
    `images` frames of the demo's generated drives instead of reading files.
    """

    data: str
    share: float
    split: str = 'train'
    scale: tuple[float, float] = (0.5, 2.0)
    images: int = 0


@dataclass(frozen=True)
class Validation:
    """One data set to validate on."""

    data: str
    split: str = 'val'


@dataclass(frozen=True)
class Recipe:
    """What to train, on what, and how. Sizes are [height, width] in pixels."""

    name: str
    network: str
    label_space: str
    train: tuple[Source, ...]
    validate: tuple[Validation, ...]
    initial_weights: str = ''
    initial_model: str = ''
    input_size: tuple[int, int] = (384, 640)
    crop_size: tuple[int, int] = (256, 256)
    batch_size: int = 8
    iterations: int = 4000
    warmup_iterations: int = 50
    learning_rate_encoder: float = 3e-4
    learning_rate_decoder: float = 1.5e-3
    weight_decay: float = 1e-2
    poly_power: float = 0.9
    ema_decay: float = 0.998
    validate_every: int = 500
    seed: int = 0
    workers: int = 0
    licence: str = ''
    aspect: float = 1.15
    photometric: float = 1.0
    class_weights: dict[str, float] = field(default_factory=dict)
    rare_crops: float = 0.0
    jaccard_weight: float = 0.0


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; DataError names an unknown, missing or wrong entry."""
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise DataError(f'recipe {path} cannot be read: {error.strerror}') from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f'recipe {path} is not YAML: {" ".join(str(error).split())}') from None
    recipe = _build(Recipe, content, str(path))
    if not recipe.train:
        raise DataError(f'recipe {path} has nothing under train')
    if min(recipe.batch_size, recipe.iterations, recipe.validate_every) < 1:
        raise DataError(f'recipe {path}: batch_size, iterations, validate_every must be positive')
    return recipe


def _build(kind: type[T], content: Any, where: str) -> T:
    if not isinstance(content, dict):
        raise DataError(f'{where} is not a mapping of {kind.__name__.lower()} entries')
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(content) - set(known))
    if unknown:
        raise DataError(f'{where} has unknown entries {unknown}; known are {", ".join(known)}')
    missing = [
        name
        for name, f in known.items()
        if f.default is MISSING and f.default_factory is MISSING and name not in content
    ]
    if missing:
        raise DataError(f'{where} lacks {", ".join(missing)}')
    values = {}
    for name, value in content.items():
        values[name] = _convert(str(known[name].type), value, f'{where}: {name}')
    return kind(**values)


def _convert(kind: str, value: Any, where: str) -> Any:
    try:
        if kind == 'tuple[Source, ...]':
            return tuple(_build(Source, v, where) for v in value)
        if kind == 'tuple[Validation, ...]':
            return tuple(_build(Validation, v, where) for v in value)
        if kind.startswith('tuple['):
            number = int if 'int' in kind else float
            first, second = (number(v) for v in value)
            return first, second
        if kind == 'dict[str, float]':
            return {str(k): float(v) for k, v in value.items()}
        if kind in ('int', 'float', 'str'):
            return {'int': int, 'float': float, 'str': str}[kind](value)
    except (TypeError, ValueError, AttributeError):
        raise DataError(f'{where} is {value!r}, wanted {kind}') from None
    return value
