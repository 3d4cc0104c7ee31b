"""What a model would have answered on a recorded drive: what `lwseg bag evaluate` does to a bag.

Every image comes once, in order, and nothing is timed, so two runs write the same figures and
masks. Reading and decoding run ahead of the network, measuring and writing behind it, each by a
few frames only: memory does not grow with the bag. The network answers several frames at once
where that is more a second.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros import __version__
from lwseg_ros.errors import DataError, FrameError, InferenceError, LwsegError
from lwseg_ros.evaluation.bag import BagTopic
from lwseg_ros.evaluation.evaluate import Comparison
from lwseg_ros.evaluation.messages import header, stamp_of
from lwseg_ros.evaluation.recording import Index, RawMessage, Recording, bag_files, in_order
from lwseg_ros.evaluation.replay_figures import (
    BlockBuilder,
    Layout,
    accuracy_counts,
    by_topic,
    empty_counts,
    look_first,
    part,
)
from lwseg_ros.evaluation.replay_outputs import (
    OtherTopics,
    Pictures,
    ReplayBag,
    Shown,
    Videos,
    draw_overlay,
    pictures_of,
)
from lwseg_ros.evaluation.replay_result import (
    FIGURES,
    FORMAT,
    AgreementCounts,
    BagEntry,
    Block,
    BrokenMessage,
    FrameRecord,
    Model,
    Result,
    Timing,
    TopicEntry,
)
from lwseg_ros.evaluation.replay_truth import (
    Fetch,
    Truth,
    folder_truth,
    topic_truth,
    truth_folder,
    truth_space,
)
from lwseg_ros.evaluation.stability import Stability
from lwseg_ros.inference.model_file import resolve_model, sha256, write_atomically
from lwseg_ros.inference.segmenter import Segmentation, Segmenter
from lwseg_ros.label_space import IGNORE_ID, LabelSpace
from lwseg_ros.memory import keep_freed_memory
from lwseg_ros.ros.image_messages import image_from_message

RESULT, FRAMES, TIMING = 'result.json', 'frames.jsonl', 'timing.json'
AHEAD = 4
"""How many frames wait before each stage, beyond those that are worked on."""
MAX_BROKEN = 100
NO_CAMERAS = ('mask', 'drivable_mask', 'confidence', 'color_mask', 'overlay', 'labels')
"""Image topics of these last names, the node's outputs and truth, are left out unless asked."""
DEPTH_ENCODINGS = ('16UC1', '32FC1')
"""Image topics in these are distances and left out, too (REP 118)."""

Progress = Callable[[int, int], None]
Numbers = npt.NDArray[np.int64]
T = TypeVar('T')
R = TypeVar('R')


@dataclass(frozen=True)
class Settings:
    """What is evaluated and how; the words of `lwseg bag evaluate`'s options.

    `truth_topics` are label topics, `CAMERA=LABELS` where several cameras are evaluated.
    `against` names a second model, or '' for none; with `against_backend` alone it is the first
    model on another backend.
    """

    model: str = 'road'
    backend: str = 'auto'
    precision: str = 'auto'
    input_size: str = 'model'
    threads: int | None = None
    against: str = ''
    against_backend: str = ''
    topics: tuple[str, ...] = ()
    truth_topics: tuple[str, ...] = ()
    truth_folder: Path | None = None
    truth_space: str | None = None
    truth_tolerance_ms: float = 10.0
    low_confidence: float = 0.5
    block_seconds: float = 2.0
    alpha: float = 0.5
    mcap: bool = True
    video: bool = True
    copy_topics: bool = False

    def configuration(self) -> dict[str, Any]:
        """Return the settings that a result depends on, as JSON holds them."""
        values = {name: value for name, value in vars(self).items() if name != 'threads'}
        folder = self.truth_folder
        return {
            **values,
            'topics': list(self.topics),
            'truth_topics': list(self.truth_topics),
            'truth_folder': None if folder is None else str(folder),
        }


