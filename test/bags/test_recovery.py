"""A bag that is cut off or damaged gives what it holds, and says so."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rosbags')

from bags_for_tests import (
    ROS1,
    ROS2,
    by_time,
    camera_rows,
    compressed,
    painted,
    quick_settings,
    raw,
    stamp,
    truth_rows,
    write_ros1,
    write_ros2,
)
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import StoragePlugin

from lwseg_ros.bags.recording import Recording
from lwseg_ros.errors import DataError
from lwseg_ros.image_messages import image_from_message
from lwseg_ros.replay.evaluation import evaluate_bag

COUNT = 45


def noisy_rows(count: int, store=None) -> list:
    """Return pictures that no compression makes small, so that a bag has several chunks."""
    rows = []
    for i in range(count):
        picture = np.random.default_rng(i).integers(0, 256, (96, 256, 3), np.uint8)
        rows.append(('/cam/image', stamp(i), raw(picture, stamp(i), store=store)))
    return rows


def file_of(bag: Path) -> Path:
    if bag.is_file():
        return bag
    return next(path for path in sorted(bag.iterdir()) if path.suffix != '.yaml')


def write(kind: str, path: Path, rows: int = COUNT) -> Path:
    if kind.startswith('ros1'):
        store = ROS1
        path = path.with_suffix('.bag')
        bag = Ros1Writer(path)
        if kind != 'ros1':
            bag.set_compression(Ros1Writer.CompressionFormat[kind[5:].upper()])
        with bag as writer:
            connection = writer.add_connection(
                '/cam/image', 'sensor_msgs/msg/Image', typestore=store
            )
            for _, record_ns, (name, message) in noisy_rows(rows, store):
                writer.write(connection, record_ns, store.serialize_ros1(message, name))
        return path
    plugin = StoragePlugin.SQLITE3 if kind == 'sqlite3' else StoragePlugin.MCAP
    return write_ros2(path, noisy_rows(rows, ROS2), plugin, zstd=kind == 'mcap_zstd')


KINDS = ['ros1', 'ros1_bz2', 'ros1_lz4', 'mcap', 'mcap_zstd', 'sqlite3']


def read(bag: Path) -> tuple[Recording, list]:
    recording = Recording(bag)
    index = recording.index(['/cam/image'])
    messages = list(recording.messages(['/cam/image']))
    assert len(messages) == len(index.stamps)
    return recording, messages


@pytest.mark.parametrize('kind', KINDS)
def test_a_whole_bag_says_nothing(kind: str, tmp_path: Path) -> None:
    recording, messages = read(write(kind, tmp_path / 'drive', 5))
    assert recording.damage == ''
    assert len(messages) == 5


@pytest.mark.parametrize(
    ('kind', 'share'),
    [(kind, 0.6) for kind in KINDS]
    + [
        (kind, share) for kind in ('ros1', 'mcap', 'mcap_zstd', 'sqlite3') for share in (0.3, 0.95)
    ],
)
def test_a_cut_bag_gives_its_beginning(kind: str, share: float, tmp_path: Path) -> None:
    bag = write(kind, tmp_path / 'drive')
    whole = read(bag)[1]
    file = file_of(bag)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    recording, found = read(bag)
    assert 'what is whole in it was read' in recording.damage
    assert '\n' not in recording.damage
    assert found == whole[: len(found)]
    # A page or a compressed block that is cut takes a few messages with it.
    assert len(found) >= share * COUNT - 14


@pytest.mark.parametrize('kind', ['mcap', 'mcap_zstd', 'ros1', 'sqlite3'])
def test_without_metadata_or_index(kind: str, tmp_path: Path) -> None:
    bag = write(kind, tmp_path / 'drive', 10)
    if bag.is_dir():
        (bag / 'metadata.yaml').unlink()
    else:
        content = bytearray(bag.read_bytes())
        at = content.index(b'index_pos=') + len(b'index_pos=')
        content[at : at + 8] = bytes(8)  # as a recorder that was killed leaves it
        active = bag.with_suffix('.bag.active')
        active.write_bytes(content)
        bag = active
    recording, messages = read(bag)
    assert len(messages) == 10
    assert 'was read' in recording.damage


def test_the_files_of_a_split_bag_are_joined_without_metadata(tmp_path: Path) -> None:
    folder = tmp_path / 'drive'
    folder.mkdir()
    for part, first in ((10, 3), (9, 0)):
        rows = [row for i, row in enumerate(camera_rows(6)) if first <= i < first + 3]
        one = write_ros2(tmp_path / f'part{part}', rows)
        file_of(one).rename(folder / f'drive_{part}.mcap')
    (folder / 'drive_11.mcap').touch()  # the recorder was killed before its first message
    recording, messages = read(folder)
    assert [message.record_ns for message in messages] == [stamp(i) + 10**6 for i in range(6)]
    assert 'has no metadata.yaml' in recording.damage


@pytest.mark.parametrize('kind', ['mcap_zstd', 'ros1_bz2'])
def test_damage_in_the_middle_costs_its_chunk_only(kind: str, tmp_path: Path) -> None:
    bag = write(kind, tmp_path / 'drive')
    whole = read(bag)[1]
    file = file_of(bag)
    content = bytearray(file.read_bytes())
    magic = b'\x28\xb5\x2f\xfd' if kind == 'mcap_zstd' else b'BZh9'
    at = content.rindex(magic, 0, len(content) // 2)  # where a compressed chunk begins
    content[at : at + 64] = bytes(64)
    file.write_bytes(content)
    recording, found = read(bag)
    assert recording.damage
    assert COUNT // 3 <= len(found) < COUNT
    assert found[-1] == whole[-1]
    assert all(message in whole for message in found)


@pytest.mark.parametrize('kind', ['mcap', 'ros1', 'sqlite3'])
@pytest.mark.parametrize('keep', [0, 5, 40, 300])
def test_what_holds_nothing_is_one_sentence(kind: str, keep: int, tmp_path: Path) -> None:
    bag = write(kind, tmp_path / 'drive', 3)
    file = file_of(bag)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError) as error:
        Recording(bag)
    assert '\n' not in str(error.value)
    assert 'drive' in str(error.value)


@pytest.mark.parametrize('storage', [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_a_cut_bag_is_evaluated_as_far_as_it_goes(
    storage: StoragePlugin, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complaints: list[object] = []
    monkeypatch.setattr(sys, 'unraisablehook', complaints.append)
    settings = quick_settings(tiny_model)
    rows = by_time(camera_rows(40), truth_rows(range(40)))
    bag = write_ros2(tmp_path / 'drive', rows, storage)
    file = file_of(bag)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    result = evaluate_bag(bag, tmp_path / 'cut', settings)
    found = result['bags'][0]['frames']
    assert 15 <= found < 25
    assert 'was read' in result['bags'][0]['damage']
    short = write_ros2(
        tmp_path / 'short',
        by_time(camera_rows(found), truth_rows(range(result['overall']['frames_with_truth']))),
    )
    expected = evaluate_bag(short, tmp_path / 'out', settings)
    assert result['overall'] == expected['overall']
    assert expected['bags'][0]['damage'] == ''
    assert json.loads((tmp_path / 'cut' / 'result.json').read_text()) == result
    gc.collect()
    assert complaints == []


def test_damage_among_the_labels_does_not_mix_up_the_images(
    tmp_path: Path, tiny_model: Path
) -> None:
    # Labels are recorded long after their images, and the chunk of the last ones is damaged.
    labels = [(topic, at + 10**10, message) for topic, at, message in truth_rows(range(200))]
    bag = write_ros2(tmp_path / 'drive', camera_rows(200) + labels, zstd=True)
    file = file_of(bag)
    content = bytearray(file.read_bytes())
    at = content.rindex(b'\x28\xb5\x2f\xfd')
    content[at : at + 64] = bytes(64)
    file.write_bytes(content)
    settings = quick_settings(tiny_model)
    result = evaluate_bag(bag, tmp_path / 'out', settings)
    assert result['bags'][0]['damage']
    assert result['overall']['frames'] == 200
    known = result['overall']['frames_with_truth']
    assert 50 < known < 200
    whole = write_ros2(tmp_path / 'whole', by_time(camera_rows(200), truth_rows(range(known))))
    expected = evaluate_bag(whole, tmp_path / 'other', settings)
    assert result['overall']['accuracy'] == expected['overall']['accuracy']


def test_messages_of_a_ros1_bag_become_those_of_ros2(tmp_path: Path) -> None:
    rows = [('/cam/c', stamp(0), compressed(painted(0), stamp(0), store=ROS1))]
    recording = Recording(write_ros1(tmp_path / 'drive.bag', rows))
    (message,) = recording.messages(['/cam/c'])
    decoded = ROS2.deserialize_cdr(recording.as_ros2(message), message.type)
    np.testing.assert_array_equal(image_from_message(decoded), painted(0))
    assert decoded.header.frame_id == 'cam'
    assert decoded.header.stamp.sec * 10**9 + decoded.header.stamp.nanosec == stamp(0)
