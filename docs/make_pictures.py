"""Make the pictures of the documentation, from the generated drive alone."""

from pathlib import Path

import cv2
import numpy as np

from lwseg_ros import Segmenter
from lwseg_ros.demo.drive import GeneratedDrive
from lwseg_ros.overlay import colorize, overlay

SEED, FRAME = 1, 30
SIZE = (640, 360)
IMAGES = Path(__file__).parent / 'images'


def main() -> None:
    """Write docs/images/demo.jpg: the camera image, the labels over it, the drivable mask."""
    image = GeneratedDrive(SEED, *SIZE).frame(FRAME).image
    with Segmenter.load('road') as segmenter:
        result = segmenter(image)
        palette = segmenter.label_space.palette
    drivable_green = np.zeros((256, 3), np.uint8)
    drivable_green[255] = (0, 200, 80)
    mask = colorize(result.drivable, drivable_green)
    picture = np.hstack([image, overlay(image, result.labels, palette, 0.6), mask])
    cv2.imwrite(str(IMAGES / 'demo.jpg'), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == '__main__':
    main()