def evaluate_bag(
    bag: Path, folder: Path, settings: Settings, progress: Progress | None = None
) -> Result:
    """Evaluate a bag into `folder`, which appears when it is complete; see `replay_result`.

    Returns at once what is there if it is of the same bag, model, truth and settings. Ctrl-C ends
    the evaluation early: the folder and the result hold the frames so far, `interrupted` says so.
    `progress` is called with the messages done and in all.

    DataError for a bag or truth that cannot be used, ModelError for such a model, LwsegError if
    the folder cannot be written; then nothing is left of it.
    """
    keep_freed_memory()
    with ExitStack() as stack:
        stack.enter_context(_one_opencv_thread())
        models = stack.enter_context(_open_models(settings))
        plan = _plan(bag, folder.name, settings, models)
        if (finished := _finished(folder, plan.key)) is not None:
            return finished
        _check_replaceable(folder, bag)
        with _complete_folder(folder) as partial:
            return _Evaluation(plan, models, settings, partial).run(progress)


def bag_names(bags: Sequence[Path]) -> list[str]:
    """Return a folder name for each bag: its own, after those of folders above where needed."""
    paths = [bag.resolve() for bag in bags]
    plain = [path if path.is_dir() else path.with_suffix('') for path in paths]
    for depth in range(1, max((len(path.parts) for path in plain), default=1)):
        names = ['_'.join(path.parts[-depth:]) for path in plain]
        if len(set(names)) == len(names):
            return names
    raise DataError(f'a bag is given twice: {", ".join(str(bag) for bag in bags)}')


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file of JSON, complete or not at all."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + '\n'
    write_atomically(path, text.encode())


class _Models(NamedTuple):
    segmenter: Segmenter
    model: Model
    against: Segmenter | None
    against_model: Model | None


@contextmanager
def _open_models(settings: Settings) -> Iterator[_Models]:
    def load(model: str, backend: str) -> tuple[Segmenter, Model]:
        segmenter = Segmenter.load(
            model,
            backend,
            precision=settings.precision,
            input_size=None if settings.input_size == 'model' else settings.input_size,
            threads=settings.threads,
            throughput=True,
        )
        stack.enter_context(segmenter)
        segmenter.warm_up(1)
        path = resolve_model(model)
        return segmenter, Model(
            name=segmenter.info.name, sha256=sha256(path), engine=segmenter.description
        )

    with ExitStack() as stack:
        first, model = load(settings.model, settings.backend)
        second = second_model = None
        if settings.against or settings.against_backend:
            second, second_model = load(
                settings.against or settings.model, settings.against_backend or 'auto'
            )
        yield _Models(first, model, second, second_model)


class _Camera(NamedTuple):
    """A topic that is evaluated; `numbers` are its messages', in the order of evaluation."""

    topic: BagTopic
    numbers: npt.NDArray[np.int64]
    first_ns: int
    rate_hz: float
    truth: Truth | None


@dataclass(frozen=True)
class _Plan:
    """What is known of a bag before its first frame is evaluated."""

    bag: Path
    name: str
    recording: Recording
    index: Index
    order: npt.NDArray[np.int64]
    by_stamp: bool
    cameras: dict[str, _Camera]
    left_out: list[str]
    truth_space: LabelSpace | None
    sha256: str
    key: str


def _plan(bag: Path, name: str, settings: Settings, models: _Models) -> _Plan:
    recording = Recording(bag)
    labels = _label_topics(settings.truth_topics)
    topics, left_out = _choose(recording, settings.topics, set(labels.values()))
    names = [topic.name for topic in topics]
    recording.check([*(recording.topics if settings.copy_topics else names), *labels.values()])
    index = recording.index(names)
    order, by_stamp = index.order()
    if not len(order):
        raise DataError(f'bag {bag} holds no images of {", ".join(names)}')
    space = None
    if labels or settings.truth_folder is not None:
        model_space = models.segmenter.label_space
        space = truth_space(settings.truth_space, settings.truth_folder, model_space)
        find_truth = _truth_finder(recording, name, names, labels, space, settings)
    cameras = {}
    for topic in topics:
        numbers = order[index.topics[order] == names.index(topic.name)]
        if not len(numbers):
            continue
        stamps = index.stamps[numbers]
        truth = None if space is None else find_truth(topic.name, numbers, stamps)
        cameras[topic.name] = _Camera(topic, numbers, int(stamps.min()), _rate(stamps), truth)
    digest = _bag_sha256(bag)
    content = {
        'bag': digest,
        'name': name,
        'models': [models.model, models.against_model],
        'truth': [c.truth.digest for c in cameras.values() if c.truth],
        'space': None if space is None else space.to_dict(),
        'configuration': settings.configuration(),
        'versions': _versions(),
    }
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return _Plan(
        bag, name, recording, index, order, by_stamp, cameras, left_out, space, digest, key
    )


