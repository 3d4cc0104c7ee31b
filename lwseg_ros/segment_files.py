"""Segment images, folders, videos and bags into files: what `lwseg segment` does."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from lwseg_ros import pictures
from lwseg_ros.bags.files import BAG_SUFFIXES, bags_at, is_bag
from lwseg_ros.errors import DataError, FrameError, LwsegError
from lwseg_ros.files import is_leftover, write_atomically, write_json
from lwseg_ros.image_messages import ImageDecoder
from lwseg_ros.inference.segmenter import Image, Segmentation, Segmenter
from lwseg_ros.overlay import overlay
from lwseg_ros.overlay_video import OverlayVideo
from lwseg_ros.pictures import PICTURE_SUFFIXES, Depth

if TYPE_CHECKING:
    from lwseg_ros.bags.images import BagImage

VIDEO_SUFFIXES = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm')
SUMMARY = 'segment.json'

_DEFAULT_RATE = 30.0
_MOST_METRES = 65.535


@dataclass(frozen=True)
class FileOptions:
    """What is written for each image or frame, besides its labels.

    `alpha` is the share of the label colours in the overlay; `frames` asks for the labels of each
    frame of a video or bag, which otherwise gives only its overlay video; `topic` is the image
    topic of a bag that has several.
    """

    overlay: bool = True
    alpha: float = 0.5
    confidence: bool = False
    drivable: bool = False
    depth: bool = False
    frames: bool = False
    topic: str | None = None


def segment_files(
    segmenter: Segmenter,
    inputs: Sequence[Path],
    out: Path,
    options: FileOptions | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Segment every input into `out` and return the summary, which is also `out/segment.json`.

    An image NAME gives NAME.png (class ids) and NAME_overlay.jpg, on request NAME_confidence.png,
    NAME_drivable.png and NAME_depth.png (16 bits, millimetres, 0 where there is none); a folder
    the same for each of its images, in the same sub-folders. A video or bag gives
    NAME_overlay.mp4, on request a folder NAME of such files per frame. A file appears complete or
    not at all, also after Ctrl-C.

    DataError if an input is missing or of no known kind, before anything is written; and at the
    end, after all others are done, if some could not be read.
    """
    options = options or FileOptions()
    console = console or Console(stderr=True)
    jobs = _plan(inputs, out, options)
    console.print(f'{segmenter.info.name} on {segmenter.description}', highlight=False)
    summary: dict[str, Any] = {
        'model': segmenter.info.name,
        'engine': segmenter.description,
        'label_space': segmenter.label_space.to_dict(),
        'interrupted': True,
        'inputs': [],
        'failures': [],
    }
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        TextColumn('{task.completed:.0f} done'),
        TimeRemainingColumn(),
    )
    depths: defaultdict[Path, Depth] = defaultdict(Depth)
    try:
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task('segmenting', total=len(jobs))
            for job in jobs:
                try:
                    depth = depths[job.source.parent]
                    summary['inputs'].append(_segment(segmenter, job, options, progress, depth))
                except (DataError, FrameError) as error:
                    summary['failures'].append({'input': str(job.source), 'error': str(error)})
                progress.advance(bar)
        summary['interrupted'] = False
    finally:
        _make_folder(out)
        write_json(out / SUMMARY, summary)
    failures = summary['failures']
    if failures:
        others = f', the others are in {out}' if summary['inputs'] else ''
        first = 'the first: ' if len(failures) > 1 else ''
        raise DataError(
            f'{len(failures)} of {len(jobs)} inputs could not be segmented{others}; '
            f'{first}{failures[0]["error"]}'
        )
    for entry in summary['inputs']:
        for sentence in filter(None, [entry.get('damage'), *entry.get('notes', [])]):
            console.print(sentence, highlight=False, markup=False)
    frames = sum(entry['frames'] for entry in summary['inputs'])
    console.print(f'{frames} images or frames of {len(jobs)} inputs are in {out}', highlight=False)
    return summary


class _Job(NamedTuple):
    """One input file and the path, without suffix, that its outputs start with."""

    source: Path
    kind: str
    stem: Path


