"""The engines and `Segmenter` by themselves, side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from lwseg_ros.benchmark.energy import EnergyMeter
from lwseg_ros.benchmark.timing import percentiles, time_in_turns
from lwseg_ros.errors import ModelError
from lwseg_ros.inference.model_source import find_model, resolve_model
from lwseg_ros.inference.segmenter import Image, Segmenter
from lwseg_ros.synthetic.drive import GeneratedDrive

CAMERA = (1280, 720)
"""Width and height of the camera image that `Segmenter` is timed with."""

EAGER, BARE = 'PyTorch eager fp32', 'ONNX Runtime fp32, network alone'


class Variant(NamedTuple):
    """A model on a backend; `size` is 'model' or WIDTHxHEIGHT."""

    model: str
    backend: str = 'auto'
    precision: str = 'auto'
    size: str = 'model'

    @property
    def file(self) -> str:
        """The file that `model` names: of a mere name, precision auto might run another."""
        return str(resolve_model(self.model))

    def open(self, threads: int | None = None) -> Segmenter:
        """Load and warm it up; ModelError if that cannot be."""
        size = None if self.size == 'model' else self.size
        segmenter = Segmenter.load(
            self.file, self.backend, precision=self.precision, input_size=size, threads=threads
        )
        segmenter.warm_up(2)
        return segmenter


def camera_image() -> Image:
    """Return a frame of the generated drive, RGB uint8 `[720, 1280, 3]`."""
    return GeneratedDrive(1, *CAMERA).frame(5).image


def fitted_image(size: tuple[int, int]) -> Image:
    """Return the frame at a size (height, width)."""
    return np.asarray(cv2.resize(camera_image(), size[::-1]), np.uint8)


def engine_task(segmenter: Segmenter) -> Callable[[], object]:
    """Return one run of the bare engine: an image of its size to labels of its size."""
    image = fitted_image(segmenter.input_size)[np.newaxis]
    return partial(segmenter.backend.run, image, segmenter.label_space.drivable_vector())


def time_engines(
    variants: Sequence[Variant],
    baselines: bool,
    seconds: float,
    threads: int | None,
    advance: Callable[[str], None],
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row for each variant and baseline, and why the others cannot run.

    Those of one size run in turns. `engine` is from the image at network size to labels,
    confidence and drivable score at that size; `segmenter` from the camera image to the same at
    its size.
    """
    rows: list[dict[str, Any]] = []
    skipped: list[str] = []
    for size in dict.fromkeys(variant.size for variant in variants):
        chosen = [variant for variant in variants if variant.size == size]
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='lwseg_')))
            rows += _time_size(
                chosen, baselines, seconds, threads, folder, stack, skipped, advance
            )
    return rows, skipped


def _time_size(
    variants: Sequence[Variant],
    baselines: bool,
    seconds: float,
    threads: int | None,
    folder: Path,
    stack: ExitStack,
    skipped: list[str],
    advance: Callable[[str], None],
) -> Iterable[dict[str, Any]]:
    camera = camera_image()
    rows: dict[Variant, dict[str, Any]] = {}
    tasks: dict[tuple[Variant, str], Callable[[], object]] = {}
    for variant in variants:
        advance(f'loading {variant.model} {variant.backend} {variant.precision} {variant.size}')
        try:
            segmenter = stack.enter_context(variant.open(threads))
        except ModelError as error:
            skipped.append(f'{" ".join(variant)}: {error}')
            continue
        size = segmenter.input_size
        engine = segmenter.description
        if any(
            (row['model'], row['description']) == (variant.model, engine) for row in rows.values()
        ):
            continue  # auto is one of the others
        rows[variant] = _row(variant, engine, size)
        tasks[variant, 'engine'] = engine_task(segmenter)
        tasks[variant, 'segmenter'] = partial(segmenter, camera)
        original = variant.model.removesuffix('-int8')
        if not baselines or find_model(original).safetensors is None:
            continue
        from lwseg_ros.benchmark.baselines import bare_onnxruntime_task, eager_task

        for name in (EAGER, BARE):
            baseline = Variant(original, name, 'fp32', variant.size)
            if baseline not in rows:
                rows[baseline] = _row(baseline, name, size)
                tasks[baseline, 'engine'] = (
                    eager_task(original, fitted_image(size), threads)
                    if name == EAGER
                    else bare_onnxruntime_task(original, size, folder, threads)
                )
    meter = EnergyMeter()
    times: dict[tuple[Variant, str], list[float]] = {key: [] for key in tasks}
    processor: dict[tuple[Variant, str], list[float]] = {key: [] for key in tasks}
    joules: dict[tuple[Variant, str], float] = {}
    rounds = time_in_turns(tasks, seconds)
    while True:
        with meter:
            turn = next(rounds, None)
        if turn is None:
            break
        key = turn.key
        times[key] += turn.times_ms
        processor[key].append(turn.processor_ms)
        if meter.joules is not None:  # the run that is left out of the times is in it
            joules[key] = meter.joules / (len(turn.times_ms) + 1)
        advance(f'timing {key[0].model} {key[0].backend} {key[0].precision} {key[0].size}')
    for (variant, what), values in times.items():
        rows[variant][f'{what}_ms'] = percentiles(values)
        rows[variant][f'{what}_processor_ms'] = round(
            float(np.median(processor[variant, what])), 2
        )
        if (variant, what) in joules:
            rows[variant][f'{what}_joules'] = round(joules[variant, what], 4)
    for row in rows.values():
        if 'segmenter_ms' in row:
            ratio = row['segmenter_ms']['p50'] / row['engine_ms']['p50']
            row['segmenter_to_engine'] = round(ratio, 3)
    return rows.values()


def _row(variant: Variant, engine: str, size: tuple[int, int]) -> dict[str, Any]:
    height, width = size
    return {
        **variant._asdict(),
        'description': engine,
        'engine': engine.rpartition(f' {width}x{height}')[0] or engine,
        'size': f'{width}x{height}',
    }
