"""The demo end to end: the real node in its own process, played to over the real middleware."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from paths_for_tests import ROOT, shared

pytest.importorskip('rclpy')
pytest.importorskip('rosbags')

from rich.console import Console
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Writer

from lwseg_ros.bags.messages import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE, TYPESTORE, image_message
from lwseg_ros.demo import recording
from lwseg_ros.demo.run import DRIVE_SEED, run_demo
from lwseg_ros.errors import DataError, LwsegError, ModelError
from lwseg_ros.label_space import LabelSpace
from lwseg_ros.synthetic.drive import GeneratedDrive

OUTPUTS = ('mask', 'confidence', 'drivable_mask')


def silent() -> Console:
    return Console(quiet=True)


def read_mcap(folder: Path) -> dict[str, tuple[str, list[int], list]]:
    """Return type, stamps and messages of every topic of a ROS 2 bag."""
    topics: dict[str, tuple[str, list[int], list]] = {}
    with AnyReader([folder]) as reader:
        for connection, timestamp, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            assert timestamp == stamp
            _, stamps, messages = topics.setdefault(connection.topic, (connection.msgtype, [], []))
            stamps.append(stamp)
            messages.append(message)
    return topics


def count_frames(video: Path) -> int:
    capture = cv2.VideoCapture(str(video))
    number = 0
    while capture.read()[0]:
        number += 1
    return number


def write_bag(path: Path, stamps_ns: list[int], period_ns: int = 50_000_000) -> Path:
    """Write a bag of pictures in the label colours, recorded one period apart."""
    palette = LabelSpace.load('camvid').palette
    labels = np.repeat(np.arange(11, dtype=np.uint8), 16)[None].repeat(128, axis=0)
    with Writer(path, version=8) as writer:
        connection = writer.add_connection('/front/image', IMAGE, typestore=TYPESTORE)
        for number, stamp_ns in enumerate(stamps_ns):
            message = image_message(palette[labels], 'rgb8', stamp_ns)
            writer.write(
                connection, 10**18 + number * period_ns, TYPESTORE.serialize_cdr(message, IMAGE)
            )
    return path


def test_a_generated_drive(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    (out / 'bag').mkdir(parents=True)
    (out / 'bag' / 'of_an_earlier_demo').touch()
    result = run_demo(out=out, model=str(tiny_model), seconds=1.0, console=silent())

    assert json.loads((out / 'result.json').read_text()) == result
    assert sorted(item.name for item in out.iterdir()) == [
        'bag',
        'node.log',
        'overlay.mp4',
        'result.json',
    ]
    assert result['frames_in'] == 15
    assert result['frames_in'] == result['frames_processed'] + result['frames_dropped']
    assert result['frames_processed'] > 0
    assert 0 <= result['frames_not_received_by_node'] <= result['frames_dropped']
    assert result['frames_refused_by_node'] == 0
    assert result['frames_restamped'] == 0
    assert 0 < result['latency_ms']['p50'] <= result['latency_ms']['p99']
    assert result['model'] == 'tiny'
    assert 0 <= result['miou'] <= 1
    assert 0 <= result['drivable_iou'] <= 1

    topics = read_mcap(out / 'bag')
    kind, stamps, pictures = topics['/camera/image_raw/compressed']
    assert kind == COMPRESSED_IMAGE
    assert len(set(stamps)) == 15
    assert topics['/camera/camera_info'][0] == CAMERA_INFO
    assert topics['/camera/camera_info'][1] == stamps
    for output in OUTPUTS:
        answered = topics[f'/segmentation/{output}'][1]
        assert len(answered) == result['frames_processed']
        assert set(answered) <= set(stamps)
    mask = topics['/segmentation/mask'][2][0]
    picture = cv2.imdecode(pictures[0].data, cv2.IMREAD_COLOR)
    assert (mask.encoding, mask.height, mask.width) == ('mono8', *picture.shape[:2])
    truth = topics['/ground_truth/labels'][2][0]
    drive = GeneratedDrive(DRIVE_SEED, mask.width, mask.height, 15, 15.0, kind='city')
    np.testing.assert_array_equal(truth.data.reshape(truth.height, -1), drive.frame(0).labels)
    assert np.abs(drive.frame(0).image[..., ::-1].astype(int) - picture).mean() < 4
    assert count_frames(out / 'overlay.mp4') == 15


def test_a_bag_whose_frames_carry_no_or_equal_stamps(tiny_model: Path, tmp_path: Path) -> None:
    stamps = [0, 0, 5_000, 5_000, 6_000, 7_000]
    bag = write_bag(tmp_path / 'drive', stamps)
    result = run_demo(
        bag=bag, out=tmp_path / 'out', model=str(tiny_model), rate=0.5, console=silent()
    )
    assert result['frames_in'] == 6
    assert result['frames_restamped'] == 3
    assert result['frames_in'] == result['frames_processed'] + result['frames_dropped']
    assert result['miou'] is None
    _, sent, _ = read_mcap(tmp_path / 'out' / 'bag')['/front/image/compressed']
    assert {5_000, 6_000, 7_000} < set(sent)
    assert len(set(sent)) == 6
    # road and pavement are neighbours in the picture; only road, 16 of 176 columns, is drivable
    assert result['frames_with_drivable_area'] == result['frames_processed']
    assert result['drivable_share'] == pytest.approx(16 / 176, abs=0.03)


def test_frames_beyond_what_the_node_can_do_are_dropped_and_counted(
    tiny_model: Path, tmp_path: Path
) -> None:
    bag = write_bag(tmp_path / 'drive', [10**9 + i for i in range(200)], period_ns=100_000)
    result = run_demo(bag=bag, out=tmp_path / 'out', model=str(tiny_model), console=silent())
    assert result['frames_in'] == 200
    assert 0 < result['frames_processed'] < 200
    assert result['frames_dropped'] == 200 - result['frames_processed']
    assert count_frames(tmp_path / 'out' / 'overlay.mp4') == 200


def test_a_long_input_is_written_while_it_plays(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, 'DEFER_BYTES', 0)
    monkeypatch.setattr(recording, 'LIMIT_BYTES', 0)
    bag = write_bag(tmp_path / 'drive', [10**9 + i for i in range(20)], period_ns=10_000_000)
    result = run_demo(bag=bag, out=tmp_path / 'out', model=str(tiny_model), console=silent())
    assert result['frames_in'] == 20
    assert len(read_mcap(tmp_path / 'out' / 'bag')['/front/image/compressed'][1]) == 20


def test_accuracy_counts_classes_and_drivable_area() -> None:
    space = LabelSpace.load('camvid')
    truth = np.repeat(np.arange(11, dtype=np.uint8), 4)[None]
    road = np.where(truth == space.class_id('road'), 255, 0).astype(np.uint8)
    perfect = recording.Accuracy(space)
    perfect.add_mask(truth, truth)
    perfect.add_drivable(truth, road)
    figures = perfect.figures()
    assert (figures['miou'], figures['drivable_iou'], figures['false_drivable_rate']) == (1, 1, 0)
    careless = recording.Accuracy(space)
    careless.add_drivable(truth, np.full_like(road, 255))
    figures = careless.figures()
    assert figures['drivable_iou'] == pytest.approx(1 / 11, abs=1e-3)
    assert figures['false_drivable_rate'] == 1
    assert (figures['miou'], figures['iou']) == (None, None)


def test_accuracy_of_a_model_with_other_classes_is_that_of_its_drivable_area() -> None:
    accuracy = recording.Accuracy(LabelSpace.load('voc'))
    truth = np.full((1, 4), 3, np.uint8)
    accuracy.add_mask(truth, truth)
    accuracy.add_drivable(truth, np.full((1, 4), 255, np.uint8))
    figures = accuracy.figures()
    assert figures['miou'] is None
    assert figures['drivable_iou'] == 1


def test_malformed_frames_are_refused_and_the_rest_goes_on(
    tiny_model: Path, tmp_path: Path
) -> None:
    with Writer(tmp_path / 'drive', version=8) as writer:
        connection = writer.add_connection('/cam/image', IMAGE, typestore=TYPESTORE)
        for number in range(8):
            message = image_message(
                np.full((64, 64, 3), 90, np.uint8), 'rgb8', 10**9 + number * 10**8
            )
            if number == 3:
                message.encoding = 'nonsense'
            raw = TYPESTORE.serialize_cdr(message, IMAGE)
            writer.write(connection, 10**9 + number * 10**8, raw)
    result = run_demo(
        bag=tmp_path / 'drive', out=tmp_path / 'out', model=str(tiny_model), console=silent()
    )
    assert result['frames_in'] == 8
    assert result['frames_refused_by_node'] == 1
    assert result['frames_dropped'] >= 1
    assert result['frames_processed'] + result['frames_dropped'] == 8


@pytest.mark.alone
def test_a_video(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / 'drive.mp4'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'mp4v'), 20.0, (160, 96))
    for level in range(12):
        writer.write(np.full((96, 160, 3), 20 * level, np.uint8))
    writer.release()
    result = run_demo(video=path, out=tmp_path / 'out', model=str(tiny_model), console=silent())
    assert result['frames_in'] == 12
    assert result['frames_processed'] + result['frames_dropped'] == 12
    assert result['played_at_hz'] == pytest.approx(20, rel=0.1)
    assert count_frames(tmp_path / 'out' / 'overlay.mp4') == 12


def test_a_real_bag_of_compressed_images(tiny_model: Path, tmp_path: Path) -> None:
    result = run_demo(
        bag=shared('bags/highway_960x540'),
        out=tmp_path,
        model=str(tiny_model),
        seconds=1.0,
        console=silent(),
    )
    assert result['frames_in'] == 25
    assert result['frames_processed'] + result['frames_dropped'] == 25
    topics = read_mcap(tmp_path / 'bag')
    assert len(topics['/camera/image_raw/compressed'][1]) == 25
    assert len(topics['/camera/camera_info'][1]) == 25


def test_wrong_input_is_one_sentence_and_leaves_nothing(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    notes = tmp_path / 'notes.mp4'
    notes.write_text('not a video')
    bag = write_bag(tmp_path / 'drive', [1, 2])
    empty = write_bag(tmp_path / 'empty', [])
    cases = [
        ({'bag': tmp_path / 'absent.bag'}, DataError, 'no bag'),
        ({'bag': bag, 'topic': '/rear'}, DataError, '/front/image'),
        ({'bag': empty}, DataError, 'no camera images'),
        ({'video': notes}, DataError, 'notes.mp4'),
        ({'video': tmp_path / 'absent.mp4'}, DataError, 'absent.mp4'),
        ({'bag': bag, 'video': notes}, LwsegError, 'one of them'),
        ({'topic': '/rear'}, LwsegError, 'without a bag'),
        ({'model': 'absent.onnx'}, ModelError, 'absent.onnx'),
        ({'rate': 0.0}, LwsegError, 'above 0'),
    ]
    for arguments, kind, words in cases:
        given = {'model': str(tiny_model), **arguments}
        with pytest.raises(kind, match=words) as caught:
            run_demo(out=out, console=silent(), **given)
        assert '\n' not in str(caught.value)
        assert not out.exists()


def test_a_node_that_cannot_start_says_why(tiny_model: Path, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'drive', [1, 2])
    with pytest.raises(LwsegError, match=r'node ended .*model\.backend .*nonsense'):
        run_demo(
            bag=bag,
            out=tmp_path / 'out',
            model=str(tiny_model),
            backend='nonsense',
            console=silent(),
        )
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('number', 'once_the_node_says'),
    [(signal.SIGINT, ''), (signal.SIGTERM, ''), (signal.SIGINT, 'model tiny')],
)
def test_an_interrupted_demo_leaves_neither_files_nor_processes(
    tiny_model: Path, tmp_path: Path, number: signal.Signals, once_the_node_says: str
) -> None:
    bag = write_bag(tmp_path / 'drive', [10**9 + i for i in range(600)])
    out = tmp_path / 'out'
    program = (
        'from pathlib import Path; from lwseg_ros.demo.run import run_demo; '
        f'run_demo(bag=Path({str(bag)!r}), out=Path({str(out)!r}), model={str(tiny_model)!r})'
    )
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, '-c', program], env=environment, stderr=subprocess.PIPE
    )

    def is_running() -> bool:
        logs = [log.read_text() for log in out.glob('.partial-*/node.log')]
        return bool(children_of(process.pid)) and any(once_the_node_says in log for log in logs)

    try:
        deadline = time.monotonic() + 60
        while not is_running():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        children = children_of(process.pid)
        process.send_signal(number)
        assert process.wait(30) != 0
    finally:
        process.kill()
        process.communicate()
    assert not out.exists()
    assert not [child for child in children if Path(f'/proc/{child}').exists()]


def children_of(pid: int) -> list[int]:
    """Return the ids of a process's children."""
    text = ''.join(
        path.read_text() for path in Path(f'/proc/{pid}/task').glob('*/children') if path.exists()
    )
    return [int(child) for child in text.split()]
