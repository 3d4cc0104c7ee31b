"""Which topics of a recording are camera images: for every command by the same rules."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from lwseg_ros.bags.content import holds_ids, is_no_picture
from lwseg_ros.bags.order import Index, stamp_note
from lwseg_ros.bags.recording import BagTopic, Recording
from lwseg_ros.camera_topics import may_be_camera, sounds_like_camera
from lwseg_ros.errors import DataError, FrameError

SAMPLES = range(0, 21, 10)
"""Which messages of a topic are looked at to tell what it holds (our choice)."""


def camera_topics(
    recording: Recording, wanted: Sequence[str] = (), labels: Collection[str] = ()
) -> tuple[list[BagTopic], list[str]]:
    """Return the cameras of a recording by name, and the names of its other image topics.

    Those that are `wanted`. Else all but `labels`, what is no camera by its name, distances, the
    compressed images of a camera whose raw ones are there, and what holds class ids or is painted
    in a few colours; where that would leave none, the name alone decides. DataError, with a list
    of the bag's topics, if there is none, or one that is wanted is not there or carries no images.
    """
    images = {topic.name: topic for topic in recording.image_topics()}
    if wanted:
        chosen = [_wanted(recording, name) for name in wanted]
    else:
        chosen = [
            topic
            for topic in images.values()
            if topic.name not in labels
            and topic.name.removesuffix('/compressed') not in images.keys() - {topic.name}
            and may_be_camera(topic.name)
            and not any(map(is_no_picture, _samples(recording, topic, range(1))))
        ]
        if len(chosen) > 1:
            chosen = [t for t in chosen if not _is_mask(recording, t)] or chosen
        if not chosen:
            passed_over = ', '.join(sorted(images.keys() - set(labels)))
            raise DataError(
                f'bag {recording.path} has no camera images: {_listing(recording)}'
                + (f'; {recording.damage}' if recording.damage else '')
                + (f'; if {passed_over} is a camera, say so by --topic' if passed_over else '')
            )
    chosen = sorted(set(chosen))
    names = {topic.name for topic in chosen}.union(labels)
    return chosen, sorted(images.keys() - names)


def camera_topic(recording: Recording, wanted: str | None = None) -> tuple[BagTopic, list[str]]:
    """Return the wanted camera, or the only one, and the names of the other image topics.

    DataError as `camera_topics`, or for several.
    """
    cameras, passed_over = camera_topics(recording, [] if wanted is None else [wanted])
    if len(cameras) > 1:
        choices = ', '.join(str(topic) for topic in cameras)
        raise DataError(
            f'bag {recording.path} has several image topics, choose one by --topic: {choices}'
        )
    return cameras[0], passed_over


def reading_notes(recording: Recording, index: Index, passed_over: Collection[str]) -> list[str]:
    """Return in sentences what is to be known of how the cameras of an index are read."""
    notes = []
    if passed_over:
        notes.append(
            f'{", ".join(index.names)} taken for a camera, not {", ".join(passed_over)}: choose '
            'others by --topic'
        )
    for name in index.names:
        without_stamp = index.without_stamp[index.of(name)]
        notes.append(stamp_note(name, int(without_stamp.sum()), len(without_stamp)))
    return [*filter(None, notes), *recording.notes]


def camera_info_topic(image_topic: str) -> str:
    """Return where the calibration of a camera is by the rules of image_transport."""
    return image_topic.removesuffix('/compressed').rpartition('/')[0] + '/camera_info'


def _wanted(recording: Recording, name: str) -> BagTopic:
    topics = recording.topics
    found = topics.get(name) or topics.get(f'/{name}')
    if found is None:
        raise DataError(f'bag {recording.path} has no topic {name}: {_listing(recording)}')
    if found not in recording.image_topics():
        raise DataError(
            f'topic {found} of bag {recording.path} carries no images: {_listing(recording)}'
        )
    return found


def _listing(recording: Recording) -> str:
    return 'it holds ' + (', '.join(str(t) for t in recording.topics.values()) or 'no topics')


def _is_mask(recording: Recording, topic: BagTopic) -> bool:
    """Tell by some messages whether a topic carries masks; a camera's name is trusted more."""
    samples = _samples(recording, topic, SAMPLES)
    return holds_ids(samples, or_colors=not sounds_like_camera(topic.name))


def _samples(recording: Recording, topic: BagTopic, numbers: range) -> list[Any]:
    """Return messages of a topic; not those that are damaged, which is told when they are read."""
    read = islice(recording.messages([topic.name]), numbers.start, numbers.stop, numbers.step)
    samples = []
    for message in read:
        with suppress(FrameError):
            samples.append(recording.decode(message))
    return samples
