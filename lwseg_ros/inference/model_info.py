"""What a model says of itself: one JSON text that travels in its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lwseg_ros.errors import DataError, ModelError
from lwseg_ros.label_space import LabelSpace
from lwseg_ros.plain_data import NOT_AS_WANTED, parse_json

FORMAT = 1
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EXTERNAL = 'external'
"""The `network` of a model that is not of our catalog."""

MODEL_PRECISIONS = ('fp32', 'int8')

_MAX_INPUT_PIXELS = 1 << 25


@dataclass(frozen=True)
class ModelInfo:
    """What a model file says of itself.

    `network` is the catalog's name; `input_size` the default network size (height, width);
    `mean` and `std` are of RGB pixels scaled to 0..1; `precision` is fp32, or int8 after
    `lwseg quantize`; `provenance` is free text by key (data, recipe, commit, seed, licence);
    `accuracy` holds figures of `lwseg evaluate`; `measures` names what it gives beside the
    classes, `depth` or `normals`.
    """

    name: str
    network: str
    label_space: LabelSpace
    input_size: tuple[int, int]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    precision: str = 'fp32'
    provenance: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    measures: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, text: str, where: str = 'the model') -> ModelInfo:
        """Read the metadata text; ModelError names what is wrong."""
        try:
            content = parse_json(text)
            if content['format'] != FORMAT:
                raise ModelError(
                    f'{where} has metadata of format {content["format"]}, this lwseg reads '
                    f'format {FORMAT}: update lwseg'
                )
            height, width = (int(v) for v in content['input_size'])
            info = cls(
                name=str(content['name']),
                network=str(content['network']),
                label_space=LabelSpace.from_dict(content['label_space']),
                input_size=(height, width),
                mean=_three(content['mean']),
                std=_three(content['std']),
                precision=str(content.get('precision', 'fp32')),
                provenance=dict(content.get('provenance') or {}),
                accuracy=dict(content.get('accuracy') or {}),
                measures=tuple(str(name) for name in content.get('measures') or ()),
            )
            info.to_json().encode()  # a lone surrogate fits into no message
        except (*NOT_AS_WANTED, DataError) as error:
            raise ModelError(
                f'{where} has damaged lwseg metadata ({type(error).__name__}: {error}): '
                'export it again with `lwseg export`'
            ) from None
        if not 0 < height * width <= _MAX_INPUT_PIXELS or min(height, width) < 1:
            raise ModelError(
                f'{where} has metadata with the impossible input size {width}x{height}'
            )
        if info.precision not in MODEL_PRECISIONS:
            raise ModelError(
                f'{where} is of the precision {info.precision!r}, this lwseg knows '
                f'{" and ".join(MODEL_PRECISIONS)}: update lwseg'
            )
        if not np.isfinite([*info.mean, *info.std]).all() or min(info.std) <= 0:
            raise ModelError(f'{where} has metadata with an impossible mean or std')
        return info

    def to_dict(self) -> dict[str, Any]:
        """Return the metadata as plain JSON-able types."""
        return {
            'format': FORMAT,
            'name': self.name,
            'network': self.network,
            'label_space': self.label_space.to_dict(),
            'input_size': list(self.input_size),
            'mean': list(self.mean),
            'std': list(self.std),
            'precision': self.precision,
            'provenance': dict(self.provenance),
            'accuracy': dict(self.accuracy),
            **({'measures': list(self.measures)} if self.measures else {}),
        }

    def to_json(self) -> str:
        """Return the text that is stored under the key `lwseg`."""
        return json.dumps(self.to_dict(), ensure_ascii=False, sort_keys=True)


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(v) for v in values)
    return first, second, third
