"""Camera infos as the calibrations that they are."""

from __future__ import annotations

from sensor_msgs.msg import CameraInfo

from lwseg_ros.camera_model import Intrinsics


def intrinsics(info: CameraInfo) -> Intrinsics:
    """Return the camera of an image, be it binned or a region of the calibrated one."""
    k, roi = info.k.tolist(), info.roi
    k[2] -= roi.x_offset
    k[5] -= roi.y_offset
    return Intrinsics(
        roi.width or info.width,
        roi.height or info.height,
        tuple(k),
        info.distortion_model,
        tuple(info.d),
    )
