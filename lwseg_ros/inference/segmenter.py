"""`Segmenter`: a camera image in, labels, confidence and the drivable area out, at any size."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import TracebackType
from typing import Any, overload

import cv2
import numpy as np
from numpy.typing import NDArray

from lwseg_ros.errors import FrameError, InferenceError, LwsegError, ModelError
from lwseg_ros.inference.backends import open_backend
from lwseg_ros.inference.backends.base import Backend, BackendOptions
from lwseg_ros.inference.model_file import EXTERNAL, ModelInfo, ModelSource, find_model
from lwseg_ros.label_space import LabelSpace

Image = NDArray[np.uint8]
Size = tuple[int, int]

DRIVABLE_FROM = 128
"""The least `drivable_score` of a drivable pixel."""


@dataclass(frozen=True)
class Segmentation:
    """The answer for one image; every array is uint8 `[H, W]`.

    `labels` are class ids; `confidence` is 255 times the top probability; `drivable_score` is
    255 times the probability that a drivable class beats all others, >= 128 where it does.
    """

    labels: Image
    confidence: Image
    drivable_score: Image

    @cached_property
    def drivable(self) -> Image:
        """255 where `drivable_score` says drivable, else 0."""
        _, mask = cv2.threshold(self.drivable_score, DRIVABLE_FROM - 1, 255, cv2.THRESH_BINARY)
        return _uint8(mask)


class Segmenter:
    """A model on a backend: call it with an image, or a list of images.

        segmenter = Segmenter.load('road')
        result = segmenter(image)           # uint8 RGB [H, W, 3]
        result.labels, result.confidence, result.drivable

    One call at a time. It is a context manager; `close` frees the model.
    """

    def __init__(
        self,
        source: ModelSource,
        backend: str,
        options: BackendOptions,
        drivable_classes: NDArray[np.float32],
        follows_source: bool,
    ) -> None:
        self._source = source
        self._backend_name = backend
        self._drivable_classes = drivable_classes
        self._follows_source = follows_source
        self._backend: Backend | None = None
        self._open(options)

    @classmethod
    def load(
        cls,
        path_or_name: str | os.PathLike[str],
        backend: str = 'auto',
        device: str = '',
        precision: str = 'auto',
        input_size: Size | str | None = None,
        drivable_classes: Iterable[int | str] | None = None,
        threads: int | None = None,
        description: str | os.PathLike[str] | None = None,
    ) -> Segmenter:
        """Load a shipped model by name (`'road'`) or a model file by path.

        `backend`: auto, openvino, onnxruntime or torch. `precision`: auto, fp32, bf16.
        `input_size`: the network size (height, width) or `'WIDTHxHEIGHT'`; None is the model's
        own; `'source'` follows the image's size (see `aligned_size`), compiling anew when it
        changes.
        `drivable_classes`: ids or names, replacing the label space's drivable flags.
        `description`: the YAML file for an ONNX model of somebody else, when not beside it.

        ModelError if the model, its metadata or the backend cannot be used.
        """
        source = find_model(path_or_name, description)
        space = source.info.label_space
        follows_source = input_size == 'source'
        size = source.info.input_size
        if input_size is not None and not follows_source:
            size = parse_size(input_size)
        if source.fixed_size and (follows_source or size != source.info.input_size):
            height, width = source.info.input_size
            raise ModelError(
                f'{source.path} runs at {width}x{height} only, not at {input_size}: export it '
                'with symbolic sizes or leave the input size to it'
            )
        options = BackendOptions(size, device, precision, threads)
        return cls(
            source, backend, options, space.drivable_vector(drivable_classes), follows_source
        )

    @overload
    def __call__(self, image: Image, output_size: Size | str | None = None) -> Segmentation: ...

    @overload
    def __call__(
        self, image: Sequence[Image], output_size: Size | str | None = None
    ) -> list[Segmentation]: ...

    def __call__(
        self, image: Image | Sequence[Image], output_size: Size | str | None = None
    ) -> Segmentation | list[Segmentation]:
        """Segment an image uint8 RGB `[H, W, 3]`, or each of a list.

        `output_size` of the results: None or `'source'` is the image's own, `'network'` the
        network size, else (height, width) or `'WIDTHxHEIGHT'`.

        FrameError if it is not such an image, InferenceError if the network fails on it.
        """
        if isinstance(image, (list, tuple)):
            return [self._segment(one, output_size) for one in image]
        return self._segment(image, output_size)

    def _segment(self, image: Any, output_size: Size | str | None) -> Segmentation:
        image = _checked(image)
        if self._follows_source:
            followed = image.shape[:2]
            if self.info.network != EXTERNAL:
                followed = aligned_size(followed)
            if followed != self.input_size:
                self._open(replace(self._options, input_size=followed))
        planes = self._run(self._fit(image))
        if output_size is None or output_size == 'source':
            size = image.shape[:2]
        elif output_size == 'network':
            size = self.input_size
        else:
            size = parse_size(output_size)
        return enlarged(planes, size)

    def _fit(self, image: Image) -> Image:
        """Return the image at network size, `[1, h, w, 3]`."""
        height, width = self.input_size
        if image.shape[:2] == (height, width):
            return np.ascontiguousarray(image)[np.newaxis]
        cv2.resize(image, (width, height), dst=self._fitted[0], interpolation=cv2.INTER_LINEAR)
        return self._fitted

    def _run(self, images: Image) -> tuple[Image, Image, Image]:
        if self._backend is None:
            raise InferenceError('the segmenter is closed: load the model again')
        try:
            labels, confidence, drivable = self._backend.run(images, self._drivable_classes)
        except Exception as error:  # whatever the library raises, the frame has no answer
            reason = ' '.join(str(error).split())[:300]
            raise InferenceError(
                f'inference of {self.info.name} failed: {type(error).__name__}: {reason}'
            ) from error
        broken = confidence.size - cv2.countNonZero(confidence[0])
        if broken:
            raise InferenceError(
                f'the network {self.info.name} gave NaN or infinity at {broken} of '
                f'{confidence.size} pixels: the frame has no answer'
            )
        return labels[0], confidence[0], drivable[0]

    def _open(self, options: BackendOptions) -> None:
        self.close()
        self._options = options
        self._backend = open_backend(self._backend_name, self._source, options)
        self._fitted: Image = np.empty((1, *options.input_size, 3), np.uint8)

    @property
    def info(self) -> ModelInfo:
        """What the model file says of itself."""
        return self._source.info

    @property
    def label_space(self) -> LabelSpace:
        """The classes of the labels."""
        return self._source.info.label_space

    @property
    def input_size(self) -> Size:
        """The network size (height, width)."""
        return self._options.input_size

    @property
    def description(self) -> str:
        """Backend, version, precision, device and network size (width x height) in one line."""
        backend = self._backend.description if self._backend else 'closed'
        height, width = self.input_size
        return f'{backend} {width}x{height}'

    def warm_up(self, iterations: int = 3) -> None:
        """Run on grey images, so that the first real one is as fast as any later."""
        for _ in range(iterations):
            self._run(np.full((1, *self.input_size, 3), 128, np.uint8))

    def close(self) -> None:
        """Free the model; the segmenter cannot be used afterwards."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def parse_size(size: Size | str) -> Size:
    """Return (height, width) of such a pair or of a text `'WIDTHxHEIGHT'`."""
    try:
        if isinstance(size, str):
            width, height = (int(part) for part in size.lower().split('x'))
        else:
            height, width = (int(extent) for extent in size)
    except (TypeError, ValueError):
        raise LwsegError(
            f'{size!r} is not a size: give WIDTHxHEIGHT, for example 640x384'
        ) from None
    if not (0 < height < 1 << 15 and 0 < width < 1 << 15):
        raise LwsegError(f'the size {width}x{height} is not possible')
    return height, width


