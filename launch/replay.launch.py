"""Play a bag to the segmentation node and show it: `bag:=my_drive image:=/camera/image_raw`.

All arguments of segmentation.launch.py are taken, too. The bag starts when the node is active;
the first process that ends, be it the bag, ends all.
"""

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.actions import (
    DeclareLaunchArgument,
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

from launch import LaunchContext, LaunchDescription
from lwseg_ros.share import config_file, share_directory

BOOLEAN = ['true', 'false']
IMAGES = ('overlay', 'color_mask', 'drivable_mask')
GROUND = ('drivable_grid', 'drivable_points', 'obstacle_points')


def generate_launch_description():
    """Declare the arguments; the node comes first, the bag when it is ready."""
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
            RegisterEventHandler(
                OnStateTransition(
                    goal_state='active',
                    entities=[OpaqueFunction(function=_play)],
                    handle_once=True,
                )
            ),
            RegisterEventHandler(
                OnProcessExit(
                    on_exit=[Shutdown(reason='a process of the replay has ended')],
                    handle_once=True,
                )
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(segmentation),
                launch_arguments={'use_sim_time': 'true'}.items(),
            ),
            OpaqueFunction(function=_show),
        ]
    )


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
            remappings=[(f'/segmentation/{name}', f'/{place}/{name}') for name in IMAGES + GROUND],
            output='log',
        )
    ]
