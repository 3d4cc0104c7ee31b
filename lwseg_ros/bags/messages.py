"""ROS 2 camera messages made and serialised with rosbags: no ROS installation is needed."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros.errors import DataError

try:
    from rosbags.typesys import Stores, get_typestore
except ImportError:
    raise DataError('reading bags needs the rosbags package: pip install rosbags') from None

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'

TYPESTORE = get_typestore(Stores.ROS2_HUMBLE)
"""Definitions and serialisers of ROS 2 messages; those of cameras are equal in all releases."""

CAMERA_FRAME = 'camera'

_TYPES = TYPESTORE.types


def image_message(pixels: npt.NDArray[np.uint8], encoding: str, stamp_ns: int) -> Any:
    """Return a sensor_msgs/Image of pixels uint8 `[H, W]` or `[H, W, 3]` with tight rows."""
    height, width = pixels.shape[:2]
    return _TYPES[IMAGE](
        header=header(stamp_ns),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=pixels.size // height,
        data=np.ascontiguousarray(pixels).reshape(-1),
    )


def jpeg_message(picture: npt.NDArray[np.uint8], stamp_ns: int, frame_id: str) -> Any:
    """Return a sensor_msgs/CompressedImage of an RGB picture uint8 `[H, W, 3]`."""
    _, data = cv2.imencode(
        '.jpg', cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92]
    )
    return _TYPES[COMPRESSED_IMAGE](
        header=header(stamp_ns, frame_id), format='jpeg', data=data.reshape(-1)
    )


def header(stamp_ns: int, frame_id: str = CAMERA_FRAME) -> Any:
    """Return a std_msgs/Header."""
    sec, nanosec = divmod(stamp_ns, 10**9)
    time = _TYPES['builtin_interfaces/msg/Time'](sec=sec, nanosec=nanosec)
    return _TYPES['std_msgs/msg/Header'](stamp=time, frame_id=frame_id)


def stamp_of(message: Any) -> int:
    """Return the header stamp of a message in nanoseconds."""
    stamp = message.header.stamp
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def ros2_image(message: Any) -> Any:
    """Return a ROS 1 or ROS 2 message as one of ROS 2."""
    head = header(stamp_of(message), message.header.frame_id)
    if not hasattr(message, 'encoding'):
        return _TYPES[COMPRESSED_IMAGE](header=head, format=message.format, data=message.data)
    return _TYPES[IMAGE](
        header=head,
        height=message.height,
        width=message.width,
        encoding=message.encoding,
        is_bigendian=message.is_bigendian,
        step=message.step,
        data=message.data,
    )


def ros2_camera_info(message: Any) -> Any:
    """Return a ROS 1 calibration (D, K, R, P) or a ROS 2 one (d, k, r, p) as one of ROS 2."""
    matrices = {
        name: np.asarray(getattr(message, name, getattr(message, name.upper(), None)), np.float64)
        for name in 'dkrp'
    }
    roi = _TYPES['sensor_msgs/msg/RegionOfInterest'](
        x_offset=message.roi.x_offset,
        y_offset=message.roi.y_offset,
        height=message.roi.height,
        width=message.roi.width,
        do_rectify=message.roi.do_rectify,
    )
    return _TYPES[CAMERA_INFO](
        header=header(stamp_of(message), message.header.frame_id),
        height=message.height,
        width=message.width,
        distortion_model=message.distortion_model,
        **matrices,
        binning_x=message.binning_x,
        binning_y=message.binning_y,
        roi=roi,
    )
