"""`Segmenter`: a camera image in, labels, confidence and the drivable area out, at any size."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import cv2
import numpy as np
from numpy.typing import NDArray

from lwseg_ros.errors import FrameError, InferenceError, LwsegError, ModelError
from lwseg_ros.inference.backends import open_backend
from lwseg_ros.inference.backends.base import Backend, BackendOptions, Planes
from lwseg_ros.inference.int8_form import choose_form
from lwseg_ros.inference.model_file import EMBEDDING, FURTHER_OUTPUTS
from lwseg_ros.inference.model_info import EXTERNAL, ModelInfo
from lwseg_ros.inference.model_source import ModelSource, find_model
from lwseg_ros.label_space import LabelSpace

Image = NDArray[np.uint8]
Size = tuple[int, int]

_logger = logging.getLogger(__name__)

DRIVABLE_FROM = 128
"""The least `drivable_score` of a drivable pixel."""


@dataclass(frozen=True)
class Segmentation:
    """The answer for one image; every plane is uint8 `[H, W]`.

    `labels` are class ids; `confidence` is 255 times the top probability; `drivable_score` is
    255 times the probability that a drivable class beats all others, >= 128 where it does.
    `embedding`, if the segmenter was loaded with it, is float32 `[C]`: the mean of the encoder's
    last map, by which images can be compared. So are `depth`, float32 `[H, W]` in metres, and
    `normals`, float32 `[H, W, 3]` in the camera's optical frame, of models of joint networks.
    """

    labels: Image
    confidence: Image
    drivable_score: Image
    embedding: NDArray[np.float32] | None = None
    depth: NDArray[np.float32] | None = None
    normals: NDArray[np.float32] | None = None

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

    The images of a list go through the network together, up to `batch` of them at a time, if they
    are of one network size. No more than `streams` calls at a time. It is a context manager;
    `close` frees the model.
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
        precision: str | None = 'auto',
        input_size: Size | str | None = None,
        drivable_classes: Iterable[int | str] | None = None,
        threads: int | None = None,
        description: str | os.PathLike[str] | None = None,
        batch: int | None = None,
        throughput: bool = False,
        engine_cache_dir: str = '',
        force_rebuild: bool = False,
        embedding: bool = False,
        depth: bool = False,
        normals: bool = False,
    ) -> Segmenter:
        """Load a shipped model by name (`'road'`) or a model file by path.

        `backend`: auto, tensorrt, openvino, onnxruntime or torch. `precision`: auto, fp32, fp16,
        bf16, int8. For a shipped name, `int8` takes the file of its int8 form, and `auto` does
        where this processor gains by it (see `int8_form`); a path is always that file, and None
        is `auto` of the file that was named.
        `input_size`: the network size (height, width) or `'WIDTHxHEIGHT'`; None is the model's
        own; `'source'` follows the image's size (see `aligned_size`), compiling anew when it
        changes.
        `drivable_classes`: ids or names, replacing the label space's drivable flags.
        `description`: the YAML file for an ONNX model of somebody else, when not beside it.
        `batch`: the most images of a list that go through the network together; None: as many as
        are faster together than one after another (on a CPU: 1).
        `throughput`: the most images a second instead of the soonest answer: call it from as many
        threads as it then has `streams` (more than one with OpenVINO only).
        `engine_cache_dir`: where TensorRT engines are kept, empty: the user's cache;
        `force_rebuild` builds them anew.
        `embedding`, `depth`, `normals`: give each answer these, too, if the model has them
        (`info.measures`).

        ModelError if the model, its metadata or the backend cannot be used.
        """
        named = find_model(path_or_name, description)
        form = choose_form(path_or_name, named, backend, device, precision)
        source = form.source
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
        if source.info.network == EXTERNAL:
            batch = 1  # its graph may take no more
        options = BackendOptions(
            size,
            device,
            precision or 'auto',
            threads,
            batch,
            throughput and not follows_source,
            engine_cache_dir,
            force_rebuild,
            tuple(
                name
                for name, wanted in zip(FURTHER_OUTPUTS, (embedding, depth, normals), strict=True)
                if wanted
            ),
        )
        classes = space.drivable_vector(drivable_classes)
        if form.why:
            _logger.info('%s runs for %s: %s', source.path.name, path_or_name, form.why)
        try:
            return cls(source, form.backend, options, classes, follows_source)
        except ModelError as error:
            if source is named or precision != 'auto':
                raise
            _logger.warning('%s runs instead: %s', named.path.name, error)
        return cls(named, backend, options, classes, follows_source)

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
        if not isinstance(image, (list, tuple)):
            return self._segment([_checked(image)], output_size)[0]
        images = [_checked(one) for one in image]
        return [
            result
            for start in range(0, len(images), self.batch)
            for result in self._segment(images[start : start + self.batch], output_size)
        ]

    def _segment(
        self, images: Sequence[Image], output_size: Size | str | None
    ) -> list[Segmentation]:
        if self._follows_source:
            followed = images[0].shape[:2]
            if self.info.network != EXTERNAL:
                followed = aligned_size(followed, self.info.input_size)
            if followed != self.input_size:
                self._open(replace(self._options, input_size=followed))
        *planes, further = self._run(self._fit(images))
        sizes = [self._output_size(image, output_size) for image in images]
        answers = [enlarged(answer, size) for size, *answer in zip(sizes, *planes, strict=True)]
        for name, values in further.items():
            for place, (value, size) in enumerate(zip(values, sizes, strict=True)):
                fitted: Any = value if name == EMBEDDING else nearest(value, size)
                answers[place] = replace(answers[place], **{name: fitted})
        return answers

    def _output_size(self, image: Image, wanted: Size | str | None) -> Size:
        if wanted is None or wanted == 'source':
            height, width = image.shape[:2]
            return height, width
        return self.input_size if wanted == 'network' else parse_size(wanted)

    def _fit(self, images: Sequence[Image]) -> Image:
        """Return the images `[N, h, w, 3]` at network size, unless the backend resizes them."""
        height, width = self.input_size
        if self._resizes and all(image.shape == images[0].shape for image in images):
            return np.stack(images) if len(images) > 1 else images[0][np.newaxis]
        if len(images) == 1 and images[0].shape[:2] == (height, width):
            return np.ascontiguousarray(images[0])[np.newaxis]
        fitted: Image = np.empty((len(images), height, width, 3), np.uint8)
        for image, place in zip(images, fitted, strict=True):
            cv2.resize(image, (width, height), dst=place, interpolation=cv2.INTER_LINEAR)
        return fitted

    def _run(self, images: Image) -> Planes:
        backend = self.backend
        try:
            planes = backend.run(images, self._drivable_classes)
        except Exception as error:  # whatever the library raises, the frame has no answer
            reason = ' '.join(str(error).split())[:300]
            raise InferenceError(
                f'inference of {self.info.name} failed: {type(error).__name__}: {reason}'
            ) from error
        number, *size = planes.labels.shape
        shapes = [plane.shape for plane in planes[:3]]
        if number != len(images) or len(size) != 2 or shapes.count(shapes[0]) != len(shapes):
            raise InferenceError(
                f'the network {self.info.name} gave outputs of the shapes {shapes} for '
                f'{len(images)} images: it is no network of this package'
            )
        for confidence in planes.confidence:
            broken = confidence.size - cv2.countNonZero(confidence)
            if broken:
                raise InferenceError(
                    f'the network {self.info.name} gave NaN or infinity at {broken} of '
                    f'{confidence.size} pixels: the frame has no answer'
                )
        return planes

    def _open(self, options: BackendOptions) -> None:
        self.close()
        self._options = options
        self._backend = open_backend(self._backend_name, self._source, options)
        # One that follows its images' sizes may get two of different sizes in one list.
        self._batch = 1 if self._follows_source else self._backend.batch
        self._resizes = self._backend.resizes

    @property
    def backend(self) -> Backend:
        """The compiled model, for images that have the network's size already."""
        if self._backend is None:
            raise InferenceError('the segmenter is closed: load the model again')
        return self._backend

    @property
    def info(self) -> ModelInfo:
        """What the model file says of itself."""
        return self._source.info

    @property
    def path(self) -> Path:
        """The model file that runs."""
        weights = self._source.safetensors
        return weights if weights and self.backend.reads_safetensors else self._source.path

    @property
    def label_space(self) -> LabelSpace:
        """The classes of the labels."""
        return self._source.info.label_space

    @property
    def input_size(self) -> Size:
        """The network size (height, width)."""
        return self._options.input_size

    @property
    def batch(self) -> int:
        """The most images that go through the network together."""
        return self._batch

    @property
    def streams(self) -> int:
        """How many threads may call it at once, so that it answers the most images a second."""
        return self.backend.streams

    @property
    def description(self) -> str:
        """Backend, version, precision, device and network size (width x height) in one line."""
        backend = self._backend.description if self._backend else 'closed'
        height, width = self.input_size
        return f'{backend} {width}x{height}'

    def warm_up(self, iterations: int = 3, batch: int = 1) -> None:
        """Run on grey images, 1 to `batch` together, so that no real one is slow for being new."""
        for number in range(1, min(batch, self.batch) + 1):
            for _ in range(iterations):
                self._run(np.full((number, *self.input_size, 3), 128, np.uint8))

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


