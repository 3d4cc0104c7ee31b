"""The launch files, under `ros2 launch` where that is installed."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import signal
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from lwseg_ros.share import config_file, share_directory

FOLDER = share_directory() / 'launch'
FILES = ['segmentation.launch.py', 'segmentation.launch.xml']

needs_ros2_launch = pytest.mark.skipif(
    importlib.util.find_spec('launch_ros') is None or shutil.which('ros2') is None,
    reason='no launch_ros or no ros2 command',
)
needs_ros2_bag = pytest.mark.skipif(
    importlib.util.find_spec('ros2bag') is None, reason='no ros2 bag'
)


def _constant(file, name):
    """Return what a launch file assigns to a name, without importing launch."""
    for statement in ast.parse((FOLDER / file).read_text(encoding='utf-8')).body:
        if isinstance(statement, ast.Assign) and statement.targets[0].id == name:
            return statement.value
    raise KeyError(name)


def test_both_files_take_the_same_arguments():
    table = _constant(FILES[0], 'ARGUMENTS')
    described = {
        ast.literal_eval(name): ast.literal_eval(value.elts[1])
        for name, value in zip(table.keys, table.values, strict=True)
    }
    defaults = {
        ast.literal_eval(name): value.elts[0].value
        for name, value in zip(table.keys, table.values, strict=True)
        if isinstance(value.elts[0], ast.Constant)
    }
    root = ElementTree.parse(FOLDER / FILES[1]).getroot()
    arguments = root.findall('arg')
    assert {arg.get('name'): arg.get('description') for arg in arguments} == described
    assert {arg.get('name'): arg.get('default') for arg in arguments} == {
        **defaults,
        'params_file': '$(find-pkg-share lwseg_ros)/config/segmentation.param.yaml',
    }
    passed = {arg.get('name'): arg.get('value') for arg in root.find('include').findall('arg')}
    assert passed == {name: f'$(var {name})' for name in described}


def test_rviz_shows_the_topics_that_the_replay_moves():
    rviz = yaml.safe_load(config_file('segmentation.rviz').read_text(encoding='utf-8'))
    displays = rviz['Visualization Manager']['Displays']
    shown = {display['Topic']['Value'] for display in displays if 'Topic' in display}
    moved = [
        *ast.literal_eval(_constant('replay.launch.py', 'IMAGES')),
        *ast.literal_eval(_constant('replay.launch.py', 'GROUND')),
        *ast.literal_eval(_constant('replay.launch.py', 'POINTS')),
    ]
    assert shown == {f'/segmentation/{name}' for name in moved}


@pytest.fixture
def launch_file():
    """Return the launch file as a module."""
    pytest.importorskip('launch_ros')
    spec = importlib.util.spec_from_file_location('segmentation_launch', FOLDER / FILES[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def remappings(launch_file):
    """Return the function of the launch file that says what is remapped."""
    return launch_file._remappings


@pytest.mark.parametrize(
    ('cameras', 'images', 'expected'),
    [
        ([], [], {}),
        (['front'], [], {}),
        ([], ['/cam/image_raw'], {'image': '/cam/image_raw', 'camera_info': '/cam/camera_info'}),
        ([], ['picture'], {'image': 'picture', 'camera_info': 'camera_info'}),
        (
            ['front', 'left'],
            ['/{camera}/image_raw'],
            {
                'front/image': '/front/image_raw',
                'front/camera_info': '/front/camera_info',
                'left/image': '/left/image_raw',
                'left/camera_info': '/left/camera_info',
            },
        ),
        (
            ['front', 'left'],
            ['/a/image', '/b'],
            {
                'front/image': '/a/image',
                'front/camera_info': '/a/camera_info',
                'left/image': '/b',
                'left/camera_info': '/camera_info',
            },
        ),
    ],
)
def test_each_camera_is_remapped(remappings, cameras, images, expected):
    assert dict(remappings(cameras, images)) == expected


@pytest.mark.parametrize(('cameras', 'images'), [(['a', 'b'], ['/x']), ([], ['/x', '/y'])])
def test_a_wrong_number_of_topics_is_refused(remappings, cameras, images):
    with pytest.raises(ValueError, match=f'{len(images)} topics for'):
        remappings(cameras, images)


def test_a_place_for_the_camera_needs_cameras(remappings):
    with pytest.raises(ValueError, match='give the names by the argument cameras'):
        remappings([], ['/{camera}/image_raw'])


def test_a_missing_parameter_file_is_refused(launch_file):
    context = launch_file.LaunchContext()
    context.launch_configurations.update(dict.fromkeys(launch_file.ARGUMENTS, ''))
    context.launch_configurations['params_file'] = '/no/such/file.yaml'
    with pytest.raises(ValueError, match="params_file is '/no/such/file.yaml'"):
        launch_file._start(context)


@pytest.fixture
def launch(tmp_path, driver):
    """Return a function that launches a file, and returns once the node's process is started."""
    from ros_for_tests import NodeProcess

    launched = []

    def start(file, **arguments):
        words = [f'{name}:={value}' for name, value in arguments.items()]
        log = tmp_path / f'launch{len(launched)}.log'
        process = NodeProcess(log, ['ros2', 'launch', 'lwseg_ros', file, *words])
        launched.append(process)
        driver.spin_until(lambda: 'process started' in process.log, 'a launched process')
        return process

    yield start
    for process in launched:
        if process.process.poll() is None:
            process.stop()  # to kill it would leave its node behind


