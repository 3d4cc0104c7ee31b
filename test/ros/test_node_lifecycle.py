"""The lifecycle of the real node: under a manager, through errors, and again and again."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')

from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from models_for_tests import make_slow_model  # noqa: E402
from ros_for_tests import Driver, image_message  # noqa: E402

CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
DEACTIVATE, CLEANUP = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP
CYCLES = 200

BONDPY = """
import os

class Bond:
    def __init__(self, node, topic, id):
        self._say = lambda what: print(what, topic, id, flush=True)
        self.pub = self.sub = None

    def set_heartbeat_period(self, period): pass

    def set_heartbeat_timeout(self, timeout): pass

    def start(self):
        if os.path.exists(os.environ['BOND_FAILS']):
            raise RuntimeError('the bond was not to be')
        self._say('formed')

    def shutdown(self):
        self._say('broken')
"""


@pytest.fixture
def bond_fails(monkeypatch, tmp_path):
    """Give the node a stand-in for bondpy that prints, and fails while the returned file is."""
    package = tmp_path / 'python' / 'bondpy'
    package.mkdir(parents=True)
    (package / '__init__.py').touch()
    (package / 'bondpy.py').write_text(BONDPY)
    monkeypatch.setenv(
        'PYTHONPATH', os.pathsep.join([str(package.parent), os.environ.get('PYTHONPATH', '')])
    )
    monkeypatch.setenv('BOND_FAILS', str(tmp_path / 'fails'))
    return tmp_path / 'fails'


def test_bond_holds_while_the_node_is_active(driver, start, bond_fails):
    node = start(autostart=False)
    assert driver.transition(CONFIGURE)
    assert 'formed' not in node.log
    assert driver.transition(ACTIVATE)
    assert 'formed bond segmentation' in node.log
    assert 'broken' not in node.log
    assert driver.transition(DEACTIVATE)
    assert 'broken bond segmentation' in node.log
    assert driver.transition(CLEANUP)
    assert driver.set_parameter('bond', False) == (True, '')
    assert driver.transition(CONFIGURE)
    assert driver.transition(ACTIVATE)
    assert node.log.count('formed') == node.log.count('broken') == 1


def test_without_bondpy_the_node_says_once_what_its_manager_needs(driver, start):
    try:
        import bondpy.bondpy  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip('bondpy is installed')
    node = start(autostart=False)
    assert driver.transition(CONFIGURE)
    for _ in range(2):
        assert driver.transition(ACTIVATE)
        assert driver.transition(DEACTIVATE)
    assert node.log.count('bond_timeout: 0.0') == 1


def test_an_error_in_a_transition_is_logged_and_recovered_from(driver, start, bond_fails):
    bond_fails.touch()
    node = start(autostart=False)
    assert driver.transition(CONFIGURE)
    assert not driver.transition(ACTIVATE)
    assert driver.state == 'unconfigured'
    assert 'on_activate raised RuntimeError: the bond was not to be' in node.log
    assert 'Traceback' in node.log
    driver.spin_until(
        lambda: 'the bond was not to be' in driver.diagnostics.get('message', ''), 'the fault'
    )
    assert driver.diagnostics['level'] == '2'
    assert driver.node.count_publishers('/segmentation/mask') == 0
    bond_fails.unlink()
    assert driver.transition(CONFIGURE)
    assert driver.transition(ACTIVATE)
    assert driver.state == 'active'


@pytest.fixture(scope='module')
def slow_model(tiny_model, tmp_path_factory):
    return make_slow_model(tiny_model, tmp_path_factory.mktemp('models') / 'slow.onnx')


@pytest.mark.parametrize(
    'transitions', [(DEACTIVATE, CLEANUP), (Transition.TRANSITION_ACTIVE_SHUTDOWN,)]
)
def test_stopping_does_not_wait_for_a_long_inference(driver, start, slow_model, transitions):
    # ONNX Runtime's own threads end with its model; those of other libraries stay.
    node = start(
        autostart=False,
        model__path=slow_model,
        model__backend='onnxruntime',
        model__input_size='480x320',  # seconds on a laptop
        model__warmup_iterations=0,
    )
    message = image_message(np.zeros((96, 128, 3), np.uint8))

    def stop_in_the_middle(transitions, number):
        assert driver.transition(CONFIGURE)
        assert driver.transition(ACTIVATE)
        camera = driver.camera()
        camera.publish(message)
        driver.spin_until(
            lambda: driver.diagnostics.get('frames received') == str(number), 'the frame'
        )
        for transition in transitions:
            start_s = time.monotonic()
            assert driver.transition(transition)
            assert time.monotonic() - start_s < 1.0
        driver.node.destroy_publisher(camera)
        # The inference ends by itself, without a result.
        assert driver.counts()['dropped: stopped'] == number

    stop_in_the_middle(transitions, 1)
    if CLEANUP in transitions:
        threads = max(_usage(node)['threads'] for _ in range(10) if driver.state == 'unconfigured')
        stop_in_the_middle(transitions, 2)
        driver.spin_until(lambda: _usage(node)['threads'] <= threads, 'the end of its threads')
    assert 'Traceback' not in node.log


@pytest.mark.skipif(not Path('/proc/self/task').is_dir(), reason='counts threads through /proc')
def test_two_hundred_cycles_leak_nothing(driver, start):
    node = start(
        autostart=False,
        cameras='[front, left]',
        model__backend='onnxruntime',
        model__input_size='320x240',  # some megabytes, so that a model that stays is seen
        model__warmup_iterations=1,
    )
    change_state = driver.node.create_client(ChangeState, '/segmentation/change_state')
    driver.spin_until(change_state.service_is_ready, 'the lifecycle services')

    def cycle():
        for number in (CONFIGURE, ACTIVATE, DEACTIVATE, CLEANUP):
            request = ChangeState.Request(transition=Transition(id=number))
            future = change_state.call_async(request)
            driver.spin_until(future.done, f'transition {number}')
            assert future.result().success

    for _ in range(CYCLES // 10):  # pools and caches fill
        cycle()
    before = _usage(node)
    for _ in range(CYCLES - CYCLES // 10):
        cycle()
    after = _usage(node)
    assert after['threads'] <= before['threads']
    assert after['files'] <= before['files']
    assert after['memory_mb'] - before['memory_mb'] < 0.1 * CYCLES
    names = {
        name for name, _ in driver.node.get_publisher_names_and_types_by_node('segmentation', '/')
    }
    assert not [name for name in names if name.endswith('mask')]
    assert 'Traceback' not in node.log


def _usage(node):
    """Return the threads, open files and resident megabytes of a node's process."""
    process = Path('/proc', str(node.process.pid))
    pages = int((process / 'statm').read_text().split()[1])
    return {
        'threads': len(list((process / 'task').iterdir())),
        'files': len(list((process / 'fd').iterdir())),
        'memory_mb': pages * os.sysconf('SC_PAGESIZE') / 1e6,
    }


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_node_gives_its_shared_memory_back(start, number):
    driver = Driver()
    node = start()
    driver.spin_until(lambda: driver.diagnostics, 'the node at work')
    _stop_without_segments(driver, node, number)


def test_a_node_stopped_while_it_configures_gives_its_shared_memory_back(start):
    driver = Driver()
    node = start(model__warmup_iterations=1000, model__input_size='2500x2000')
    driver.spin_until(lambda: 'model tiny runs on' in node.log, 'the node warming up')
    _stop_without_segments(driver, node, signal.SIGTERM)
    assert 'Traceback' not in node.log


def _stop_without_segments(driver, node, number):
    mapped = Path('/proc', str(node.process.pid), 'maps').read_text(encoding='utf-8').split()
    mapped = [word for word in mapped if word.startswith('/dev/shm/fastrtps_')]
    if not mapped:
        pytest.skip('this middleware uses no shared memory files')
    segments = [Path(name) for name in mapped if '_port' not in name]  # ports are of the domain
    assert segments
    driver.close()
    assert node.stop(number) < 1.0
    assert node.process.returncode == 0
    assert not [segment for segment in segments if segment.exists()]
