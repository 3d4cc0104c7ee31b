"""Start the segmentation node: `image:=/camera/image_raw`, or several cameras and one model."""

import os

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode

from launch import LaunchContext, LaunchDescription
from lwseg_ros.share import config_file
from lwseg_ros.transport import apply_large_image_profile

ARGUMENTS = {
    'cameras': ('', 'camera names, as front,left; empty: as in params_file'),
    'image': (
        '',
        'image topic; of several cameras one each, or one with {camera} for the name, as '
        '/{camera}/image_raw; camera_info is taken from beside it; empty: image, or NAME/image',
    ),
    'depth': (
        '',
        'topic of depth images that are registered to the image; as image; empty: depth',
    ),
    'cloud': ('', 'topic of clouds, of a lidar say; as image; empty: cloud'),
    'model': ('', 'name of a shipped model or path of a model file; empty: as in params_file'),
    'backend': ('', 'auto, tensorrt, openvino, onnxruntime or torch; empty: as in params_file'),
    'transport': ('', 'raw or compressed; empty: as in params_file'),
    'autostart': ('', 'configure and activate at start, true or false; empty: as in params_file'),
    'params_file': (str(config_file('segmentation.param.yaml')), 'file of node parameters'),
    'namespace': ('', 'namespace of the node'),
    'use_sim_time': ('false', 'take the time from /clock'),
    'respawn': ('false', 'start the node again when it ends'),
}


def generate_launch_description():
    """Declare the arguments; everything else needs their values."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(name, default_value=default, description=description)
            for name, (default, description) in ARGUMENTS.items()
        ]
        + [OpaqueFunction(function=_start)]
    )


def _start(context: LaunchContext):
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    if not os.path.isfile(given['params_file']):
        raise ValueError(f'params_file is {given["params_file"]!r}: there is no such file')
    cameras = _names(given['cameras'])
    overrides = {
        'cameras': cameras,
        'model.path': given['model'],
        'model.backend': given['backend'],
        'input.transport': given['transport'],
    }
    parameters = {name: value for name, value in overrides.items() if value}
    for name in ('autostart', 'use_sim_time'):
        if given[name]:
            parameters[name] = _boolean(name, given[name])
    node = LifecycleNode(
        package='lwseg_ros',
        executable='segmentation_node',
        name='segmentation',
        namespace=given['namespace'],
        parameters=[given['params_file'], parameters],
        remappings=[
            *_remappings(cameras, _names(given['image'])),
            *_measurements(cameras, given),
        ],
        output='screen',
        respawn=_boolean('respawn', given['respawn']),
        respawn_delay=2.0,
    )
    return [*_large_image_profile(), node]


def _remappings(cameras, images):
    """Return the remappings of each camera's image, and of the camera_info beside it."""
    remappings = []
    for name, image in _topics('image', cameras, images):
        prefix = f'{name}/' if name else ''
        beside = image[: image.rfind('/') + 1]
        remappings += [(f'{prefix}image', image), (f'{prefix}camera_info', f'{beside}camera_info')]
    return remappings


def _measurements(cameras, given):
    """Return the remappings of each camera's depth and cloud."""
    return [
        (f'{name}/{argument}' if name else argument, topic)
        for argument in ('depth', 'cloud')
        for name, topic in _topics(argument, cameras, _names(given[argument]))
    ]


def _topics(argument, cameras, topics):
    """Return each camera's name and topic; nothing if there are no topics."""
    if not topics:
        return []
    if not cameras and any('{camera}' in topic for topic in topics):
        raise ValueError(
            f'{argument} has {{camera}} in it: give the names by the argument cameras'
        )
    names = cameras or ['']
    if len(topics) == 1 and (not cameras or '{camera}' in topics[0]):
        topics = [topics[0].replace('{camera}', name) for name in names]
    if len(topics) != len(names):
        raise ValueError(
            f'{argument} names {len(topics)} topics for {len(names)} cameras: give one for each, '
            'or one with {camera} in the place of the name'
        )
    return list(zip(names, topics, strict=True))


def _large_image_profile():
    """Return actions that let images cross to every process started after them."""
    env = dict(os.environ)
    apply_large_image_profile(env)
    return [
        SetEnvironmentVariable(name, value)
        for name, value in env.items()
        if os.environ.get(name) != value
    ]


def _names(text):
    return [name.strip() for name in text.split(',') if name.strip()]


def _boolean(name, text):
    if text.lower() not in ('true', 'false'):
        raise ValueError(f'{name} is {text!r}: wanted true or false')
    return text.lower() == 'true'
