"""Start the segmentation node for one camera: `image:=/camera/image_raw` says which."""

import os

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from lwseg_ros.ros.transport import apply_large_image_profile
from lwseg_ros.share import config_file

ARGUMENTS = {
    'image': ('image', "the camera's image topic; camera_info is taken from beside it"),
    'model': ('', 'name of a shipped model or path of a model file; empty: as in params_file'),
    'backend': ('', 'auto, openvino, onnxruntime or torch; empty: as in params_file'),
    'transport': ('', 'raw or compressed; empty: as in params_file'),
    'autostart': ('', 'configure and activate at start, true or false; empty: as in params_file'),
    'params_file': (str(config_file('segmentation.param.yaml')), 'file of node parameters'),
    'namespace': ('', 'namespace of the node'),
    'use_sim_time': ('false', 'take the time from /clock'),
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
    overrides = {
        'model.path': given['model'],
        'model.backend': given['backend'],
        'input.transport': given['transport'],
    }
    parameters = {name: value for name, value in overrides.items() if value}
    for name in ('autostart', 'use_sim_time'):
        if given[name]:
            parameters[name] = _boolean(name, given[name])
    camera, _, _ = given['image'].rpartition('/')
    node = Node(
        package='lwseg_ros',
        executable='segmentation_node',
        name='segmentation',
        namespace=given['namespace'],
        parameters=[given['params_file'], parameters],
        remappings=[
            ('image', given['image']),
            ('camera_info', f'{camera}/camera_info' if camera else 'camera_info'),
        ],
        output='screen',
    )
    return [*_large_image_profile(), node]


def _large_image_profile():
    """Return actions that let images cross to every process started after them."""
    env = dict(os.environ)
    apply_large_image_profile(env)
    return [
        SetEnvironmentVariable(name, value)
        for name, value in env.items()
        if os.environ.get(name) != value
    ]


def _boolean(name, text):
    if text.lower() not in ('true', 'false'):
        raise ValueError(f'{name} is {text!r}: wanted true or false')
    return text.lower() == 'true'
