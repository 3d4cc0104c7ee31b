"""What docs' comparisons share: the sets, how a model is judged on them, and a memory of it.

A model meets every picture once: what is kept is how many pixels of each true class it called
what. All figures come from these counts.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import typer

from lwseg_ros import Segmenter
from lwseg_ros.benchmark.environment import environment
from lwseg_ros.datasets.dataset import LabelledImages, open_dataset, read_image, read_pair
from lwseg_ros.errors import DataError, LwsegError
from lwseg_ros.evaluation.common_space import common_space
from lwseg_ros.evaluation.metrics import ConfusionMatrix, figure, pair_counts, ratio
from lwseg_ros.files import sha256, write_json
from lwseg_ros.inference.model_info import EXTERNAL
from lwseg_ros.inference.model_source import find_model
from lwseg_ros.inference.segmenter import Image, Size, aligned_size, parse_size
from lwseg_ros.label_space import LabelSpace

HERE = Path(__file__).resolve().parent
OURS = 'camvid'
"""The label space of our models, which every truth is asked in."""

DARK = 60
"""Pictures of a lower mean luminance (0 to 255) are dark: 90 of BDD's 242, and there is a gap."""

Counts = npt.NDArray[np.int64]
Predict = Callable[[Image], Image]


class JudgingSet(NamedTuple):
    """Labelled pictures to judge by; `road_everywhere` if truth says all that is road."""

    title: str
    data: str
    split: str
    road_everywhere: bool = True


SETS = {
    'camvid': JudgingSet('CamVid val', 'camvid:camvid', 'val'),
    'idd': JudgingSet('IDD-Lite val', 'idd_lite:idd_lite', 'val'),
    'cityscapes': JudgingSet('Ulm + Zurich', 'cityscapes_label_ids:cityscapes_512x256_val', 'all'),
    'lums': JudgingSet('LUMS val', 'folder:lums', 'val'),
    'bdd': JudgingSet('BDD', 'folder:bdd_drivable', 'all', road_everywhere=False),
}


@dataclass(frozen=True)
class Candidate:
    """Something that labels pictures.

    `size_for` gives the network size (height, width) for pictures of a size; `open` what turns a
    picture uint8 RGB `[H, W, 3]` into labels uint8 `[H, W]` in `space` at a network size.
    """

    name: str
    file: Path
    space: LabelSpace
    size_for: Callable[[Size], Size]
    open: Callable[[Size], Predict]
    parameters: int | None = None


def model_candidate(
    text: str, description: Path | None = None, name: str | None = None
) -> Candidate:
    """Return a model that `Segmenter` loads: `MODEL`, or `MODEL@SIZE` (see `network_size`).

    In fp32, or int8 if the file is: `auto` would be another precision on another machine.
    """
    model, _, size = text.partition('@')
    source = find_model(model, description)
    own, space, precision = source.info.input_size, source.info.label_space, source.info.precision
    if source.info.network == EXTERNAL:
        precision = 'fp32'

    def open_(size: Size) -> Predict:
        segmenter = Segmenter.load(
            model, precision=precision, input_size=size, description=description
        )
        return lambda image: segmenter(image).labels

    return Candidate(
        name or source.path.stem + (f'@{size}' if size else ''),
        source.path,
        space,
        lambda picture: network_size(size or 'model', own, picture),
        open_,
    )


def network_size(text: str, own: Size, picture: Size) -> Size:
    """Return the network size (height, width) that `text` asks for.

    `model` is the model's `own`; `WIDTHxHEIGHT` that; `area:N` has about N pixels, the aspect of
    the picture, and sides at which a model of this `own` size sees best (see `aligned_size`).
    """
    if text == 'model':
        return own
    kind, _, number = text.partition(':')
    if kind != 'area':
        return parse_size(text)
    if not number.isdecimal() or int(number) < 1:
        raise DataError(f'{text!r} is not a size: give area:N with N pixels, area:154000, say')
    factor = (int(number) / (picture[0] * picture[1])) ** 0.5
    height, width = (round(factor * extent) for extent in picture)
    return aligned_size((height, width), own)