def aligned_size(size: Size) -> Size:
    """Return the nearest size of sides 32 k + 1, the sizes at which our networks see best.

    Convolutions of stride 2 look at every second pixel from the first one on, and up-sampling that
    keeps corners puts their answers back on the same pixels where a side is 2 n - 1, down to
    stride 32. At other sizes deep features lie up to half a cell off, more to the lower right.
    """
    height, width = (32 * max(1, round((extent - 1) / 32)) + 1 for extent in size)
    return height, width


def enlarged(planes: Sequence[Image], size: Size) -> Segmentation:
    """Return labels, confidence and drivable score, uint8 `[h, w]` each, at `size`."""
    labels, confidence, drivable = planes
    return Segmentation(
        _enlarge(labels, size, cv2.INTER_NEAREST_EXACT),
        _enlarge(confidence, size, cv2.INTER_NEAREST_EXACT),
        _enlarge(drivable, size, cv2.INTER_LINEAR),
    )


def _checked(image: Any) -> Image:
    if not isinstance(image, np.ndarray):
        raise FrameError(f'an image is a numpy array uint8 [H, W, 3], not {type(image).__name__}')
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise FrameError(
            f'an image is uint8 [H, W, 3] in RGB, not {image.dtype} {list(image.shape)}: '
            'convert it first'
        )
    return image


def _enlarge(plane: Image, size: Size, interpolation: int) -> Image:
    if plane.shape == size:
        return plane
    return _uint8(cv2.resize(plane, size[::-1], interpolation=interpolation))


def _uint8(picture: Any) -> Image:
    """Tell the type checker what OpenCV's stubs leave open."""
    result: Image = picture
    return result
