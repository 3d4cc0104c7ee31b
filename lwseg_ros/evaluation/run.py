"""What `lwseg evaluate` does: a model over a data set, its figures as tables, JSON and a sheet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track

from lwseg_ros import __version__
from lwseg_ros.datasets.dataset import Pair, open_dataset
from lwseg_ros.datasets.shares import class_shares
from lwseg_ros.errors import DataError, LwsegError
from lwseg_ros.evaluation.contact_sheet import contact_sheet, encode_png
from lwseg_ros.evaluation.evaluate import evaluate, worst_images
from lwseg_ros.evaluation.report import FIGURES, print_report
from lwseg_ros.files import sha256, write_atomically, write_json
from lwseg_ros.inference.segmenter import Segmenter


class Outputs(NamedTuple):
    """Files to write, if any: the figures as JSON, and a PNG of the `worst` images."""

    json: Path | None
    sheet: Path | None
    worst: int


def run_evaluation(
    model: str,
    data: str,
    split: str,
    outputs: Outputs,
    *,
    backend: str,
    precision: str | None,
    input_size: str,
    data_root: Path | None,
    console: Console,
) -> dict[str, Any]:
    """Measure a model on labelled images; return what the JSON file holds, and print it.

    `precision` None keeps to the file that was named, `auto` runs what the node would.

    LwsegError before the first image if something is missing or cannot be written, or if the
    labels are of no more than one class; and if there is no figure at all.
    """
    for path in (outputs.json, outputs.sheet):
        if path is not None and not path.parent.is_dir():
            raise LwsegError(f'{path} cannot be written: make the folder {path.parent} first')
    labelled = open_dataset(data, split, data_root)

    def progress(title: str) -> Callable[[Iterable[Pair]], Iterable[Pair]]:
        return lambda pairs: track(
            pairs, title, total=len(labelled.pairs), console=console, transient=True
        )

    shares = class_shares(labelled, progress('reading labels'))
    console.print(str(shares), highlight=False, markup=False, soft_wrap=True)
    shares.check_classes()
    size = None if input_size == 'model' else input_size
    with Segmenter.load(model, backend, precision=precision, input_size=size) as segmenter:
        figures = evaluate(
            segmenter,
            segmenter.label_space,
            labelled,
            progress('evaluating'),
            per_image=True,
        )
        if all(figures[name] is None for name in FIGURES):
            raise DataError(
                f'there is no figure of {labelled.name}: no labelled pixel has a counterpart '
                f'among the classes of {segmenter.info.name} ({segmenter.label_space.name})'
            )
        figures['worst'] = worst_images(figures['per_image'], outputs.worst)
        result = {
            'model': segmenter.info.name,
            'model_sha256': sha256(segmenter.path),
            'engine': segmenter.description,
            'input_size': input_size,
            'lwseg': __version__,
            'label_shares': {name: round(s, 6) for name, s in shares.of_labelled().items()},
            **figures,
        }
        if outputs.json is not None:
            write_json(outputs.json, result)
        heading = f'{result["model"]} on {result["data"]}, {result["images"]} images'
        if outputs.sheet is not None:
            title = f'{heading}: the {len(figures["worst"])} worst'
            picture = contact_sheet(
                segmenter, segmenter.label_space, labelled, figures['worst'], title
            )
            write_atomically(outputs.sheet, encode_png(picture))
    print_report(result, heading, console)
    return result
