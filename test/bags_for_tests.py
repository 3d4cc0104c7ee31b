"""Small bags of painted pictures whose labels the tiny model knows exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from lwseg_ros.label_space import LabelSpace
from lwseg_ros.replay.settings import Settings

IMAGE, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
FIRST_NS = 1_700_000_000_123_456_789
PERIOD_NS = 100_000_000
SIZE = (96, 128)
ROS1, ROS2 = get_typestore(Stores.ROS1_NOETIC), get_typestore(Stores.ROS2_HUMBLE)
CAMVID = LabelSpace.load('camvid')


def stamp(number: int) -> int:
    return FIRST_NS + number * PERIOD_NS


def labels(number: int) -> np.ndarray:
    """Return labels of the tiny model's 4x4 cells: sky, building, road, and a car that moves."""
    picture = np.zeros(SIZE, np.uint8)
    picture[32:48] = 1
    picture[48:] = 3
    left = 4 * (number % 20)
    picture[56:72, left : left + 24] = 8
    return picture


def truth(number: int) -> np.ndarray:
    """Return what is said to be true: some of what is painted is wrong, some is void."""
    picture = labels(number)
    picture[:4] = 255
    picture[64:80, 100 : 104 + number % 3 * 8] = 4
    return picture


def painted(number: int) -> np.ndarray:
    """Return the RGB picture that the tiny model labels as `labels`."""
    return CAMVID.palette[labels(number)]


def header(types: Any, stamp_ns: int, frame_id: str = 'cam') -> Any:
    sec, nanosec = divmod(stamp_ns, 10**9)
    time = types['builtin_interfaces/msg/Time'](sec, nanosec)
    kind = types['std_msgs/msg/Header']
    if 'seq' in kind.__dataclass_fields__:
        return kind(seq=7, stamp=time, frame_id=frame_id)
    return kind(stamp=time, frame_id=frame_id)


def raw(
    picture: np.ndarray, stamp_ns: int, encoding: str = 'rgb8', store: Any = ROS2
) -> tuple[str, Any]:
    """Return the type and an Image message of these pixels."""
    height, width = picture.shape[:2]
    data = np.ascontiguousarray(picture)
    message = store.types[IMAGE](
        header=header(store.types, stamp_ns),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=data.nbytes // height,
        data=data.reshape(-1).view(np.uint8),
    )
    return IMAGE, message


def compressed(
    picture: np.ndarray, stamp_ns: int, suffix: str = '.png', store: Any = ROS2
) -> tuple[str, Any]:
    """Return the type and a CompressedImage message of a picture, RGB or of one channel."""
    bgr = picture[..., ::-1] if picture.ndim == 3 else picture
    _, data = cv2.imencode(suffix, np.ascontiguousarray(bgr))
    message = store.types[COMPRESSED](
        header=header(store.types, stamp_ns), format=suffix[1:], data=data.reshape(-1)
    )
    return COMPRESSED, message


Row = tuple[str, int, tuple[str, Any]]
"""Topic, when it was recorded, type and message (or its bytes)."""


def write_ros2(
    path: Path,
    rows: list[Row],
    plugin: StoragePlugin = StoragePlugin.MCAP,
    zstd: bool = False,
    store: Any = ROS2,
) -> Path:
    """Write a ROS 2 bag folder."""
    writer = Writer(path, version=8, storage_plugin=plugin)
    if zstd:
        writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        _write(writer, rows, store, store.serialize_cdr)
    return path


def write_ros1(path: Path, rows: list[Row], store: Any = ROS1) -> Path:
    """Write a ROS 1 bag file."""
    with Ros1Writer(path) as writer:
        _write(writer, rows, store, store.serialize_ros1)
    return path


def _write(writer: Any, rows: list[Row], store: Any, serialize: Callable[..., Any]) -> None:
    connections: dict[str, Any] = {}
    for topic, record_ns, (kind, message) in rows:
        if topic not in connections:
            connections[topic] = writer.add_connection(topic, kind, typestore=store)
        data = message if isinstance(message, bytes) else serialize(message, kind)
        writer.write(connections[topic], record_ns, data)


def camera_rows(count: int, topic: str = '/cam/image', store: Any = ROS2) -> list[Row]:
    """Return painted pictures, each recorded a millisecond after it was taken."""
    return [
        (topic, stamp(i) + 10**6, raw(painted(i), stamp(i), store=store)) for i in range(count)
    ]


def truth_rows(numbers: range | list[int], topic: str = '/labels', late_ns: int = 0) -> list[Row]:
    """Return label messages for some pictures, stamped this much later."""
    return [
        (topic, stamp(i) + 2 * 10**6, raw(truth(i), stamp(i) + late_ns, 'mono8')) for i in numbers
    ]


def by_time(*rows: list[Row]) -> list[Row]:
    """Return all rows in the order of their recording."""
    return sorted((row for some in rows for row in some), key=lambda row: row[1])


def quick_settings(tiny_model: Path, **changes: Any) -> Settings:
    """Return the settings of an evaluation against `truth_rows` that writes figures only."""
    return Settings(
        model=str(tiny_model),
        precision='fp32',
        truth_topics=('/labels',),
        truth_space='camvid',
        mcap=False,
        video=False,
        **changes,
    )
