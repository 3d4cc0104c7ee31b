"""Light-weight semantic segmentation for ROS 2: camera images in, drivable masks out."""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself takes 15 ms, in which Ctrl-C shows a traceback
if TYPE_CHECKING:
    from typing import Any

    from lwseg_ros.inference.segmenter import Segmentation, Segmenter
    from lwseg_ros.label_space import LabelSpace

__version__ = '0.1.0'
__all__ = ['LabelSpace', 'Segmentation', 'Segmenter', '__version__']

_HOMES = {
    'Segmenter': 'lwseg_ros.inference.segmenter',
    'Segmentation': 'lwseg_ros.inference.segmenter',
    'LabelSpace': 'lwseg_ros.label_space',
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that `import lwseg_ros` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
