"""Post-training quantization: an int8 ONNX model from an fp32 one, calibrated on real images.

Layers that cost more accuracy than asked stay in floating point (our choice: those that change the
most labels when they alone are quantized, until what is measured holds).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn

from lwseg_ros.datasets.dataset import LabelledImages, open_dataset, read_image, read_pair
from lwseg_ros.errors import ModelError
from lwseg_ros.evaluation.evaluate import Comparison
from lwseg_ros.files import sha256
from lwseg_ros.inference.model_info import EXTERNAL, ModelInfo
from lwseg_ros.inference.model_source import find_model
from lwseg_ros.inference.segmenter import Segmenter
from lwseg_ros.training.int8_graph import Image, Quantizer

RANKING_IMAGES = 6
"""Images of each data set on which single layers are compared."""


@dataclass(frozen=True)
class Figures:
    """What a model does on the images of one data set, compared with the unquantized model."""

    miou: float
    drivable_iou: float
    agreement: float
    """The share of pixels on which both name the same class."""

    def loss(self, reference: Figures) -> float:
        """Return how many points of mIoU or drivable IoU are lost, whichever is more."""
        return 100 * max(reference.miou - self.miou, reference.drivable_iou - self.drivable_iou)

    def rounded(self) -> dict[str, float]:
        """Return both IoU, as a model's metadata hold them."""
        return {'miou': round(self.miou, 4), 'drivable_iou': round(self.drivable_iou, 4)}


def quantize(
    model: str,
    data: Sequence[str],
    out: Path,
    split: str = 'train',
    check_split: str = '',
    data_root: Path | None = None,
    images: int = 32,
    max_loss: float = 0.5,
    minutes: float = 10.0,
    console: Console | None = None,
) -> dict[str, Any]:
    """Write the int8 form of a model and return a report.

    Of each of `data` (FORMAT:PATH), `images` of the split are taken at even distances to find the
    ranges of the activations, and as many others to measure, or all of `check_split`; what is
    measured goes into the metadata. While the loss is above `max_loss` points of mIoU or drivable
    IoU on any data set, more layers stay in floating point; to find out which, single layers are
    measured for at most `minutes`.

    ModelError, and nothing written, if the model cannot be quantized or loses more with half of
    its layers in floating point.
    """
    if out.suffix != '.onnx':
        raise ModelError(f'{out} must end in .onnx: that is what is written')
    if not out.parent.is_dir():
        raise ModelError(f'{out} cannot be written: make the folder {out.parent} first')
    source = find_model(model)
    if not isinstance(source.onnx, Path) or source.info.network == EXTERNAL:
        raise ModelError(f'{model} is not an ONNX model made by lwseg: export one first')
    if source.info.precision != 'fp32':
        raise ModelError(f'{model} is quantized already: give the model that it came from')
    sets = [open_dataset(spec, split, data_root) for spec in data]
    calibration = [_every(labelled, 0, images) for labelled in sets]
    check = [_every(labelled, 1, images) for labelled in sets]
    if check_split:
        check = [open_dataset(spec, check_split, data_root) for spec in data]
    deadline = time.monotonic() + 60 * minutes
    with (
        tempfile.TemporaryDirectory(prefix='lwseg_quantize_') as folder,
        Progress(
            *Progress.get_default_columns()[:-1], TimeRemainingColumn(), console=console
        ) as progress,
    ):
        task = progress.add_task('finding ranges', total=None)
        quantizer = Quantizer(source.onnx, source.info, Path(folder))
        quantizer.calibrate([image for labelled in calibration for image in _images(labelled)])
        progress.update(task, description='measuring fp32')
        trial = Trial(check, str(source.path))

        def measured(keep: Sequence[str]) -> list[Figures]:
            progress.update(task, description=f'measuring int8, {len(keep)} layers in fp32')
            return trial.figures(quantizer.write(keep, source.info))

        keep: list[str] = []
        figures = measured(keep)
        if trial.loss(figures) > max_loss:
            ranking = _ranking(quantizer, trial, source.info, deadline, progress)
            while trial.loss(figures) > max_loss:
                more = ranking[: max(1, 2 * len(keep))]
                if len(more) == len(keep) or 2 * len(more) > len(quantizer.layers):
                    raise ModelError(
                        f'{model} loses {trial.loss(figures):.2f} points with {len(keep)} of '
                        f'{len(quantizer.layers)} layers in floating point, {max_loss:g} are '
                        'allowed: nothing was written'
                    )
                keep = more
                figures = measured(keep)
        info = replace(
            source.info,
            name=out.stem,
            precision='int8',
            accuracy={
                labelled.name: {
                    'images': len(labelled.pairs),
                    **now.rounded(),
                    'fp32': before.rounded(),
                }
                for labelled, before, now in zip(check, trial.reference, figures, strict=True)
            },
            provenance={
                **source.info.provenance,
                'quantized_from': f'{source.info.name}, sha256 {sha256(source.path)}',
                'calibration': [f'{images} images of {labelled.name}' for labelled in sets],
                'layers_in_floating_point': quantizer.unquantized(keep),
            },
        )
        quantizer.write(keep, info, out)
    return {
        'model': str(out),
        'sha256': sha256(out),
        'bytes': out.stat().st_size,
        'layers': len(quantizer.layers),
        'layers_in_floating_point': quantizer.unquantized(keep),
        'checked_with': trial.engine,
        'data': {
            labelled.name: {
                'images': len(labelled.pairs),
                'miou': [round(before.miou, 4), round(now.miou, 4)],
                'drivable_iou': [round(before.drivable_iou, 4), round(now.drivable_iou, 4)],
                'label_agreement': round(now.agreement, 4),
            }
            for labelled, before, now in zip(check, trial.reference, figures, strict=True)
        },
    }