def _choose(
    recording: Recording, wanted: Sequence[str], labels: set[str]
) -> tuple[list[BagTopic], list[str]]:
    """Return the topics to evaluate, and the other image topics."""
    images = {topic.name: topic for topic in recording.image_topics()}
    listing = ', '.join(str(topic) for topic in recording.topics.values()) or 'no topics'
    if wanted:
        chosen = []
        for name in wanted:
            found = images.get(name) or images.get(f'/{name}')
            if found is None:
                raise DataError(
                    f'bag {recording.path} has no image topic {name} with messages: it holds '
                    f'{listing}'
                )
            chosen.append(found)
    else:
        chosen = [
            topic
            for topic in images.values()
            if topic.name not in labels
            and topic.name.removesuffix('/compressed') not in images.keys() - {topic.name}
            and topic.name.removesuffix('/compressed').split('/')[-1] not in NO_CAMERAS
            and not _is_depth(recording, topic)
        ]
        if not chosen:
            raise DataError(
                f'bag {recording.path} has no camera images: it holds {listing}'
                + (f'; {recording.damage}' if recording.damage else '')
            )
    chosen = sorted(set(chosen))
    names = {topic.name for topic in chosen} | labels
    return chosen, sorted(images.keys() - names)


def _is_depth(recording: Recording, topic: BagTopic) -> bool:
    """Tell by its first message whether a topic carries distances (REP 118) and no picture."""
    if topic.name.endswith('/compressedDepth'):
        return True
    try:
        message = recording.decode(next(recording.messages([topic.name])))
    except Exception:  # whatever is wrong with it is told when it is evaluated
        return False
    return getattr(message, 'encoding', '') in DEPTH_ENCODINGS


def _label_topics(given: Sequence[str]) -> dict[str, str]:
    """Return label topics by camera topic; '' for one that names no camera."""
    labels = {}
    for entry in given:
        camera, _, topic = entry.rpartition('=')
        labels[camera and '/' + camera.strip('/')] = '/' + topic.strip('/')
    return labels


def _truth_finder(
    recording: Recording,
    bag: str,
    topics: Sequence[str],
    labels: Mapping[str, str],
    space: LabelSpace,
    settings: Settings,
) -> Callable[[str, Numbers, Numbers], Truth | None]:
    """Return what finds the truth of a topic's messages, given by numbers and stamps."""
    tolerance_ns = round(settings.truth_tolerance_ms * 1e6)
    if '' in labels and len(topics) > 1:
        raise DataError(
            f'label topic {labels[""]} belongs to one of several cameras: say to which, '
            f'{topics[0]}={labels[""]}, or choose one with --topic'
        )
    unknown = labels.keys() - {'', *topics}
    if unknown:
        raise DataError(
            f'truth is given for {", ".join(sorted(unknown))}, which is not evaluated: only '
            f'{", ".join(topics)}'
        )

    def find(topic: str, numbers: Numbers, stamps: Numbers) -> Truth | None:
        label_topic = labels.get(topic, labels.get(''))
        if label_topic is not None:
            return topic_truth(recording, label_topic, numbers, stamps, tolerance_ns)
        if settings.truth_folder is not None:
            folder = truth_folder(settings.truth_folder, bag, topic, topics)
            return folder_truth(folder, space, numbers, stamps, tolerance_ns)
        return None

    return find


class _Frame(NamedTuple):
    """One message, decoded; `image` is None if it is broken, then `error` says why."""

    number: int
    message: RawMessage
    header: Any
    image: npt.NDArray[np.uint8] | None
    truth: npt.NDArray[np.uint8] | None
    error: str
    truth_error: str
    decode_ms: float


class _Answer(NamedTuple):
    frame: _Frame
    segmentation: Segmentation | None
    against: Segmentation | None
    error: str
    infer_ms: float


