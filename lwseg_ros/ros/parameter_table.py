"""Every parameter of the node as one table: name, default, meaning, and what values are right."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    ParameterType,
)

AT_START = 'read once, at start'
UNCONFIGURED = 'read-only while the node is configured'
LIVE = 'live: acts on the next frame'

_NAME = re.compile(r'[A-Za-z](_?[A-Za-z0-9])*')
_SIZE = re.compile(r'[1-9]\d{0,3}x[1-9]\d{0,3}')


def chosen(names: list[str]) -> list[str]:
    """Return a list parameter without empty texts: `['']` is how ROS writes an empty list."""
    return [name for name in names if name]


class NodeParameter(NamedTuple):
    """One parameter.

    `choices` are texts, or `WIDTHxHEIGHT` for a size; `range` is inclusive; `names` says that a
    list holds different names fit for topics.
    """

    name: str
    default: Any
    description: str
    changes: str
    choices: tuple[str, ...] = ()
    range: tuple[float, float] | None = None
    names: bool = False

    @property
    def wanted(self) -> str:
        """Return what values are right, in words."""
        if self.choices:
            return 'one of ' + ', '.join(self.choices)
        if self.names:
            return 'a list of different names: a letter, then letters, digits and single _'
        kind = _TYPES[type(self.default)][1]
        return (
            kind if self.range is None else f'{kind} from {self.range[0]:g} to {self.range[1]:g}'
        )

    def accepts(self, value: Any) -> bool:
        """Tell whether a value of the right type is one of the choices, or a list of names."""
        if self.names:
            names = chosen(value)
            return len(set(names)) == len(names) and all(map(_NAME.fullmatch, names))
        return (
            not self.choices
            or value in self.choices
            or ('WIDTHxHEIGHT' in self.choices and _SIZE.fullmatch(value) is not None)
        )

    def descriptor(self) -> ParameterDescriptor:
        """Return what `ros2 param describe` shows."""
        descriptor = ParameterDescriptor(
            name=self.name,
            type=_TYPES[type(self.default)][0],
            description=self.description,
            additional_constraints=f'{self.wanted}; {self.changes}',
            read_only=self.changes == AT_START,
        )
        if self.range is not None and isinstance(self.default, float):
            low, high = self.range
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        elif self.range is not None:
            low, high = (int(v) for v in self.range)
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high)]
        return descriptor


_TYPES: dict[type, tuple[int, str]] = {
    bool: (ParameterType.PARAMETER_BOOL, 'true or false'),
    int: (ParameterType.PARAMETER_INTEGER, 'a whole number'),
    float: (ParameterType.PARAMETER_DOUBLE, 'a number with a decimal point'),
    str: (ParameterType.PARAMETER_STRING, 'a text'),
    list: (ParameterType.PARAMETER_STRING_ARRAY, 'a list of texts'),
}

PARAMETERS = (
    NodeParameter(
        'model.path',
        'road',
        'Model: the name of a shipped one, or the path of an .onnx or .safetensors file.',
        UNCONFIGURED,
    ),
    NodeParameter(
        'model.backend',
        'auto',
        'Library that runs the model; auto takes the fastest that works here.',
        UNCONFIGURED,
        choices=('auto', 'tensorrt', 'openvino', 'onnxruntime', 'torch'),
    ),
    NodeParameter(
        'model.device',
        '',
        "Device in the backend's own words (CPU, GPU, cuda:0); empty leaves it to the backend.",
        UNCONFIGURED,
    ),
    NodeParameter(
        'model.precision',
        'auto',
        'Arithmetic of the network; auto takes what the device does best, and the int8 file of a '
        'shipped model where that pays.',
        UNCONFIGURED,
        choices=('auto', 'fp32', 'fp16', 'bf16', 'int8'),
    ),
    NodeParameter(
        'model.input_size',
        'model',
        "Size of the image that the network sees: the model's own, the camera's, or a given one.",
        UNCONFIGURED,
        choices=('model', 'source', 'WIDTHxHEIGHT'),
    ),
    NodeParameter(
        'model.max_batch',
        0,
        'The most frames that go through the network together, when those of several cameras '
        'wait; 0: as many as are faster together, on a CPU 1.',
        UNCONFIGURED,
        range=(0, 64),
    ),
    NodeParameter(
        'model.engine_cache_dir',
        '',
        "Folder that TensorRT engines are kept in; empty: the user's cache.",
        UNCONFIGURED,
    ),
    NodeParameter(
        'model.force_rebuild',
        False,
        'Build TensorRT engines anew, whatever the cache holds.',
        UNCONFIGURED,
    ),
    NodeParameter(
        'model.build_only',
        False,
        'Build the TensorRT engine, keep it, and exit.',
        AT_START,
    ),
    NodeParameter(
        'model.warmup_iterations',
        2,
        'Inferences run before the node is configured, so that the first frame is not slow.',
        UNCONFIGURED,
        range=(0, 1000),
    ),
    NodeParameter(
        'label_space.path',
        '',
        'Label space of the published mask, a shipped name or a .yaml file, if it is not to be '
        "the model's.",
        UNCONFIGURED,
    ),
    NodeParameter(
        'label_space.publish_classes',
        [''],
        'Names of the classes in the mask and label_info; other pixels are 255. Empty: all.',
        UNCONFIGURED,
    ),
    NodeParameter(
        'label_space.drivable_classes',
        [''],
        "Names of the model's classes that are drivable. Empty: those its label space marks.",
        UNCONFIGURED,
    ),
    NodeParameter(
        'cameras',
        [''],
        'Names of the cameras that share the model: each has its topics, such as `front/image` '
        'and `~/front/mask`. Empty: one camera without a name.',
        UNCONFIGURED,
        names=True,
    ),
    NodeParameter(
        'input.transport',
        'raw',
        'raw reads sensor_msgs/Image from `image`, compressed reads CompressedImage from '
        '`image/compressed`.',
        UNCONFIGURED,
        choices=('raw', 'compressed'),
    ),
    NodeParameter(
        'input.reliability',
        'auto',
        "Reliability asked of the camera's publisher; auto copies what it offers.",
        LIVE,
        choices=('auto', 'reliable', 'best_effort'),
    ),
    NodeParameter(
        'input.max_age_ms',
        0.0,
        'Frames whose stamp is older than this when their turn comes are dropped; 0: no limit.',
        LIVE,
        range=(0.0, 1e7),
    ),
    NodeParameter(
        'input.max_rate_hz',
        0.0,
        'Frames beyond this rate are dropped; 0: no limit.',
        LIVE,
        range=(0.0, 1000.0),
    ),
    NodeParameter(
        'output.size',
        'source',
        "Size of the published images: the camera image's, the network's, or a given one.",
        UNCONFIGURED,
        choices=('source', 'network', 'WIDTHxHEIGHT'),
    ),
    NodeParameter(
        'output.min_confidence',
        0.0,
        'Pixels of the mask below this confidence are 255, unlabelled.',
        LIVE,
        range=(0.0, 1.0),
    ),
    NodeParameter(
        'output.overlay_alpha',
        0.5,
        'Share of the label colour in the overlay.',
        LIVE,
        range=(0.0, 1.0),
    ),
    NodeParameter(
        'output.autoware_mask',
        False,
        "Offer ~/autoware_mask: Autoware's ids, in its run-length code.",
        UNCONFIGURED,
    ),
    NodeParameter(
        'drivable.min_confidence',
        0.5,
        'Pixels below this confidence are never drivable.',
        LIVE,
        range=(0.0, 1.0),
    ),
    NodeParameter(
        'drivable.min_region_fraction',
        0.0,
        'Drivable regions smaller than this share of the image are dropped.',
        LIVE,
        range=(0.0, 1.0),
    ),
    NodeParameter(
        'drivable.ego_connected',
        False,
        'Only regions that reach the ground before the vehicle, at the middle of the lower edge, '
        'are drivable.',
        LIVE,
    ),
    NodeParameter(
        'drivable.hysteresis',
        0.0,
        'A pixel becomes drivable this much above drivable.min_confidence and stays while it has '
        'that.',
        LIVE,
        range=(0.0, 1.0),
    ),
    NodeParameter(
        'drivable.withhold_suspect',
        False,
        'While all of the picture has had one label for diagnostics.suspect_frames, nothing is '
        'drivable.',
        LIVE,
    ),
    NodeParameter(
        'ground.enable',
        False,
        'Offer ~/drivable_grid, ~/drivable_points and ~/obstacle_points: measured where `depth` '
        'or `cloud` is published, else on flat ground.',
        UNCONFIGURED,
    ),
    NodeParameter(
        'ground.camera_height',
        0.0,
        'Metres of the camera above the ground; 0: its height, pitch, roll and yaw come from /tf.',
        UNCONFIGURED,
        range=(0.0, 100.0),
    ),
    NodeParameter(
        'ground.camera_pitch',
        0.0,
        'Radians by which the camera looks down; negative: up.',
        UNCONFIGURED,
        range=(-1.6, 1.6),
    ),
    NodeParameter(
        'ground.frame',
        'base_link',
        'Frame of the ground outputs, its z = 0 on the ground. With ground.camera_height its '
        'origin lies below the camera and x is where that looks; with several cameras, the name '
        'of each and _ then come before it.',
        UNCONFIGURED,
    ),
    NodeParameter(
        'ground.resolution',
        0.1,
        'Side of a cell in metres.',
        UNCONFIGURED,
        range=(0.01, 10.0),
    ),
    NodeParameter(
        'ground.extent',
        20.0,
        'Metres that the grid reaches where the camera looks, and half of that to each side.',
        UNCONFIGURED,
        range=(0.1, 1000.0),
    ),
    NodeParameter(
        'ground.max_step',
        0.15,
        'Metres: what stands higher above the measured ground, or lies deeper, is an obstacle.',
        LIVE,
        range=(0.0, 10.0),
    ),
    NodeParameter(
        'ground.clearance',
        2.0,
        'Metres above the measured ground from which on the vehicle passes below things.',
        LIVE,
        range=(0.1, 100.0),
    ),
    NodeParameter(
        'points.max_gap_ms',
        50.0,
        'Stamps of an image and of the depth or cloud that belongs to it differ by no more.',
        LIVE,
        range=(0.0, 10000.0),
    ),
    NodeParameter(
        'points.max_range',
        50.0,
        'Depths beyond so many metres are not known, and nothing so far is drivable.',
        LIVE,
        range=(0.1, 1000.0),
    ),
    NodeParameter(
        'points.fixed_frame',
        '',
        'A frame that does not move, such as odom: with it, the motion between the stamps of '
        'cloud and image is taken out.',
        LIVE,
    ),
    NodeParameter(
        'points.extrinsics',
        '',
        "Where the cloud's frame is in the camera's optical frame, x y z qx qy qz qw in metres, "
        'if that is not to come from /tf.',
        UNCONFIGURED,
    ),
    NodeParameter(
        'autostart',
        True,
        'Configure and activate at start; false leaves it to a lifecycle manager.',
        AT_START,
    ),
    NodeParameter(
        'bond',
        True,
        "Form a bond with nav2's lifecycle manager while active, if bondpy is installed.",
        UNCONFIGURED,
    ),
    NodeParameter(
        'diagnostics.period_s',
        1.0,
        'Time between two messages on /diagnostics.',
        AT_START,
        range=(0.1, 60.0),
    ),
    NodeParameter(
        'diagnostics.min_rate_hz',
        0.0,
        'Fewer processed frames a second than this are a warning; 0: any rate is fine.',
        LIVE,
        range=(0.0, 1000.0),
    ),
    NodeParameter(
        'diagnostics.max_age_ms',
        0.0,
        'A result older than this when it is published is a warning; 0: any age is fine.',
        LIVE,
        range=(0.0, 1e7),
    ),
    NodeParameter(
        'diagnostics.suspect_frames',
        30,
        'So many different pictures in a row, each with one and the same label all over, are a '
        'warning; 0: off.',
        LIVE,
        range=(0, 1000000),
    ),
)
