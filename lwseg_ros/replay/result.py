"""What `lwseg bag evaluate` writes: the shapes of result.json, frames.jsonl and timing.json.

A folder per bag, `OUT/BAG/`, and the results of all of them merged in `OUT/result.json`, which has
the same shape (one bag is a merge of one):

    result.json      Result: figures with their confidence intervals; nothing in it is timed
    frames.jsonl     FrameRecord: one line a frame, in the order of evaluation
    timing.json      Timing: how fast it went, the only file that differs between two runs
    replay/          an MCAP bag: camera images, masks, confidence and overlays, same stamps
    overlay_*.mp4    an overlay video of each camera
    look_first/*.jpg camera image, overlay and truth of the frames in `Result['look_first']`

Every figure follows from the whole-numbered counts in `Result['blocks']`: results are merged by
putting their blocks together, and two results are compared block by block.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypedDict

FORMAT = 'lwseg replay 1'
RESULT, FRAMES, TIMING = 'result.json', 'frames.jsonl', 'timing.json'

ACCURACY_FIGURES = (
    *('miou', 'drivable_iou', 'false_drivable_rate', 'missed_drivable_rate', 'pixel_accuracy'),
    *('boundary_f1', 'drivable_boundary_f1', 'calibration_error'),
)
"""Figures against truth, as in docs/metrics.md; None where there is no truth."""
STABILITY_FIGURES = ('flicker', 'drivable_stability', 'low_confidence', 'confidence')
"""Figures that need no truth; the first two are None for a frame without one before it."""
AGREEMENT_FIGURES = ('agreement', 'drivable_agreement')
"""Figures against the second model; None without one."""
FIGURES = (*ACCURACY_FIGURES, *STABILITY_FIGURES, *AGREEMENT_FIGURES, 'drivable_share')

HIGHER_IS_BETTER = {
    **dict.fromkeys(
        ('miou', 'drivable_iou', 'pixel_accuracy', 'boundary_f1', 'drivable_boundary_f1'), True
    ),
    **dict.fromkeys(('drivable_stability', *AGREEMENT_FIGURES), True),
    **dict.fromkeys(
        ('false_drivable_rate', 'missed_drivable_rate', 'calibration_error', 'flicker'), False
    ),
    'low_confidence': False,
}
"""Whether more of a figure is better; `confidence` and `drivable_share` are neither."""


class Figure(TypedDict):
    """A figure and its 95 % confidence interval, None where undefined or of too few blocks."""

    value: float | None
    low: float | None
    high: float | None


class Counts(TypedDict):
    """Whole numbers that add up over frames; every figure is a ratio of some of them.

    `accuracy` is None without truth, `agreement` without a second model.
    """

    frames: int
    frames_with_truth: int
    pixels: int
    confidence_sum: int
    """Sum over pixels of 255 times the confidence."""
    low_confidence: int
    """Pixels below the configured confidence."""
    drivable: int
    """Pixels that are drivable."""
    compared: int
    """Pixels of the flow grid that could be followed from the frame before."""
    changed: int
    """Those of them whose label changed."""
    drivable_both: int
    """Followed pixels that are drivable now and were before."""
    drivable_either: int
    accuracy: AccuracyCounts | None
    agreement: AgreementCounts | None


class AccuracyCounts(TypedDict):
    """Counts against truth, in the label space of the comparison."""

    confusion: list[list[int]]
    """`[classes, classes + 1]`, see `ConfusionMatrix`."""
    boundary: list[list[int]]
    """`[classes + 1, 4]`, see `BoundaryCounts`; the last row is the drivable area."""
    calibration: list[list[int]]
    """`[3, 15]`: pixels, right ones and sum of 255 times the confidence in each bin."""


class AgreementCounts(TypedDict):
    """Counts against the second model."""

    pixels: int
    """Pixels that both models label."""
    equal: int
    drivable_both: int
    drivable_either: int


class Extreme(TypedDict):
    """The frame of a block with the worst value of a figure."""

    value: float
    index: int
    stamp_ns: int


class Block(TypedDict):
    """Consecutive frames of one topic, `block_seconds` long: the unit of resampling.

    Frames of a drive resemble their neighbours, so single frames are no independent samples.
    """

    bag: str
    topic: str
    number: int
    """floor((stamp - first stamp of the topic) / block_seconds)."""
    counts: Counts
    worst: dict[str, Extreme]
    """By figure: drivable_iou (miou if nothing is drivable), flicker, drivable_stability,
    low_confidence, drivable_agreement; those that are known."""


class Part(TypedDict):
    """The figures over some blocks: everything, or one topic."""

    frames: int
    frames_with_truth: int
    figures: dict[str, Figure]
    """By the names in FIGURES."""
    iou: dict[str, Figure]
    """By class, those that occur in truth."""
    confusion: list[list[int]] | None
    accuracy: dict[str, Any] | None
    """What `lwseg evaluate` reports of the same frames, None without truth."""


class LookFirst(TypedDict):
    """A frame to look at first, at most one of a block for each reason."""

    bag: str
    topic: str
    index: int
    stamp_ns: int
    reason: str
    """The figure that is worst here."""
    value: float
    picture: str
    """Its pictures below the bag's folder: this and _input.jpg, _overlay.jpg or _truth.jpg."""


