"""A training recipe: one YAML file that says everything a run depends on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from lwseg_ros.errors import DataError
from lwseg_ros.plain_data import flag, number, read_yaml

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
class Stage:
    """A part of a run with learning rates of its own; `iterations` or `epochs` says how long.

    An epoch is as many samples as the data sets have images together, whatever their shares.
    """

    learning_rate_encoder: float
    learning_rate_decoder: float
    iterations: int = 0
    epochs: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """What to train, on what, and how.

    Sizes are [height, width] in pixels; sides of 32 k + 1 serve best, of 32 k for networks on
    EfficientViT (see `aligned_size`).

    A run is one stage of `iterations` (or `epochs`) at the two learning rates, or `stages`, which
    then says both. Each stage follows the poly schedule from its own rates (`poly_power` 0 keeps
    them constant); only the first starts with `warmup_iterations`.

    The loss is cross-entropy, over hard pixels only with `ohem_threshold` < 1, plus each other
    term (soft IoU, pixel contrast, a teacher) times its weight; 0 leaves it out. The contrast
    starts after `contrastive_warmup` iterations.

    `teacher` is a model of any label space that has classes in common with the recipe's. One that
    is a bare checkpoint wants `teacher_network` and `teacher_label_space`. It sees the crops
    enlarged by `teacher_scale`, and counts where its most probable class has a probability of at
    least `teacher_confidence` (see `distillation_loss`).

    `initial_weights` fills the encoder, `initial_model` the whole network. Of its weights, batch
    norm's statistics included, `blend_initial` parts of 1 are in those that are validated and
    kept (see `Trainer.kept`). Both and `teacher` are a shipped model's name or a file, relative
    to the data's root or else to the working folder. `input_size` is the model's default network
    size.

    A crop is `crop_size` of an image enlarged within its source's `scale` and stretched by up to
    `aspect`; `photometric` is the strength of changes of light and camera, 0 none, `sharpening`
    the share of the crops that are made crisper.
    `class_weights` weigh the pixels of classes by name, 1 where left out; `rare_crops` is the
    share of the crops that seek those of more than 1. At least the share `ohem_min_kept` of an
    image's pixels counts as hard.

    `precision` auto is bf16-mixed where the device computes in it, else fp32.

    `ema_decay` averages the weights that are validated and kept. `validate_every` and
    `save_every` are in iterations, `workers` are processes that prepare samples, 0 none.
    `licence` is written into the model.
    """

    name: str
    network: str
    label_space: str
    train: tuple[Source, ...]
    validate: tuple[Validation, ...]
    initial_weights: str = ''
    initial_model: str = ''
    blend_initial: float = 0.0
    input_size: tuple[int, int] = (385, 577)
    crop_size: tuple[int, int] = (257, 257)
    batch_size: int = 8
    iterations: int = 4000
    epochs: float = 0.0
    warmup_iterations: int = 50
    optimizer: str = 'adamw'
    momentum: float = 0.9
    learning_rate_encoder: float = 3e-4
    learning_rate_decoder: float = 1.5e-3
    stages: tuple[Stage, ...] = ()
    weight_decay: float = 1e-2
    poly_power: float = 0.9
    frozen_batch_norm: bool = False
    ema_decay: float = 0.998
    precision: str = 'auto'
    validate_every: int = 500
    save_every: int = 250
    seed: int = 0
    workers: int = 0
    licence: str = ''
    aspect: float = 1.15
    photometric: float = 1.0
    sharpening: float = 0.0
    class_weights: dict[str, float] = field(default_factory=dict)
    rare_crops: float = 0.0
    ohem_threshold: float = 1.0
    ohem_min_kept: float = 0.0625
    jaccard_weight: float = 0.0
    contrastive_weight: float = 0.0
    contrastive_warmup: int = 1000
    teacher: str = ''
    teacher_network: str = ''
    teacher_label_space: str = ''
    teacher_scale: float = 1.0
    teacher_confidence: float = 0.0
    distillation_weight: float = 1.0
    distillation_temperature: float = 2.0

    @property
    def all_stages(self) -> tuple[Stage, ...]:
        """The stages, one at least."""
        whole = Stage(
            self.learning_rate_encoder, self.learning_rate_decoder, self.iterations, self.epochs
        )
        return self.stages or (whole,)


OPTIMIZERS = ('adamw', 'sgd')
PRECISIONS = ('auto', 'bf16-mixed', 'fp32', 'fp16-mixed')


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; DataError names an unknown, missing or wrong entry."""
    content = read_yaml(path, 'recipe')
    recipe = _build(Recipe, content, str(path))
    lengths = sorted({'iterations', 'epochs', 'stages'} & set(content))
    if len(lengths) > 1:
        raise DataError(f'recipe {path} has {" and ".join(lengths)}: give one of them')
    problem = _problem(recipe)
    if problem:
        raise DataError(f'recipe {path}{problem}')
    return recipe


