"""Arguments and options that several commands take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer


def _shipped_models(incomplete: str) -> Iterator[str]:
    from lwseg_ros.inference.model_source import list_models

    return (name for name in list_models() if name.startswith(incomplete))


Model = Annotated[
    str,
    typer.Argument(
        help='A shipped model (road) or the path of a model file.', autocompletion=_shipped_models
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(help='A shipped model or the path of a file.', autocompletion=_shipped_models),
]
Description = Annotated[
    Path | None, typer.Option(help="YAML for somebody else's ONNX, if not beside it.")
]
Backend = Annotated[
    str,
    typer.Option(help='auto, tensorrt, openvino, onnxruntime or torch; auto takes the fastest.'),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help='auto, fp32, fp16, bf16 or int8; auto and int8 may take the int8 file of a shipped '
        'model. Without it the file that was named, in the arithmetic that is fastest here.'
    ),
]
InputSize = Annotated[
    str, typer.Option(help="model (the model's own), source (each image's own), or WxH.")
]
Alpha = Annotated[
    float, typer.Option(min=0, max=1, help='Share of the label colours in the overlay.')
]
DataRoot = Annotated[
    Path | None,
    typer.Option(help='Folder that relative data paths start from; else $LWSEG_DATA.'),
]