def _plan(inputs: Sequence[Path], out: Path, options: FileOptions) -> list[_Job]:
    jobs: list[_Job] = []
    for source in inputs:
        if not source.exists():
            raise DataError(f'there is no input {source}')
        bags = bags_at(source)
        jobs += [_Job(bag, 'bag', out / _name(bag)) for bag in bags]
        if source.is_dir() and not is_bag(source):
            found = [
                path
                for path in sorted(source.rglob('*'))
                if path.suffix.lower() in (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES)
                and not is_leftover(path.relative_to(source))
            ]
            if not found and not bags:
                raise DataError(f'folder {source} holds no images, no videos and no bag')
            jobs += [
                _Job(path, _kind(path), out / path.relative_to(source).with_suffix(''))
                for path in found
            ]
        elif not bags:
            jobs.append(_Job(source, _kind(source), out / source.stem))
    if not jobs:
        raise DataError('there is nothing to segment: give images, folders, videos or bags')
    sources = {job.source.resolve() for job in jobs}
    taken: dict[Path, Path] = {}
    for job in jobs:
        other = taken.setdefault(job.stem, job.source)
        if other is not job.source:
            raise DataError(
                f'{other} and {job.source} would both be written to {job.stem}.*: segment them '
                'into two folders'
            )
        for path in _outputs(job.stem, options).values():
            if path.resolve() in sources:
                raise DataError(
                    f'{path} is an input and would be overwritten: choose another --out'
                )
    return jobs


def _name(bag: Path) -> str:
    return bag.resolve().name if bag.is_dir() else bag.stem


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return 'video'
    if suffix in PICTURE_SUFFIXES:
        return 'image'
    raise DataError(
        f'{path} is neither an image ({", ".join(PICTURE_SUFFIXES)}) nor a video '
        f'({", ".join(VIDEO_SUFFIXES)}) nor a bag ({", ".join(BAG_SUFFIXES)})'
    )


def _outputs(stem: Path, options: FileOptions) -> dict[str, Path]:
    """Return the files of one image by what they hold."""
    wanted = {
        'labels': ('.png', True),
        'overlay': ('_overlay.jpg', options.overlay),
        'confidence': ('_confidence.png', options.confidence),
        'drivable': ('_drivable.png', options.drivable),
        'depth': ('_depth.png', options.depth),
    }
    return {
        what: stem.with_name(stem.name + ending) for what, (ending, use) in wanted.items() if use
    }


def _segment(
    segmenter: Segmenter, job: _Job, options: FileOptions, progress: Progress, depth: Depth
) -> dict[str, Any]:
    if job.kind == 'image':
        image = _read_image(job.source, depth)
        started = time.perf_counter()
        result = segmenter(image)
        elapsed = time.perf_counter() - started
        written = _write(result, image, segmenter, job.stem, options)
        return {
            'input': str(job.source),
            'outputs': [str(path) for path in written],
            'frames': 1,
            'milliseconds_per_frame': round(1e3 * elapsed, 2),
            'drivable_share': round(float(np.mean(result.drivable > 0)), 4),
        }
    with ExitStack() as stack:
        frames = stack.enter_context(_open_frames(job, options))
        bar = progress.add_task(job.source.name, total=frames.total)
        stack.callback(progress.remove_task, bar)
        return _segment_frames(segmenter, job, options, frames, lambda: progress.advance(bar))


class _Frames(NamedTuple):
    """The frames of a video or bag, what turns each into an RGB image, and their rate in Hz.

    `damage` says in a sentence what is wrong with the file, `notes` in sentences how it is read.
    """

    stream: Iterable[Any]
    decode: Callable[[Any], Image]
    total: int | None
    rate: float
    damage: str = ''
    notes: Sequence[str] = ()


