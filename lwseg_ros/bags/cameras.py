"""Which topics of a recording are camera images: for every command by the same rules."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lwseg_ros.bags.messages import COMPRESSED_IMAGE, IMAGE
from lwseg_ros.bags.recording import BagTopic, Recording
from lwseg_ros.errors import DataError

NO_CAMERAS = ('mask', 'drivable_mask', 'confidence', 'color_mask', 'overlay', 'labels')
"""Image topics of these last names, the node's outputs and truth, are left out unless asked."""
DEPTH_ENCODINGS = ('16UC1', '32FC1')
"""Image topics in these are distances and left out, too (REP 118)."""


def camera_topics(
    recording: Recording, wanted: Sequence[str] = (), labels: Collection[str] = ()
) -> tuple[list[BagTopic], list[str]]:
    """Return the cameras of a recording by name, and the names of its other image topics.

    Those that are `wanted`, else all but `labels`, outputs of the node, distances, and the
    compressed images of a camera whose raw ones are there. DataError, with a list of the bag's
    topics, if there is none, or one that is wanted is not there or carries no images.
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
            and topic.name.removesuffix('/compressed').split('/')[-1] not in NO_CAMERAS
            and not _is_depth(recording, topic)
        ]
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


def camera_topic(recording: Recording, wanted: str | None = None) -> BagTopic:
    """Return the wanted camera, or the only one; DataError as `camera_topics`, or for several."""
    cameras, _ = camera_topics(recording, [] if wanted is None else [wanted])
    if len(cameras) > 1:
        choices = ', '.join(str(topic) for topic in cameras)
        raise DataError(
            f'bag {recording.path} has several image topics, choose one by --topic: {choices}'
        )
    return cameras[0]


def camera_info_topic(image_topic: str) -> str:
    """Return where the calibration of a camera is by the rules of image_transport."""
    return image_topic.removesuffix('/compressed').rpartition('/')[0] + '/camera_info'


def _wanted(recording: Recording, name: str) -> BagTopic:
    topics = recording.topics
    found = topics.get(name) or topics.get(f'/{name}')
    if found is None:
        raise DataError(f'bag {recording.path} has no topic {name}: {_listing(recording)}')
    if found.type not in (IMAGE, COMPRESSED_IMAGE) or not found.messages:
        raise DataError(
            f'topic {found} of bag {recording.path} carries no images: {_listing(recording)}'
        )
    return found


def _listing(recording: Recording) -> str:
    return 'it holds ' + (', '.join(str(t) for t in recording.topics.values()) or 'no topics')


def _is_depth(recording: Recording, topic: BagTopic) -> bool:
    """Tell by its first message whether a topic carries distances (REP 118) and no picture."""
    if topic.name.endswith('/compressedDepth'):
        return True
    try:
        message = recording.decode(next(recording.messages([topic.name])))
    except Exception:  # whatever is wrong with it is told when it is read
        return False
    return getattr(message, 'encoding', '') in DEPTH_ENCODINGS
