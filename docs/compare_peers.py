"""Our models and those of others on every set: `python docs/compare_peers.py --data-root DATA`.

What was judged is kept in --out, by the digests of model and data, and not judged again. Peers
lie beside the data: ../weights/efficientvit_b0_cityscapes.safetensors and ../peers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from judging import (
    DARK,
    HERE,
    SETS,
    Candidate,
    JudgingSet,
    Predict,
    class_figures,
    counts_of,
    judge,
    model_candidate,
    road_figures,
    run,
    write_between,
)
from rich.console import Console
from rich.progress import Progress

from lwseg_ros.benchmark.environment import environment
from lwseg_ros.datasets.dataset import open_dataset
from lwseg_ros.errors import LwsegError
from lwseg_ros.files import sha256, write_atomically, write_json
from lwseg_ros.inference.model_source import list_models
from lwseg_ros.inference.openvino_core import openvino_core
from lwseg_ros.inference.segmenter import Image, Size
from lwseg_ros.label_space import LabelClass, LabelSpace

EFFICIENTVIT_SIZE = (736, 960)
EFFICIENTVIT_AREAS = {'960x736': 706_560, '640x480': 308_000}
"""Pixels at each set's aspect, by what that is for CamVid: at the smaller, it reads small and
blurred pictures better."""

ADAS_SIZE = (512, 896)
ADAS_SPACE = LabelSpace(
    'road_segmentation_adas',
    (
        LabelClass(0, 'background', (0, 0, 0)),
        LabelClass(1, 'road', (128, 64, 128), drivable=True),
        LabelClass(2, 'kerb', (196, 196, 196)),
        LabelClass(3, 'marking', (255, 255, 255), drivable=True),
    ),
)

# Each: heading, set, figure as a path into its figures, and whether the least is best.
Column = tuple[str, str, tuple[str, ...], bool]
MIOU, ROAD, FALSE = ('miou',), ('road_iou',), ('false_road',)
ACCURACY: list[Column] = [
    (f'{SETS[name].title} {heading}', name, figure, False)
    for name in ('camvid', 'idd', 'cityscapes', 'lums')
    for heading, figure in (('mIoU', MIOU), ('road', ROAD))
]
FALSE_ROAD: list[Column] = [
    (SETS[name].title, name, FALSE, True) for name in ('camvid', 'idd', 'cityscapes', 'lums')
]
FALSE_ROAD.append(('U + Z: own car, static', 'cityscapes', ('called_road', 'unlabeled'), True))
BDD: list[Column] = [
    (f'{when}: {heading}', 'bdd', (*group, 'called_road', name), least)
    for when, group in (('all', ()), ('dark', ('dark',)))
    for heading, name, least in (
        ('lane found', 'drivable', False),
        ('own car', 'own_car', True),
        ('upper third', 'above', True),
    )
]
TABLES = {'accuracy': ACCURACY, 'false road': FALSE_ROAD, 'bdd': BDD}

app = typer.Typer(add_completion=False)


@app.command()
def compare(
    data_root: Annotated[Path, typer.Option(envvar='LWSEG_DATA', help='Folder of the data sets.')],
    models: Annotated[
        list[str] | None,
        typer.Argument(help='MODEL or MODEL@SIZE, SIZE as WxH or area:N; every shipped model.'),
    ] = None,
    out: Annotated[Path, typer.Option(help='Folder of the results.')] = Path('runs/peers'),
    peers: Annotated[bool, typer.Option(help='Judge the peers too.')] = True,
    only: Annotated[list[str] | None, typer.Option(help=f'Sets: {", ".join(SETS)}; all.')] = None,
    page: Annotated[bool, typer.Option('--page', help='Write into docs/accuracy.md.')] = False,
) -> None:
    """Judge models and peers on every set; write a table and a JSON file."""
    console = Console()
    unknown = sorted({*(only or ())} - {*SETS})
    if unknown:
        raise LwsegError(f'there is no set {", ".join(unknown)}: give one of {", ".join(SETS)}')
    out.mkdir(parents=True, exist_ok=True)
    candidates = [model_candidate(model) for model in models or list_models()]
    if peers:
        candidates += all_peers(data_root.parent, out)
    chosen = {name: set_ for name, set_ in SETS.items() if not only or name in only}
    result = {
        'command': 'python docs/compare_peers.py --data-root DATA',
        'dark_below': DARK,
        **environment(),
        'sets': {name: set_._asdict() for name, set_ in chosen.items()},
        'models': judge_all(candidates, chosen, data_root, out / 'judged', console),
    }
    columns = {
        title: [column for column in table if column[1] in chosen]
        for title, table in TABLES.items()
    }
    result['leads'] = {
        f'{title}: {column[0]}': sorted(leaders(column, result['models']))
        for title, table in columns.items()
        for column in table
    }
    lines = [
        line
        for table in columns.values()
        if table
        for line in (*table_lines(table, result['models']), '')
    ]
    write_json(out / 'peers.json', result)
    write_atomically(out / 'peers.md', '\n'.join(lines).encode())
    if page:
        write_between(HERE / 'accuracy.md', 'peers', lines)
    console.print('\n'.join(lines), markup=False, highlight=False, soft_wrap=True)


def judge_all(
    candidates: list[Candidate],
    sets: Mapping[str, JudgingSet],
    data_root: Path,
    memory: Path,
    console: Console,
) -> dict[str, Any]:
    """Return the figures of each candidate on each set, by their names."""
    opened = {name: open_dataset(s.data, s.split, data_root) for name, s in sets.items()}
    pictures = sum(len(data.pairs) for data in opened.values())
    rows: dict[str, Any] = {}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task('', total=pictures * len(candidates))
        seen = 0
        for candidate in candidates:
            row: dict[str, Any] = {'sha256': sha256(candidate.file), 'sets': {}}
            for name, set_ in sets.items():
                progress.update(task, description=f'{candidate.name}, {set_.title}')
                judged = judge(candidate, set_, data_root, memory, lambda: progress.advance(task))
                seen += len(opened[name].pairs)
                progress.update(task, completed=seen)
                row['sets'][name] = figures(
                    judged, set_, opened[name].label_space, candidate.space
                )
            rows[candidate.name] = row
    return rows


def figures(
    judged: dict[str, Any], set_: JudgingSet, truth: LabelSpace, model: LabelSpace
) -> dict[str, Any]:
    """Return all that is said of a model on a set."""
    kept = ('size', 'images', 'data_sha256', 'machine')
    found = {name: judged[name] for name in kept}
    if not set_.road_everywhere:
        shares = {
            group: {'called_road': road_figures(counts, truth, model)['called_road']}
            for group, counts in (
                ('all', counts_of(judged)),
                ('dark', counts_of(judged, 'dark')),
            )
        }
        return {**found, **shares['all'], 'dark': shares['dark']}
    counts = counts_of(judged)
    classes = class_figures(counts, truth, model) or {}
    return {**found, **classes, **road_figures(counts, truth, model)}


def all_peers(folder: Path, out: Path) -> list[Candidate]:
    """Return the models of others that lie beside the data; LwsegError if one is not there."""
    weights = folder / 'weights' / 'efficientvit_b0_cityscapes.safetensors'
    intel = folder / 'peers' / 'road-segmentation-adas-0001.xml'
    twin = folder / 'peers' / 'twinlitenet_bdd100k.onnx'
    for path in (weights, intel, intel.with_suffix('.bin'), twin):
        if not path.is_file():
            raise LwsegError(f'there is no {path}: put the peers there, or give --no-peers')
    return [
        *efficientvit(weights, out),
        adas(intel),
        model_candidate(
            str(twin),
            HERE.parent / 'config' / 'models' / 'twinlitenet_bdd100k.yaml',
            'TwinLiteNet',
        ),
    ]


def efficientvit(weights: Path, out: Path) -> list[Candidate]:
    """Return EfficientViT-Seg-B0 with its 19 Cityscapes classes, as `lwseg export` makes it.

    At each area of `EFFICIENTVIT_AREAS`.
    """
    exported = out / f'efficientvit_seg_b0_{sha256(weights)[:8]}.onnx'
    if not exported.exists():
        from lwseg_ros.inference.export import export_checkpoint
        from lwseg_ros.training.checkpoint_import import import_checkpoint

        checkpoint = exported.with_suffix('.safetensors')
        import_checkpoint(
            weights, checkpoint, 'efficientvit_seg_b0', 'cityscapes', EFFICIENTVIT_SIZE
        )
        export_checkpoint(checkpoint, exported)
    return [
        model_candidate(f'{exported}@area:{area}', name=f'EfficientViT-Seg-B0, {size}')
        for size, area in EFFICIENTVIT_AREAS.items()
    ]


def adas(path: Path) -> Candidate:
    """Return Intel's road-segmentation-adas-0001, which is OpenVINO's own format, in fp32."""

    def open_(size: Size) -> Predict:
        compiled = openvino_core().compile_model(path, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})

        def predict(image: Image) -> Image:
            fitted = cv2.resize(image[:, :, ::-1], size[::-1])
            planes = compiled(fitted.transpose(2, 0, 1)[None].astype(np.float32))[0][0]
            labels = planes.argmax(0).astype(np.uint8)
            height, width = image.shape[:2]
            enlarged = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
            return np.asarray(enlarged, np.uint8)

        return predict

    name = 'road-segmentation-adas-0001'
    return Candidate(name, path.with_suffix('.bin'), ADAS_SPACE, lambda _: ADAS_SIZE, open_)


def value(column: Column, row: Mapping[str, Any]) -> float | None:
    """Return a model's figure of a column; None where it has none."""
    found: Any = row['sets'][column[1]]
    for name in column[2]:
        found = found.get(name) if found else None
    return None if found is None else float(found)


def leaders(column: Column, rows: Mapping[str, Any]) -> set[str]:
    """Return the models that lead a column, as it is printed."""
    known = {name: value(column, row) for name, row in rows.items()}
    printed = {name: round(100 * v, 1) for name, v in known.items() if v is not None}
    if not printed:
        return set()
    best = (min if column[3] else max)(printed.values())
    return {name for name, v in printed.items() if v == best}


def table_lines(columns: list[Column], rows: Mapping[str, Any]) -> list[str]:
    """Return a table in Markdown, in percent; what leads a column is bold."""
    lead = {column[0]: leaders(column, rows) for column in columns}
    lines = [f'| model | {" | ".join(column[0] for column in columns)} |']
    lines.append('|' + '---|' * (1 + len(columns)))
    for name, row in rows.items():
        cells = []
        for column in columns:
            found = value(column, row)
            text = '–' if found is None else f'{100 * found:.1f}'
            cells.append(f'**{text}**' if name in lead[column[0]] else text)
        lines.append(f'| {name} | {" | ".join(cells)} |')
    return lines


if __name__ == '__main__':
    run(app)