def _segment_frames(
    segmenter: Segmenter,
    job: _Job,
    options: FileOptions,
    frames: _Frames,
    advance: Callable[[], None],
) -> dict[str, Any]:
    elapsed = drivable = 0.0
    number = refused = 0
    outputs: list[Path] = []
    path = job.stem.with_name(f'{job.stem.name}_overlay.mp4')
    with OverlayVideo(path, frames.rate) as video:
        for frame in frames.stream:
            advance()
            try:
                image = frames.decode(frame)
            except FrameError:
                refused += 1
                continue
            started = time.perf_counter()
            result = segmenter(image)
            elapsed += time.perf_counter() - started
            drivable += float(np.mean(result.drivable > 0))
            if options.frames:
                stem = job.stem / f'{number:06d}'
                outputs += _write(result, image, segmenter, stem, options)
            if options.overlay:
                _make_folder(path.parent)
                video.add(_painted(result, image, segmenter, options))
            number += 1
        if not number:
            raise DataError(f'{job.source} holds no frames that can be decoded')
    return {
        'input': str(job.source),
        'outputs': [str(path) for path in (*video.written, *outputs)],
        'frames': number,
        'frames_promised': frames.total,
        'frames_refused': refused,
        'damage': frames.damage,
        'notes': list(frames.notes),
        'milliseconds_per_frame': round(1e3 * elapsed / number, 2),
        'drivable_share': round(drivable / number, 4),
    }


@contextmanager
def _open_frames(job: _Job, options: FileOptions) -> Iterator[_Frames]:
    if job.kind == 'bag':
        from lwseg_ros.bags.images import BagImages

        bag = BagImages(job.source, options.topic)
        decode = partial(_bag_image, ImageDecoder())
        yield _Frames(bag, decode, len(bag), bag.rate_hz, bag.recording.damage, bag.notes)
        return
    capture = cv2.VideoCapture(str(job.source))
    try:
        if not capture.isOpened():
            raise DataError(f'{job.source} is not a video that OpenCV can read')
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        rate = capture.get(cv2.CAP_PROP_FPS)
        yield _Frames(
            _video_frames(capture),
            _rgb,
            count if count > 0 else None,
            rate if 0 < rate < 1000 else _DEFAULT_RATE,
        )
    finally:
        capture.release()


def _video_frames(capture: cv2.VideoCapture) -> Iterator[Any]:
    while True:
        read, frame = capture.read()
        if not read:
            return
        yield frame


def _bag_image(decoder: ImageDecoder, entry: BagImage) -> Image:
    if entry.message is None:
        raise FrameError(entry.error)
    return decoder.decode(entry.message)


def _read_image(path: Path, depth: Depth) -> Image:
    return pictures.rgb(pictures.read_file(path), f'image {path}', depth)


def _write(
    result: Segmentation, image: Image, segmenter: Segmenter, stem: Path, options: FileOptions
) -> list[Path]:
    outputs = _outputs(stem, options)
    _make_folder(stem.parent)
    for what, path in outputs.items():
        if what == 'overlay':
            picture = _bgr(_painted(result, image, segmenter, options))
        elif what == 'depth':
            picture = _millimetres(result)
        else:
            picture = getattr(result, what)
        encoded, data = cv2.imencode(path.suffix, picture)
        if not encoded:
            raise LwsegError(f'{path} cannot be encoded')
        write_atomically(path, data.tobytes())
    return list(outputs.values())


def _millimetres(result: Segmentation) -> NDArray[np.uint16]:
    """Return the depth as depth cameras store it: 0 is none, as is what 16 bits cannot hold."""
    assert result.depth is not None
    known = (result.depth > 0) & (result.depth < _MOST_METRES)
    return np.where(known, np.round(1000 * result.depth), 0).astype(np.uint16)


def _painted(
    result: Segmentation, image: Image, segmenter: Segmenter, options: FileOptions
) -> Image:
    return overlay(image, result.labels, segmenter.label_space.palette, options.alpha)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LwsegError(f'folder {path} cannot be made: {error.strerror}') from None


def _rgb(image: Any) -> Image:
    return _as_image(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def _bgr(image: Image) -> Any:
    return cv2.cvtColor(image, cv2.COLOR_RGB2BGR)


def _as_image(picture: Any) -> NDArray[np.uint8]:
    """Tell the type checker what OpenCV's stubs leave open."""
    result: NDArray[np.uint8] = picture
    return result
