"""Make the pictures of the documentation, from the generated drive alone."""

from pathlib import Path

import cv2
import numpy as np

from lwseg_ros import Segmenter
from lwseg_ros.camera_model import Intrinsics
from lwseg_ros.drivable.ground import (
    DRIVABLE,
    NOT_DRIVABLE,
    GroundGrid,
    GroundView,
    mounted,
)
from lwseg_ros.drivable.mask import DrivableArea, drivable_mask, surely_not_drivable
from lwseg_ros.label_space import IGNORE_ID
from lwseg_ros.overlay import colorize, overlay
from lwseg_ros.points.depth import POINT_STEP, DepthView
from lwseg_ros.synthetic.drive import GeneratedDrive

SIZE = (640, 360)
IMAGES = Path(__file__).parent / 'images'
GREEN, RED, ORANGE = (0, 200, 80), (230, 30, 30), (255, 170, 0)

# The seed and the frame of a drive in which each rule has something to take away.
DEMO = (1, 30)
RULES = {
    'min_confidence': ((1, 70), {'min_confidence': 0.8}),
    'min_region_fraction': ((20, 35), {'min_region_fraction': 0.01}),
    'ego_connected': ((20, 5), {'ego_connected': True}),
}
HYSTERESIS = (1, 64)
GROUND = (2, 40)
POINTS = (3, 25)
AHEAD, ASIDE, METRE = 30.0, 13.5, 12
"""Of the view from above: metres ahead and to each side, and pixels of one."""


def main() -> None:
    """Write docs/images/*.jpg."""
    with Segmenter.load('road') as segmenter:
        write('demo', demo(segmenter))
        for name, ((seed, number), rule) in RULES.items():
            image = drive(seed).frame(number).image
            result = segmenter(image)
            after = drivable_mask(result, **rule)
            write(f'drivable_{name}', kept_and_taken(image, drivable_mask(result), after))
        write('drivable_hysteresis', hysteresis(segmenter))
        write('drivable_grid', grid(segmenter))
        write('points', points(segmenter))


def drive(seed):
    """Return the drive that all pictures are of."""
    return GeneratedDrive(seed, *SIZE)


def demo(segmenter):
    """Return the camera image, the labels over it, the drivable mask."""
    seed, number = DEMO
    image = drive(seed).frame(number).image
    result = segmenter(image)
    mask = colorize(result.drivable, palette({255: GREEN}))
    labels = overlay(image, result.labels, segmenter.label_space.palette, 0.6)
    return np.hstack([image, labels, mask])


def kept_and_taken(image, before, after):
    """Return the image with the drivable pixels in green, and in red those that a rule took."""
    labels = np.select([after > 0, before > 0], [0, 1], IGNORE_ID).astype(np.uint8)
    return overlay(image, labels, palette({0: GREEN, 1: RED}), 0.55)


def hysteresis(segmenter):
    """Return a first frame, and the sixth, under hysteresis."""
    seed, number = HYSTERESIS
    street, area = drive(seed), DrivableArea()
    pictures = []
    for i in range(number, number + 6):
        image = street.frame(i).image
        result = segmenter(image)
        after = area.update(result, min_confidence=0.6, hysteresis=0.35)
        pictures.append(kept_and_taken(image, drivable_mask(result, min_confidence=0.6), after))
    return np.hstack([pictures[0], pictures[-1]])


def grid(segmenter):
    """Return the mask over the image, and the grid as seen from above, the vehicle below."""
    seed, number = GROUND
    frame = drive(seed).frame(number)
    result = segmenter(frame.image)
    mask = drivable_mask(result)
    camera = frame.camera
    place = mounted(camera.mount_height, camera.pitch)
    view = GroundView(
        GroundGrid.before(place, resolution=0.1, extent=18.0),
        place,
        Intrinsics(camera.width, camera.height, tuple(camera.k.ravel())),
        mask.shape,
    )
    ground = view.ground(mask, surely_not_drivable(result))
    picture = np.full((*ground.grid.shape, 3), 90, np.uint8)
    picture[ground.grid == DRIVABLE] = GREEN
    picture[ground.grid == NOT_DRIVABLE] = RED
    picture[ground.contact] = ORANGE
    above = picture[::-1].swapaxes(0, 1)[::-1]
    above = cv2.resize(above, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    return np.hstack([kept_and_taken(frame.image, mask, mask), above])


def points(segmenter):
    """Return a frame's labels, and its points from above: as labelled, and as they truly are."""
    seed, number = POINTS
    frame = drive(seed).frame(number)
    result = segmenter(frame.image)
    camera = Intrinsics(*SIZE, tuple(frame.camera.k.ravel()))
    out = np.empty((*SIZE[::-1], POINT_STEP // 4), np.float32)
    DepthView(camera).points(
        drive(seed).depth(number), result.labels, result.confidence, AHEAD, out
    )
    place = mounted(frame.camera.mount_height, frame.camera.pitch)
    where = place.apply(out[..., :3].reshape(-1, 3).T)
    colors = segmenter.label_space.palette
    front = overlay(frame.image, result.labels, colors, 0.6)
    views = [from_above(where, colors[labels.ravel()]) for labels in (result.labels, frame.labels)]
    return np.hstack([front, *views])


def from_above(where, colors):
    """Return points [3, n] of the ground's frame, of these colours, as seen from above."""
    shape = round(AHEAD * METRE), round(2 * ASIDE * METRE)
    picture = np.full((*shape, 3), 255, np.uint8)
    x, y, z = where
    row, column = (AHEAD - x) * METRE, (ASIDE - y) * METRE
    seen = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    low_first = np.flatnonzero(seen)[np.argsort(z[seen])]
    picture[row[low_first].astype(int), column[low_first].astype(int)] = colors[low_first]
    # Points far off are sparse: each is shown three pixels wide and high.
    return cv2.erode(picture, np.ones((3, 3), np.uint8))


def palette(colors):
    """Return a palette uint8 [256, 3] with these colours by id."""
    table = np.zeros((256, 3), np.uint8)
    for id_, color in colors.items():
        table[id_] = color
    return table


def write(name, picture):
    """Write an RGB picture as docs/images/NAME.jpg."""
    path = str(IMAGES / f'{name}.jpg')
    cv2.imwrite(path, picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == '__main__':
    main()
