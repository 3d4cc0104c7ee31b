"""The launch files, under `ros2 launch` where that is installed."""

from __future__ import annotations

import importlib.util
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest

from lwseg_ros.share import share_directory

pytest.importorskip('launch_ros')

FILES = ['segmentation.launch.py', 'segmentation.launch.xml']


def test_both_files_take_the_same_arguments():
    folder = share_directory() / 'launch'
    spec = importlib.util.spec_from_file_location('segmentation_launch', folder / FILES[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root = ElementTree.parse(folder / FILES[1]).getroot()
    described = {arg.get('name'): arg.get('description') for arg in root.findall('arg')}
    assert described == {name: text for name, (_, text) in module.ARGUMENTS.items()}
    passed = {arg.get('name'): arg.get('value') for arg in root.find('include').findall('arg')}
    assert passed == {name: f'$(var {name})' for name in module.ARGUMENTS}


@pytest.mark.skipif(shutil.which('ros2') is None, reason='no ros2 command')
@pytest.mark.parametrize('file', FILES)
def test_launched_node_takes_the_arguments(file, tiny_model, tmp_path):
    from ros_for_tests import Driver, NodeProcess, compressed_message
    from sensor_msgs.msg import CompressedImage, Image

    arguments = {
        'image': '/camera/image_raw',
        'model': tiny_model,
        'backend': 'onnxruntime',
        'transport': 'compressed',
        'namespace': 'robot',
    }
    launched = NodeProcess(
        tmp_path / 'launch.log',
        ['ros2', 'launch', 'lwseg_ros', file, *(f'{k}:={v}' for k, v in arguments.items())],
    )
    driver = Driver('/robot/segmentation')
    try:
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
    finally:
        driver.close()
        launched.close()