def _ranking(
    quantizer: Quantizer, trial: Trial, info: ModelInfo, deadline: float, progress: Progress
) -> list[str]:
    """Return the layers, those first that alone change most labels; none after the deadline."""
    short = trial.shortened(RANKING_IMAGES)
    agreement = {}
    for layer in progress.track(quantizer.layers, description='measuring single layers'):
        if time.monotonic() > deadline:
            break
        others = [name for name in quantizer.layers if name != layer]
        figures = short.figures(quantizer.write(others, info))
        agreement[layer] = min(one.agreement for one in figures)
    return sorted(agreement, key=lambda layer: agreement[layer])


class Trial:
    """Labelled images, and what the unquantized model makes of them in fp32: the `reference`."""

    def __init__(self, data: Sequence[LabelledImages], model: str) -> None:
        self._data = data
        self._model = model
        self._labels: list[list[Image]] = []
        self.engine = ''
        self.reference = self.figures(Path(model), 'fp32')

    def shortened(self, images: int) -> Trial:
        """Return a trial on the first few images of each set."""
        return Trial([_every(labelled, 0, images) for labelled in self._data], self._model)

    def loss(self, figures: Sequence[Figures]) -> float:
        """Return the loss in points on the data set where it is largest."""
        pairs = zip(figures, self.reference, strict=True)
        return max(one.loss(reference) for one, reference in pairs)

    def figures(self, path: Path, precision: str = 'auto') -> list[Figures]:
        """Run a model on all images and return its figures, data set by data set."""
        with Segmenter.load(path, precision=precision) as segmenter:
            self.engine = segmenter.description
            return [self._one(index, segmenter) for index in range(len(self._data))]

    def _one(self, index: int, segmenter: Segmenter) -> Figures:
        labelled = self._data[index]
        comparison = Comparison(segmenter.label_space, labelled.label_space)
        labels = []
        for pair in labelled.pairs:
            image, truth = read_pair(pair)
            segmentation = segmenter(image)
            comparison.update(truth, segmentation)
            labels.append(segmentation.labels)
        if index == len(self._labels):  # the reference itself
            self._labels.append(labels)
        same = sum(int((a == b).sum()) for a, b in zip(labels, self._labels[index], strict=True))
        result = comparison.result()
        return Figures(
            result['miou'] or 0.0,
            result['drivable_iou'] or 0.0,
            same / sum(plane.size for plane in labels),
        )


def _every(labelled: LabelledImages, phase: int, images: int) -> LabelledImages:
    """Return pairs at even distances; those of phase 0 and of phase 1 are different ones."""
    images = min(images, len(labelled.pairs) // 2)
    places = np.linspace(0, len(labelled.pairs) - 1, 2 * images).round().astype(int)
    chosen = places[phase::2].tolist()
    if not chosen:
        raise ModelError(f'{labelled.name} has too few images to calibrate and to measure')
    return replace(labelled, pairs=tuple(labelled.pairs[place] for place in chosen))


def _images(labelled: LabelledImages) -> Iterator[Image]:
    return (read_image(pair.image, pair.bits) for pair in labelled.pairs)
