"""How each figure is called, and what it says."""

from __future__ import annotations

from typing import NamedTuple


class Meaning(NamedTuple):
    """How a figure is called and what it says, in a few words."""

    title: str
    text: str


MEANINGS = {
    'miou': Meaning('Mean IoU', 'mean over the classes of the overlap with truth'),
    'drivable_iou': Meaning('Drivable IoU', 'overlap of the drivable area with that of truth'),
    'false_drivable_rate': Meaning(
        'False drivable', 'share of what is not drivable that was called drivable'
    ),
    'missed_drivable_rate': Meaning(
        'Missed drivable', 'share of what is drivable that was not called so'
    ),
    'pixel_accuracy': Meaning('Pixel accuracy', 'share of the labelled pixels that were right'),
    'boundary_f1': Meaning('Border F1', 'how well the borders between classes fit'),
    'drivable_boundary_f1': Meaning('Drivable border F1', 'how well its border fits'),
    'calibration_error': Meaning(
        'Calibration error', 'how far confidence is from the share that is right'
    ),
    'flicker': Meaning('Flicker', 'share of the followed pixels whose label changed in a frame'),
    'drivable_stability': Meaning(
        'Drivable stability', 'overlap of the drivable area with that before, moved along'
    ),
    'low_confidence': Meaning('Low confidence', 'share of the pixels the model is unsure of'),
    'confidence': Meaning('Confidence', 'mean over all pixels'),
    'agreement': Meaning('Agreement', 'share of the pixels that both models call the same'),
    'drivable_agreement': Meaning(
        'Drivable agreement', 'overlap of the drivable areas of both models'
    ),
    'drivable_share': Meaning('Drivable share', 'of all pixels; neither good nor bad'),
}