def aligned_size(size: Size, own: Size) -> Size:
    """Return the nearest size at which a network sees best whose own size is `own`.

    That is 32 k if both sides of `own` are, as for encoders trained so (see
    `SegmentationNetwork.centred`), else 32 k + 1: convolutions of stride 2 look at every second
    pixel from the first one on, and up-sampling that keeps corners puts their answers back on the
    same pixels where a side is 2 n - 1, down to stride 32. At other sizes deep features lie up to
    half a cell off, more to the lower right.
    """
    rest = 1 if any(extent % 32 for extent in own) else 0
    height, width = (32 * max(1, round((extent - rest) / 32)) + rest for extent in size)
    return height, width


def enlarged(planes: Sequence[Image], size: Size) -> Segmentation:
    """Return labels, confidence and drivable score, uint8 `[h, w]` each, at `size`."""
    labels, confidence, drivable = planes
    return Segmentation(
        _nearest(labels, size),
        _nearest(confidence, size),
        _linear(drivable, size),
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


def nearest(values: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """Return float32 `[h, w]` or `[h, w, C]` at another size: none is between two things."""
    if values.shape[:2] == size:
        return values
    resized = cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.float32)


def _linear(plane: Image, size: Size) -> Image:
    if plane.shape == size:
        return plane
    return _uint8(cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR))


def _nearest(plane: Image, size: Size) -> Image:
    """Resize as OpenCV's INTER_NEAREST_EXACT does, but sooner: the columns, then whole rows."""
    if plane.shape == size:
        return plane
    (rows, _), (height, width) = plane.shape, size
    wide = cv2.resize(plane, (width, rows), interpolation=cv2.INTER_NEAREST_EXACT)
    return _uint8(wide.take(_nearest_rows(rows, height), axis=0))


@lru_cache(maxsize=16)
def _nearest_rows(rows: int, wanted: int) -> NDArray[np.uint16]:
    numbers = np.arange(rows, dtype=np.uint16)[:, np.newaxis]
    nearest = cv2.resize(numbers, (1, wanted), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(nearest[:, 0], np.uint16)


def _uint8(picture: Any) -> Image:
    """Tell the type checker what OpenCV's stubs leave open."""
    result: Image = picture
    return result
