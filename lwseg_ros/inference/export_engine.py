"""Build a model's TensorRT engines ahead, so that the node finds them and starts at once."""

from __future__ import annotations

import os
from typing import Any

from lwseg_ros.inference.segmenter import Segmenter, Size


def export_engine(
    model: str | os.PathLike[str],
    precision: str = 'auto',
    input_size: Size | str | None = None,
    batch: int | None = None,
    engine_cache_dir: str = '',
    force_rebuild: bool = False,
) -> dict[str, Any]:
    """Build, check and keep what `Segmenter.load` needs with the same options; return a report.

    ModelError if TensorRT or the GPU is missing, or the model cannot be built.
    """
    with Segmenter.load(
        model,
        'tensorrt',
        precision=precision,
        input_size=input_size,
        batch=batch,
        engine_cache_dir=engine_cache_dir,
        force_rebuild=force_rebuild,
    ) as segmenter:
        # Only now: it is of no use, and maybe not to be imported, where TensorRT is missing.
        from lwseg_ros.inference.backends.tensorrt_engine import EngineCache

        return {
            'engine': segmenter.description,
            'batch': segmenter.batch,
            'engine_cache': str(EngineCache(engine_cache_dir).folder),
        }
