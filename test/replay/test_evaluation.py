"""`lwseg bag evaluate`: the figures are right, the same every time, and whatever the bag."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('rosbags')

from bags_for_tests import (
    CAMVID,
    COMPRESSED,
    PERIOD_NS,
    ROS1,
    ROS2,
    by_time,
    camera_rows,
    compressed,
    header,
    labels,
    painted,
    raw,
    stamp,
    truth,
    truth_rows,
    write_ros1,
    write_ros2,
)
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from lwseg_ros.errors import DataError, LwsegError
from lwseg_ros.inference.segmenter import Segmenter
from lwseg_ros.label_space import LabelSpace
from lwseg_ros.replay.evaluation import evaluate_bag
from lwseg_ros.replay.run import bag_names
from lwseg_ros.replay.settings import Settings

COUNT = 24


@pytest.fixture
def settings(tiny_model: Path) -> Settings:
    return Settings(model=str(tiny_model), precision='fp32', mcap=False, video=False)


def with_(settings: Settings, **changes: object) -> Settings:
    return replace(settings, **changes)


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / 'frames.jsonl').read_text().splitlines()]


def value(result: dict, name: str, topic: str | None = None) -> float | None:
    part = result['overall'] if topic is None else result['topics'][topic]
    return part['figures'][name]['value']


def drive(path: Path, **options: object) -> Path:
    return write_ros2(path, by_time(camera_rows(COUNT), truth_rows(range(COUNT))), **options)


def plain_loop(bag: Path, model: Path) -> dict[str, float]:
    """Evaluate by the textbook, with nothing of the package but the segmenter itself."""
    truths, hits, union, wrong, outside = {}, np.zeros(11), np.zeros(11), 0, 0
    true_pixels, right, total, low, pixels = np.zeros(11), 0, 0, 0, 0
    store = get_typestore(Stores.ROS2_HUMBLE)
    with AnyReader([bag], default_typestore=store) as reader:
        for connection, _, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            key = message.header.stamp.sec, message.header.stamp.nanosec
            if connection.topic == '/labels':
                truths[key] = message.data.reshape(message.height, message.width)
    with (
        AnyReader([bag], default_typestore=store) as reader,
        Segmenter.load(model, precision='fp32') as segmenter,
    ):
        for connection, _, data in reader.messages():
            if connection.topic == '/labels':
                continue
            message = reader.deserialize(data, connection.msgtype)
            if connection.msgtype == COMPRESSED:
                picture = cv2.imdecode(message.data, cv2.IMREAD_COLOR)[..., ::-1]
            else:
                picture = message.data.reshape(message.height, message.width, 3)
            answer = segmenter(np.ascontiguousarray(picture))
            low += int((answer.confidence < 127.5).sum())
            pixels += answer.confidence.size
            true = truths.get((message.header.stamp.sec, message.header.stamp.nanosec))
            if true is None:
                continue
            counts = true < 11
            for c in range(11):
                hits[c] += ((true == c) & (answer.labels == c)).sum()
                union[c] += (((true == c) | (answer.labels == c)) & counts).sum()
                true_pixels[c] += (true == c).sum()
            wrong += int(((answer.labels == 3) & (true != 3) & counts).sum())
            outside += int((counts & (true != 3)).sum())
            right += int(((answer.labels == true) & counts).sum())
            total += int(counts.sum())
    present = true_pixels > 0
    return {
        'miou': float((hits[present] / union[present]).mean()),
        'drivable_iou': hits[3] / union[3],
        'false_drivable_rate': wrong / outside,
        'pixel_accuracy': right / total,
        'low_confidence': low / pixels,
    }


@pytest.mark.parametrize('kind', ['raw', 'png', 'sqlite3', 'zstd'])
def test_figures_equal_those_of_a_plain_loop(
    kind: str, tmp_path: Path, tiny_model: Path, settings: Settings
) -> None:
    images = camera_rows(COUNT)
    if kind == 'png':
        images = [
            ('/cam/image/compressed', stamp(i), compressed(painted(i), stamp(i)))
            for i in range(COUNT)
        ]
    plugin = StoragePlugin.SQLITE3 if kind == 'sqlite3' else StoragePlugin.MCAP
    rows = by_time(images, truth_rows(range(0, COUNT, 2)))
    bag = write_ros2(tmp_path / 'drive', rows, plugin, zstd=kind == 'zstd')
    asked = with_(settings, truth_topics=('/labels',))
    result = evaluate_bag(bag, tmp_path / 'out' / 'drive', asked)
    expected = plain_loop(bag, tiny_model)
    for name, figure in expected.items():
        assert value(result, name) == pytest.approx(figure, abs=1e-6), name
    assert 0 < expected['miou'] < 1
    assert result['overall']['frames'] == COUNT
    assert result['overall']['frames_with_truth'] == COUNT // 2
    rows = records(tmp_path / 'out' / 'drive')
    assert [row['stamp_ns'] for row in rows] == [stamp(i) for i in range(COUNT)]
    assert [row['index'] for row in rows] == list(range(COUNT))
    assert [row['truth'] for row in rows] == [i % 2 == 0 for i in range(COUNT)]
    assert [row['figures']['miou'] is not None for row in rows] == [row['truth'] for row in rows]
    assert {row['frame_id'] for row in rows} == {'cam'}


def test_two_runs_write_the_same_bytes(tmp_path: Path, settings: Settings) -> None:
    bag = drive(tmp_path / 'drive')
    asked = with_(settings, truth_topics=('/labels',), mcap=True, video=True)
    names = ('result.json', 'frames.jsonl', 'replay/replay.mcap', 'replay/metadata.yaml')
    written = []
    for out in ('first', 'second'):
        folder = tmp_path / out / 'drive'
        result = evaluate_bag(bag, folder, asked)
        written.append([(folder / name).read_bytes() for name in names])
        pictures = [row['picture'] for row in result['look_first']]
        assert all((folder / f'{picture}_overlay.jpg').is_file() for picture in pictures)
        assert all((folder / f'{picture}_truth.jpg').is_file() for picture in pictures)
        assert sorted(path.name for path in folder.parent.iterdir()) == ['drive']
    assert written[0] == written[1]
    assert json.loads(written[0][0]) == result


def test_masks_lie_beside_the_images_with_their_stamps(
    tmp_path: Path, tiny_model: Path, settings: Settings
) -> None:
    text = ROS2.types['std_msgs/msg/String']('hello')
    others = [('/chatter', stamp(i), ('std_msgs/msg/String', text)) for i in range(3)]
    bag = write_ros2(tmp_path / 'drive', by_time(camera_rows(5), others))
    asked = with_(settings, mcap=True, video=True, copy_topics=True)
    evaluate_bag(bag, tmp_path / 'out' / 'drive', asked)
    found: dict[str, list] = {}
    with AnyReader([tmp_path / 'out' / 'drive' / 'replay']) as reader:
        for connection, record_ns, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            found.setdefault(connection.topic, []).append((record_ns, message))
    assert {topic: len(rows) for topic, rows in found.items()} == {
        '/cam/image': 5,
        '/segmentation/cam/image/mask': 5,
        '/segmentation/cam/image/confidence': 5,
        '/segmentation/cam/image/overlay/compressed': 5,
        '/chatter': 3,
    }
    with Segmenter.load(tiny_model, precision='fp32') as segmenter:
        for i in range(5):
            answer = segmenter(painted(i))
            for topic, plane in (('mask', answer.labels), ('confidence', answer.confidence)):
                record_ns, message = found[f'/segmentation/cam/image/{topic}'][i]
                assert record_ns == stamp(i) + 10**6
                sent = message.header.stamp
                assert sent.sec * 10**9 + sent.nanosec == stamp(i)
                assert (message.encoding, message.step) == ('mono8', 128)
                assert message.header.frame_id == 'cam'
                np.testing.assert_array_equal(message.data.reshape(96, 128), plane)
            np.testing.assert_array_equal(found['/cam/image'][i][1].data, painted(i).ravel())
    assert found['/chatter'][0][1].data == 'hello'
    video = cv2.VideoCapture(str(tmp_path / 'out' / 'drive' / 'overlay_cam_image.mp4'))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 5
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(1e9 / PERIOD_NS)


def test_a_ros1_bag_gives_the_same_and_its_topics_are_copied(
    tmp_path: Path, settings: Settings
) -> None:
    asked = with_(settings, mcap=True, copy_topics=True)
    text = ROS1.types['std_msgs/msg/String']('hello')
    images = camera_rows(6, store=ROS1)
    bag = write_ros1(
        tmp_path / 'drive.bag', [*images, ('/chatter', stamp(9), ('std_msgs/msg/String', text))]
    )
    one = evaluate_bag(bag, tmp_path / 'one' / 'drive', asked)
    two = evaluate_bag(
        write_ros2(tmp_path / 'drive', camera_rows(6)), tmp_path / 'two' / 'drive', asked
    )
    assert one['overall'] == two['overall']
    with AnyReader([tmp_path / 'one' / 'drive' / 'replay']) as reader:
        topics = {topic: info.msgcount for topic, info in reader.topics.items()}
        (_, _, data), *_ = reader.messages([reader.topics['/cam/image'].connections[0]])
        message = reader.deserialize(data, 'sensor_msgs/msg/Image')
    assert topics['/chatter'] == 1
    assert message.header.frame_id == 'cam'
    np.testing.assert_array_equal(message.data, painted(0).ravel())


def test_cameras_are_found_by_type_and_chosen_by_name(tmp_path: Path, settings: Settings) -> None:
    rows = by_time(
        camera_rows(8, '/left/image'),
        [('/left/image/compressed', stamp(i), compressed(painted(i), stamp(i))) for i in range(8)],
        [('/right/image/compressed', stamp(i), compressed(painted(3 * i), stamp(i)))
         for i in range(7)],
        camera_rows(8, '/segmentation/mask'),
        [('/depth/image', stamp(0), raw(np.ones((96, 128), np.uint16), stamp(0), '16UC1'))],
    )  # fmt: skip
    bag = write_ros2(tmp_path / 'drive', rows)
    result = evaluate_bag(bag, tmp_path / 'all' / 'drive', settings)
    assert {topic: part['frames'] for topic, part in result['topics'].items()} == {
        '/left/image': 8,
        '/right/image/compressed': 7,
    }
    assert result['overall']['frames'] == 15
    left_out = ['/depth/image', '/left/image/compressed', '/segmentation/mask']
    assert result['bags'][0]['left_out'] == left_out
    stamps = [row['stamp_ns'] for row in records(tmp_path / 'all' / 'drive')]
    assert stamps == sorted(stamps)
    asked = with_(settings, topics=('left/image/compressed',))
    result = evaluate_bag(bag, tmp_path / 'one' / 'drive', asked)
    assert list(result['topics']) == ['/left/image/compressed']
    with pytest.raises(DataError, match=r'no topic /nope: .*/left/image \(sensor_msgs/Image'):
        evaluate_bag(bag, tmp_path / 'none' / 'drive', with_(settings, topics=('/nope',)))
    assert not (tmp_path / 'none').exists()


def test_a_bag_without_cameras_says_what_might_be_one(tmp_path: Path, settings: Settings) -> None:
    infrared = np.full((96, 128), 30_000, np.uint16)
    rows = [('/infrared', stamp(0), raw(infrared, stamp(0), '16UC1'))]
    bag = write_ros2(tmp_path / 'drive', rows)
    with pytest.raises(DataError, match='no camera images.*if /infrared is a camera.*--topic'):
        evaluate_bag(bag, tmp_path / 'out', settings)
    asked = with_(settings, topics=('/infrared',))
    assert evaluate_bag(bag, tmp_path / 'out', asked)['overall']['frames'] == 1


def test_images_come_in_the_order_of_their_stamps(tmp_path: Path, settings: Settings) -> None:
    order = [0, 3, 1, 2, 5, 4, 7, 6]
    rows = [('/cam/image', stamp(k), raw(painted(i), stamp(i))) for k, i in enumerate(order)]
    out = tmp_path / 'out' / 'drive'
    result = evaluate_bag(write_ros2(tmp_path / 'drive', rows), out, settings)
    assert [row['stamp_ns'] for row in records(out)] == [stamp(i) for i in range(8)]
    assert result['bags'][0]['order'] == 'stamp'
    assert result['bags'][0]['topics'][0]['stamps_back'] == 3
    in_order = write_ros2(tmp_path / 'sorted', camera_rows(8))
    assert evaluate_bag(in_order, tmp_path / 'b', settings)['overall'] == result['overall']


def test_a_clock_that_is_set_back_keeps_the_recorded_order(
    tmp_path: Path, settings: Settings
) -> None:
    count = 70
    rows = camera_rows(count) + [
        ('/cam/image', stamp(count + i), raw(painted(i), stamp(i))) for i in range(count)
    ]
    out = tmp_path / 'out' / 'drive'
    result = evaluate_bag(write_ros2(tmp_path / 'drive', rows), out, settings)
    assert result['bags'][0]['order'] == 'recording'
    stamps = [row['stamp_ns'] for row in records(out)]
    assert stamps == [stamp(i) for i in range(count)] * 2


def test_images_without_a_stamp_take_the_recorders(tmp_path: Path, settings: Settings) -> None:
    rows = [('/cam/image', stamp(i), raw(painted(i), 0)) for i in range(5)]
    out = tmp_path / 'out' / 'drive'
    result = evaluate_bag(write_ros2(tmp_path / 'drive', rows), out, settings)
    assert [row['stamp_ns'] for row in records(out)] == [stamp(i) for i in range(5)]
    assert result['bags'][0]['topics'][0]['without_stamp'] == 5


def test_broken_messages_are_counted_and_named(tmp_path: Path, settings: Settings) -> None:
    rows = camera_rows(10)
    kind, short = raw(painted(3), stamp(3))
    short.data = short.data[:-100]
    rows[3] = ('/cam/image', rows[3][1], (kind, short))
    cut = bytes(ROS2.serialize_cdr(rows[6][2][1], kind))[:60]
    rows[6] = ('/cam/image', rows[6][1], (kind, cut))
    rows[8] = ('/cam/image', rows[8][1], (kind, b'\0\1'))
    labels_ = truth_rows(range(10))
    labels_[5] = ('/labels', labels_[5][1], raw(truth(5)[:50], stamp(5), 'mono8'))
    out = tmp_path / 'out' / 'drive'
    asked = with_(settings, truth_topics=('/labels',))
    result = evaluate_bag(write_ros2(tmp_path / 'drive', by_time(rows, labels_)), out, asked)
    bag = result['bags'][0]
    assert (bag['frames'], bag['topics'][0]['broken'], bag['topics'][0]['messages']) == (7, 3, 10)
    assert [(b['topic'], b['index']) for b in bag['broken']] == [
        ('/cam/image', 3),
        ('/labels', 5),
        ('/cam/image', 6),
        ('/cam/image', 8),
    ]
    assert 'data has' in bag['broken'][0]['reason']
    assert 'truth has 128x50 pixels' in bag['broken'][1]['reason']
    lines = records(out)
    assert len(lines) == 10
    assert [line['index'] for line in lines if line['error']] == [3, 6, 8]
    whole = [row for i, row in enumerate(camera_rows(10)) if i not in (3, 6, 8)]
    truths = [row for i, row in enumerate(truth_rows(range(10))) if i not in (3, 5, 6, 8)]
    other = write_ros2(tmp_path / 'whole', by_time(whole, truths))
    expected = evaluate_bag(other, tmp_path / 'out' / 'whole', asked)
    assert result['overall'] == expected['overall']


def test_a_bag_of_broken_messages_alone_is_one_sentence(
    tmp_path: Path, settings: Settings
) -> None:
    rows = [('/cam/image', stamp(i), ('sensor_msgs/msg/Image', b'\0\1\0\0')) for i in range(3)]
    bag = write_ros2(tmp_path / 'drive', rows)
    with pytest.raises(DataError, match='no image that can be used: the message'):
        evaluate_bag(bag, tmp_path / 'out' / 'drive', settings)
    assert not list((tmp_path / 'out').iterdir())


def write_folder(folder: Path, names: dict[str, int]) -> Path:
    folder.mkdir(parents=True)
    for name, number in names.items():
        cv2.imwrite(str(folder / name), truth(number))
    return folder


@pytest.mark.parametrize('naming', ['nanoseconds', 'seconds', 'index', 'frame_index', '16 bit'])
def test_truth_from_a_folder_equals_truth_from_a_topic(
    naming: str, tmp_path: Path, settings: Settings
) -> None:
    def name(number: int) -> str:
        sec, nanosec = divmod(stamp(number) + 2_000_000, 10**9)
        return {
            'nanoseconds': f'{stamp(number) + 2_000_000}.png',
            'seconds': f'{sec}.{nanosec:09d}.png',
            'index': f'{number:010d}.png',
            'frame_index': f'frame_{number:06d}.png',
            '16 bit': f'{number}.png',
        }[naming]

    chosen = (1, 4, 9)
    folder = write_folder(tmp_path / 'truth', {name(i): i for i in chosen})
    if naming == '16 bit':
        for i in chosen:
            cv2.imwrite(str(folder / name(i)), truth(i).astype(np.uint16))
    images = write_ros2(tmp_path / 'images', camera_rows(12))
    both = write_ros2(tmp_path / 'both', by_time(camera_rows(12), truth_rows(list(chosen))))
    asked = with_(settings, truth_folder=folder)
    one = evaluate_bag(images, tmp_path / 'out' / 'images', asked)
    asked = with_(settings, truth_topics=('labels',))
    two = evaluate_bag(both, tmp_path / 'out' / 'both', asked)
    assert one['overall'] == two['overall']
    assert one['overall']['frames_with_truth'] == 3
    assert one['bags'][0]['topics'][0]['truth'] == str(folder)
    assert two['bags'][0]['topics'][0]['truth'] == '/labels'


def test_truth_is_paired_within_the_tolerance_and_once(tmp_path: Path, settings: Settings) -> None:
    late = truth_rows(range(6), late_ns=12_000_000)
    twice = truth_rows([2], late_ns=15_000_000)
    bag = write_ros2(tmp_path / 'drive', by_time(camera_rows(6), late, twice))
    asked = with_(settings, truth_topics=('/labels',))
    with pytest.raises(DataError, match='no label topic /labels within 10 ms of an image'):
        evaluate_bag(bag, tmp_path / 'near', asked)
    far = evaluate_bag(bag, tmp_path / 'far', with_(asked, truth_tolerance_ms=20.0))
    assert far['overall']['frames_with_truth'] == 6
    assert far['bags'][0]['topics'][0]['truth_unmatched'] == 1


def test_truth_of_another_label_space_is_mapped(tmp_path: Path, settings: Settings) -> None:
    ids = LabelSpace.load('cityscapes_label_ids')
    back = np.full(256, 255, np.uint8)
    for name, id_ in (('sky', 0), ('building', 1), ('road', 3), ('car', 8)):
        back[id_] = ids.class_id(name)
    results = []
    for name, table in (('cityscapes_label_ids', back), (None, np.arange(256, dtype=np.uint8))):
        rows = [('/labels', stamp(i), raw(table[labels(i)], stamp(i), 'mono8')) for i in range(8)]
        bag = write_ros2(tmp_path / f'{name}', by_time(camera_rows(8), rows))
        asked = with_(settings, truth_topics=('/labels',), truth_space=name)
        results.append(evaluate_bag(bag, tmp_path / 'out' / f'{name}', asked))
    assert results[0]['comparison_space'] == results[1]['comparison_space'] == CAMVID.to_dict()
    assert results[0]['overall'] == results[1]['overall']
    assert value(results[0], 'pixel_accuracy') > 0.9


@pytest.mark.parametrize('mistake', ['several cameras', 'no topic', 'other camera', 'names'])
def test_truth_that_cannot_be_used_is_one_sentence(
    mistake: str, tmp_path: Path, settings: Settings
) -> None:
    rows = by_time(camera_rows(3, '/left'), camera_rows(3, '/right'), truth_rows(range(3)))
    bag = write_ros2(tmp_path / 'drive', rows)
    folder = write_folder(tmp_path / 'truth', {'first.png': 0})
    changes, sentence = {
        'several cameras': ({'truth_topics': ('/labels',)}, 'say to which, /left=/labels'),
        'no topic': ({'truth_topics': ('/left=/nope',)}, 'no label topic /nope: it holds /labels'),
        'other camera': ({'truth_topics': ('/up=/labels',)}, '/up, which is not evaluated'),
        'names': ({'truth_folder': folder, 'topics': ('/left',)}, 'neither by a stamp nor by'),
    }[mistake]
    with pytest.raises(DataError, match=sentence):
        evaluate_bag(bag, tmp_path / 'out' / 'drive', with_(settings, **changes))
    assert not (tmp_path / 'out').exists()


def test_agreement_with_a_second_model(tmp_path: Path, settings: Settings) -> None:
    bag = write_ros2(tmp_path / 'drive', camera_rows(5))
    same = evaluate_bag(bag, tmp_path / 'a', with_(settings, against=settings.model))
    assert value(same, 'agreement') == value(same, 'drivable_agreement') == 1.0
    assert same['against'] == same['model']
    pytest.importorskip('onnxruntime')
    asked = with_(settings, backend='openvino', against_backend='onnxruntime')
    other = evaluate_bag(bag, tmp_path / 'b', asked)
    assert other['against']['engine'] != other['model']['engine']
    assert value(other, 'agreement') > 0.99
    half = evaluate_bag(bag, tmp_path / 'c', with_(settings, against='road-nano'))
    assert 0 <= value(half, 'agreement') < 0.9


def test_finished_bags_are_skipped_unless_something_changed(
    tmp_path: Path, settings: Settings
) -> None:
    bag = write_ros2(tmp_path / 'drive', camera_rows(5))
    out = tmp_path / 'out' / 'drive'
    first = evaluate_bag(bag, out, settings)
    (out / 'mine.txt').write_text('a finished folder is not written again')
    assert evaluate_bag(bag, out, settings) == first
    assert (out / 'mine.txt').exists()
    evaluate_bag(bag, out, with_(settings, low_confidence=0.6))
    assert not (out / 'mine.txt').exists()
    (out / 'mine.txt').write_text('again')
    os.truncate(next(bag.glob('*.mcap')), 60_000)
    assert evaluate_bag(bag, out, with_(settings, low_confidence=0.6))['bags'][0]['damage']
    assert not (out / 'mine.txt').exists()


def test_only_results_are_replaced(tmp_path: Path, settings: Settings) -> None:
    bag = write_ros2(tmp_path / 'drive', camera_rows(3))
    content = sorted(path.read_bytes() for path in bag.iterdir())
    with pytest.raises(LwsegError, match='drive holds the bag itself'):
        evaluate_bag(bag, tmp_path / 'drive', settings)
    assert sorted(path.read_bytes() for path in bag.iterdir()) == content
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('years of work')
    with pytest.raises(LwsegError, match='mine holds something else'):
        evaluate_bag(bag, tmp_path / 'mine', settings)
    assert (tmp_path / 'mine' / 'thesis.txt').exists()


def test_bags_of_the_same_name_get_folders_of_their_own() -> None:
    paths = [Path('/a/one/drive.bag'), Path('/a/two/drive'), Path('/a/two/other.mcap')]
    assert bag_names(paths) == ['one_drive', 'two_drive', 'two_other']
    assert bag_names([Path('/a/drive.bag')]) == ['drive']
    with pytest.raises(DataError, match='twice'):
        bag_names([Path('/a/drive'), Path('/a/drive')])


@pytest.mark.parametrize('kind', ['ros1', 'ros2'])
def test_topics_of_foreign_types_are_copied_by_their_own_definitions(
    kind: str, tmp_path: Path, settings: Settings
) -> None:
    store = get_typestore(Stores.ROS1_NOETIC if kind == 'ros1' else Stores.ROS2_HUMBLE)
    definition = 'std_msgs/Header header\nfloat64[] wheel_speeds\nstring gear'
    store.register(get_types_from_msg(definition, 'car_msgs/msg/State'))
    header_ = header(store.types, stamp(1))
    state = store.types['car_msgs/msg/State'](header_, np.array([1.5, 2.5]), 'forward')
    images = camera_rows(4, store=store)
    rows = by_time(images, [('/car/state', stamp(1), ('car_msgs/msg/State', state))])
    if kind == 'ros1':
        bag = write_ros1(tmp_path / 'drive.bag', rows, store)
    else:
        bag = write_ros2(tmp_path / 'drive', rows, StoragePlugin.SQLITE3, store=store)
    asked = with_(settings, mcap=True, copy_topics=True)
    result = evaluate_bag(bag, tmp_path / 'out', asked)
    assert result['bags'][0]['not_copied'] == []
    with AnyReader([tmp_path / 'out' / 'replay']) as reader:
        ((connection, record_ns, data),) = reader.messages(reader.topics['/car/state'].connections)
        copied = reader.deserialize(data, connection.msgtype)
    assert record_ns == stamp(1)
    assert (copied.gear, copied.wheel_speeds.tolist()) == ('forward', [1.5, 2.5])
    assert copied.header.stamp.sec * 10**9 + copied.header.stamp.nanosec == stamp(1)