@needs_ros2_launch
@pytest.mark.parametrize('file', FILES)
def test_launched_node_takes_the_arguments(file, launch, driver, tiny_model):
    from ros_for_tests import compressed_message
    from sensor_msgs.msg import CompressedImage, Image

    launched = launch(
        file,
        image='/camera/image_raw',
        model=tiny_model,
        backend='onnxruntime',
        transport='compressed',
        namespace='robot',
    )
    driver.target = '/robot/segmentation'
    masks = driver.collect(Image, 'mask')
    camera = driver.camera(CompressedImage, '/camera/image_raw/compressed')
    driver.spin_until(
        lambda: driver.node.count_subscribers('/camera/camera_info'), 'camera_info beside it'
    )
    message = compressed_message(np.full((48, 64, 3), 128, np.uint8), '.png')
    camera.publish(message)
    driver.spin_until(lambda: masks, 'a mask')
    assert masks[0].header == message.header
    driver.spin_until(lambda: 'backend' in driver.diagnostics, 'diagnostics')
    assert driver.diagnostics['backend'].startswith('onnxruntime')
    launched.stop()
    assert 'process has finished cleanly' in launched.log


@needs_ros2_launch
@pytest.mark.parametrize('file', FILES)
def test_launched_node_has_several_cameras(file, launch, driver, tiny_model):
    from ros_for_tests import image_message
    from sensor_msgs.msg import Image

    launch(file, cameras='front,left', image='/car/{camera}/image_raw', model=tiny_model)
    for number, name in enumerate(('front', 'left')):
        masks = driver.collect(Image, f'{name}/mask')
        camera = driver.camera(Image, f'/car/{name}/image_raw')
        assert driver.node.count_subscribers(f'/car/{name}/camera_info')
        message = image_message(np.full((48, 64, 3), 128, np.uint8), number=number)
        camera.publish(message)
        driver.spin_until(lambda masks=masks: masks, f'a mask of {name}')
        assert masks[0].header == message.header


@needs_ros2_launch
@pytest.mark.parametrize('file', FILES)
def test_autostart_and_respawn(file, launch, driver, tiny_model):
    launched = launch(file, autostart='false', respawn='true', model=tiny_model)
    for starts in (1, 2):
        driver.spin_until(lambda: driver.diagnostics, 'the node')
        assert driver.diagnostics['message'] == 'not active'
        assert launched.log.count('process started') == starts
        node_id = int(re.findall(r'process started with pid \[(\d+)\]', launched.log)[-1])
        os.kill(node_id, signal.SIGKILL)
        driver.spin_until(
            lambda starts=starts: launched.log.count('process has died') == starts, 'its death'
        )
        driver.diagnostics.clear()


@needs_ros2_launch
@needs_ros2_bag
def test_replay_plays_the_bag_to_the_node_by_its_own_time(launch, driver, tiny_model, tmp_path):
    pytest.importorskip('rosbags')
    from bags_for_tests import FIRST_NS, camera_rows, write_ros2
    from sensor_msgs.msg import Image

    topic = '/camera/image_raw'
    bag = write_ros2(tmp_path / 'drive', camera_rows(30, topic))
    launched = launch(
        'replay.launch.py', bag=bag, image=topic, model=tiny_model, rate=0.6, rviz='false'
    )
    masks = driver.collect(Image, 'mask')
    driver.spin_until(lambda: launched.log.count('process started') == 2, 'the player')
    driver.spin_until(lambda: masks, 'a mask of the bag')
    assert masks[0].header.stamp.sec == FIRST_NS // 10**9
    driver.spin_until(lambda: 'age (ms)' in driver.diagnostics, 'the age of a result')
    assert float(driver.diagnostics['age (ms)']) < 60_000  # of years, by the clock on the wall
    assert launched.wait() == 0


@needs_ros2_launch
@needs_ros2_bag
def test_replay_ends_when_the_node_cannot_be_configured(launch):
    launched = launch('replay.launch.py', bag='drive', model='/no/such/model.onnx', rviz='false')
    assert launched.wait() == 0
    assert "there is no model '/no/such/model.onnx'" in launched.log
    assert 'process has finished cleanly' in launched.log
    assert 'Caught exception' not in launched.log
