"""Which image topics are cameras, as far as their names tell. Imports nothing.

Recordings and the live graph hold masks, label images and debug pictures beside cameras, of this
node and of others, and all of them are sensor_msgs images.
"""

from __future__ import annotations

import re

# The words are our choice, from the topics of nodes that publish such images.
_SEGMENTED = {
    *('seg', 'segm', 'segmented', 'segmentation', 'semantic', 'semantics', 'panoptic'),
}
_DRAWN = {
    *('mask', 'masks', 'label', 'labels', 'labelmap', 'instances', 'groundtruth'),
    *('drivable', 'freespace', 'costmap', 'colored', 'coloured', 'colorized', 'colorised'),
    *('debug', 'dbg', 'overlay', 'overlays', 'annotated', 'annotation', 'annotations', 'viz'),
    *('visualization', 'visualisation', 'detection', 'detections', 'prediction', 'predictions'),
    *('colormap', 'heatmap', 'saliency', 'confidence', 'probability', 'probabilities'),
    *('uncertainty', 'depth', 'disparity'),
}
_SEEN = {
    *('image', 'img', 'camera', 'cam', 'rgb', 'color', 'colour', 'mono', 'gray', 'grey'),
    *('video', 'picture', 'raw', 'rect', 'ir', 'infra', 'nir', 'thermal', 'fisheye'),
    *('left', 'right', 'front', 'rear', 'back'),
}
_PLAIN = {'image', 'img', 'raw', 'rect', 'color', 'mono', 'rgb', 'view', 'picture'}
"""A topic whose last name has these words only is named by what comes before."""
_TRANSPORTS = {'compressed', 'theora', 'ffmpeg', 'zstd'}


def may_be_camera(topic: str) -> bool:
    """Tell by its name whether an image topic may be a camera: no mask, no debug picture.

    The last name counts (`/unet/colored_mask`), and the one before it where the last is one that
    every camera has (`/semantic_camera/image_raw`, `/depth/image_rect`).
    """
    return not any(_tells_of_no_camera(words) for words in _telling_words(topic))


def sounds_like_camera(topic: str) -> bool:
    """Tell whether the last name of an image topic is one that cameras have."""
    words = _telling_words(topic)
    return may_be_camera(topic) and bool(words) and not _SEEN.isdisjoint(words[0])


def _telling_words(topic: str) -> list[list[str]]:
    """Return the words of the last name of a topic, and of the one before if it is plain."""
    names = [name for name in topic.split('/') if name]
    while len(names) > 1 and names[-1] in _TRANSPORTS:
        names.pop()
    words = [
        [word.lower() for word in re.findall(r'[A-Z]?[a-z]+|[A-Z]+', name)]
        for name in reversed(names[-2:])
    ]
    return words if words and _PLAIN.issuperset(words[0]) else words[:1]


def _tells_of_no_camera(words: list[str]) -> bool:
    # A depth camera has pictures, too, and so has a camera that is being debugged.
    is_some_camera = bool(words) and words[-1] in ('camera', 'cam')
    return not (_SEGMENTED.isdisjoint(words) and (is_some_camera or _DRAWN.isdisjoint(words)))