class BrokenMessage(TypedDict):
    """A message that could not be used; `index` counts from 0 within its topic."""

    topic: str
    index: int
    stamp_ns: int
    reason: str


class TopicEntry(TypedDict):
    """A camera of a bag."""

    topic: str
    type: str
    messages: int
    """Messages in the bag; those evaluated are `frames`, the others broken (or not reached)."""
    frames: int
    broken: int
    stamps_back: int
    """Messages whose stamp is before that of the message recorded before them."""
    without_stamp: int
    """Messages without a header stamp: what stands for it is in docs/replay.md."""
    truth: str | None
    """Label topic or folder of its truth."""
    truth_unmatched: int
    """Truth that belongs to no frame."""


class BagEntry(TypedDict):
    """One bag and what became of it."""

    name: str
    """Name of its folder in OUT."""
    path: str
    sha256: str
    bytes: int
    key: str
    """SHA-256 of bag, model, truth and configuration: what resuming goes by."""
    damage: str
    """A sentence on what is cut off or damaged, empty for a whole bag."""
    interrupted: bool
    order: str
    """'stamp', or 'recording' where stamps jump too far to be sorted."""
    topics: list[TopicEntry]
    left_out: list[str]
    """Image topics that are not evaluated."""
    notes: list[str]
    """What is to be known of how it was read, in sentences: cameras, stamps, copies."""
    not_copied: list[str]
    """Topics of unknown types, which could not be copied on request."""
    broken: list[BrokenMessage]
    """The first of them (at most 100); the topics have the numbers."""
    frames: int
    seconds: float
    """From its first to its last evaluated stamp."""


class Failure(TypedDict):
    """A bag that could not be evaluated."""

    bag: str
    error: str


class Model(TypedDict):
    """A model as it was run."""

    name: str
    sha256: str
    engine: str


class Result(TypedDict):
    """result.json, of one bag or of several."""

    format: str
    model: Model
    against: Model | None
    versions: dict[str, str]
    configuration: dict[str, Any]
    label_space: dict[str, Any]
    """The model's, as `LabelSpace.to_dict` gives it."""
    comparison_space: dict[str, Any] | None
    """The space in which predictions and truth are compared, None without truth."""
    interrupted: bool
    bags: list[BagEntry]
    failures: list[Failure]
    overall: Part
    topics: dict[str, Part]
    look_first: list[LookFirst]
    blocks: list[Block]


class FrameRecord(TypedDict):
    """A line of frames.jsonl: one message. A broken one has an `error` and no figures."""

    topic: str
    index: int
    """Place among the messages of its topic, from 0, in the order of evaluation."""
    stamp_ns: int
    frame_id: str
    error: str | None
    width: int
    height: int
    truth: bool
    figures: dict[str, float | None]
    """By the names in FIGURES."""
    moved: float | None
    """Median image motion since the frame before, as a share of the image's diagonal."""


class Timing(TypedDict):
    """timing.json: milliseconds by stage, and each frame's inference in evaluation order.

    The network answers several frames at once where that is more a second, and each takes longer
    than it would alone.
    """

    frames: int
    seconds: float
    cpu_seconds: float
    """Of all threads of the process."""
    frames_a_second: float
    milliseconds: dict[str, dict[str, float]]
    """By stage (decode, infer, measure): p50, p95, p99, max, mean."""
    infer_ms: dict[str, list[float]]
    """By topic."""


def read_bag_result(out: Path, bag: BagEntry) -> Result:
    """Read the result of one bag, below the folder of all."""
    result: Result = json.loads((out / bag['name'] / RESULT).read_text(encoding='utf-8'))
    return result
