"""How cost grows with pixels, cameras and classes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lwseg_ros.benchmark.engines import Variant, engine_task
from lwseg_ros.benchmark.startup import first_labels
from lwseg_ros.benchmark.timing import percentiles, time_in_turns
from lwseg_ros.inference.segmenter import Segmenter

SIZES = ('257x193', '385x257', '513x385', '769x513', '1025x769')
CAMERAS = (1, 2, 3, 6)
CLASSES = (19, 60, 150)
NETWORK = 'lw_refinenet_mobilenet_v2'


def time_pixels(
    variant: Variant, seconds: float, advance: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Return the engine's time and the memory of a process for several network sizes."""
    variants = {size: variant._replace(size=size) for size in SIZES}
    segmenters = {size: one.open() for size, one in variants.items()}
    times: dict[str, list[float]] = {size: [] for size in SIZES}
    tasks = {size: engine_task(segmenter) for size, segmenter in segmenters.items()}
    for turn in time_in_turns(tasks, seconds):
        advance(f'{turn.key} pixels')
        times[turn.key] += turn.times_ms
    rows = []
    for size, segmenter in segmenters.items():
        height, width = segmenter.input_size
        segmenter.close()
        rows.append(
            {
                'size': size,
                'pixels': height * width,
                'engine_ms': percentiles(times[size]),
                'memory_mb': round(first_labels(variants[size])['memory_mb'], 1),
            }
        )
    return rows


def time_classes(
    backend: str, seconds: float, advance: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Return the time of an untrained network of 19, 60 and 150 classes at 512x512.

    On one backend: `network_ms` of the network alone up to its logits, as OpenVINO by itself runs
    it or, for any other backend, ONNX Runtime in fp32; `engine_ms` with everything from pixels to
    labels, confidence and drivable score.
    """
    from lwseg_ros.benchmark.baselines import (
        export_bare,
        model_of_classes,
        onnxruntime_task,
        openvino_task,
    )

    with tempfile.TemporaryDirectory(prefix='lwseg_') as folder:
        tasks: dict[tuple[int, str], Callable[[], object]] = {}
        for classes in CLASSES:
            advance(f'exporting {classes} classes')
            path = Path(folder, f'{classes}.onnx')
            bare = path.with_suffix('.bare.onnx')
            export_bare(model_of_classes(NETWORK, classes, path), (512, 512), bare)
            segmenter = Segmenter.load(path, backend)
            engine = segmenter.backend.description
            alone_task = openvino_task if engine.startswith('openvino') else onnxruntime_task
            tasks[classes, 'network_ms'] = alone_task(bare)
            tasks[classes, 'engine_ms'] = engine_task(segmenter)
        times: dict[tuple[int, str], list[float]] = {key: [] for key in tasks}
        for turn in time_in_turns(tasks, seconds):
            advance(f'{turn.key[0]} classes')
            times[turn.key] += turn.times_ms
    rows = []
    for classes in CLASSES:
        alone, whole = (percentiles(times[classes, k]) for k in ('network_ms', 'engine_ms'))
        share = 1 - alone['p50'] / whole['p50']
        rows.append(
            {
                'classes': classes,
                'engine': engine,
                'network_ms': alone,
                'engine_ms': whole,
                'share_around_the_network': round(max(share, 0.0), 3),
            }
        )
    return rows
