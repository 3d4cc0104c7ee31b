"""Play a bag to the segmentation node and show it: `bag:=my_drive image:=/camera/image_raw`.

All arguments of segmentation.launch.py but autostart are taken, too. The bag starts when the node
is active; the first process that ends, be it the bag, ends all.
"""

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

from launch import LaunchContext, LaunchDescription
from lwseg_ros.share import config_file, share_directory

BOOLEAN = ['true', 'false']
IMAGES = ('overlay', 'color_mask', 'drivable_mask')
GROUND = ('drivable_grid', 'drivable_points', 'obstacle_points')
POINTS = ('points', 'labelled_cloud')


def generate_launch_description():
    """Declare the arguments; the node comes first, the bag when it is active.

    The transitions are asked for here: a node that starts by itself may be active before this
    process can hear of it.
    """
    segmentation = str(share_directory() / 'launch' / 'segmentation.launch.py')
    return LaunchDescription(
        [
            DeclareLaunchArgument('bag', description='the bag to play'),
            DeclareLaunchArgument('rate', default_value='1.0', description='speed of the bag'),
            DeclareLaunchArgument(
                'loop',
                default_value='false',
                choices=BOOLEAN,
                description='play the bag again and again',
            ),
            DeclareLaunchArgument(
                'rviz',
                default_value='true',
                choices=BOOLEAN,
                description='show the results in RViz, if it is installed',
            ),
            _on_state('inactive', _transition(Transition.TRANSITION_ACTIVATE)),
            _on_state('active', OpaqueFunction(function=_play)),
            _on_state('unconfigured', Shutdown(reason='the node cannot be configured')),
            RegisterEventHandler(OnProcessExit(on_exit=_end)),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(segmentation),
                launch_arguments={'use_sim_time': 'true', 'autostart': 'false'}.items(),
            ),
            _transition(Transition.TRANSITION_CONFIGURE),
            OpaqueFunction(function=_show),
        ]
    )


def _on_state(state, action):
    return RegisterEventHandler(
        OnStateTransition(goal_state=state, entities=[action], handle_once=True)
    )


def _transition(number):
    return EmitEvent(
        event=ChangeState(lifecycle_node_matcher=lambda node: True, transition_id=number)
    )


def _end(event, context: LaunchContext):
    """Return what ends the other processes, unless they are told to end already."""
    return [] if context.is_shutdown else [Shutdown(reason='a process of the replay has ended')]


def _play(context: LaunchContext):
    bag, rate, loop = (LaunchConfiguration(n).perform(context) for n in ('bag', 'rate', 'loop'))
    command = ['ros2', 'bag', 'play', bag, '--clock', '100', '--rate', rate]
    return [ExecuteProcess(cmd=command + ['--loop'] * (loop == 'true'), output='screen')]


def _show(context: LaunchContext):
    """Return RViz, with the topics of the node, or of its first camera, for the shipped ones."""
    if LaunchConfiguration('rviz').perform(context) != 'true':
        return []
    try:
        get_package_prefix('rviz2')
    except PackageNotFoundError:
        return [LogInfo(msg='rviz2 is not installed: the replay is not shown')]
    namespace = LaunchConfiguration('namespace').perform(context).strip('/')
    camera = LaunchConfiguration('cameras').perform(context).split(',')[0].strip()
    place = '/'.join(filter(None, [namespace, 'segmentation', camera]))
    return [
        Node(
            package='rviz2',
            executable='rviz2',
            arguments=['-d', str(config_file('segmentation.rviz'))],
            parameters=[{'use_sim_time': True}],
            remappings=[
                (f'/segmentation/{name}', f'/{place}/{name}') for name in IMAGES + GROUND + POINTS
            ],
            output='log',
        )
    ]
