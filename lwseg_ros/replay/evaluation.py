"""What a model would have answered on a recorded drive: what `lwseg bag evaluate` does to a bag.

Every image comes once, in order, and nothing is timed, so two runs write the same figures and
masks. Reading and decoding run ahead of the network, measuring and writing behind it, each by a
few frames only: memory does not grow with the bag. The network answers several frames at once
where that is more a second.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros.errors import DataError, LwsegError
from lwseg_ros.inference.segmenter import Segmentation
from lwseg_ros.memory import keep_freed_memory
from lwseg_ros.overlay import overlay
from lwseg_ros.replay.counts import FrameCounter
from lwseg_ros.replay.figures import BlockBuilder, by_topic, look_first, part
from lwseg_ros.replay.frames import Answer, Frame, answers, in_threads
from lwseg_ros.replay.outputs import (
    OtherTopics,
    Pictures,
    ReplayBag,
    Shown,
    Videos,
    pictures_of,
    shown_size,
)
from lwseg_ros.replay.plan import Camera, Plan, make_plan, versions
from lwseg_ros.replay.result import (
    FIGURES,
    FORMAT,
    FRAMES,
    RESULT,
    TIMING,
    BagEntry,
    Block,
    BrokenMessage,
    FrameRecord,
    Result,
    Timing,
    TopicEntry,
    write_json,
)
from lwseg_ros.replay.settings import Models, Settings, open_models

MAX_BROKEN = 100

Progress = Callable[[int, int], None]


def evaluate_bag(
    bag: Path, folder: Path, settings: Settings, progress: Progress | None = None
) -> Result:
    """Evaluate a bag into `folder`, which appears when it is complete; see `result`.

    Returns at once what is there if it is of the same bag, model, truth and settings. Ctrl-C ends
    the evaluation early: the folder and the result hold the frames so far, `interrupted` says so.
    `progress` is called with the messages done and in all.

    DataError for a bag or truth that cannot be used, ModelError for such a model, LwsegError if
    the folder cannot be written; then nothing is left of it.
    """
    keep_freed_memory()
    with ExitStack() as stack:
        stack.enter_context(_one_opencv_thread())
        models = stack.enter_context(open_models(settings))
        plan = make_plan(bag, folder.name, settings, models)
        if (finished := _finished(folder, plan.key)) is not None:
            return finished
        _check_replaceable(folder, bag)
        with _complete_folder(folder) as partial:
            return _Evaluation(plan, models, settings, partial).run(progress)


class _Evaluation:
    """The evaluation of one bag into a folder; `run` it once."""

    def __init__(self, plan: Plan, models: Models, settings: Settings, folder: Path) -> None:
        self._plan, self._models, self._settings, self._folder = plan, models, settings, folder
        self._counter = FrameCounter(plan, models, settings.low_confidence)
        self._palette = models.segmenter.label_space.palette
        self._blocks = {
            topic: BlockBuilder(
                plan.name, topic, camera.first_ns, settings.block_seconds, self._counter.layout
            )
            for topic, camera in plan.cameras.items()
        }
        self._indices = dict.fromkeys(plan.cameras, 0)
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
            try:
                with (
                    answers(plan, self._models) as answered,
                    in_threads(1, self._measure, answered) as measured,
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

    def _measure(self, answer: Answer) -> None:
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
        small = shown_size(frame.image)
        vector, moved = self._counter.count(answer, small, stamp_ns)
        figures = self._counter.layout.figures(vector)
        record = _record(frame, index, stamp_ns, figures, moved, None)
        self._write_record(record)
        blocks = self._blocks[topic]
        reasons = blocks.add(record, vector, answer.against is not None)
        self._show(frame, small, segmentation, reasons, blocks, index)
        self._times['decode'].append(frame.decode_ms)
        self._times['infer'].append(answer.infer_ms)
        self._times['measure'].append(1e3 * (time.perf_counter() - started))
        self._infer_ms[topic].append(answer.infer_ms)

    def _show(
        self,
        frame: Frame,
        small: npt.NDArray[np.uint8],
        segmentation: Segmentation,
        reasons: Mapping[str, float],
        blocks: BlockBuilder,
        index: int,
    ) -> None:
        if not (reasons or self._bag or self._videos):
            return
        painted = overlay(small, segmentation.labels, self._palette, self._settings.alpha)
        truth = frame.truth
        if truth is not None and self._counter.comparison is not None:
            truth, _ = self._counter.comparison.in_common_space(truth, segmentation.labels)
        message = frame.message
        shown = Shown(message, frame.header, segmentation, small, painted, truth)
        if self._bag is not None:
            self._bag.add(shown, self._plan.recording.as_ros2(message))
        if self._videos is not None:
            self._videos.add(message.topic, painted)
        space = self._counter.layout.space
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
        space = self._counter.layout.space
        overall = part(blocks, space)
        recording = plan.recording
        return Result(
            format=FORMAT,
            model=models.model,
            against=models.against_model,
            versions=versions(),
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

    def _topic_entry(self, camera: Camera) -> TopicEntry:
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
    frame: Frame,
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
