"""An MP4 of overlays that is there complete or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lwseg_ros.errors import LwsegError


@dataclass
class OverlayVideo:
    """A video at `rate` Hz, written under a temporary name and renamed when it is complete.

    A context manager; without a frame there is no file. LwsegError if it cannot be written.
    """

    path: Path
    rate: float
    written: list[Path] = field(default_factory=list)
    _writer: cv2.VideoWriter | None = None
    _size: tuple[int, int] = (0, 0)
    _frames: int = 0

    def __post_init__(self) -> None:
        self._partial = self.path.with_name(f'.{self.path.stem}.part.mp4')

    def add(self, image: NDArray[np.uint8]) -> None:
        """Append a frame RGB uint8 `[H, W, 3]`; one of another size is fitted to the first."""
        if self._writer is None:
            self._size = (image.shape[1], image.shape[0])
            code = cv2.VideoWriter.fourcc(*'mp4v')
            self._writer = cv2.VideoWriter(str(self._partial), code, self.rate, self._size)
            if not self._writer.isOpened():
                raise LwsegError(f'{self.path} cannot be written: no MP4 encoder in this OpenCV')
        picture: Any = image
        if (image.shape[1], image.shape[0]) != self._size:
            picture = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self._frames += 1

    def close(self) -> None:
        """Complete the file; OpenCV says nothing of a full disk, so it is looked at."""
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        capture = cv2.VideoCapture(str(self._partial))
        frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if frames != self._frames:
            self._partial.unlink(missing_ok=True)
            raise LwsegError(
                f'{self.path} cannot be written: {frames} of {self._frames} frames came through, '
                'is the disk full?'
            )
        self._partial.replace(self.path)
        self.written.append(self.path)

    def abort(self) -> None:
        """Give the file up."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> OverlayVideo:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()
