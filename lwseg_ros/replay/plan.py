"""What is known of a bag before its first frame is evaluated: cameras, order, truth, hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros import __version__
from lwseg_ros.bags.cameras import camera_topics, reading_notes
from lwseg_ros.bags.files import METADATA, bag_files
from lwseg_ros.bags.order import Index, usual_rate_hz
from lwseg_ros.bags.recording import BagTopic, Recording
from lwseg_ros.bags.sqlite import journals
from lwseg_ros.errors import DataError
from lwseg_ros.files import sha256
from lwseg_ros.label_space import LabelSpace
from lwseg_ros.replay.settings import Models, Settings
from lwseg_ros.replay.truth import (
    Truth,
    folder_truth,
    topic_truth,
    truth_folder,
    truth_space,
)

Numbers = npt.NDArray[np.int64]


class Camera(NamedTuple):
    """A topic that is evaluated; `numbers` are its messages', in the order of evaluation."""

    topic: BagTopic
    numbers: npt.NDArray[np.int64]
    first_ns: int
    rate_hz: float
    truth: Truth | None


@dataclass(frozen=True)
class Plan:
    """What is known of a bag before its first frame is evaluated."""

    bag: Path
    name: str
    recording: Recording
    index: Index
    order: npt.NDArray[np.int64]
    by_stamp: bool
    cameras: dict[str, Camera]
    left_out: list[str]
    notes: list[str]
    truth_space: LabelSpace | None
    sha256: str
    key: str


def make_plan(bag: Path, name: str, settings: Settings, models: Models) -> Plan:
    """Look at a bag; DataError if it or its truth cannot be used.

    `name` is that of its folder, which chooses among folders of truth.
    """
    recording = Recording(bag)
    labels = _label_topics(settings.truth_topics)
    topics, left_out = camera_topics(recording, settings.topics, set(labels.values()))
    names = [topic.name for topic in topics]
    others = recording.topics if settings.copy_topics else ()
    index = recording.index(names, [*others, *labels.values()])
    order, by_stamp = index.order()
    if not len(order):
        raise DataError(f'bag {bag} holds no images of {", ".join(names)}')
    notes = reading_notes(recording, index, [] if settings.topics else left_out)
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
        cameras[topic.name] = Camera(
            topic, numbers, int(stamps.min()), usual_rate_hz(stamps), truth
        )
    digest = _bag_sha256(bag)
    content = {
        'bag': digest,
        'name': name,
        'models': [models.model, models.against_model],
        'truth': [c.truth.digest for c in cameras.values() if c.truth],
        'space': None if space is None else space.to_dict(),
        'configuration': settings.configuration(),
        'versions': versions(),
    }
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Plan(
        *(bag, name, recording, index, order, by_stamp, cameras, left_out, notes),
        *(space, digest, key),
    )


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
            return topic_truth(recording, label_topic, space, numbers, stamps, tolerance_ns)
        if settings.truth_folder is not None:
            folder = truth_folder(settings.truth_folder, bag, topic, topics)
            return folder_truth(folder, space, numbers, stamps, tolerance_ns)
        return None

    return find


def _bag_sha256(bag: Path) -> str:
    """Return the SHA-256 of a bag's file, or of the list of its files and theirs."""
    files = [beside for file in bag_files(bag) for beside in (file, *journals(file))]
    if files == [bag]:
        return sha256(bag)
    digest = hashlib.sha256()
    metadata = bag / METADATA
    for file in (*files, *([metadata] if metadata.exists() else [])):
        digest.update(f'{file.name} {sha256(file)}\n'.encode())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that figures depend on."""
    from importlib.metadata import version

    return {
        'lwseg': __version__,
        'numpy': np.__version__,
        'opencv': cv2.__version__,
        'rosbags': version('rosbags'),
    }