class _Evaluation:
    """The evaluation of one bag into a folder; `run` it once."""

    def __init__(self, plan: _Plan, models: _Models, settings: Settings, folder: Path) -> None:
        self._plan, self._models, self._settings, self._folder = plan, models, settings, folder
        space = models.segmenter.label_space
        self._palette = space.palette
        self._comparison = None
        if plan.truth_space is not None:
            self._comparison = Comparison(space, plan.truth_space)
        self._layout = Layout(self._comparison.space if self._comparison else None)
        self._against = None
        if models.against is not None:
            self._against = Comparison(space, models.against.label_space)
        self._blocks = {
            topic: BlockBuilder(
                plan.name, topic, camera.first_ns, settings.block_seconds, self._layout
            )
            for topic, camera in plan.cameras.items()
        }
        self._stability = {topic: Stability() for topic in plan.cameras}
        self._indices = dict.fromkeys(plan.cameras, 0)
        segmenters = [s for s in (models.segmenter, models.against) if s is not None]
        self._streams = min(segmenter.streams for segmenter in segmenters)
        self._broken: list[BrokenMessage] = []
        self._broken_counts = dict.fromkeys(plan.cameras, 0)
        self._frames = dict.fromkeys(plan.cameras, 0)
        self._stamps: list[int] = []
        self._pictures = Pictures()
        self._times = {name: array('f') for name in ('decode', 'infer', 'measure')}
        self._infer_ms = {topic: array('f') for topic in plan.cameras}

    def run(self, progress: Progress | None) -> Result:
        """Evaluate every frame and write everything."""
        plan, settings = self._plan, self._settings
        interrupted = False
        started, cpu = time.perf_counter(), time.process_time()
        with ExitStack() as stack:
            self._records: TextIO = stack.enter_context(
                (self._folder / FRAMES).open('w', encoding='utf-8')
            )
            self._bag = ReplayBag(self._folder / 'replay') if settings.mcap else None
            self._others = None
            if self._bag is not None and settings.copy_topics:
                self._others = OtherTopics(plan.recording, list(plan.cameras))
            rates = {topic: camera.rate_hz for topic, camera in plan.cameras.items()}
            self._videos = Videos(self._folder, rates) if settings.video else None
            outputs = [output for output in (self._bag, self._videos) if output is not None]
            for output in outputs:
                stack.callback(output.abort)
            messages = self._messages()
            try:
                with (
                    _in_threads(2, self._decode, messages) as frames,
                    _in_threads(self._streams, self._answer, frames) as answers,
                    _in_threads(1, self._measure, answers) as measured,
                ):
                    for done, _ in enumerate(measured, 1):
                        if progress is not None:
                            progress(done, len(plan.order))
            except KeyboardInterrupt:
                interrupted = True
            if self._bag is not None and self._others is not None:
                self._others.copy(self._bag, None)
            for output in outputs:
                output.close()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        result = self._result(interrupted)
        self._pictures.write(self._folder, result['look_first'])
        write_json(self._folder / TIMING, self._timing(seconds, cpu))
        write_json(self._folder / RESULT, result)
        return result

    def _messages(self) -> Iterator[tuple[int, RawMessage, Fetch | None]]:
        """Yield the messages in the order of evaluation, with what reads their truth."""
        plan = self._plan
        messages = plan.recording.messages(list(plan.cameras))
        for number, message in in_order(messages, plan.order):
            truth = plan.cameras[message.topic].truth
            fetch = truth.labels() if truth is not None and number in truth.frames else None
            yield number, message, fetch

    def _decode(self, item: tuple[int, RawMessage, Fetch | None]) -> _Frame:
        number, message, fetch = item
        started = time.perf_counter()
        head = image = truth = None
        error = truth_error = ''
        try:
            decoded = self._plan.recording.decode(message)
            head = header(stamp_of(decoded), decoded.header.frame_id)
            image = image_from_message(decoded)
        except FrameError as problem:
            error = str(problem)
        if fetch is not None and image is not None:
            try:
                truth = fetch()
                if truth.shape != image.shape[:2]:
                    raise FrameError(
                        f'truth has {truth.shape[1]}x{truth.shape[0]} pixels, its image '
                        f'{image.shape[1]}x{image.shape[0]}'
                    )
            except FrameError as problem:
                truth, truth_error = None, str(problem)
        elapsed = 1e3 * (time.perf_counter() - started)
        return _Frame(number, message, head, image, truth, error, truth_error, elapsed)

    def _answer(self, frame: _Frame) -> _Answer:
        if frame.image is None:
            return _Answer(frame, None, None, frame.error, 0.0)
        try:
            started = time.perf_counter()
            segmentation = self._models.segmenter(frame.image)
            elapsed = 1e3 * (time.perf_counter() - started)
            against = self._models.against
            second = None if against is None else against(frame.image)
        except InferenceError as problem:
            return _Answer(frame, None, None, str(problem), 0.0)
        return _Answer(frame, segmentation, second, '', elapsed)

    def _measure(self, answer: _Answer) -> None:
        """Count a frame and write what is made of it; called for one frame after the other."""
        started = time.perf_counter()
        frame, segmentation = answer.frame, answer.segmentation
        topic = frame.message.topic
        stamp_ns = int(self._plan.index.stamps[frame.number])
        index = self._indices[topic]
        self._indices[topic] += 1
        if self._bag is not None and self._others is not None:
            self._others.copy(self._bag, frame.message.record_ns)
        if frame.truth_error:
            camera = self._plan.cameras[topic]
            source = camera.truth.source if camera.truth else ''
            self._note_broken(source, index, stamp_ns, frame.truth_error)
        if segmentation is None or frame.image is None:
            self._broken_counts[topic] += 1
            self._note_broken(topic, index, stamp_ns, answer.error)
            self._write_record(_record(frame, index, stamp_ns, None, None, answer.error))
            return
        self._stamps = [*self._stamps[:1], stamp_ns]
        self._frames[topic] += 1
        vector, moved = self._count(frame, segmentation, answer.against, stamp_ns)
        figures = self._layout.figures(vector)
        record = _record(frame, index, stamp_ns, figures, moved, None)
        self._write_record(record)
        blocks = self._blocks[topic]
        reasons = blocks.add(record, vector, answer.against is not None)
        self._show(frame, segmentation, reasons, blocks, index)
        self._times['decode'].append(frame.decode_ms)
        self._times['infer'].append(answer.infer_ms)
        self._times['measure'].append(1e3 * (time.perf_counter() - started))
        self._infer_ms[topic].append(answer.infer_ms)

    def _count(
        self,
        frame: _Frame,
        segmentation: Segmentation,
        against: Segmentation | None,
        stamp_ns: int,
    ) -> tuple[npt.NDArray[np.int64], float | None]:
        """Return the counts of a frame, and the motion since the one before."""
        assert frame.image is not None
        confidence = segmentation.confidence
        level = 255 * self._settings.low_confidence
        counts = empty_counts()
        counts['frames'] = 1
        counts['pixels'] = confidence.size
        counts['confidence_sum'] = int(cv2.sumElems(confidence)[0])
        counts['low_confidence'] = int(np.count_nonzero(confidence < level))
        counts['drivable'] = cv2.countNonZero(segmentation.drivable)
        change = self._stability[frame.message.topic].update(frame.image, segmentation, stamp_ns)
        if change is not None:
            counts['compared'], counts['changed'] = change.compared, change.changed
            counts['drivable_both'] = change.drivable_both
            counts['drivable_either'] = change.drivable_either
        if self._comparison is not None and frame.truth is not None:
            counts['frames_with_truth'] = 1
            counts['accuracy'] = accuracy_counts(
                self._comparison.measure(frame.truth, segmentation)
            )
        if against is not None and self._against is not None:
            counts['agreement'] = _agreement(self._against, segmentation, against)
        return self._layout.vector(counts), None if change is None else change.moved

    def _show(
        self,
        frame: _Frame,
        segmentation: Segmentation,
        reasons: Mapping[str, float],
        blocks: BlockBuilder,
        index: int,
    ) -> None:
        assert frame.image is not None
        if not (reasons or self._bag or self._videos):
            return
        painted = draw_overlay(frame.image, segmentation, self._palette, self._settings.alpha)
        truth = frame.truth
        if truth is not None and self._comparison is not None:
            truth, _ = self._comparison.in_common_space(truth, segmentation.labels)
        message = frame.message
        shown = Shown(message, frame.header, frame.image, segmentation, painted, truth)
        if self._bag is not None:
            self._bag.add(shown, self._plan.recording.as_ros2(message))
        if self._videos is not None:
            self._videos.add(message.topic, painted)
        space = self._layout.space
        truth_palette = self._palette if space is None else space.palette
        self._pictures.offer(
            reasons,
            len(blocks.blocks),
            message.topic,
            index,
            lambda: pictures_of(shown, truth_palette),
        )

    def _note_broken(self, topic: str, index: int, stamp_ns: int, reason: str) -> None:
        if len(self._broken) < MAX_BROKEN:
            self._broken.append(
                BrokenMessage(topic=topic, index=index, stamp_ns=stamp_ns, reason=reason)
            )

    def _write_record(self, record: FrameRecord) -> None:
        self._records.write(json.dumps(record, ensure_ascii=False) + '\n')

    def _result(self, interrupted: bool) -> Result:
        plan, models = self._plan, self._models
        frames = sum(self._frames.values())
        if not frames and not interrupted:
            raise DataError(
                f'bag {plan.bag} holds no image that can be used: {self._broken[0]["reason"]}'
            )
        blocks: list[Block] = [
            block for builder in self._blocks.values() for block in builder.finish()
        ]
        space = self._layout.space
        overall = part(blocks, space)
        recording = plan.recording
        return Result(
            format=FORMAT,
            model=models.model,
            against=models.against_model,
            versions=_versions(),
            configuration=self._settings.configuration(),
            label_space=models.segmenter.label_space.to_dict(),
            comparison_space=None if space is None else space.to_dict(),
            interrupted=interrupted,
            bags=[
                BagEntry(
                    name=plan.name,
                    path=str(plan.bag),
                    sha256=plan.sha256,
                    bytes=sum(file.stat().st_size for file in recording.files),
                    key=plan.key,
                    damage=recording.damage,
                    interrupted=interrupted,
                    order='stamp' if plan.by_stamp else 'recording',
                    topics=[self._topic_entry(camera) for camera in plan.cameras.values()],
                    left_out=plan.left_out,
                    not_copied=self._others.unknown if self._others else [],
                    broken=self._broken,
                    frames=frames,
                    seconds=round((self._stamps[-1] - self._stamps[0]) / 1e9, 6)
                    if self._stamps
                    else 0.0,
                )
            ],
            failures=[],
            overall=overall,
            topics=by_topic(blocks, space, overall),
            look_first=look_first(blocks),
            blocks=blocks,
        )

    def _topic_entry(self, camera: _Camera) -> TopicEntry:
        index, topic = self._plan.index, camera.topic
        recorded = index.stamps[index.of(topic.name)]
        return TopicEntry(
            topic=topic.name,
            type=topic.type,
            messages=len(recorded),
            frames=self._frames[topic.name],
            broken=self._broken_counts[topic.name],
            stamps_back=int(np.count_nonzero(np.diff(recorded) < 0)),
            without_stamp=int(np.count_nonzero(index.without_stamp[index.of(topic.name)])),
            truth=camera.truth.source if camera.truth else None,
            truth_unmatched=camera.truth.unmatched if camera.truth else 0,
        )

    def _timing(self, seconds: float, cpu: float) -> Timing:
        frames = sum(self._frames.values())
        return Timing(
            frames=frames,
            seconds=round(seconds, 3),
            cpu_seconds=round(cpu, 3),
            frames_a_second=round(frames / seconds, 2),
            milliseconds={
                stage: {
                    name: round(float(value), 2)
                    for name, value in zip(
                        ('p50', 'p95', 'p99', 'max', 'mean'),
                        (*np.percentile(times, [50, 95, 99, 100]), np.mean(times)),
                        strict=True,
                    )
                }
                for stage, times in self._times.items()
                if len(times)
            },
            infer_ms={
                topic: [round(value, 2) for value in times]
                for topic, times in self._infer_ms.items()
            },
        )


