"""What is counted of each frame: whole numbers, from which all figures follow."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros.evaluation.evaluate import Comparison
from lwseg_ros.inference.segmenter import Segmentation
from lwseg_ros.label_space import IGNORE_ID
from lwseg_ros.replay.figures import Layout, accuracy_counts, empty_counts
from lwseg_ros.replay.frames import Answer
from lwseg_ros.replay.plan import Plan
from lwseg_ros.replay.result import AgreementCounts
from lwseg_ros.replay.settings import Models
from lwseg_ros.replay.stability import Stability


class FrameCounter:
    """Counts the frames of a plan, given one after the other in order.

    `comparison` is with truth, None without any; `layout` says where the counts lie.
    """

    def __init__(self, plan: Plan, models: Models, low_confidence: float) -> None:
        space = models.segmenter.label_space
        self.comparison = None
        if plan.truth_space is not None:
            self.comparison = Comparison(space, plan.truth_space)
        self.layout = Layout(self.comparison.space if self.comparison else None)
        self._against = None
        if models.against is not None:
            self._against = Comparison(space, models.against.label_space)
        self._level = math.ceil(255 * low_confidence)  # NumPy compares whole numbers fast
        self._stability = {topic: Stability() for topic in plan.cameras}

    def count(
        self, answer: Answer, small: npt.NDArray[np.uint8], stamp_ns: int
    ) -> tuple[npt.NDArray[np.int64], float | None]:
        """Return the counts of a frame that has an answer, and the motion since the one before.

        The motion is sought in its image at `small` size, RGB uint8 `[h, w, 3]`.
        """
        frame, segmentation, against = answer.frame, answer.segmentation, answer.against
        assert segmentation is not None
        confidence = segmentation.confidence
        counts = empty_counts()
        counts['frames'] = 1
        counts['pixels'] = confidence.size
        counts['confidence_sum'] = int(cv2.sumElems(confidence)[0])
        counts['low_confidence'] = int(np.count_nonzero(confidence < self._level))
        counts['drivable'] = cv2.countNonZero(segmentation.drivable)
        change = self._stability[frame.message.topic].update(small, segmentation, stamp_ns)
        if change is not None:
            counts['compared'], counts['changed'] = change.compared, change.changed
            counts['drivable_both'] = change.drivable_both
            counts['drivable_either'] = change.drivable_either
        if self.comparison is not None and frame.truth is not None:
            counts['frames_with_truth'] = 1
            counts['accuracy'] = accuracy_counts(
                self.comparison.measure(frame.truth, segmentation)
            )
        if against is not None and self._against is not None:
            counts['agreement'] = _agreement(self._against, segmentation, against)
        return self.layout.vector(counts), None if change is None else change.moved


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