def _problem(recipe: Recipe) -> str:
    """Return what is wrong with a recipe, to follow its name; '' if nothing is."""
    if not recipe.train:
        return ' has nothing under train'
    if min(recipe.batch_size, recipe.validate_every, recipe.save_every) < 1:
        return ': batch_size, validate_every, save_every must be positive'
    if recipe.epochs < 0 or (recipe.iterations < 1 and not recipe.epochs):
        return ': iterations and epochs must be positive'
    if any(
        min(s.iterations, s.epochs) < 0 or (s.iterations > 0) == (s.epochs > 0)
        for s in recipe.stages
    ):
        return ': each of its stages wants either iterations or epochs, positive'
    for entry, value, known in (
        ('optimizer', recipe.optimizer, OPTIMIZERS),
        ('precision', recipe.precision, PRECISIONS),
    ):
        if value not in known:
            return f': {entry} is {value!r}, wanted one of {", ".join(known)}'
    if not (0 < recipe.ohem_threshold <= 1 and 0 <= recipe.ohem_min_kept <= 1):
        return ': ohem_threshold and ohem_min_kept must be in 0..1'
    if recipe.distillation_temperature <= 0:
        return ': distillation_temperature must be positive'
    if not 0 <= recipe.blend_initial <= 1:
        return ': blend_initial must be in 0..1'
    if recipe.blend_initial and not recipe.initial_model:
        return ': blend_initial blends with the weights of an initial_model: give one'
    if bool(recipe.teacher_network) != bool(recipe.teacher_label_space):
        return ': teacher_network and teacher_label_space go together'
    if not (1 <= recipe.teacher_scale <= 4 and 0 <= recipe.teacher_confidence <= 1):
        return ': teacher_scale must be in 1..4, teacher_confidence in 0..1'
    return ''


def in_iterations(recipe: Recipe, images: int) -> Recipe:
    """Return the recipe with every length in iterations, `images` the size of its data sets."""

    def length(stage: Stage) -> int:
        return math.ceil(stage.epochs * images / recipe.batch_size) or stage.iterations

    total = sum(length(stage) for stage in recipe.all_stages)
    stages = tuple(replace(s, iterations=length(s), epochs=0.0) for s in recipe.stages)
    return replace(recipe, iterations=total, epochs=0.0, stages=stages)


def learning_rates(recipe: Recipe, iteration: int) -> tuple[float, float]:
    """Return the learning rates of encoder and decoder for one iteration, counted from 0.

    Linear warm-up, and in each stage the poly schedule, rate (1 - t/T)^power. The recipe's
    lengths must be in iterations.
    """
    warmup = min(1.0, (iteration + 1) / max(recipe.warmup_iterations, 1))
    for stage in recipe.all_stages:
        if iteration < stage.iterations:
            break
        iteration -= stage.iterations
    left = max(0.0, 1 - iteration / stage.iterations)
    factor = warmup * left**recipe.poly_power
    return stage.learning_rate_encoder * factor, stage.learning_rate_decoder * factor


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


def _whole(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return int(value)


_SCALARS: dict[str, Callable[[Any], Any]] = {
    'bool': flag,
    'int': _whole,
    'float': number,
    'str': str,
}


def _convert(kind: str, value: Any, where: str) -> Any:
    try:
        if kind == 'tuple[Source, ...]':
            return tuple(_build(Source, v, where) for v in value)
        if kind == 'tuple[Validation, ...]':
            return tuple(_build(Validation, v, where) for v in value)
        if kind == 'tuple[Stage, ...]':
            return tuple(_build(Stage, v, where) for v in value)
        if kind.startswith('tuple['):
            first, second = (_SCALARS['int' if 'int' in kind else 'float'](v) for v in value)
            return first, second
        if kind == 'dict[str, float]':
            return {str(k): number(v) for k, v in value.items()}
        if kind in _SCALARS:
            return _SCALARS[kind](value)
    except (TypeError, ValueError, AttributeError):
        raise DataError(f'{where} is {value!r}, wanted {kind}') from None
    return value