def judge(
    candidate: Candidate,
    set_: JudgingSet,
    data_root: Path,
    memory: Path,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Return what a candidate called the pictures of a set; from `memory` if it is there.

    `light` and `dark` are lists of [true id, id that the candidate named, pixels].
    """
    data = open_dataset(set_.data, set_.split, data_root)
    picture = read_image(data.pairs[0].image).shape
    size = candidate.size_for((picture[0], picture[1]))
    key = {
        'model_sha256': sha256(candidate.file),
        'classes': candidate.space.names,
        'data_sha256': data_digest(data),
        'size': f'{size[1]}x{size[0]}',
    }
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    kept = memory / f'{candidate.file.stem}_{key["size"]}_{digest}.json'
    if kept.exists():
        content: dict[str, Any] = json.loads(kept.read_text(encoding='utf-8'))
        return content
    counts = {name: np.zeros((256, 256), np.int64) for name in ('light', 'dark')}
    predict = candidate.open(size)
    for pair in data.pairs:
        image, truth = read_pair(pair)
        group = 'dark' if luminance(image) < DARK else 'light'
        counts[group] += pair_counts(truth, predict(image))
        advance()
    content = {
        **key,
        'images': len(data.pairs),
        'machine': environment()['machine']['processor'],
        **{
            name: [[int(t), int(p), int(table[t, p])] for t, p in np.argwhere(table)]
            for name, table in counts.items()
        },
    }
    memory.mkdir(parents=True, exist_ok=True)
    write_json(kept, content)
    return content


def counts_of(judged: Mapping[str, Any], *groups: str) -> Counts:
    """Return the counts int64 `[256, 256]`, truth by prediction, of some groups together."""
    counts = np.zeros((256, 256), np.int64)
    for group in groups or ('light', 'dark'):
        for truth, predicted, pixels in judged[group]:
            counts[truth, predicted] += pixels
    return counts


def road_figures(
    counts: Counts, truth: LabelSpace, model: LabelSpace
) -> dict[str, float | dict[str, float | None] | None]:
    """Return what is said of the road: IoU, false and missed road, and where road was seen.

    A true class that can only be our `road` is road; one that cannot be is not; one that may be
    either says nothing. What a model calls road are its drivable classes. `called_road` is for
    each true class the share of its pixels that the model calls road.
    """
    ours = LabelSpace.load(OURS)
    road = {ours.class_id('road')}
    sets = {i: set(ids) for i, ids in truth.label_sets(ours).items()}
    is_road = [i for i, ids in sets.items() if ids == road]
    is_not = [i for i, ids in sets.items() if not ids & road]
    called = list(model.drivable_ids)
    hits, all_road = counts[np.ix_(is_road, called)].sum(), counts[is_road].sum()
    false, all_else = counts[np.ix_(is_not, called)].sum(), counts[is_not].sum()
    share = ratio(counts[:, called].sum(1), counts.sum(1))
    return {
        'road_iou': figure(float(ratio(hits, all_road + false))),
        'false_road': figure(float(ratio(false, all_else))),
        'missed_road': figure(float(ratio(all_road - hits, all_road))),
        'called_road': {c.name: figure(share[c.id]) for c in truth.classes},
    }


def class_figures(counts: Counts, truth: LabelSpace, model: LabelSpace) -> dict[str, Any] | None:
    """Return mIoU and the IoU of each class; None for a model that has not these classes.

    The classes are the finest that ours and the truth can both tell, whatever the model's: the
    same question to all.
    """
    space = common_space(LabelSpace.load(OURS), truth)
    try:
        predicted = model.lookup_table(space)
    except DataError:
        return None
    confusion = ConfusionMatrix(space.num_classes)
    true = truth.lookup_table(space)
    for (t, p), pixels in np.ndenumerate(counts):
        if pixels and true[t] < space.num_classes:
            confusion.counts[true[t], min(int(predicted[p]), space.num_classes)] += pixels
    present = confusion.counts.sum(1) > 0
    iou = confusion.iou()
    return {
        'miou': figure(confusion.mean_iou()),
        'iou': {name: figure(iou[i]) for i, name in enumerate(space.names) if present[i]},
    }


def luminance(image: Image) -> float:
    """Return the mean luminance of an RGB picture, 0 to 255."""
    return float(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean())


def data_digest(data: LabelledImages) -> str:
    """Return the SHA-256 of all files of a set, in their order."""
    digest = hashlib.sha256()
    for pair in data.pairs:
        for path in (pair.image, pair.labels):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def write_between(page: Path, name: str, lines: list[str]) -> None:
    """Put lines between the markers `<!-- name -->` and `<!-- end of name -->` of a page."""
    start, end = f'<!-- {name} -->\n', f'<!-- end of {name} -->'
    text = page.read_text(encoding='utf-8')
    before, found, rest = text.partition(start)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise DataError(f'{page} has no lines {start.strip()} and {end}: put them there')
    body = ''.join(f'{line}\n' for line in lines)
    page.write_text(f'{before}{start}{body}{end}{after}', encoding='utf-8')


def run(app: typer.Typer) -> None:
    """Run a script's commands; an expected error is one line on stderr and exit status 1."""
    try:
        app()
    except LwsegError as error:
        sys.exit(f'{Path(sys.argv[0]).name}: {error}')
