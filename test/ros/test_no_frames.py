"""No frames: every cause is found, named with its remedy, and recovered from without a restart.

The cameras run in processes of their own: they crash, come back, and have other environments.
"""

from __future__ import annotations

import signal

import pytest

pytest.importorskip('rclpy')

from camera_for_tests import camera_command
from rclpy.utilities import get_rmw_implementation_identifier
from ros_for_tests import NodeProcess, node_command
from sensor_msgs.msg import Image

from lwseg_ros.transport import PROFILE_VARIABLES, large_image_profile

WITHOUT_OUR_PROFILE = ['env', *(word for name in PROFILE_VARIABLES for word in ('-u', name))]
FULL_HD = (1080, 1920)
FOUR_TIMES_FULL_HD = (2160, 3840)  # UDP brings some Full HD images through, but none of these
OK, WARN, ERROR = '0', '1', '2'

only_fast_dds = pytest.mark.skipif(
    'fastrtps' not in get_rmw_implementation_identifier(), reason='about Fast DDS profiles'
)

ASKS_FOR_MORE = """<?xml version="1.0" encoding="UTF-8"?>
<dds>
  <profiles xmlns="http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles">
    <data_reader profile_name="/image"><qos>{}</qos></data_reader>
  </profiles>
</dds>
"""
MORE = {
    'deadline': '<deadline><period><sec>2</sec></period></deadline>',
    'liveliness': '<liveliness><kind>MANUAL_BY_TOPIC</kind></liveliness>',
}


@pytest.fixture
def run(tmp_path):
    """Return a function that starts a process; all end with the test."""
    processes = []

    def start(command):
        processes.append(NodeProcess(tmp_path / f'{len(processes)}.log', command))
        return processes[-1]

    yield start
    for process in processes:
        process.close()


@pytest.fixture
def segment(run, tiny_model):
    """Return a function that starts the node with these parameters."""

    def start(*prefix, arguments=(), **parameters):
        given = {name.replace('__', '.'): value for name, value in parameters.items()}
        given = {'model.path': tiny_model, 'diagnostics.period_s': 0.2, **given}
        return run([*prefix, *node_command(given, arguments)])

    return start


def _says(driver, level, *parts):
    """Wait for diagnostics of this level that hold all parts."""
    driver.spin_until(
        lambda: (
            driver.diagnostics.get('level') == level
            and all(part in driver.diagnostics['message'] for part in parts)
        ),
        f'diagnostics {level} with {parts}',
    )


def _works(driver, masks):
    """Wait until masks come and nothing is complained about."""
    masks.clear()
    driver.spin_until(lambda: masks, 'a mask')
    _says(driver, OK, 'frames a second')


def test_a_camera_that_comes_late_crashes_and_returns_with_another_reliability(
    driver, run, segment
):
    segment()
    masks = driver.collect(Image, 'mask')
    _says(driver, ERROR, 'no frames: no publisher on /image')
    for reliability in ('RELIABLE', 'BEST_EFFORT', 'RELIABLE'):
        camera = run(camera_command(reliability=reliability))
        _works(driver, masks)
        assert masks[-1].header.frame_id == reliability
        camera.stop(signal.SIGKILL)
        _says(driver, ERROR, 'no frames')
    camera = run(camera_command())
    _works(driver, masks)
    camera.stop()
    _says(driver, ERROR, 'no frames: ')


def test_cameras_of_both_reliabilities_at_once_are_both_heard(driver, run, segment):
    segment()
    masks = driver.collect(Image, 'mask')
    cameras = {name: run(camera_command(reliability=name)) for name in ('RELIABLE', 'BEST_EFFORT')}
    driver.spin_until(
        lambda: {mask.header.frame_id for mask in masks} == set(cameras), 'masks of both'
    )
    cameras['BEST_EFFORT'].stop()
    _works(driver, masks)
    driver.spin_until(lambda: driver.node.count_publishers('/image') == 1, 'one camera')
    _works(driver, masks)
    assert masks[-1].header.frame_id == 'RELIABLE'


def test_a_best_effort_camera_where_reliable_is_wanted(driver, run, segment):
    segment(input__reliability='reliable')
    masks = driver.collect(Image, 'mask')
    camera = run(camera_command(reliability='BEST_EFFORT'))
    _says(driver, ERROR, 'a publisher of /image is best effort', 'set it to auto')
    camera.stop()
    camera = run(camera_command(reliability='RELIABLE'))
    _works(driver, masks)
    camera.stop()
    run(camera_command(reliability='BEST_EFFORT'))
    _says(driver, ERROR, 'set it to auto')
    assert driver.set_parameter('input.reliability', 'auto') == (True, '')
    _works(driver, masks)


@only_fast_dds
@pytest.mark.parametrize('policy', MORE)
def test_a_profile_that_asks_the_camera_for_more_than_it_offers(
    driver, run, segment, tmp_path, policy
):
    profile = tmp_path / 'profile.xml'
    profile.write_text(ASKS_FOR_MORE.format(MORE[policy]), encoding='utf-8')
    profiles = [f'{name}={profile}' for name in PROFILE_VARIABLES]
    segment('env', 'RMW_FASTRTPS_USE_QOS_FROM_XML=1', *profiles)
    masks = driver.collect(Image, 'mask')
    camera = run(camera_command())
    _says(driver, ERROR, f'a publisher of /image does not offer the {policy}')
    camera.stop()
    run(camera_command(qos=policy))
    _works(driver, masks)


def test_a_camera_on_another_topic_or_with_another_type(driver, run, segment):
    segment(arguments=('-r', 'image:=/front/image'))
    masks = driver.collect(Image, 'mask')
    far = run(camera_command(topic='/rear/image'))
    near = run(camera_command(topic='/front/image_raw'))
    _says(driver, ERROR, 'no publisher on /front/image: remap it to /front/image_raw or /rear/ima')
    for camera in (near, far):
        camera.stop()
    camera = run(camera_command(topic='/front/image/compressed', compressed=True))
    _says(driver, ERROR, 'but on /front/image/compressed: set input.transport to compressed')
    camera.stop()
    camera = run(camera_command(topic='/front/image', compressed=True))
    _says(driver, ERROR, '/front/image carries sensor_msgs/msg/CompressedImage, not sensor_msgs')
    camera.stop()
    run(camera_command(topic='/front/image'))
    _works(driver, masks)


def test_a_camera_that_sends_nothing(driver, run, segment):
    segment()
    masks = driver.collect(Image, 'mask')
    camera = run(camera_command(rate_hz=0))
    _says(driver, ERROR, '/image has a publisher, but no frame comes: look whether the camera')
    camera.stop()
    run(camera_command())
    _works(driver, masks)


@only_fast_dds
def test_images_larger_than_the_shared_memory_of_the_camera(driver, run, segment):
    segment()
    large = {'reliability': 'BEST_EFFORT', 'size': FULL_HD}
    larger = {**large, 'size': FOUR_TIMES_FULL_HD}
    remedy = f'{PROFILE_VARIABLES[0]} and {PROFILE_VARIABLES[1]} = {large_image_profile()}'
    masks = driver.collect(Image, 'mask')
    camera = run(camera_command(WITHOUT_OUR_PROFILE, **larger))
    _says(driver, ERROR, 'frames of /image were lost on their way: images larger than', remedy)
    # Beside another camera that is heard, every second frame is lost: a warning.
    heard = run(camera_command(**large))
    _says(driver, WARN, 'frames lost on their way: images larger than', remedy)
    for process in (camera, heard):
        process.stop()
    run(camera_command(**large))
    _works(driver, masks)
