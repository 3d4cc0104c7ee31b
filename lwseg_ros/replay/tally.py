"""What became of the messages of a bag, and the result that this makes."""

from __future__ import annotations

import numpy as np

from lwseg_ros.errors import DataError
from lwseg_ros.replay.figures import BlockBuilder, Layout, by_topic, look_first, part
from lwseg_ros.replay.plan import Camera, Plan, versions
from lwseg_ros.replay.result import (
    FORMAT,
    BagEntry,
    Block,
    BrokenMessage,
    Result,
    TopicEntry,
)
from lwseg_ros.replay.settings import Models, Settings

MAX_BROKEN = 100


class Tally:
    """Keeps count of the messages of a plan, given one after the other in order.

    `blocks` take the counts of the frames of each topic.
    """

    def __init__(self, plan: Plan, settings: Settings, layout: Layout) -> None:
        self._plan, self._settings, self._space = plan, settings, layout.space
        self.blocks = {
            topic: BlockBuilder(plan.name, topic, camera.first_ns, settings.block_seconds, layout)
            for topic, camera in plan.cameras.items()
        }
        self._messages = dict.fromkeys(plan.cameras, 0)
        self._frames = dict.fromkeys(plan.cameras, 0)
        self._broken = dict.fromkeys(plan.cameras, 0)
        self._first_broken: list[BrokenMessage] = []
        self._stamps: list[int] = []

    @property
    def frames(self) -> int:
        """How many messages have been answered."""
        return sum(self._frames.values())

    def next_index(self, topic: str) -> int:
        """Count a message of a camera, and return its place among those of its topic."""
        index = self._messages[topic]
        self._messages[topic] += 1
        return index

    def add_frame(self, topic: str, stamp_ns: int) -> None:
        """Count a message that has been answered."""
        self._frames[topic] += 1
        self._stamps = [*self._stamps[:1], stamp_ns]

    def add_broken(self, topic: str, index: int, stamp_ns: int, reason: str) -> None:
        """Count a message of a camera that cannot be used."""
        self._broken[topic] += 1
        self.note_broken(topic, index, stamp_ns, reason)

    def note_broken(self, topic: str, index: int, stamp_ns: int, reason: str) -> None:
        """Note what cannot be used, a message or truth, among the first `MAX_BROKEN`."""
        if len(self._first_broken) < MAX_BROKEN:
            self._first_broken.append(
                BrokenMessage(topic=topic, index=index, stamp_ns=stamp_ns, reason=reason)
            )

    def result(self, models: Models, interrupted: bool, not_copied: list[str]) -> Result:
        """Return the result; DataError if no frame, or nothing of a camera's truth, could be used.

        Of an interrupted evaluation, whatever there is.
        """
        plan, space = self._plan, self._space
        if not self.frames and not interrupted:
            raise DataError(
                f'bag {plan.bag} holds no image that can be used: '
                f'{self._first_broken[0]["reason"]}'
            )
        blocks: list[Block] = [
            block for builder in self.blocks.values() for block in builder.finish()
        ]
        if not interrupted:
            self._check_truth(blocks)
        overall = part(blocks, space)
        return Result(
            format=FORMAT,
            model=models.model,
            against=models.against_model,
            versions=versions(),
            configuration=self._settings.configuration(),
            label_space=models.segmenter.label_space.to_dict(),
            comparison_space=None if space is None else space.to_dict(),
            interrupted=interrupted,
            bags=[self._bag_entry(interrupted, not_copied)],
            failures=[],
            overall=overall,
            topics=by_topic(blocks, space, overall),
            look_first=look_first(blocks),
            blocks=blocks,
        )

    def _check_truth(self, blocks: list[Block]) -> None:
        """DataError if nothing could be used of a camera's truth."""
        for topic, camera in self._plan.cameras.items():
            of_topic = [block['counts'] for block in blocks if block['topic'] == topic]
            labelled = sum(np.sum(c['accuracy']['confusion']) for c in of_topic if c['accuracy'])
            if camera.truth is None or labelled:
                continue
            reason = 'no image that it belongs to can be used'
            if any(counts['frames_with_truth'] for counts in of_topic):
                assert self._plan.truth_space is not None
                reason = f'none of its labels is of a class of {self._plan.truth_space.name}'
            source = camera.truth.source
            reasons = [each['reason'] for each in self._first_broken if each['topic'] == source]
            raise DataError(
                f'bag {self._plan.bag}: nothing of its truth {source} can be used: '
                f'{(reasons or [reason])[0]}'
            )

    def _bag_entry(self, interrupted: bool, not_copied: list[str]) -> BagEntry:
        plan, stamps = self._plan, self._stamps
        return BagEntry(
            name=plan.name,
            path=str(plan.bag),
            sha256=plan.sha256,
            bytes=sum(file.stat().st_size for file in plan.recording.files),
            key=plan.key,
            damage=plan.recording.damage,
            interrupted=interrupted,
            order='stamp' if plan.by_stamp else 'recording',
            topics=[self._topic_entry(camera) for camera in plan.cameras.values()],
            left_out=plan.left_out,
            notes=plan.notes,
            not_copied=not_copied,
            broken=self._first_broken,
            frames=self.frames,
            seconds=round((stamps[-1] - stamps[0]) / 1e9, 6) if stamps else 0.0,
        )

    def _topic_entry(self, camera: Camera) -> TopicEntry:
        index, topic = self._plan.index, camera.topic
        recorded = index.stamps[index.of(topic.name)]
        return TopicEntry(
            topic=topic.name,
            type=topic.type,
            messages=len(recorded),
            frames=self._frames[topic.name],
            broken=self._broken[topic.name],
            stamps_back=int(np.count_nonzero(np.diff(recorded) < 0)),
            without_stamp=int(np.count_nonzero(index.without_stamp[index.of(topic.name)])),
            truth=camera.truth.source if camera.truth else None,
            truth_unmatched=camera.truth.unmatched if camera.truth else 0,
        )
