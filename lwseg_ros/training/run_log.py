"""How a run of training is followed: in the terminal and in TensorBoard."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from lwseg_ros.datasets.shares import ClassShares


class RunLog:
    """Tells of a run, in the one process of it that `writes`."""

    def __init__(self, folder: Path, writes: bool) -> None:
        self._folder, self._writes = folder, writes
        self._console = Console(quiet=not writes)
        self._board: SummaryWriter | None = None

    @contextlib.contextmanager
    def begin(self, iteration: int) -> Iterator[Progress]:
        """Give the bars of the terminal; TensorBoard's curves go on after what is there."""
        progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        with progress, contextlib.ExitStack() as stack:
            if self._writes:
                folder = str(self._folder / 'tensorboard')
                board = SummaryWriter(folder, purge_step=iteration + 1)
                self._board = stack.enter_context(board)
            yield progress

    def add_class_shares(self, data_sets: Iterable[ClassShares]) -> None:
        """Tell the share of each class in some data sets."""
        for shares in data_sets:
            self._console.print(str(shares), highlight=False, markup=False, soft_wrap=True)

    def add_losses(
        self, iteration: int, losses: Mapping[str, float], rates: Mapping[str, float]
    ) -> None:
        """Tell the terms of the loss, and the learning rates by part of the network."""
        if not self._console.is_terminal:
            line = f'{iteration:6d}  loss {losses["loss"]:.3f}'
            self._console.print(line, highlight=False)
        if self._board is not None:
            for name, value in losses.items():
                self._board.add_scalar(f'loss/{name}', value, iteration)
            for part, rate in rates.items():
                self._board.add_scalar(f'learning_rate/{part}', rate, iteration)

    def add_validation(
        self, result: Mapping[str, Any], pictures: Iterable[Mapping[str, npt.NDArray[np.uint8]]]
    ) -> None:
        """Tell the figures of a validation, and show the pictures of each of its data sets."""
        iteration = result['iteration']
        if self._board is not None:
            for figures, shown in zip(result['sets'], pictures, strict=True):
                for name, value in figures.items():
                    if isinstance(value, float):
                        self._board.add_scalar(f'{figures["data"]}/{name}', value, iteration)
                for name, picture in shown.items():
                    tag = f'{figures["data"]}/{name}'
                    self._board.add_image(tag, picture, iteration, dataformats='HWC')
        self._console.print(_summary(result), highlight=False)


def _summary(result: Mapping[str, Any]) -> str:
    figures = [f'{result["iteration"]:6d}  loss {result["loss"]:.3f}']
    for s in result['sets']:
        figures.append(f'{s["data"]} mIoU {s["miou"]:.4f}')
        if s['drivable_iou'] is not None:
            figures.append(f'drivable {s["drivable_iou"]:.4f}')
    return '  '.join(figures)
