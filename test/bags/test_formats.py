"""Whatever way the same drive was recorded in, the same images come out of it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from paths_for_tests import shared

pytest.importorskip('rosbags')

from bags_for_tests import ROS1, ROS2, camera_rows, painted, stamp, write_ros1, write_ros2
from mcap_for_tests import (
    attachment,
    channel,
    chunk,
    message,
    schema,
    statistics,
    write_mcap,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from zstd_for_tests import zstd

from lwseg_ros.bags.images import BagImages
from lwseg_ros.bags.recording import Recording
from lwseg_ros.errors import DataError
from lwseg_ros.image_messages import image_from_message

COUNT = 12
TOPIC = '/cam/image'
TIMES = [row[1] for row in camera_rows(COUNT)]
CDR = [bytes(ROS2.serialize_cdr(m, kind)) for _, _, (kind, m) in camera_rows(COUNT)]
OF_ROS1 = [
    bytes(ROS1.serialize_ros1(m, kind)) for _, _, (kind, m) in camera_rows(COUNT, store=ROS1)
]

SCHEMA = schema(1, 'sensor_msgs/msg/Image', 'ros2msg')
CHANNEL = SCHEMA + channel(1, 1, TOPIC, 'cdr')
MESSAGES = [message(1, at, data) for at, data in zip(TIMES, CDR, strict=True)]
ALL = b''.join(MESSAGES)
HALVES = [b''.join(MESSAGES[:6]), b''.join(MESSAGES[6:])]
ROS1_CHANNEL = schema(2, 'sensor_msgs/Image', 'ros1msg') + channel(2, 2, TOPIC, 'ros1')
SUMMARY = CHANNEL + statistics({1: COUNT})
OTHERS = (
    schema(3, 'foxglove.RawImage', 'protobuf', b'\xff\xfe\x00')
    + channel(3, 3, '/proto', 'protobuf')
    + schema(4, '', 'jsonschema', '{}')
    + channel(4, 4, '/json', 'json')
    + channel(5, 3, TOPIC, 'protobuf')
    + b''.join(message(n, TIMES[0], b'other') for n in (3, 4, *[5] * 3 * COUNT))
)

MCAPS = {
    'messages outside of chunks': (CHANNEL + ALL, b''),
    'the same with a summary': (CHANNEL + ALL, SUMMARY),
    'channels in the summary only': (ALL, SUMMARY),
    'written in another order': (CHANNEL + b''.join(reversed(MESSAGES)), b''),
    'chunks without index': (chunk(CHANNEL + HALVES[0]) + chunk(HALVES[1]), b''),
    'chunks with a summary': (chunk(HALVES[0], 'lz4') + chunk(HALVES[1], 'lz4'), SUMMARY),
    'channels in chunks only': (chunk(CHANNEL + ALL, 'zstd'), statistics({1: COUNT})),
    'chunks, attachments and messages': (
        chunk(CHANNEL + HALVES[0], 'zstd', TIMES[0]) + attachment() + HALVES[1],
        SUMMARY,
    ),
    'two publishers': (
        CHANNEL
        + channel(2, 1, TOPIC, 'cdr')
        + b''.join(message(1 + i % 2, TIMES[i], CDR[i]) for i in range(COUNT)),
        b'',
    ),
    'ROS 1 beside ROS 2': (
        CHANNEL
        + ROS1_CHANNEL
        + b''.join(message(1 + i % 2, TIMES[i], (CDR, OF_ROS1)[i % 2][i]) for i in range(COUNT)),
        b'',
    ),
    'other encodings beside': (CHANNEL + OTHERS + ALL, b''),
    'an encoding by its schema only': (SCHEMA + channel(1, 1, TOPIC, '') + ALL, b''),
}


def assert_whole(bag: Path, damage: str = '') -> BagImages:
    """Assert that a bag gives the images that `camera_rows` wrote; return them."""
    images = BagImages(bag)
    read = list(images)
    assert [entry.stamp_ns for entry in read] == [stamp(i) for i in range(COUNT)]
    for i, entry in enumerate(read):
        np.testing.assert_array_equal(image_from_message(entry.message), painted(i))
    if damage:
        assert damage in images.recording.damage
    else:
        assert images.recording.damage == ''
    return images


@pytest.mark.parametrize('name', MCAPS)
@pytest.mark.parametrize('profile', ['ros2', ''])
def test_an_mcap_of_any_writer_is_whole(name: str, profile: str, tmp_path: Path) -> None:
    images = assert_whole(write_mcap(tmp_path / 'drive.mcap', *MCAPS[name], profile))
    assert images.topic == (TOPIC, 'sensor_msgs/msg/Image', COUNT, 'cdr')


def test_ros1_messages_in_mcap(tmp_path: Path) -> None:
    data = ROS1_CHANNEL + b''.join(
        message(2, at, data) for at, data in zip(TIMES, OF_ROS1, strict=True)
    )
    bag = write_mcap(tmp_path / 'drive.mcap', data, profile='ros1')
    assert assert_whole(bag).topic.encoding == 'ros1'
    recording = Recording(bag)
    first = next(recording.messages([TOPIC]))
    assert recording.as_ros2(first) == CDR[0]


def test_an_image_in_another_encoding_is_named(tmp_path: Path) -> None:
    data = SCHEMA + channel(1, 1, TOPIC, 'protobuf') + ALL
    with pytest.raises(DataError, match='protobuf, not readable, 12 messages'):
        BagImages(write_mcap(tmp_path / 'drive.mcap', data))
    with pytest.raises(DataError, match='carries no images'):
        BagImages(tmp_path / 'drive.mcap', TOPIC)


def test_fewer_messages_than_the_summary_tells_are_damage(tmp_path: Path) -> None:
    bag = write_mcap(tmp_path / 'drive.mcap', CHANNEL + ALL, CHANNEL + statistics({1: COUNT + 2}))
    assert_whole(bag, '2 messages of /cam/image are missing')


@pytest.mark.parametrize('mode', [CompressionMode.FILE, CompressionMode.MESSAGE])
@pytest.mark.parametrize('plugin', [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize('metadata', [True, False])
def test_zstd_by_file_or_message(
    mode: CompressionMode, plugin: StoragePlugin, metadata: bool, tmp_path: Path
) -> None:
    writer = Writer(tmp_path / 'drive', version=8, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection(TOPIC, 'sensor_msgs/msg/Image', typestore=ROS2)
        for at, data in zip(TIMES, CDR, strict=True):
            writer.write(connection, at, data)
    if not metadata:
        (tmp_path / 'drive/metadata.yaml').unlink()
    assert_whole(tmp_path / 'drive', '' if metadata else 'has no metadata.yaml')


def test_a_compressed_file_alone_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = tmp_path / 'copies'
    copies.mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(copies))
    content = write_ros1(tmp_path / 'r.bag', camera_rows(COUNT, store=ROS1)).read_bytes()
    bag = tmp_path / 'drive.bag.zstd'
    bag.write_bytes(zstd.compress(content[:4000]) + zstd.compress(content[4000:]))
    images = assert_whole(bag)
    assert 'is read from a copy' in images.notes[0]
    assert any(copies.iterdir())
    del images
    assert not any(copies.iterdir())


def test_a_compressed_file_that_is_cut_gives_its_beginning(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [message(1, at, d[:-300] + rng.bytes(300)) for at, d in zip(TIMES, CDR, strict=True)]
    whole = write_mcap(tmp_path / 'drive.mcap', CHANNEL + b''.join(noise)).read_bytes()
    cut = zstd.compress(whole)
    (tmp_path / 'cut.mcap.zstd').write_bytes(cut[: len(cut) * 6 // 10])
    images = BagImages(tmp_path / 'cut.mcap.zstd')
    assert 0 < len(images) < COUNT
    assert 'cannot be decompressed to its end' in images.recording.damage


def unclosed(folder: Path, mode: str, committed: bool) -> Path:
    """Write half of a drive, the rest in a transaction; return what a killed recorder leaves."""
    written = write_ros2(folder / 'w', camera_rows(COUNT // 2), StoragePlugin.SQLITE3)
    with closing(sqlite3.connect(written / 'w.db3')) as base:
        base.execute(f'PRAGMA journal_mode = {mode}')
        base.execute('PRAGMA wal_autocheckpoint = 0')
        base.execute('PRAGMA cache_size = 5')  # or nothing is written before the end
        for at, data in zip(TIMES[6:], CDR[6:], strict=True):
            base.execute(
                'INSERT INTO messages (topic_id, timestamp, data) VALUES (1, ?, ?)', (at, data)
            )
        if committed:
            base.commit()
        shutil.copytree(written, folder / 'left')
        base.rollback()
    return folder / 'left'


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_in_the_wal_of_sqlite_is_read(tmp_path: Path) -> None:
    bag = unclosed(tmp_path, 'WAL', committed=True)
    before = contents(bag)
    images = assert_whole(bag)
    assert 'is read from a copy' in images.notes[0]
    assert contents(bag) == before
    assert_whole(bag / 'w.db3')
    (bag / 'w.db3-wal').unlink()
    lost = BagImages(bag)
    assert len(lost) == COUNT // 2


def test_what_sqlite_had_not_committed_is_rolled_back(tmp_path: Path) -> None:
    bag = unclosed(tmp_path, 'DELETE', committed=False)
    before = contents(bag)
    assert (bag / 'w.db3-journal').stat().st_size
    images = BagImages(bag)
    assert len(images) == COUNT // 2
    assert images.recording.damage == ''
    assert contents(bag) == before


def test_sqlite_of_another_program(tmp_path: Path) -> None:
    """Its numbers begin elsewhere, and it has no index by time."""
    bag = write_ros2(tmp_path / 'drive', camera_rows(COUNT), StoragePlugin.SQLITE3)
    with closing(sqlite3.connect(bag / 'drive.db3')) as base:
        base.execute('UPDATE messages SET id = 9000000 - id')
        base.execute('DROP INDEX timestamp_idx')
        base.commit()
    assert_whole(bag)


@pytest.mark.parametrize('plugin', [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_what_metadata_promises_is_compared(plugin: StoragePlugin, tmp_path: Path) -> None:
    bag = write_ros2(tmp_path / 'drive', camera_rows(COUNT), plugin)
    metadata = bag / 'metadata.yaml'
    said = metadata.read_text()
    metadata.write_text(said.replace('message_count: 12', 'message_count: 24'))
    assert_whole(bag, 'metadata.yaml tells of 24 messages of /cam/image, 12 are there')
    # Of other storage, or with files that have been renamed since, it is as good.
    metadata.write_text(said.replace(f'drive.{plugin.name.lower()[:4]}', 'renamed.mcap'))
    assert_whole(bag)
    metadata.write_text(said.replace('storage_identifier: ', 'storage_identifier: x'))
    assert_whole(bag)
    metadata.write_text(said[: len(said) // 2])
    assert_whole(bag, 'its metadata.yaml cannot be read')


@pytest.mark.parametrize(
    'name',
    [
        *('wal_left_meta', 'noMessageIndex.mcap', 'noRepeatedChannels.mcap', 'ros1_in_mcap.mcap'),
        *('cdr_plus_json.mcap', 'cdr_plus_protobuf.mcap', 'empty_storage_id'),
    ],
)
def test_what_was_refused_is_as_its_sound_twin(name: str) -> None:
    twin = BagImages(shared('field_cases/bags/empty_storage_id/plain.mcap'))
    images = BagImages(shared(f'field_cases/bags/{name}'))
    assert images.recording.damage == ''
    read, expected = list(images), list(twin)
    assert [entry.stamp_ns for entry in read] == [entry.stamp_ns for entry in expected]
    for entry, other in zip(read, expected, strict=True):
        assert bytes(entry.message.data) == bytes(other.message.data)
