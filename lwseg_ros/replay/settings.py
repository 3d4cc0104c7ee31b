"""What is evaluated with what: the words of `lwseg bag evaluate`, and the models they name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lwseg_ros.files import sha256
from lwseg_ros.inference.segmenter import Segmenter
from lwseg_ros.replay.result import Model


@dataclass(frozen=True)
class Settings:
    """What is evaluated and how; the words of `lwseg bag evaluate`'s options.

    `truth_topics` are label topics, `CAMERA=LABELS` where several cameras are evaluated.
    `precision` None keeps to the files that are named, `auto` takes what the node would.
    `against` names a second model, or '' for none; with `against_backend` alone it is the first
    model on another backend.
    """

    model: str = 'road'
    backend: str = 'auto'
    precision: str | None = None
    input_size: str = 'model'
    threads: int | None = None
    against: str = ''
    against_backend: str = ''
    topics: tuple[str, ...] = ()
    truth_topics: tuple[str, ...] = ()
    truth_folder: Path | None = None
    truth_space: str | None = None
    truth_tolerance_ms: float = 10.0
    low_confidence: float = 0.5
    block_seconds: float = 2.0
    alpha: float = 0.5
    mcap: bool = True
    video: bool = True
    copy_topics: bool = False

    def configuration(self) -> dict[str, Any]:
        """Return the settings that a result depends on, as JSON holds them."""
        values = {name: value for name, value in vars(self).items() if name != 'threads'}
        folder = self.truth_folder
        return {
            **values,
            'topics': list(self.topics),
            'truth_topics': list(self.truth_topics),
            'truth_folder': None if folder is None else str(folder),
        }


class Models(NamedTuple):
    """The model that is evaluated, and the one it is compared with, if any."""

    segmenter: Segmenter
    model: Model
    against: Segmenter | None
    against_model: Model | None

    @property
    def streams(self) -> int:
        """How many threads may ask them at once."""
        segmenters = (self.segmenter, self.against or self.segmenter)
        return min(segmenter.streams for segmenter in segmenters)


@contextmanager
def open_models(settings: Settings) -> Iterator[Models]:
    """Load the models; ModelError if one cannot be used."""

    def load(model: str, backend: str) -> tuple[Segmenter, Model]:
        segmenter = Segmenter.load(
            model,
            backend,
            precision=settings.precision,
            input_size=None if settings.input_size == 'model' else settings.input_size,
            threads=settings.threads,
            throughput=True,
        )
        stack.enter_context(segmenter)
        segmenter.warm_up(1)
        return segmenter, Model(
            name=segmenter.info.name,
            sha256=sha256(segmenter.path),
            engine=segmenter.description,
        )

    with ExitStack() as stack:
        first, model = load(settings.model, settings.backend)
        second = second_model = None
        if settings.against or settings.against_backend:
            second, second_model = load(
                settings.against or settings.model, settings.against_backend or 'auto'
            )
        yield Models(first, model, second, second_model)
