"""What a model would have answered on a recorded drive: what `lwseg bag evaluate` does to a bag.

Every image comes once, in order, and nothing is timed, so two runs write the same figures and
masks. Reading and decoding run ahead of the network, measuring and writing behind it, each by a
few frames only: memory does not grow with the bag. The network answers several frames at once
where that is more a second.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros.files import write_json
from lwseg_ros.inference.segmenter import Segmentation
from lwseg_ros.memory import keep_freed_memory
from lwseg_ros.overlay import overlay
from lwseg_ros.replay.counts import FrameCounter
from lwseg_ros.replay.figures import BlockBuilder
from lwseg_ros.replay.folder import check_replaceable, complete_folder, finished
from lwseg_ros.replay.frames import Answer, Frame, decode, infer, messages
from lwseg_ros.replay.outputs import (
    OtherTopics,
    Pictures,
    ReplayBag,
    Shown,
    Videos,
    pictures_of,
    shown_size,
)
from lwseg_ros.replay.pipeline import in_threads
from lwseg_ros.replay.plan import Plan, make_plan
from lwseg_ros.replay.result import (
    FIGURES,
    FRAMES,
    RESULT,
    TIMING,
    FrameRecord,
    Result,
)
from lwseg_ros.replay.settings import Models, Settings, open_models
from lwseg_ros.replay.tally import Tally
from lwseg_ros.replay.timing import StageTimes

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
        if (result := finished(folder, plan.key)) is not None:
            return result
        check_replaceable(folder, bag)
        with complete_folder(folder) as unfinished:
            return _Evaluation(plan, models, settings, unfinished).run(progress)


class _Evaluation:
    """The evaluation of one bag into a folder; `run` it once."""

    def __init__(self, plan: Plan, models: Models, settings: Settings, folder: Path) -> None:
        self._plan, self._models, self._settings, self._folder = plan, models, settings, folder
        self._counter = FrameCounter(plan, models, settings.low_confidence)
        self._tally = Tally(plan, settings, self._counter.layout)
        self._times = StageTimes(plan.cameras)
        self._palette = models.segmenter.label_space.palette
        self._pictures = Pictures()

    def run(self, progress: Progress | None) -> Result:
        """Evaluate every frame and write everything."""
        plan, models, settings = self._plan, self._models, self._settings
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
                    in_threads(2, partial(decode, plan), messages(plan)) as frames,
                    in_threads(models.streams, partial(infer, models), frames) as answers,
                    in_threads(1, self._measure, answers) as measured,
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
        not_copied = self._others.unknown if self._others else []
        result = self._tally.result(models, interrupted, not_copied)
        self._pictures.write(self._folder, result['look_first'])
        timing = self._times.timing(self._tally.frames, seconds, cpu)
        write_json(self._folder / TIMING, timing)
        write_json(self._folder / RESULT, result)
        return result

    def _measure(self, answer: Answer) -> None:
        """Count a frame and write what is made of it; called for one frame after the other."""
        started = time.perf_counter()
        frame, segmentation = answer.frame, answer.segmentation
        topic = frame.message.topic
        stamp_ns = int(self._plan.index.stamps[frame.number])
        index = self._tally.next_index(topic)
        if self._bag is not None and self._others is not None:
            self._others.copy(self._bag, frame.message.record_ns)
        if frame.truth_error:
            camera = self._plan.cameras[topic]
            source = camera.truth.source if camera.truth else ''
            self._tally.note_broken(source, index, stamp_ns, frame.truth_error)
        if segmentation is None or frame.image is None:
            self._tally.add_broken(topic, index, stamp_ns, answer.error)
            self._write_record(_record(frame, index, stamp_ns, None, None, answer.error))
            return
        self._tally.add_frame(topic, stamp_ns)
        small = shown_size(frame.image)
        vector, moved = self._counter.count(answer, small, stamp_ns)
        figures = self._counter.layout.figures(vector)
        record = _record(frame, index, stamp_ns, figures, moved, None)
        self._write_record(record)
        blocks = self._tally.blocks[topic]
        reasons = blocks.add(record, vector, answer.against is not None)
        self._show(frame, small, segmentation, reasons, blocks, index)
        measure_ms = 1e3 * (time.perf_counter() - started)
        self._times.add(topic, frame.decode_ms, answer.infer_ms, measure_ms)

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

    def _write_record(self, record: FrameRecord) -> None:
        self._records.write(json.dumps(record, ensure_ascii=False) + '\n')


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