def _record(
    frame: _Frame,
    index: int,
    stamp_ns: int,
    figures: dict[str, float | None] | None,
    moved: float | None,
    error: str | None,
) -> FrameRecord:
    height, width = (0, 0) if frame.image is None else frame.image.shape[:2]
    return FrameRecord(
        topic=frame.message.topic,
        index=index,
        stamp_ns=stamp_ns,
        frame_id='' if frame.header is None else frame.header.frame_id,
        error=error,
        width=width,
        height=height,
        truth=figures is not None and frame.truth is not None,
        figures=dict.fromkeys(FIGURES) if figures is None else figures,
        moved=moved,
    )


def _agreement(
    comparison: Comparison, first: Segmentation, second: Segmentation
) -> AgreementCounts:
    others, mine = comparison.in_common_space(second.labels, first.labels)
    labelled = (others != IGNORE_ID) & (mine != IGNORE_ID)
    both = cv2.countNonZero(first.drivable & second.drivable)
    return AgreementCounts(
        pixels=int(np.count_nonzero(labelled)),
        equal=int(np.count_nonzero((others == mine) & labelled)),
        drivable_both=both,
        drivable_either=cv2.countNonZero(first.drivable | second.drivable),
    )


@contextmanager
def _in_threads(threads: int, work: Callable[[T], R], items: Iterator[T]) -> Iterator[Iterator[R]]:
    """Give `work(item)` of each item in order, done by threads before it is asked for.

    At the end what has begun is completed, and nothing else is begun.
    """
    end: Any = object()
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(1) as taker, ThreadPoolExecutor(threads) as workers:

        def begin() -> None:
            taken = taker.submit(next, items, end)
            waiting.append(
                workers.submit(lambda: end if (item := taken.result()) is end else work(item))
            )

        def results() -> Iterator[R]:
            for _ in range(threads + AHEAD):
                begin()
            while (result := waiting.popleft().result()) is not end:
                begin()
                yield result

        try:
            yield results()
        finally:
            for pool in (workers, taker):
                pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Let OpenCV use one thread: the network has the others, and flow depends on their number."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


