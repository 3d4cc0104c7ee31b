"""Names of image topics that nodes in the field publish."""

from __future__ import annotations

import pytest

from lwseg_ros.camera_topics import may_be_camera, sounds_like_camera

CAMERAS = [
    *('/image', '/camera/image_raw', '/camera/color/image_raw/compressed', '/usb_cam0/image0'),
    *(
        '/zed/zed_node/left/image_rect_color',
        '/carla/ego_vehicle/rgb_front/image',
        '/vis/image_raw',
    ),
    *('/depth_camera/image_raw', '/debug/front_camera/image_raw', '/label_cam/image_raw'),
    *('/front_camera', '/thermal/image_mono'),
]
OTHERS = [
    *('/segmentation/mask', '/segmentation/front/drivable_mask', '/segmentation/confidence'),
    *('/unet/raw_segmentation_mask', '/unet/colored_segmentation_mask', '/yolo/dbg_image'),
    *('/carla/ego_vehicle/semantic_segmentation_front/image', '/segmentation_camera/image_raw'),
    *('/camera/depth/image_rect_raw', '/cam/image_raw/compressedDepth', '/oak/stereo/depth'),
    *('/ground_truth/labels', '/overlay/compressed', '/front_camera_debug/image', '/imageMask'),
    *('/camera_overlay', '/panoptic/labels_map', '/detr/detections_image', '/x/heatmap'),
]


@pytest.mark.parametrize('topic', CAMERAS)
def test_cameras(topic: str) -> None:
    assert may_be_camera(topic)
    assert sounds_like_camera(topic)


@pytest.mark.parametrize('topic', OTHERS)
def test_masks_and_drawings(topic: str) -> None:
    assert not may_be_camera(topic)
    assert not sounds_like_camera(topic)


@pytest.mark.parametrize('topic', ['/unet/output', '/map', '/', ''])
def test_what_names_do_not_tell(topic: str) -> None:
    assert may_be_camera(topic)
    assert not sounds_like_camera(topic)
