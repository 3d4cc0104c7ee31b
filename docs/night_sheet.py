"""Pictures at night, to look at: `python docs/night_sheet.py MODEL... --out FILE.png`.

A row for each dark picture of BDD: the picture, then each model's labels over it. The pictures
are not ours to publish, so the file must lie outside this repository.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from judging import DARK, HERE, SETS, luminance, model_candidate, run

from lwseg_ros.datasets.dataset import open_dataset, read_image
from lwseg_ros.errors import LwsegError
from lwseg_ros.evaluation.contact_sheet import encode_png
from lwseg_ros.files import write_atomically
from lwseg_ros.inference.segmenter import Image
from lwseg_ros.overlay import overlay

WIDTH = 480
CAPTION = 22

app = typer.Typer(add_completion=False)


@app.command()
def sheet(
    models: Annotated[list[str], typer.Argument(help='MODEL or MODEL@SIZE.')],
    out: Annotated[Path, typer.Option(help='The PNG file, outside this repository.')],
    data_root: Annotated[Path, typer.Option(envvar='LWSEG_DATA', help='Folder of the data sets.')],
    pictures: Annotated[int, typer.Option(min=1, help='How many, evenly among the dark.')] = 12,
) -> None:
    """Draw what models see in dark pictures."""
    if out.resolve().is_relative_to(HERE.parent):
        raise LwsegError(f'{out} is in this repository: write it elsewhere')
    if not out.parent.is_dir():
        raise LwsegError(f'{out} cannot be written: make the folder {out.parent} first')
    data = open_dataset(SETS['bdd'].data, SETS['bdd'].split, data_root)
    images = [read_image(pair.image) for pair in data.pairs]
    dark = [image for image in images if luminance(image) < DARK]
    chosen = [dark[i] for i in np.linspace(0, len(dark) - 1, min(pictures, len(dark))).astype(int)]
    columns = [[caption('camera'), *map(fitted, chosen)]]
    for model in models:
        candidate = model_candidate(model)
        predict = candidate.open(candidate.size_for((chosen[0].shape[0], chosen[0].shape[1])))
        overlays = [overlay(i, predict(i), candidate.space.palette, 0.5) for i in chosen]
        columns.append([caption(candidate.name), *map(fitted, overlays)])
    write_atomically(out, encode_png(np.hstack([np.vstack(column) for column in columns])))
    print(f'{out}: {len(chosen)} of {len(dark)} dark pictures')


def fitted(image: Image) -> Image:
    """Return the picture at the sheet's width, brighter than it is."""
    height = round(image.shape[0] * WIDTH / image.shape[1])
    small = np.asarray(cv2.resize(image, (WIDTH, height), interpolation=cv2.INTER_AREA), float)
    return np.asarray(255 * (small / 255) ** 0.7, np.uint8)


def caption(text: str) -> Image:
    """Return a strip with a text."""
    strip = np.full((CAPTION, WIDTH, 3), 28, np.uint8)
    cv2.putText(strip, text, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (240, 240, 240), 1)
    return strip


if __name__ == '__main__':
    run(app)