@contextmanager
def _complete_folder(folder: Path) -> Iterator[Path]:
    """Give a folder that takes the name `folder` at the end, and vanishes on an error."""
    partial = folder.with_name(f'.{folder.name}.part')
    try:
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            yield partial
            old = folder.with_name(f'.{folder.name}.old')
            if folder.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.replace(folder, old)
            os.replace(partial, folder)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise LwsegError(
            f'{folder} cannot be written: {error.strerror or error}; nothing of it is left: free '
            'space, or choose another --out'
        ) from None


def _finished(folder: Path, key: str) -> Result | None:
    try:
        result: Result = json.loads((folder / RESULT).read_text(encoding='utf-8'))
        if result['format'] != FORMAT or result['interrupted'] or result['bags'][0]['key'] != key:
            return None
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return result


def _check_replaceable(folder: Path, bag: Path) -> None:
    """Raise LwsegError if a folder holds anything but the result of an evaluation."""
    if bag.resolve().is_relative_to(folder.resolve()):
        raise LwsegError(f'{folder} holds the bag itself: choose another --out')
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RESULT).is_file():
        raise LwsegError(
            f'{folder} holds something else than the result of an evaluation: choose another --out'
        )


def _bag_sha256(bag: Path) -> str:
    """Return the SHA-256 of a bag's file, or of the list of a folder's files and theirs."""
    if not bag.is_dir():
        return sha256(bag)
    digest = hashlib.sha256()
    metadata = bag / 'metadata.yaml'
    for file in (*bag_files(bag), *([metadata] if metadata.exists() else [])):
        digest.update(f'{file.name} {sha256(file)}\n'.encode())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {
        'lwseg': __version__,
        'numpy': np.__version__,
        'opencv': cv2.__version__,
        'rosbags': version('rosbags'),
    }


def _rate(stamps: npt.NDArray[np.int64]) -> float:
    """Return the usual rate of a camera in Hz, 10 if it cannot be told."""
    periods = np.diff(stamps)
    periods = periods[periods > 0]
    return float(np.clip(1e9 / np.median(periods), 1, 240)) if len(periods) else 10.0
